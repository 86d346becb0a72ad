"""The report as one page of HTML that needs nothing but itself: no network, no other file.

All that comes from a log is escaped; the page forbids itself every request and every script but its
own.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from importlib.metadata import version
from typing import Any, Final

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from concert.certificates import Guarantee
from concert.data import ImageSet
from concert.evaluation import rendering, tables
from concert.evaluation.curves import HEIGHT, WIDTH, certified_accuracy_chart
from concert.evaluation.explain import Explanation
from concert.evaluation.explain_figure import explanation_figure, rendered
from concert.evaluation.metrics import (
    abstention_rate,
    average_certified_radius,
    bootstrap,
    certified_accuracy,
    certified_radii,
)
from concert.evaluation.page_images import class_names, data_uri, image_rows, thumbnails
from concert.evaluation.region_table import region_notes, region_table
from concert.log_reading import LoadedLog

GALLERY_DPI: Final = 110
_TEXT_COLUMNS: Final = {"sigma", "method", "guarantee", "certificate"}


@dataclass(frozen=True)
class PageExtras:
    """What a page can show beyond its logs.

    images: those of the logs, for thumbnails. gallery: a log and explanations of some of its
    images. command: what makes the report again.
    """

    images: ImageSet | None = None
    gallery: tuple[LoadedLog, Sequence[Explanation]] | None = None
    command: str = ""


@dataclass(frozen=True)
class PageTable:
    """A table as printed: cells by column, what it shows and how to read it."""

    anchor: str
    title: str
    caption: str
    columns: Mapping[str, Sequence[str]]
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def rows(self) -> list[list[tuple[str, str, bool]]]:
        """Cells of each row: column, text, and whether it is a number."""
        names = list(self.columns)
        return [
            [(name, cell, name not in _TEXT_COLUMNS) for name, cell in zip(names, row, strict=True)]
            for row in zip(*self.columns.values(), strict=True)
        ]


def report_page(
    logs: Sequence[LoadedLog],
    radii: Sequence[float] | None = None,
    extras: PageExtras | None = None,
) -> str:
    """The page about logs of one data set; ConcertError for logs of several."""
    extras = extras or PageExtras()
    data = tables.require_one_dataset(logs)
    chart = certified_accuracy_chart(logs)
    style, script = _asset("report.css"), _asset("report.js")
    names = log_names(logs)
    rows = image_rows(logs, names)
    rows["thumbnails"] = thumbnails(logs, extras.images) if extras.images is not None else {}
    environment = Environment(
        loader=PackageLoader("concert.evaluation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # The numbers of a log are as long as they are; the page's own data must not be reordered.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment.get_template("report.html.j2").render(
        title=f"Certified robustness on {data}" if data else "Certified robustness",
        lead=_lead(logs),
        guarantees=_guarantees(logs),
        chart=chart,
        width=WIDTH,
        height=HEIGHT,
        names=names,
        statements=_statements(logs, names),
        tables=_tables(logs, radii),
        notes=tables.data_notes(logs) + tables.run_notes(logs),
        rows=rows,
        total=sum(len(log.frame) for log in logs),
        has_thumbnails=bool(rows["thumbnails"]),
        gallery=_gallery(logs, names, extras),
        runs=[_run(log, name) for log, name in zip(logs, names, strict=True)],
        command=extras.command or shlex.join(["concert", "report", *(str(e.path) for e in logs)]),
        version=version("concert-smoothing"),
        style=Markup(style),
        script=Markup(script),
        style_hash=_source_hash(style),
        script_hash=_source_hash(script),
    )


def _lead(logs: Sequence[LoadedLog]) -> str:
    counts = sorted({len(log.frame) for log in logs})
    images = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    logs_text = "one certification log" if len(logs) == 1 else f"{len(logs)} certification logs"
    classes = len(class_names(logs))
    return f"{logs_text}, {images} images each" + (f", {classes} classes" if classes else "")


def _guarantees(logs: Sequence[LoadedLog]) -> list[Guarantee]:
    present = {guarantee for log in logs for guarantee in tables.guarantees(log.frame)}
    return [guarantee for guarantee in Guarantee if guarantee in present]


def log_names(logs: Sequence[LoadedLog]) -> list[str]:
    """What the page calls each log: method and sigma, the certificate where that is ambiguous."""
    labels = tables.row_labels(logs)
    names = [f"{each.method}, sigma {each.sigma}" if each.sigma else each.method for each in labels]
    return [
        name if names.count(name) == 1 else f"{name}, {label.certificate}"
        for name, label in zip(names, labels, strict=True)
    ]


def _statements(
    logs: Sequence[LoadedLog], names: Sequence[str]
) -> list[tuple[str, list[dict[str, str]]]]:
    """The sentences about the logs, grouped by what they guarantee."""
    groups: dict[str, list[dict[str, str]]] = {}
    for log, label, name in zip(logs, tables.row_labels(logs), names, strict=True):
        groups.setdefault(label.guarantee, []).append(_statement(log, name))
    return list(groups.items())


def _statement(log: LoadedLog, name: str) -> dict[str, str]:
    """A log's main numbers in sentences, with what they guarantee."""
    interval = bootstrap(certified_radii(log.frame))
    correct = rendering.rounded_down(100 * float(certified_accuracy(log.frame, [0])[0]), 1)
    abstained = rendering.rounded_up(100 * abstention_rate(log.frame), 1)
    radius = rendering.rounded_down(average_certified_radius(log.frame))
    low, high = (
        rendering.rounded_down(float(interval.low)),
        rendering.rounded_up(float(interval.high)),
    )
    return {
        "name": name,
        "text": (
            f"{correct} % of {len(log.frame)} images are classified correctly, {abstained} % are "
            f"abstained from. The average certified radius is {radius}, with a 95 % interval over "
            f"images of {low} to {high}."
        ),
        "guarantee": " ".join(each.sentence for each in tables.guarantees(log.frame)),
    }


def _tables(logs: Sequence[LoadedLog], radii: Sequence[float] | None) -> list[PageTable]:
    return [
        PageTable(
            "accuracy",
            "Certified accuracy and radius",
            "The share of images that are classified correctly with a certified radius of at least "
            "the number at the head of the column, and the average certified radius (AMCR) with "
            "its 95 % bootstrap interval over images. Wrong and abstained images count 0. "
            "Accuracies and radii are rounded down.",
            rendering.printed(tables.comparison_table(logs, radii)),
        ),
        PageTable(
            "regions",
            "Sizes of the certified regions",
            "AMCR counts the largest ball inside a region alone; an ellipsoid is larger.",
            rendering.printed(region_table(logs)),
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


def _gallery(
    logs: Sequence[LoadedLog], names: Sequence[str], extras: PageExtras
) -> dict[str, Any] | None:
    if extras.gallery is None:
        return None
    log, explanations = extras.gallery
    name = next(name for each, name in zip(logs, names, strict=True) if each is log)
    pictures = [
        {
            "index": explanation.certification.index,
            "true_class": explanation.true_class,
            "sentence": explanation.sentence,
            "uri": data_uri(rendered(explanation_figure(explanation), "png", GALLERY_DPI)),
        }
        for explanation in explanations
    ]
    return {"name": name, "pictures": pictures}


def _run(log: LoadedLog, name: str) -> dict[str, Any]:
    """What is needed to make a log again: its command, its hashes, its versions."""
    identity, info = log.run["identity"], log.run["info"]
    data = identity.get("data")
    said: dict[str, Any] = {"log": log.path}
    said["log sha256"] = hashlib.sha256(log.path.read_bytes()).hexdigest()
    said["weights sha256"] = identity.get("weights")
    if isinstance(data, dict):
        said["data"] = f"{data.get('name')}, {data.get('split')}, {identity.get('subset', 'all')}"
        said["data sha256"] = data.get("fingerprint")
    settings = ("certificate", "n0", "n", "alpha", "seed", "stopping", "n_select", "engine")
    said["settings"] = ", ".join(f"{key} {identity[key]}" for key in settings if key in identity)
    versions = info.get("versions")
    if isinstance(versions, dict):
        said["versions"] = ", ".join(f"{key} {value}" for key, value in versions.items())
    return {
        "name": name,
        "command": str(info.get("command") or ""),
        "facts": {key: str(value) for key, value in said.items() if value},
    }


def _asset(name: str) -> str:
    folder = resources.files("concert.evaluation") / "templates"
    return (folder / name).read_text(encoding="utf-8")


def _source_hash(text: str) -> str:
    """What a content security policy names an inline style or script by."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
