"""Run folders as finished steps leave them, without the training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from concert.certificates import Guarantee
from concert.records.log import CertificationLog
from concert.records.record import Certification

IDENTITY = {
    "weights": "w",
    "data": {"name": "digits", "split": "test", "images": 297},
    "subset": "first:4",
    "certificate": "isotropic",
    "n0": 16,
    "n": 200,
    "alpha": 0.001,
    "seed": 0,
    "stopping": "full",
    "vote_margin": 0.0001,
    "batch_size": 256,
    "engine": "torch-eager",
}


def write_model(folder: Path, weights: str = "w") -> None:
    """A description of a model whose weights have this hash."""
    text = {"format": 1, "sha256": weights, "classifier": {}, "noise": {}, "num_classes": 10}
    text |= {"shape": [1, 28, 28], "class_names": [], "data": "digits"}
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "model" / "config.json").write_text(json.dumps(text))


def write_log(
    folder: Path, identity: dict[str, Any] | None = None, rows: int = 4, **info: Any
) -> Path:
    """A log of `rows` of 4 images, the metrics of two epochs of 128 images and 3 s, and a model."""
    run = folder.parent if folder.name.startswith("attack-") else folder
    if not (run / "model").exists():
        write_model(run)
    said = {"method": "Cohen", "noise": "isotropic", "sigma": "0.25", "data": "digits"}
    said |= {"versions": {"torch": "2.0"}}
    path = folder / "certify.tsv"
    all_of = {"subset_images": 4} | said | info
    with CertificationLog.open(path, IDENTITY | (identity or {}), all_of) as log:
        for index in range(rows):
            log.append(_certification(index), 0, seconds=0.5)
    (folder / "metrics.csv").write_text("epoch,images,seconds\n0,128,2\n1,128,4\n")
    return path


def write_variances(folder: Path, weights: str = "w") -> None:
    """Measured variances of a model whose weights have this hash."""
    row = {"network": "classifier", "form": "mean_of_log", "m": 1, "variance": 2.0}
    text = json.dumps({"weights": weights, "variances": [row]})
    (folder / "gradient_variance.json").write_text(text)


def write_prediction(folder: Path, weights: str = "w") -> None:
    """The measured time of a prediction of a model whose weights have this hash."""
    measured = {"weights": weights, "seconds": 0.25, "n": 1000, "images": 5}
    text = json.dumps(measured | {"engine": "torch-eager", "torch": "2.0"})
    (folder / "prediction_time.json").write_text(text)


def cut(path: Path, rows: int) -> None:
    """Leave the first rows of a log."""
    lines: Sequence[str] = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: rows + 1]))


def _certification(index: int) -> Certification:
    return Certification(
        label=0,
        radius=0.1 * (index + 1),
        p_lower=0.9,
        guarantee=Guarantee.DEPLOYED,
        certificate="isotropic",
        axes=None,
        proxy_volume=0.1,
        log_volume=-1.0,
        n_used=200,
        votes=(200,),
        seed=0,
        index=index,
        candidate=0,
        sigma_min=0.25,
        sigma_geomean=0.25,
        sigma_max=0.25,
        reason="",
    )
