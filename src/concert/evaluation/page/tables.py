"""The tables of a page: cells as printed, what they show, and how they fit on paper."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pandas as pd

from concert.evaluation import attack_table, rendering, table_notes, tables
from concert.evaluation.attacked_log import attacked
from concert.evaluation.region_table import region_notes, region_table
from concert.records.reading import LoadedLog

TEXT_COLUMNS: Final = (
    "sigma",
    "method",
    "attack",
    "targets",
    "against",
    "first",
    "other",
    "verdict",
    "guarantee",
    "certificate",
)
# What stands in every part of a table that is too wide for paper.
_KEYS: Final = ("sigma", "method", "first", "other", "guarantee")
# In points: A4 between its margins, a digit, a narrow character and a cell's padding as printed.
_PAPER, _DIGIT, _NARROW, _PADDING, _CHIP = 520.0, 4.8, 2.7, 8.5, 10.0
# Methods wrap, in not less than this many characters.
_METHOD: Final = 16

Cells = list[list[tuple[str, str, bool]]]


@dataclass(frozen=True)
class PageTable:
    """A table as printed: cells by column, what it shows and how to read it."""

    anchor: str
    title: str
    caption: str
    columns: Mapping[str, Sequence[str]]
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def rows(self) -> Cells:
        """Cells of each row: column, text, and whether it is a number."""
        return cells(self.columns)

    @property
    def parts(self) -> list[tuple[list[str], Cells]]:
        """The table in parts that fit on paper: names of columns and rows. One if it fits whole."""
        keys = [name for name in self.columns if name in _KEYS]
        room = _PAPER - sum(_width(name, self.columns[name]) for name in keys)
        parts: list[list[str]] = [[]]
        left = room
        for name in (name for name in self.columns if name not in keys):
            width = _width(name, self.columns[name])
            if width > left and parts[-1]:
                parts.append([])
                left = room
            parts[-1].append(name)
            left -= width
        chosen = [{name: self.columns[name] for name in (*keys, *part)} for part in parts]
        return [(list(columns), cells(columns)) for columns in chosen]


def _width(name: str, column: Sequence[str]) -> float:
    """How wide a column is on paper. A header breaks between words, a cell does not."""
    texts = [*name.split(), *column]
    if name == "method":
        pieces = [piece for text in texts for piece in re.split(r"[\s-]", text)]
        texts = [*pieces, *(text[:_METHOD] for text in texts)]
    longest = max(
        sum(_NARROW if character in " .,()[]" else _DIGIT for character in text) for text in texts
    )
    return longest + _PADDING + (_CHIP if name == "guarantee" else 0.0)


def cells(columns: Mapping[str, Sequence[str]]) -> Cells:
    """Rows of (column, text, whether it is a number)."""
    names = list(columns)
    return [
        [(name, cell, name not in TEXT_COLUMNS) for name, cell in zip(names, row, strict=True)]
        for row in zip(*columns.values(), strict=True)
    ]


def page_tables(
    logs: Sequence[LoadedLog], radii: Sequence[float] | None, taus: Sequence[float] | None
) -> list[PageTable]:
    """All tables of a page. Logs that are all of attacked images have one about the attack."""
    comparison = tables.comparison_table(logs, radii)
    few = (
        " No interval is given for fewer than 10 images, nor where all have the same radius."
        if comparison["AMCR low"].isna().any()
        else ""
    )
    return [
        PageTable(
            "accuracy",
            "Certified accuracy and radius",
            "The share of images that are classified correctly with a certified radius of at least "
            "the number at the head of the column, and the average certified radius (AMCR) with "
            f"its 95 % bootstrap interval over images.{few} Wrong and abstained images count 0. "
            "Accuracies and radii are rounded down.",
            _guarantee_first(rendering.printed(comparison)),
            table_notes.early_caveats(logs, "AMCR, and accuracies but for the radii of a grid"),
        ),
        *_attack_tables(logs, taus),
        PageTable(
            "regions",
            "Sizes of the certified regions",
            "AMCR counts the largest ball inside a region alone; an ellipsoid is larger.",
            _guarantee_first(rendering.printed(region_table(logs))),
            region_notes(logs),
        ),
        PageTable(
            "sigma",
            "Noise per image",
            "Over the images of a log: minimum, median and maximum of the smallest value of the "
            "image's sigma map (the paper's Table 8). It describes the noise, nothing else.",
            _numbers(tables.sigma_statistics(logs), 4),
        ),
        PageTable(
            "runtime",
            "Runtime",
            "Measured while certifying, on the machine that did (the paper's Table 9).",
            _numbers(tables.runtime_table(logs), 3),
        ),
    ]


def _attack_tables(logs: Sequence[LoadedLog], taus: Sequence[float] | None) -> list[PageTable]:
    if not all(map(attacked, logs)):
        return []
    shown = attack_table.printed(attack_table.attack_table(logs, taus))
    return [
        text_table(
            "attacks",
            "Certified accuracy under attack",
            "The share of the attacked images that are certified, by the size of the perturbation "
            "(the paper's Tables 2 to 5).",
            shown,
            [attack_table.CLEAN_NOTE, *attack_table.attack_notes(logs)],
        )
    ]


def text_table(
    anchor: str, title: str, caption: str, shown: pd.DataFrame, notes: Sequence[str] = ()
) -> PageTable:
    """A table whose cells are printed already."""
    columns = {str(name): [str(cell) for cell in shown[name]] for name in shown.columns}
    return PageTable(anchor, title, caption, _guarantee_first(columns), notes)


def _guarantee_first(columns: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """The columns with the guarantee before the numbers, which mean nothing without it."""
    first = [name for name in _KEYS if name in columns]
    return {name: columns[name] for name in dict.fromkeys((*first, *columns))}


def _numbers(table: pd.DataFrame, digits: int) -> dict[str, list[str]]:
    """Cells of a table that states no certificates: numbers are rounded to nearest."""

    def text(value: Any) -> str:
        if isinstance(value, float):
            return (
                ""
                if pd.isna(value)
                else f"{value:,.0f}"
                if value >= 1000
                else f"{value:.{digits}f}"
            )
        return str(value)

    return {str(name): [text(value) for value in table[name]] for name in table.columns}
