"""The run that several commands load, by their flags."""

from __future__ import annotations

from typing import Any

import torch

from concert.errors import ConcertError
from concert.import_paths import import_from_here, is_foreign
from concert.recipes.building import Description
from concert.runs import load
from concert.sampling.sampler import SamplingSettings
from concert.smoothing import SmoothedClassifier


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


def trust_flag(description: Description) -> str:
    """--trust, where a model has code from outside `concert`, for a command that loads it."""
    parts = (description.classifier, description.classifier.get("denoiser") or {})
    return " --trust" if any(is_foreign(str(part.get("name", ""))) for part in parts) else ""
