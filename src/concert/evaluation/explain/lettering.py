"""Names of classes and sentences as a figure has room for them."""

from __future__ import annotations

import textwrap
import unicodedata
from typing import Any

import numpy as np


def plain(text: Any) -> None:
    """Names of classes may hold dollars, which are no formulas."""
    text.set_parse_math(False)


def short(name: str, columns: int) -> str:
    """A name on one line, cut to so many columns; Chinese and Japanese signs take two."""
    name = " ".join(name.split())
    widths = np.cumsum([_columns(sign) for sign in name])
    fitting = int((widths <= columns).sum())
    return name if fitting == len(name) else f"{name[: max(fitting - 1, 1)].rstrip()}…"


def wrapped(text: str, columns: int) -> list[str]:
    """Lines of at most so many columns, as `short` counts them."""
    filler = "\0"  # behind every wide sign, for it counts as two
    widened = "".join(sign + filler * (_columns(sign) - 1) for sign in text)
    lines = textwrap.wrap(widened, columns, break_on_hyphens=False)
    return [line.replace(filler, "") for line in lines]


def _columns(sign: str) -> int:
    return 1 + (unicodedata.east_asian_width(sign) in "WF")
