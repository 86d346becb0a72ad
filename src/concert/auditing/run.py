"""Auditing the certified images of a log, into a folder that can be resumed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from concert.auditing.audit import AuditSettings, Finding, audit
from concert.auditing.claims import claimed_region
from concert.auditing.record import AuditRecord
from concert.auditing.verdict import RARE, TEST_ERROR, breaks_allowed
from concert.certificates import Guarantee
from concert.data import ImageSet
from concert.errors import ConcertError
from concert.records.reading import LoadedLog, run_path
from concert.records.record import ABSTAIN
from concert.runs import weights_file
from concert.smoothing import SmoothedClassifier
from concert.streams import Domain, Stream


@dataclass(frozen=True)
class AuditProgress:
    """An image that has just been audited, and how many of all are done."""

    finding: Finding
    done: int
    total: int


@dataclass(frozen=True)
class AuditResult:
    """What an audit of a log says.

    tried: certified images audited. broken: of them. closest_margin, closest_index: of the image
    whose prediction came closest to changing. rows: images of the log, abstentions included, up to
    the last one audited: each was certified at error alpha. expected, allowed: how many of them
    alpha alone breaks on average, and the most that it does not break with probability 1 % or less.
    sentences: the above, and the guarantee, in words.
    """

    tried: int
    broken: int
    closest_margin: float
    closest_index: int
    rows: int
    alpha: float
    expected: float
    allowed: int
    sentences: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether alpha explains the breaks."""
        return self.broken <= self.allowed


def find_log(run: Path) -> Path:
    """The only certification log in a run folder; a ConcertError lists them if there are more."""
    logs = sorted(run.glob("certify*.tsv"))
    if not logs:
        raise ConcertError(f"{run} has no certification log: run `concert certify {run}` first")
    if len(logs) > 1:
        names = ", ".join(path.name for path in logs)
        raise ConcertError(f"{run} has several certification logs, choose one by --log: {names}")
    return logs[0]


def audit_log(
    smoothed: SmoothedClassifier,
    images: ImageSet,
    log: LoadedLog,
    count: int,
    settings: AuditSettings,
    out: Path,
    on_image: Callable[[AuditProgress], None] = lambda progress: None,
    command: str = "",
) -> AuditResult:
    """Audit the first `count` certified images of a log that `out` does not have yet.

    Raises ConcertError, before anything is written, for a log without certified images, of other
    weights or of other data; and for a folder with another audit.
    """
    identity = log_identity(log)
    check_same_run(smoothed, images, log)
    Stream(settings.seed, Domain.AUDIT, 0)  # refuses an impossible seed
    if count < 1:
        raise ConcertError(f"images must be at least 1, got {count}")
    frame = log.frame
    certified = frame[(frame.predict != ABSTAIN) & (frame.radius > 0)].head(count)
    if certified.empty:
        raise ConcertError(f"{log.path} has no certified image: there is nothing to audit")
    sampler = smoothed.sampler(images.shape)
    record = AuditRecord.open(
        out,
        {
            "log": _digest(identity),
            "weights": identity["weights"],
            "data": identity["data"],
            "settings": asdict(settings),
            "engine": sampler.engine,
            **smoothed.engine.identity,
            "batch_size": sampler.batch_size,
            "vote_margin": sampler.margin,
            "device": sampler.device.type,
        },
        {"log": str(log.path), "command": command, "concert": version("concert-smoothing")},
    )
    wanted = [int(index) for index in certified.idx]
    done = sum(index in record.rows for index in wanted)
    for cells in certified.to_dict("records"):
        row = {str(name): cell for name, cell in cells.items()}
        index = int(row["idx"])
        if index in record.rows:
            continue
        began = time.perf_counter()
        (image,) = images.images([index])
        region = claimed_region(smoothed, image, row, identity)
        finding = audit(smoothed, image, region, int(row["predict"]), index, settings)
        record.append(finding, image, int(row["label"]), time.perf_counter() - began)
        done += 1
        on_image(AuditProgress(finding, done, len(wanted)))
    looked_at = int(certified.index[-1]) + 1
    guarantee = Guarantee(str(certified.guarantee.iloc[0]))
    sentence = log.guarantee_sentence(guarantee)
    rows = [record.rows[index] for index in wanted]
    result = summarize(rows, looked_at, float(identity["alpha"]), guarantee, sentence)
    record.finish(asdict(result) | {"passed": result.passed})
    return result


def summarize(
    rows: list[dict[str, str]], looked_at: int, alpha: float, guarantee: Guarantee, sentence: str
) -> AuditResult:
    """The result of an audit with these rows, the last of them being the log's `looked_at`-th.

    `sentence` is the log's guarantee in words.
    """
    broken = sum(row["broken"] == "1" for row in rows)
    closest = min(rows, key=lambda row: float(row["margin"]))
    margin, index = float(closest["margin"]), int(closest["idx"])
    expected, allowed = looked_at * alpha, breaks_allowed(looked_at, alpha)
    verdict = "alpha explains this" if broken <= allowed else "this is more than alpha explains"
    if broken == 0:
        verdict = "none was found"
    sentences = [
        f"Certified images tried: {len(rows)}; broken: {broken}, each at error {TEST_ERROR:g}; "
        f"closest margin: {margin:.4f} (image {index}).",
        f"Of the {looked_at} images of the log up to the last one tried, alpha = {alpha:g} alone "
        f"would break {expected:.3g} on average, and more than {allowed} with probability below "
        f"{RARE:g}: {verdict}.",
        sentence,
    ]
    if guarantee is not Guarantee.DEPLOYED:
        sentences.append(
            f"The audit is of the classifier as deployed all the same, to which the log's "
            f"guarantee ({guarantee.value}) does not extend."
        )
    return AuditResult(
        len(rows), broken, margin, index, looked_at, alpha, expected, allowed, tuple(sentences)
    )


def log_identity(log: LoadedLog) -> Mapping[str, Any]:
    """What decided the log's rows; ConcertError for a log that does not say."""
    identity: Mapping[str, Any] = log.run["identity"]
    needed = ("weights", "data", "n0", "n", "alpha", "seed", "batch_size", "noise_source")
    missing = [name for name in needed if name not in identity]
    if missing:
        raise ConcertError(
            f"{run_path(log.path)} does not say {', '.join(missing)}: only a log of "
            "`concert certify`, with the JSON file beside it, can be audited"
        )
    return identity


def check_same_run(smoothed: SmoothedClassifier, images: ImageSet, log: LoadedLog) -> None:
    """Refuse a log of another model or of other images than those given."""
    check_same_model(smoothed, log)
    if log_identity(log)["data"].get("fingerprint") != images.fingerprint:
        raise ConcertError(
            f"{log.path} is a log of other images than the {images.split} split of {images.name}: "
            "give its data by --data.name, --data.path and --data.size"
        )


def check_same_model(smoothed: SmoothedClassifier, log: LoadedLog) -> None:
    """Refuse a log of other weights, noise or engine than those of the model given."""
    identity = log_identity(log)
    weights = hashlib.sha256(weights_file(smoothed.classifier, smoothed.noise)).hexdigest()
    if identity["weights"] != weights:
        raise ConcertError(
            f"{log.path} is a log of other weights than the model given: choose the log of this "
            "run, or the run of this log"
        )
    generator = getattr(smoothed.noise, "generator", None)
    given = {name: getattr(generator, name) for name in ("low", "high") if hasattr(generator, name)}
    given |= smoothed.noise.settings()
    logged = identity.get("noise", {})
    engine = str(identity.get("engine_sha256", ""))
    if engine != smoothed.engine.sha256:
        there, here = (
            f"the engine file {sha[:8]}" if sha else "torch"
            for sha in (engine, smoothed.engine.sha256)
        )
        raise ConcertError(
            f"{log.path} was certified with {there}, the run is deployed with {here}: choose the "
            "log of this run as it is deployed, or certify it again into a new --log"
        )
    for name in given.keys() & logged.keys():
        if given[name] != logged[name]:
            raise ConcertError(
                f"{log.path} was certified with {name} {logged[name]}, the model given has "
                f"{given[name]}: choose the log of this run as it is deployed, or certify it again"
            )


def _digest(identity: Mapping[str, Any]) -> str:
    # A log may grow to a larger subset; its rows stay what they are.
    identity = {name: value for name, value in identity.items() if name != "subset"}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
