"""What several commands load: the run, and the data it is to be used on."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from concert.errors import ConcertError
from concert.recipes.config import DataSettings
from concert.runs import load
from concert.sampling.sampler import SamplingSettings
from concert.smoothing import SmoothedClassifier


def import_from_here() -> None:
    """Let import paths name modules in the working folder, as `python -m` would."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


def load_run(
    options: Any, deployed: bool = True, device: torch.device | None = None
) -> SmoothedClassifier:
    """The smoothed classifier of `options.run`, for the sampling flags given."""
    sampling = SamplingSettings(options.batch_size, options.vote_margin, options.workers)
    if options.trust:
        import_from_here()
    chosen = options.accelerator
    if chosen == "gpu":
        chosen = "cuda"
    if chosen == "auto":
        chosen = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return load(options.run, options.trust, device or chosen, sampling, deployed)
    except (RuntimeError, AssertionError) as error:
        raise ConcertError(
            f"cannot use accelerator '{options.accelerator}': {str(error).splitlines()[0]}"
        ) from None


def data_of(run: Path, trained_on: str, given: Any) -> DataSettings:
    """The data of the flags; what they leave out is that of the training run."""
    trained: dict[str, Any] = {}
    if given.name in ("", trained_on):
        with contextlib.suppress(OSError, yaml.YAMLError, KeyError, TypeError):
            trained = dict(yaml.safe_load((run / "config.yaml").read_text())["data"])
    path = given.path or trained.get("path")
    return DataSettings(
        given.name or trained_on,
        None if path is None else Path(path),
        size=given.size or trained.get("size"),
    )
