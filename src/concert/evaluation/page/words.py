"""The sentences of a page about its logs: main numbers, and how surely each certificate holds."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from math import isinf, isnan

from concert.certificates import Guarantee
from concert.evaluation import rendering, table_notes, tables
from concert.evaluation.attacked_log import attacked
from concert.evaluation.labels import guarantees, row_labels
from concert.evaluation.metrics import (
    FEWEST_IMAGES,
    abstention_rate,
    average_certified_radius,
    certified_at,
    percentage,
    share_interval,
)
from concert.evaluation.page.images import class_names
from concert.records.reading import LoadedLog


def log_names(logs: Sequence[LoadedLog]) -> list[str]:
    """What the page calls each log: method and sigma, the certificate where that is ambiguous."""
    labels = row_labels(logs)
    names = [label.name for label in labels]
    return [
        name if names.count(name) == 1 else f"{name}, {label.certificate}"
        for name, label in zip(names, labels, strict=True)
    ]


def lead(logs: Sequence[LoadedLog]) -> str:
    """How many logs there are, of how many images and classes."""
    counts = sorted({len(log.frame) for log in logs})
    images = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    logs_text = "one certification log" if len(logs) == 1 else f"{len(logs)} certification logs"
    classes = len(class_names(logs))
    kind = "attacked images" if all(map(attacked, logs)) else "images"
    return f"{logs_text}, {images} {kind} each" + (f", {classes} classes" if classes else "")


def guarantees_of(logs: Sequence[LoadedLog]) -> list[Guarantee]:
    """All guarantees of the logs, strongest first."""
    present = {guarantee for log in logs for guarantee in guarantees(log.frame)}
    return [guarantee for guarantee in Guarantee if guarantee in present]


def statements(
    logs: Sequence[LoadedLog], names: Sequence[str]
) -> list[tuple[str, list[dict[str, str]]]]:
    """The sentences about the logs, grouped by what they guarantee."""
    groups: dict[str, list[dict[str, str]]] = {}
    for log, label, name in zip(logs, row_labels(logs), names, strict=True):
        groups.setdefault(label.guarantee, []).append(_statement(log, name))
    return list(groups.items())


def _statement(log: LoadedLog, name: str) -> dict[str, str]:
    """A log's main numbers in sentences, with what they guarantee."""
    share = share_interval(certified_at(log.frame, [0.0]))
    correct = rendering.rounded_down(percentage(share.value[0]), 1)
    low = rendering.rounded_down(percentage(share.low[0]), 1)
    high = rendering.rounded_up(percentage(share.high[0]), 1)
    abstained = rendering.rounded_up(percentage(abstention_rate(log.frame)), 1)
    images = "attacked images" if attacked(log) else "images"
    sentences = [
        f"{correct} % of {len(log.frame)} {images} are classified correctly (exact 95 % interval "
        f"{low} to {high} %), {abstained} % are abstained from.",
        _radius_sentence(log),
        surely(log),
    ]
    return {
        "name": name,
        "text": " ".join(filter(None, sentences)),
        "guarantee": " ".join(each.sentence for each in guarantees(log.frame)),
    }


def _radius_sentence(log: LoadedLog) -> str:
    radius = rendering.rounded_down(average_certified_radius(log.frame))
    low, high = tables.amcr_ends(log)
    if isinf(high):
        interval = (
            f", and at least {rendering.rounded_down(low)} by a 95 % bootstrap interval over images"
        )
    elif not isnan(low):
        ends = f"{rendering.rounded_down(low)} to {rendering.rounded_up(high)}"
        interval = f", with a 95 % bootstrap interval over images of {ends}"
    elif len(log.frame) < FEWEST_IMAGES:
        interval = " (too few images for an interval)"
    else:
        interval = " (the same for all images, so without an interval)"
    caveat = f" (a lower bound: {table_notes.EARLY_CAVEAT})" if tables.stopped_early(log) else ""
    return f"The average certified radius is {radius}{interval}{caveat}."


def surely(log: LoadedLog) -> str:
    """How surely the log's certificates hold; "" where they guarantee nothing.

    Each image's certificate fails with probability at most alpha, so the expected number of wrong
    ones among N images is at most alpha N. It is rounded up.
    """
    guarded = log.frame["guarantee"].isin([Guarantee.DEPLOYED.value, Guarantee.FROZEN.value])
    count = int(guarded.sum())
    if not count:
        return ""
    alpha = log.run["identity"].get("alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < 1:
        return (
            "Its certificates hold for each image separately, with probability at least 1 - alpha; "
            "the log does not say alpha."
        )
    exact = Decimal(repr(alpha))
    expected = rendering.rounded_up(float(exact * count), 3).rstrip("0").rstrip(".")
    return (
        f"A certificate holds for each image separately, with probability at least "
        f"{1 - exact:f} (alpha {alpha:g}): of the certificates of {count} images, on average "
        f"at most {expected} {'is' if expected == '1' else 'are'} expected to be wrong."
    )
