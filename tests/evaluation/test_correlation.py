"""Rank correlation of sigma maps with entropy maps: noise made from the entropy, and noise not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from concert.classifiers import build_classifier
from concert.colorization import entropy_map, load_colorizer
from concert.errors import ConcertError
from concert.evaluation.correlation import main, map_correlation
from concert.noise import GeneratedNoise, IsotropicNoise, NoiseModel
from concert.recipes.building import Description, build_noise
from concert.runs import GivenData, save_model
from concert.sampling.sampler import SamplingSettings
from concert.smoothing import SmoothedClassifier

COLORIZER = load_colorizer()
SHAPE = (3, 32, 32)


class FromEntropy(nn.Module):
    """A generator: sigma grows, or falls, with the entropy."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, images: Tensor) -> Tensor:
        return (0.3 + self.sign * 0.1 * entropy_map(images, COLORIZER)).expand_as(images)


def smoothed(noise: NoiseModel) -> SmoothedClassifier:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    return SmoothedClassifier(network, noise, 2, SHAPE, SamplingSettings(workers=1)).eval()


def pictures(count: int) -> Tensor:
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_noise_made_from_the_entropy_follows_it(sign: float) -> None:
    found = map_correlation(smoothed(GeneratedNoise(FromEntropy(sign))), pictures(10), COLORIZER, 1)
    assert found.mean == pytest.approx(sign, abs=1e-3)
    assert found.low <= found.mean <= found.high
    assert found.pooled == pytest.approx(sign, abs=1e-2)
    assert abs(found.shifted) < 0.6
    assert (found.images, found.constant) == (10, 0)


def test_a_run_is_measured_on_its_own_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their folder and their size are those of the training, whatever part of it flags replace."""
    for index in range(3):
        file = tmp_path / "pictures" / "test" / f"class-{index % 2}" / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = (255 * pictures(3)[index, :, : 20 + index]).byte().movedim(0, -1).numpy()
        Image.fromarray(pixels).save(file)
    noise = {"kind": "generated", "low": 0.2, "high": 0.5, "generator": "coarse"}
    noise |= {"generator_args": {"pool": 4}}
    network = {"name": "resnet20", "init_args": {}}
    described = Description(network, noise, 2, (3, 16, 16), ("a", "b"), "mine")
    torch.manual_seed(0)
    classifier, made = build_classifier("resnet20", 2, 3), build_noise(noise, (3, 16, 16))
    save_model(tmp_path / "run" / "model", described, classifier, made)
    data = {"name": "mine", "path": str(tmp_path / "pictures"), "size": 16}
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    found = json.loads(main(tmp_path / "run", subset="first:3", draws=1))
    assert (found["data"], found["images"]) == ("mine", 3)
    (tmp_path / "pictures").rename(tmp_path / "moved")
    moved = GivenData(path=tmp_path / "moved")
    assert json.loads(main(tmp_path / "run", moved, "first:3", draws=1)) == found


def test_few_images_have_no_interval_and_one_level_no_correlation() -> None:
    few = map_correlation(smoothed(GeneratedNoise(FromEntropy(1.0))), pictures(3), COLORIZER, 1)
    assert (few.low, few.high) == (None, None)
    with pytest.raises(ConcertError, match="fewer than two"):
        map_correlation(smoothed(IsotropicNoise(0.25)), pictures(3), COLORIZER, 1)
    with pytest.raises(ConcertError, match="fewer than two"):
        map_correlation(smoothed(GeneratedNoise(FromEntropy(1.0))), pictures(1), COLORIZER, 1)


def test_images_without_entropy_are_left_out_of_everything() -> None:
    mixed = pictures(4)
    mixed[1] = 0.5
    model = smoothed(GeneratedNoise(FromEntropy(1.0)))
    found = map_correlation(model, mixed, COLORIZER, 1)
    rest = map_correlation(model, mixed[[0, 2, 3]], COLORIZER, 1)
    assert (found.images, found.constant) == (3, 1)
    assert found.shifted == rest.shifted
    assert found.pooled == rest.pooled
