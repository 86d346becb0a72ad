"""Evidence that perturbations follow the entropy: correlation, control, and the figure."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from concert.colorization import entropy_map, load_colorizer
from concert.errors import ConcertError
from concert.evaluation.attack_evidence import (
    Average,
    attack_evidence,
    derangement,
    evidence_figure,
    magnitude,
)

COLORIZER = load_colorizer()


def pictures(count: int = 12) -> Tensor:
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")


def test_the_magnitude_is_the_norm_over_channels() -> None:
    clean = torch.zeros(1, 3, 1, 2)
    attacked = clean.clone()
    attacked[0, :, 0, 0] = torch.tensor([0.3, 0.0, -0.4])
    assert torch.allclose(magnitude(clean, attacked), torch.tensor([[[[0.5, 0.0]]]]))


def test_perturbations_shaped_by_the_entropy_are_told_from_the_control() -> None:
    clean = pictures()
    entropy = entropy_map(clean, COLORIZER)
    found, each = attack_evidence(clean, clean + 0.1 * entropy**2, COLORIZER)
    assert found.whole.correlation.mean == pytest.approx(1.0, abs=1e-4)
    assert found.whole.positive == 1.0
    assert (found.whole.images, found.whole.constant) == (12, 0)
    assert found.whole.difference.low > 0.3
    assert found.whole.control.mean < 0.6
    assert len(each) == 12
    opposite, _ = attack_evidence(clean, clean + 0.1 * (1 - entropy), COLORIZER)
    assert opposite.whole.correlation.mean == pytest.approx(-1.0, abs=1e-4)
    assert opposite.whole.positive == 0.0


def test_noise_follows_nothing() -> None:
    clean = pictures()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    found, _ = attack_evidence(clean, clean + 0.1 * noise, COLORIZER)
    # 1,024 pixels, 12 images: the standard error of the mean is 0.009.
    assert abs(found.whole.correlation.mean) < 0.04
    assert found.whole.difference.low < 0 < found.whole.difference.high


def test_images_without_a_perturbation_are_left_out_and_counted() -> None:
    clean = pictures(4)
    attacked = clean.clone()
    attacked[1:] += 0.1 * entropy_map(clean, COLORIZER)[1:]
    found, each = attack_evidence(clean, attacked, COLORIZER)
    assert (found.whole.images, found.whole.constant) == (3, 1)
    assert np.isnan(each[0])
    with pytest.raises(ConcertError, match="fewer than two"):
        attack_evidence(clean, clean, COLORIZER)


def test_what_was_there_before_the_first_step_is_a_control() -> None:
    """Recolouring that follows the entropy, and an attack that then adds noise only."""
    clean = pictures()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    start = clean + 0.1 * entropy_map(clean, COLORIZER)
    found, _ = attack_evidence(clean, start + 0.05 * noise, COLORIZER, start=start)
    assert found.start.correlation.mean == pytest.approx(1.0, abs=1e-4)
    assert found.start.difference.low > 0
    assert found.whole.correlation.mean > 0.3
    assert found.whole.difference.low > 0, "the shuffled control does not see it"
    assert found.own.correlation.low < 0 < found.own.correlation.high
    assert found.own.difference.low < 0 < found.own.difference.high
    assert found.start.images == found.own.images == 12
    assert found.gained.high < 0
    alone, _ = attack_evidence(clean, start + 0.05 * noise, COLORIZER)
    assert alone.whole == found.whole
    assert (alone.start, alone.own, alone.gained) == (None, None, None)
    still, _ = attack_evidence(clean, start, COLORIZER, start=start)
    assert still.own is None
    assert still.gained == Average(0.0, 0.0, 0.0)


def test_no_image_is_its_own_control() -> None:
    for count in (2, 3, 10, 101):
        for seed in range(5):
            shuffled = derangement(count, seed)
            assert sorted(shuffled) == list(range(count))
            assert not (shuffled == np.arange(count)).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_figure_is_a_picture(channels: int) -> None:
    clean = pictures(2)[:, :channels]
    content = evidence_figure(clean, (clean + 0.1).clamp(0, 1), COLORIZER, [0.5, float("nan")])
    assert min(Image.open(io.BytesIO(content)).size) > 300
