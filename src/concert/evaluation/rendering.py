"""A comparison table as text, CSV, Markdown and LaTeX.

Printed numbers are never rounded in our favour: accuracies, radii and lower ends go down,
abstentions and upper ends go up. Every form but CSV ends with one sentence per guarantee in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

import pandas as pd
from pandas.io.formats.style import Styler

from concert.certificates import Guarantee
from concert.evaluation.labels import JOINT

_CONVENTION = (
    "Columns headed by a number: certified accuracy at that l2 radius. AMCR: average certified "
    "radius with its 95 % bootstrap interval over images (without an upper end where sampling "
    "stopped early), wrong and abstained images counting 0. Accuracies and radii are "
    "rounded down, abstentions up."
)
_CONVENTION_BESIDE_THE_PAPER = (
    "Columns headed by a number: certified accuracy at that l2 radius. AMCR: average certified "
    "radius, wrong and abstained images counting 0; interval: its 95 % bootstrap interval over "
    "images (without an upper end where sampling stopped early). Accuracies, radii "
    "and lower ends are rounded down, upper ends up."
)
_NO_INTERVAL = (
    "An AMCR of fewer than 10 images, or of images that all have the same radius, has no interval."
)
_LEFT_ALIGNED = {"sigma", "method", "first", "other", "verdict", "guarantee", "certificate"}
# Decimals of columns that are rounded down.
_DOWN = {"axis": 3, "log-volume": 1, "larger (%)": 1}


def rounded_down(value: float, digits: int = 3) -> str:
    """A number cut after `digits` decimals, towards minus infinity: 0.9999 is 0.999."""
    return _rounded(value, digits, ROUND_FLOOR)


def rounded_up(value: float, digits: int = 3) -> str:
    """A number rounded towards plus infinity at `digits` decimals: 0.0001 is 0.001."""
    return _rounded(value, digits, ROUND_CEILING)


def interval(low: float, high: float) -> str:
    """An interval rounded outwards; "" where there is none (NaN)."""
    if math.isnan(low):
        return ""
    return f"[{rounded_down(low)}, {'inf' if math.isinf(high) else rounded_up(high)}]"


def notes(table: pd.DataFrame, data_notes: Sequence[str] = ()) -> list[str]:
    """What stands below a table: how to read it, what its guarantees mean, notes on the data."""
    present = {name for cell in table["guarantee"] for name in cell.split(JOINT)}
    sentences = [f"{each.value}: {each.sentence}" for each in Guarantee if each.value in present]
    return [*_convention(table), *sentences, *data_notes]


def to_text(table: pd.DataFrame, data_notes: Sequence[str] = ()) -> str:
    """Aligned columns for a terminal."""
    shown = _shown(table)
    widths = {name: max(map(len, (name, *cells))) for name, cells in shown.items()}

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(widths[name]) if name in _LEFT_ALIGNED else cell.rjust(widths[name])
            for name, cell in zip(widths, cells, strict=True)
        )
        return "  ".join(padded).rstrip()

    rule = "-" * (sum(widths.values()) + 2 * (len(widths) - 1))
    rows = [line(row) for row in _rows(shown)]
    return "\n".join([line(list(shown)), rule, *rows, "", *notes(table, data_notes)]) + "\n"


def to_csv(table: pd.DataFrame) -> str:
    """Comma-separated values at full precision."""
    return table.to_csv(index=False, lineterminator="\n")


def to_markdown(table: pd.DataFrame, data_notes: Sequence[str] = ()) -> str:
    """A pipe table, the notes as a list below it."""
    shown = _shown(table)
    rule = [":--" if name in _LEFT_ALIGNED else "--:" for name in shown]
    lines = [
        "| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |"
        for row in (list(shown), rule, *_rows(shown))
    ]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(table, data_notes))]) + "\n"


def to_latex(table: pd.DataFrame, data_notes: Sequence[str] = ()) -> str:
    """A tabular with booktabs rules, and a second one that holds the notes."""
    shown = _shown(table)
    alignment = "".join("l" if name in _LEFT_ALIGNED else "r" for name in shown)
    below = {"notes": notes(table, data_notes)}
    return (
        _styler(shown).to_latex(column_format=alignment, hrules=True)
        + "\n\\par\\smallskip\n"
        + _styler(below).hide(axis="columns").to_latex(column_format=r"p{0.95\linewidth}")
    )


def printed(table: pd.DataFrame) -> dict[str, list[str]]:
    """The cells by column as all forms but CSV print them."""
    return _shown(table)


def _convention(table: pd.DataFrame) -> list[str]:
    """How to read the AMCR of a table of logs, or of one with the paper's rows; [] without it."""
    if "AMCR low" in table:
        said, lacking = _CONVENTION, table["AMCR low"].isna()
    elif "interval" in table:
        ours = table["source"] != "paper"
        said, lacking = _CONVENTION_BESIDE_THE_PAPER, ours & (table["interval"] == "")
    else:
        return []
    return [said, _NO_INTERVAL] if lacking.any() else [said]


def _styler(columns: Mapping[str, Sequence[str]]) -> Styler:
    names = list(columns)
    style = pd.DataFrame(columns).style.hide(axis="index")
    # Braces keep a row that begins with a bracket from being read as the argument of the \\ above.
    style = style.format("{{{}}}", escape="latex", subset=pd.IndexSlice[:, names[:1]])
    style = style.format(escape="latex", subset=pd.IndexSlice[:, names[1:]])
    return style.format_index(escape="latex", axis="columns")


def _shown(table: pd.DataFrame) -> dict[str, list[str]]:
    """The printed cells by column: all of them text, the interval beside the AMCR."""
    shown: dict[str, list[str]] = {}
    for name in map(str, table.columns):
        column = list(table[name])
        if name[0].isdigit():
            shown[name] = [rounded_down(value) for value in column]
        elif name in _DOWN:
            shown[name] = [
                "" if pd.isna(value) else rounded_down(value, _DOWN[name]) for value in column
            ]
        elif name == "draws":
            shown[name] = ["" if pd.isna(value) else rounded_up(value, 0) for value in column]
        elif name == "AMCR" and "AMCR low" not in table:
            shown[name] = [rounded_down(value) for value in column]
        elif name == "AMCR":
            ends = zip(column, table["AMCR low"], table["AMCR high"], strict=True)
            shown[name] = [
                f"{rounded_down(value)} {interval(low, high)}".rstrip() for value, low, high in ends
            ]
        elif name == "abstained (%)":
            shown[name] = [rounded_up(value, 1) for value in column]
        elif name not in ("AMCR low", "AMCR high"):
            shown[name] = ["" if pd.isna(value) else str(value) for value in column]
    return shown


def _rows(shown: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    return list(zip(*shown.values(), strict=True))


def _rounded(value: float, digits: int, rounding: str) -> str:
    # The shortest decimal form of a quotient such as 57/100 is the quotient itself.
    return str(Decimal(repr(float(value))).quantize(Decimal(1).scaleb(-digits), rounding))
