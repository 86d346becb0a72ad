"""The report as one page of HTML that needs nothing but itself: no network, no other file.

All that comes from a log is escaped; the page forbids itself every request and every script but its
own.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from concert.data import ImageSet
from concert.evaluation import table_notes, tables
from concert.evaluation.attacked_log import attacked
from concert.evaluation.explain.explain import Explanation
from concert.evaluation.explain.figure import explanation_figure, rendered
from concert.evaluation.page import words
from concert.evaluation.page.curves import HEIGHT, WIDTH, certified_accuracy_chart
from concert.evaluation.page.images import data_uri, image_rows, thumbnails
from concert.evaluation.page.tables import TEXT_COLUMNS, PageTable, page_tables
from concert.records.reading import LoadedLog

GALLERY_DPI: Final = 110


@dataclass(frozen=True)
class PageExtras:
    """What a page can show beyond its logs.

    images: those of the logs, for thumbnails. gallery: a log and explanations of some of its
    images. command: what makes the report again. tables: shown after that of certified accuracy.
    """

    images: ImageSet | None = None
    gallery: tuple[LoadedLog, Sequence[Explanation]] | None = None
    command: str = ""
    tables: Sequence[PageTable] = ()


def report_page(
    logs: Sequence[LoadedLog],
    radii: Sequence[float] | None = None,
    extras: PageExtras | None = None,
    taus: Sequence[float] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """The page about logs of one data set; ConcertError for logs of several.

    radii, taus: the columns of the tables of accuracy, and of accuracy under attack.
    notes: shown before the notes of the data and of the runs.
    """
    extras = extras or PageExtras()
    data = tables.require_one_dataset(logs)
    chart = certified_accuracy_chart(logs)
    style, script = _asset("report.css"), _asset("report.js")
    names = words.log_names(logs)
    accuracy, *others = page_tables(logs, radii, taus)
    rows = image_rows(logs, names)
    rows["thumbnails"] = thumbnails(logs, extras.images) if extras.images is not None else {}
    environment = Environment(
        loader=PackageLoader("concert.evaluation.page", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # The numbers of a log are as long as they are; the page's own data must not be reordered.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment.get_template("report.html.j2").render(
        title=f"Certified robustness on {data}" if data else "Certified robustness",
        lead=words.lead(logs),
        guarantees=words.guarantees_of(logs),
        chart=chart,
        width=WIDTH,
        height=HEIGHT,
        names=names,
        attacked=[name for log, name in zip(logs, names, strict=True) if attacked(log)],
        caveats=table_notes.early_caveats(logs, "Curves, but for the radii of a grid, and AMCR"),
        statements=words.statements(logs, names),
        tables=[accuracy, *extras.tables, *others],
        text_columns=TEXT_COLUMNS,
        notes=[*notes, *table_notes.data_notes(logs), *table_notes.run_notes(logs)],
        rows=rows,
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
    """What is needed to make a log again: its commands, its hashes, its versions."""
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
    attack = info.get("attack")
    made = [attack.get("command")] if isinstance(attack, dict) else []
    return {
        "name": name,
        "command": "\n".join(str(each) for each in (*made, info.get("command")) if each),
        "facts": {key: str(value) for key, value in said.items() if value},
    }


def _asset(name: str) -> str:
    folder = resources.files("concert.evaluation.page") / "templates"
    return (folder / name).read_text(encoding="utf-8")


def _source_hash(text: str) -> str:
    """What a content security policy names an inline style or script by."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
