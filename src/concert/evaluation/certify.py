"""Certifying the images of a data set into a resumable log."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from concert.certification.procedure import Procedure
from concert.data import ImageSet, subset_indices
from concert.data.known import KNOWN
from concert.errors import ConcertError
from concert.evaluation.describing import describe_data, describe_method
from concert.recipes.building import Description
from concert.records.parts import shared_log
from concert.records.record import Certification
from concert.runs import read_description, source_of, weights_file
from concert.smoothing import SmoothedClassifier
from concert.streams import DRAWS_PER_BLOCK, source_name
from concert.team import Team


@dataclass(frozen=True)
class CertifySettings(Procedure):
    """What decides a certification log: the procedure, and which images.

    split: train or test. subset: all, first:N, every:K or random:N:SEED.
    """

    split: str = "test"
    subset: str = "all"


@dataclass(frozen=True)
class CertifyProgress:
    """An image that has just been logged, and how many of all are done."""

    certification: Certification
    true_label: int
    seconds: float
    done: int
    total: int


def check_run(
    smoothed: SmoothedClassifier,
    description: Description,
    images: ImageSet,
    settings: CertifySettings,
) -> None:
    """Refuse settings that can never certify, and images that do not fit the model."""
    settings.check(smoothed.noise)
    if images.shape != description.shape:
        raise ConcertError(
            f"the model takes images of shape {description.shape} (channels, height, width), "
            f"{images.name} has {images.shape}{shape_hint(description.shape, images)}"
        )
    if images.num_classes != description.num_classes:
        raise ConcertError(
            f"the model has {description.num_classes} classes, {images.name} has "
            f"{images.num_classes}"
        )
    smoothed.noise.accept(images.images(subset_indices(len(images), settings.subset)[:1]))


def shape_hint(wanted: Sequence[int], images: ImageSet) -> str:
    """What makes images fit a model of the `wanted` shape (C, H, W), where something does."""
    if not images.resizable:
        return ""
    advice = []
    if images.shape[0] != wanted[0]:
        if (wanted[0], images.shape[0]) != (3, 1) or images.name in KNOWN:
            return ""
        advice.append("store them all as RGB, for pictures are grey if all of their split are")
    if images.shape[1:] != tuple(wanted[1:]):
        if wanted[1] != wanted[2]:
            return ""
        advice.append(f"resize them with --data.size {wanted[1]}")
    return f": {', and '.join(advice)}"


def certify_data(
    smoothed: SmoothedClassifier,
    run: Path,
    images: ImageSet,
    settings: CertifySettings,
    log_path: Path,
    on_image: Callable[[CertifyProgress], None] = lambda progress: None,
    command: str = "",
    team: Team | None = None,
) -> Path:
    """Certify the chosen images that the log does not have yet; returns the log's path.

    `team`: the processes that share the images; every one of them makes this call.

    Raises ConcertError, before anything is written, for settings that can never certify and for
    images that do not fit the model; and for a log of another run.
    """
    team = team or Team()
    description, weights = read_description(run)
    check_run(smoothed, description, images, settings)
    content = weights_file(smoothed.classifier, smoothed.noise)
    if hashlib.sha256(content).hexdigest() != weights:
        raise ConcertError(f"the model given is not the one in {run}: load it from there")
    indices = subset_indices(len(images), settings.subset)
    certificate = settings.certificate_of(smoothed.noise)
    sampler = smoothed.sampler(images.shape)
    sampler.settle(len(indices) * settings.n)
    identity = {
        "concert": version("concert-smoothing"),
        **source_of(smoothed.classifier, smoothed.noise),
        "weights": weights,
        "classifier": dict(description.classifier),
        "noise": dict(description.noise),
        "num_classes": description.num_classes,
        "data": {
            "name": images.name,
            "split": settings.split,
            "fingerprint": images.fingerprint,
            "images": len(images),
        },
        "subset": settings.subset,
        "certificate": certificate,
        "n0": settings.n0,
        "n": settings.n,
        "alpha": settings.alpha,
        "seed": settings.seed,
        "stopping": settings.stopping,
        "engine": sampler.engine,
        **smoothed.engine.identity,
        "batch_size": sampler.batch_size,
        "draws_per_block": DRAWS_PER_BLOCK,
        "noise_source": source_name(sampler.device, smoothed.noise.draws),
        "vote_margin": sampler.margin,
        **sampler.thread_identity(),
    }
    if smoothed.noise.needs_floor(certificate):
        identity["n_select"] = settings.n_select
    info = {
        **describe_method(run, description),
        "guarantee": smoothed.noise.guarantee_of(certificate).value,
        "guarantee_sentence": smoothed.noise.sentence_of(certificate),
        **describe_data(images),
        "data_source": images.source,
        "data_notes": images.notes,
        "subset_images": len(indices),
        "classes": list(images.class_names),
        "command": command,
        "versions": {
            "concert": version("concert-smoothing"),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": version("numpy"),
            "scipy": version("scipy"),
        },
    }
    with shared_log(log_path, identity, info, team, indices) as (log, todo, done):
        pictures = (images.images([index])[0] for index in todo)
        for timed in smoothed.certify_each(pictures, settings, todo):
            label = int(images.labels[timed.certification.index])
            log.append(timed.certification, label, timed.seconds)
            # Of the others it is known only that they have as much to do.
            done = min(len(indices), done + team.size)
            on_image(CertifyProgress(timed.certification, label, timed.seconds, done, len(indices)))
    return log_path
