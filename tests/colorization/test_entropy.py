import hashlib
import logging
from math import log

import numpy as np
import pytest
import torch

from concert.colorization import cached_entropy_maps, color_entropy, entropy_map
from concert.colorization.compact import CompactColorizer
from concert.colorization.entropy import MIN_RANGE, normalize_entropies, raw_entropies
from concert.errors import ConcertError


def random_images(*shape, seed=0):
    """Smooth random images, because noise has nearly the same entropy everywhere."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(shape[0], shape[1], 4, 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, shape[2:], mode="bilinear")


class RandomSet:
    """Images of one size, counting how often they are asked for."""

    def __init__(self, count=7, size=(28, 28), channels=1, seed=0) -> None:
        self.data = random_images(count, channels, *size, seed=seed)
        self.fingerprint = hashlib.sha256(self.data.numpy().tobytes()).hexdigest()
        self.served = 0

    def __len__(self) -> int:
        return len(self.data)

    def images(self, indices):
        self.served += len(indices)
        return self.data[list(indices)]


class Fixed(torch.nn.Module):
    """A colorizer with the same distribution everywhere, but another one at the border."""

    def forward(self, lightness, hints, mask):
        cells = lightness[..., ::4, ::4].new_zeros(len(lightness), 529, 8, 8)
        cells[:, 0, 0] = 9
        return cells


def test_uniform_logits_have_the_entropy_of_529_colours() -> None:
    entropy = color_entropy(torch.full((2, 529, 3, 4), -7.0))
    assert entropy.shape == (2, 1, 3, 4)
    torch.testing.assert_close(entropy, torch.full_like(entropy, log(529)))


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0, 1e4])
def test_entropy_lies_between_zero_and_log_529(scale) -> None:
    logits = scale * torch.randn(2, 529, 5, 6, generator=torch.Generator().manual_seed(0))
    entropy = color_entropy(logits)
    assert entropy.min() >= 0
    assert entropy.max() <= log(529) + 1e-5


def test_entropy_of_known_distributions() -> None:
    logits = torch.full((1, 529, 1, 2), -torch.inf).clamp(min=-1e4)
    logits[0, 5, 0, 0] = 0
    logits[0, :4, 0, 1] = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()
    torch.testing.assert_close(color_entropy(logits).flatten(), torch.tensor([0, 1.75 * log(2)]))


def test_entropy_gradients_are_right() -> None:
    logits = torch.randn(
        1, 6, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    assert torch.autograd.gradcheck(color_entropy, logits.requires_grad_())


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (33, 45), (20, 20), (5, 7)])
@pytest.mark.parametrize("channels", [1, 3])
def test_maps_span_zero_to_one(colorizer, size, channels) -> None:
    images = random_images(3, channels, *size)
    maps = entropy_map(images, colorizer)
    assert maps.shape == (3, 1, *size)
    assert maps.isfinite().all()
    assert maps.amin(dim=(1, 2, 3)).tolist() == [0, 0, 0]
    torch.testing.assert_close(maps.amax(dim=(1, 2, 3)), torch.ones(3))


def test_grey_images_equal_their_three_channel_copies(colorizer) -> None:
    grey = random_images(2, 1, 20, 20)
    copies = grey.repeat(1, 3, 1, 1)
    torch.testing.assert_close(entropy_map(grey, colorizer), entropy_map(copies, colorizer))


@pytest.mark.parametrize("value", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 33, 45), (3, 1, 1)])
def test_constant_images_have_a_map_of_zeros(colorizer, value, shape) -> None:
    images = torch.full((1, *shape), value)
    assert entropy_map(images, colorizer).abs().max() == 0
    # Also without the test of the image: the network itself is constant on them.
    lightness = torch.full((1, 1, *shape[1:]), 100 * value)
    zeros = torch.zeros_like(lightness)
    entropies = color_entropy(colorizer(lightness, zeros.expand(-1, 2, -1, -1), zeros))
    assert normalize_entropies(entropies, *shape[1:]).abs().max() == 0


def test_border_effects_of_other_networks_do_not_show_on_constant_images() -> None:
    images = torch.stack([torch.full((3, 32, 32), 0.4), random_images(1, 3, 32, 32)[0]])
    maps = entropy_map(images, Fixed())
    assert maps[0].abs().max() == 0
    assert maps[1].max() == 1


def test_ranges_below_the_threshold_are_zeros_and_above_are_normalised() -> None:
    ramp = torch.linspace(0, 1, 16).reshape(1, 1, 4, 4)
    entropies = 3 + torch.cat([ramp * MIN_RANGE * 0.9, ramp * MIN_RANGE * 1.2])
    # Bilinear upsampling keeps the corners, so the ranges are those of the entropies.
    maps = normalize_entropies(entropies, 16, 16)
    assert maps[0].abs().max() == 0
    assert maps[1].min() == 0
    assert maps[1].max() == 1


def test_maps_keep_the_order_and_the_place_of_the_entropies() -> None:
    entropies = torch.tensor([[1.0, 2.0], [3.0, 5.0]]).reshape(1, 1, 2, 2)
    maps = normalize_entropies(entropies, 8, 7)
    assert maps.shape == (1, 1, 8, 7)
    corners = maps[0, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
    torch.testing.assert_close(corners, torch.tensor([0.0, 0.25, 0.5, 1.0]))


def test_an_image_does_not_depend_on_its_batch(colorizer) -> None:
    images = random_images(6, 3, 32, 32)
    single = torch.cat([entropy_map(image[None], colorizer) for image in images])
    torch.testing.assert_close(entropy_map(images, colorizer), single, rtol=0, atol=1e-5)


def test_no_gradient_flows(colorizer) -> None:
    assert not entropy_map(random_images(1, 3, 8, 8).requires_grad_(), colorizer).requires_grad


def test_cache_is_computed_once_and_agrees_with_entropy_map(tmp_path, colorizer) -> None:
    images = RandomSet(size=(33, 45), channels=3)
    first = cached_entropy_maps(images, colorizer, tmp_path, batch_size=3)
    assert len(first) == 7
    assert images.served >= 7
    served = images.served
    second = cached_entropy_maps(images, colorizer, tmp_path)
    assert images.served - served <= 1  # one image, for the size
    chosen = [5, 0, 5]
    maps = second.maps(chosen)
    assert maps.shape == (3, 1, 33, 45)
    assert maps.dtype == torch.float32
    assert torch.equal(maps, first.maps(torch.tensor(chosen)))
    expected = entropy_map(images.images(chosen), colorizer)
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-5)
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]


def test_cache_files_differ_by_images_and_colorizer(tmp_path, colorizer) -> None:
    other = CompactColorizer().eval()
    other.fingerprint = f"{colorizer.fingerprint}, of another kind"
    cached_entropy_maps(RandomSet(seed=0), colorizer, tmp_path)
    cached_entropy_maps(RandomSet(seed=1), colorizer, tmp_path)
    cached_entropy_maps(RandomSet(seed=1), other, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def text(path):
    path.write_bytes(b"not an array")


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def empty(path):
    path.write_bytes(b"")


def wrong_shape(path):
    np.save(path, np.zeros((2, 1, 7, 7), dtype=np.float32))


def not_finite(path):
    np.save(path, np.full((7, 1, 7, 7), np.nan, dtype=np.float32))


def out_of_range(path):
    np.save(path, np.full((7, 1, 7, 7), 50.0, dtype=np.float32))


def pickled(path):
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    "damage", [text, truncate, empty, wrong_shape, not_finite, out_of_range, pickled]
)
def test_a_damaged_cache_is_computed_again(tmp_path, colorizer, caplog, damage) -> None:
    images = RandomSet()
    expected = cached_entropy_maps(images, colorizer, tmp_path).maps(range(7)).clone()
    (path,) = tmp_path.iterdir()
    damage(path)
    with caplog.at_level(logging.WARNING):
        again = cached_entropy_maps(images, colorizer, tmp_path)
    assert "computed again" in caplog.text
    assert torch.equal(again.maps(range(7)), expected)
    served = images.served
    cached_entropy_maps(images, colorizer, tmp_path)
    assert images.served - served <= 1


def test_default_folder_follows_the_environment(tmp_path, colorizer, monkeypatch) -> None:
    monkeypatch.setenv("CONCERT_CACHE", str(tmp_path / "here"))
    cached_entropy_maps(RandomSet(count=2), colorizer)
    assert len(list((tmp_path / "here").iterdir())) == 1
    monkeypatch.delenv("CONCERT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    cached_entropy_maps(RandomSet(count=2), colorizer)
    assert len(list((tmp_path / ".cache" / "concert").iterdir())) == 1


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path, colorizer, caplog) -> None:
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        maps = cached_entropy_maps(RandomSet(count=2), colorizer, tmp_path / "file" / "cache")
    assert maps.maps([0]).max() == 1
    assert "not cached" in caplog.text


def test_a_colorizer_without_fingerprint_is_refused(tmp_path) -> None:
    with pytest.raises(ConcertError, match="fingerprint"):
        cached_entropy_maps(RandomSet(), CompactColorizer(), tmp_path)


def test_raw_entropies_are_nats_of_529_colours(colorizer) -> None:
    entropies = raw_entropies(random_images(2, 3, 33, 20), colorizer)
    assert entropies.shape == (2, 1, 9, 5)
    assert entropies.min() > 0
    assert entropies.max() < log(529)
