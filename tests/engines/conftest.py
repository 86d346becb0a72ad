"""A trained-looking network, and its run folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from concert.noise import IsotropicNoise
from concert.recipes.building import Description, build_base
from concert.runs import save_model

SHAPE = (1, 28, 28)


@pytest.fixture(scope="session")
def description() -> Description:
    classifier = {"name": "lenet", "init_args": {"image_size": 28}, "mean": None, "std": None}
    names = tuple(str(digit) for digit in range(10))
    noise = {"kind": "isotropic", "sigma": 0.25}
    return Description(classifier, noise, 10, SHAPE, names, "digits")


@pytest.fixture(scope="session")
def network(description: Description) -> torch.nn.Module:
    """LeNet whose logits differ by whole numbers, as a trained one's do."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = build_base(description, trust=False).eval()
        with torch.no_grad():
            list(base.parameters())[-2].mul_(50.0)
    return base


@pytest.fixture
def run_folder(tmp_path: Path, description: Description, network: torch.nn.Module) -> Path:
    save_model(tmp_path / "run" / "model", description, network, IsotropicNoise(0.25))
    return tmp_path / "run"
