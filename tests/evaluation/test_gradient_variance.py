"""Eq. 12's gradient variance against what can be derived and simulated independently."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from concert.classifiers import LeNet
from concert.errors import ConcertError
from concert.evaluation.gradient_variance import classification_loss, gradient_variance, main
from concert.generator import CoarseGenerator
from concert.noise import GeneratedNoise, IsotropicNoise
from concert.recipes.building import Description, build_noise
from concert.runs import save_model

OWN = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
"""


def test_both_forms_by_hand() -> None:
    logits = torch.tensor([[[0.0, 0.0], [3.0, 0.0]]]).log_softmax(2)
    p = logits[0, :, 0].exp()
    labels = torch.tensor([0])
    mean_of_log = classification_loss(logits, labels, "mean_of_log")
    log_of_mean = classification_loss(logits, labels, "log_of_mean")
    assert float(mean_of_log) == pytest.approx(-float(p.log().mean()))
    assert float(log_of_mean) == pytest.approx(-float(p.mean().log()))
    assert float(log_of_mean) < float(mean_of_log)


class OneWeight(nn.Module):
    """Logits (w * mean of the image, 0); -log f_0 has the gradient -(1 - sigmoid) * mean."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, images: Tensor) -> Tensor:
        first = self.weight * images.flatten(1).mean(dim=1)
        return torch.stack([first, torch.zeros_like(first)], dim=1)


@pytest.mark.parametrize("m", [1, 4])
def test_one_weight_against_a_simulation_without_autograd(m: int) -> None:
    """Monte Carlo, 20,000 against 2,000 repetitions; a variance's standard error is about 3 %."""
    image, sigma, weight = torch.full((1, 1, 1, 1), 0.7), 0.8, 1.5
    noise = IsotropicNoise(sigma)
    found = gradient_variance(
        OneWeight(weight), noise, image, torch.tensor([0]), copies=(m,), repetitions=2000
    )
    draws = torch.Generator().manual_seed(5)
    z = 0.7 + sigma * torch.randn(20_000, m, generator=draws, dtype=torch.float64)
    s = torch.sigmoid(weight * z)
    exact = {
        "mean_of_log": (-(1 - s) * z).mean(dim=1),
        "log_of_mean": -(s * (1 - s) * z).mean(dim=1) / s.mean(dim=1),
    }
    assert {each.form for each in found} == set(exact)
    for each in found:
        assert (each.network, each.m) == ("classifier", m)
        assert each.variance == pytest.approx(float(exact[each.form].var()), rel=0.15)
        mean = float(exact[each.form].mean())
        assert each.squared_mean == pytest.approx(mean**2, rel=0.25, abs=1e-3)
    if m == 1:
        assert found[0].variance == pytest.approx(found[1].variance)


def test_the_generator_is_measured_too() -> None:
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    noise = GeneratedNoise(CoarseGenerator(1, 0.2, 0.5)).eval()
    images, labels = torch.rand(2, 1, 8, 8), torch.tensor([0, 2])
    found = gradient_variance(classifier, noise, images, labels, copies=(2,), repetitions=3)
    assert [(each.network, each.form) for each in found] == [
        ("classifier", "mean_of_log"),
        ("generator", "mean_of_log"),
        ("classifier", "log_of_mean"),
        ("generator", "log_of_mean"),
    ]
    assert all(each.variance > 0 for each in found)
    with pytest.raises(ConcertError, match="repetitions"):
        gradient_variance(classifier, noise, images, labels, repetitions=1)


def test_a_codebook_has_gradients_though_it_chooses_one_map(tmp_path: Path) -> None:
    torch.manual_seed(0)
    generator = {"generator": "codebook", "generator_args": {"pool": 4}}
    noise = {"kind": "queried", "low": 0.2, "high": 0.5, "query_sigma": 0.6, **generator}
    classifier, names = {"name": "lenet", "init_args": {}}, tuple("0123456789")
    description = Description(classifier, noise, 10, (1, 28, 28), names, "digits")
    save_model(tmp_path / "model", description, LeNet(), build_noise(noise, (1, 28, 28)))
    record = json.loads(main(tmp_path, images=4, repetitions=2))
    assert {row["network"] for row in record["variances"]} == {"classifier", "generator"}
    assert all(row["variance"] > 0 for row in record["variances"])


@pytest.fixture
def own_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of a classifier of one's own on pictures of several sizes, cropped to 8x8."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "net_of_mine.py").write_text(OWN)
    rng = np.random.default_rng(0)
    for index, size in enumerate((9, 12, 17, 20)):
        file = tmp_path / "pictures" / "train" / f"class-{index % 2}" / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(file)
    run = tmp_path / "run"
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    description = Description(
        {"name": "net_of_mine.Net", "init_args": {}},
        {"kind": "isotropic", "sigma": 0.5},
        2,
        (3, 8, 8),
        ("class-0", "class-1"),
        "pictures",
    )
    save_model(run / "model", description, classifier, IsotropicNoise(0.5))
    data = {"name": "pictures", "path": str(tmp_path / "pictures"), "size": 8}
    (run / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    return run


def test_a_run_is_measured_on_its_own_data(own_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "variance.json"
    text = main(own_run, images=3, repetitions=2, trust=True, out=out)
    assert out.read_text() == text + "\n"
    record = json.loads(text)
    assert (record["data"], record["images"]) == ("pictures", 3)
    assert {row["network"] for row in record["variances"]} == {"classifier"}


def test_code_of_ones_own_is_not_imported_untold(own_run: Path) -> None:
    with pytest.raises(ConcertError, match="code from outside concert"):
        main(own_run, images=3, repetitions=2)
