"""The certification record: all that is known about one image, and its row in the log.

The log is plain TSV. Its first six columns are those of Cohen, Rosenfeld and Kolter (ICML 2019), in
their order, so that scripts written for their logs read ours; ours come after them. There are no
comment lines: what is the same for all rows stands in a JSON file beside the log.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from concert.certificates import Guarantee, Region
from concert.certificates.bands import Bands

if TYPE_CHECKING:
    from torch import Tensor

ABSTAIN: Final = -1
COHEN_COLUMNS: Final = ("idx", "label", "predict", "radius", "correct", "time")
COLUMNS: Final = (
    *COHEN_COLUMNS,
    "candidate",
    "p_lower",
    "n_used",
    "votes",
    "guarantee",
    "certificate",
    "proxy_volume",
    "log_volume",
    "sigma_min",
    "sigma_geomean",
    "sigma_max",
    "reason",
)

# A tab or a line end would break the table; a quote at the start of a cell makes readers of CSV
# dialects swallow the rows that follow.
_FORBIDDEN: Final = re.compile(r'[\t\r\n"]')
_CLOCK: Final = re.compile(r"(?:(\d+) days?, )?(\d+):(\d{1,2}):(\d{1,2}(?:\.\d+)?)")


@dataclass(frozen=True)
class Certification:
    """What is certified about one image.

    label: the predicted class, -1 where the smoothed classifier abstains.
    radius: the largest l2 ball inside the certified region, pixels in [0, 1]; 0 for an abstention,
    and where the class at the image is certain but nothing around it.
    p_lower: lower confidence bound of the event that the radius rests on.
    guarantee, certificate: for whom the region holds, and which theorem gives it.
    axes: semi-axes of the ellipsoid (C, H, W), or None for a ball; not in the log and not compared.
    bands: those of an ellipsoid along colour and scale, in the place of axes; likewise.
    proxy_volume, log_volume: Eq. 11, and the natural logarithm of the region's true volume.
    n_used, votes: certifying draws, and how many of them voted for each class, length K.
    seed, index: the address of the draws; `index` is the image's position in its data set.
    candidate: the class chosen by the selection draws.
    sigma_min, sigma_geomean, sigma_max: of the sigma map.
    reason: why it abstains, "" otherwise; without tabs, line ends and double quotes.

    Raises ValueError for a radius that is negative or not finite, for an abstention with a radius,
    and for forbidden characters in a text.
    """

    label: int
    radius: float
    p_lower: float
    guarantee: Guarantee
    certificate: str
    axes: Tensor | None = field(compare=False, repr=False)
    proxy_volume: float
    log_volume: float
    n_used: int
    votes: tuple[int, ...]
    seed: int
    index: int
    candidate: int
    sigma_min: float
    sigma_geomean: float
    sigma_max: float
    reason: str
    bands: Bands | None = field(default=None, compare=False, repr=False)

    def region(self, shape: Sequence[int]) -> Region:
        """The certified region around an image of `shape` (C, H, W), which answers `contains`.

        Raises ValueError for a shape that is not the image's.
        """
        dim = math.prod(shape)
        region = Region(self.certificate, self.guarantee, self.radius, dim, self.axes, self.bands)
        own = self.axes if self.bands is None else self.bands
        other = own is not None and tuple(own.shape) != tuple(shape)
        if other or not math.isclose(region.log_volume, self.log_volume, rel_tol=1e-9):
            raise ValueError(
                f"the certified image is not of shape {tuple(shape)}, or its axes are not at hand"
            )
        return region

    def __post_init__(self) -> None:
        _check_radius(self.label, self.radius)
        for name, text in (("certificate", self.certificate), ("reason", self.reason)):
            if _FORBIDDEN.search(text):
                raise ValueError(f"{name} must not hold tabs, line ends or double quotes: {text!r}")


def format_row(certification: Certification, true_label: int, seconds: float) -> str:
    """One line of the log, without its line end.

    Numbers are written with the digits that give back exactly the same double, so a radius is never
    rounded up. A wrong prediction keeps its radius with correct = 0.
    """
    c = certification
    cells: dict[str, int | float | str] = {
        "idx": int(c.index),
        "label": int(true_label),
        "predict": int(c.label),
        "radius": float(c.radius),
        "correct": int(c.label == true_label),
        "time": float(seconds),
        "candidate": int(c.candidate),
        "p_lower": float(c.p_lower),
        "n_used": int(c.n_used),
        "votes": format_votes(c.votes),
        "guarantee": Guarantee(c.guarantee).value,
        "certificate": c.certificate,
        "proxy_volume": float(c.proxy_volume),
        "log_volume": float(c.log_volume),
        "sigma_min": float(c.sigma_min),
        "sigma_geomean": float(c.sigma_geomean),
        "sigma_max": float(c.sigma_max),
        "reason": c.reason,
    }
    return "\t".join(str(cells[name]) for name in COLUMNS)


def parse_row(
    line: str, seed: int = 0, num_classes: int | None = None
) -> tuple[Certification, int, float]:
    """The certification, true label and seconds of one line of our log (with or without line end).

    The seed and the number of classes are the same for all rows and stand in the log's JSON file;
    with them the round trip is exact but for `axes`, which is None. Without `num_classes` the votes
    end with the last class that got one. Raises ValueError saying what is wrong with the line.
    """
    values = parse_cells(COLUMNS, line.removesuffix("\n").split("\t"))
    counts = parse_votes(values["votes"])
    length = max(counts, default=-1) + 1
    if num_classes is not None and length > num_classes:
        raise ValueError(f"votes name class {length - 1}, but there are {num_classes} classes")
    ours = {name: values[name] for name in COLUMNS[6:] if name != "votes"}
    certification = Certification(
        label=values["predict"],
        radius=values["radius"],
        axes=None,
        votes=tuple(counts.get(k, 0) for k in range(num_classes or length)),
        seed=seed,
        index=values["idx"],
        **ours,
    )
    return certification, values["label"], values["time"]


def format_votes(votes: Sequence[int]) -> str:
    """Votes per class as "3:9990,8:10": the classes that got any, ascending; "" if none did."""
    return ",".join(f"{k}:{int(count)}" for k, count in enumerate(votes) if count)


def parse_votes(text: str) -> dict[int, int]:
    """Class -> votes of a sparse text such as "3:9990,8:10"; ValueError if it is not one."""
    if not text:
        return {}
    parts = [part.partition(":") for part in text.split(",")]
    counts = {int(k): int(count) for k, _, count in parts}
    canonical = ",".join(f"{k}:{counts[k]}" for k in sorted(counts) if k >= 0 and counts[k] > 0)
    if canonical != text:
        raise ValueError(f"votes '{text}' are not classes in ascending order with their counts")
    return counts


def parse_seconds(text: str) -> float:
    """Seconds from "12.5" or from the "H:MM:SS.ffffff" of other projects ("1 day, " before it)."""
    clock = _CLOCK.fullmatch(text)
    if clock is None:
        return float(text)
    days, hours, minutes, seconds = clock.groups(default="0")
    return ((int(days) * 24 + int(hours)) * 60 + int(minutes)) * 60 + float(seconds)


def parse_cells(names: Sequence[str], cells: Sequence[str]) -> dict[str, Any]:
    """Name -> value of the known columns of one row; `names` is the header.

    Columns that the schema does not know are left out, votes stay text. Raises ValueError for a
    wrong number of cells, a cell that is not what its column holds, an impossible radius, and a
    `correct` that contradicts the labels.
    """
    if len(cells) != len(names):
        raise ValueError(f"{len(cells)} columns instead of {len(names)}")
    values: dict[str, Any] = {}
    for name, text in zip(names, cells, strict=True):
        if name not in _CELLS:
            continue
        convert, kind = _CELLS[name]
        try:
            values[name] = convert(text)
        except ValueError:
            raise ValueError(f"{name} '{text}' is not {kind}") from None
    _check_radius(values["predict"], values["radius"])
    if values["correct"] != int(values["predict"] == values["label"]):
        raise ValueError(
            f"correct is {values['correct']} for label {values['label']} "
            f"and prediction {values['predict']}"
        )
    return values


def _check_radius(label: int, radius: float) -> None:
    if not (math.isfinite(radius) and radius >= 0):
        raise ValueError(f"radius must be finite and not negative, got {radius}")
    if label == ABSTAIN and radius > 0:
        raise ValueError(f"an abstention has radius 0, got {radius}")


def _votes_text(text: str) -> str:
    parse_votes(text)
    return text


def _text(text: str) -> str:
    if _FORBIDDEN.search(text):
        raise ValueError
    return text


_INTEGER: Final = (int, "a whole number")
_NUMBER: Final = (float, "a number")
_TEXT: Final = (_text, "a plain text")
_CELLS: Final[Mapping[str, tuple[Callable[[str], Any], str]]] = {
    **dict.fromkeys(("idx", "label", "predict", "correct", "candidate", "n_used"), _INTEGER),
    **dict.fromkeys(("radius", "p_lower", "proxy_volume", "log_volume"), _NUMBER),
    **dict.fromkeys(("sigma_min", "sigma_geomean", "sigma_max"), _NUMBER),
    **dict.fromkeys(("certificate", "reason"), _TEXT),
    "time": (parse_seconds, "a time in seconds or H:MM:SS"),
    "votes": (_votes_text, "votes such as 3:9990,8:10"),
    "guarantee": (Guarantee, "one of " + ", ".join(Guarantee)),
}
