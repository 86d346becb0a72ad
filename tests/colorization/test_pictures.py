import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from concert.colorization.lab import AB_BINS, rgb_to_lab
from concert.colorization.pictures import (
    cell_colors,
    center_crops,
    color_counts,
    flip_some,
    held_out,
    random_crops,
    random_hints,
    read_pictures,
    rebalancing_weights,
    stack,
    vary_lightness,
)
from concert.errors import ConcertError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gradient_picture(width, height):
    """Red grows to the right from 0 to 200, green downwards."""
    red = np.tile(np.linspace(0, 200, width), (height, 1))
    green = np.tile(np.linspace(0, 200, height)[:, None], (1, width))
    return Image.fromarray(np.stack([red, green, 0 * red], axis=-1).round().astype(np.uint8))


@pytest.mark.parametrize("column", ["img", "image"])
def test_pictures_are_read_from_parquet(tmp_path, column) -> None:
    pictures = [gradient_picture(9, 5), gradient_picture(6, 6)]
    files = []
    for picture in pictures:
        file = io.BytesIO()
        picture.save(file, "PNG")
        files.append({"bytes": file.getvalue(), "path": "x.png"})
    pq.write_table(pa.table({column: files, "label": [0, 1]}), tmp_path / "some.parquet")
    read = read_pictures(tmp_path / "some.parquet")
    for one, other in zip(read, pictures, strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(other))


def test_bad_files_are_refused_in_one_line(tmp_path) -> None:
    (tmp_path / "text.parquet").write_text("no parquet")
    pq.write_table(pa.table({"label": [0]}), tmp_path / "labels.parquet")
    for name in ("none.parquet", "text.parquet", "labels.parquet"):
        with pytest.raises(ConcertError) as error:
            read_pictures(tmp_path / name)
        assert "\n" not in str(error.value)
        assert name in str(error.value)


def test_every_eighth_picture_is_held_out() -> None:
    training, others = held_out(list(range(800)))
    assert len(training) == 700
    assert len(others) == 100
    assert sorted(training + others) == list(range(800))


def test_center_crops_are_central() -> None:
    crops = center_crops([gradient_picture(200, 100), gradient_picture(100, 200)], 50, 40)
    assert crops.shape == (2, 3, 40, 40)
    # The centre of both gradients is 100; a wide picture loses more of its width.
    torch.testing.assert_close(
        crops[:, :2].float().mean(dim=(2, 3)), torch.full((2, 2), 100.0), atol=1, rtol=0
    )
    assert crops[0, 0].float().std() < 0.6 * crops[0, 1].float().std()


def test_random_crops_have_scales_between_the_limits() -> None:
    crops = random_crops([gradient_picture(120, 100)], 200, 16, 64, generator())
    assert crops.shape == (200, 3, 16, 16)
    assert torch.equal(crops, random_crops([gradient_picture(120, 100)], 200, 16, 64, generator()))
    spans = crops[:, 1].amax(dim=(1, 2)).float() - crops[:, 1].amin(dim=(1, 2)).float()
    # The whole height spans 200; at the largest scale the crop holds a quarter of it.
    assert 35 < spans.min() < 70
    assert 150 < spans.max() <= 200


def test_stretched_crops_change_the_ratio_of_the_sides() -> None:
    # Red grows as fast to the right as green downwards, unless the crop is stretched.
    ratios = []
    for stretch in (1.0, 1.5):
        crops = random_crops(
            [gradient_picture(100, 100)], 200, 16, 32, generator(), stretch
        ).float()
        spans = crops.amax(dim=(2, 3)) - crops.amin(dim=(2, 3))
        ratios.append(spans[:, 0] / spans[:, 1])
    torch.testing.assert_close(ratios[0], torch.ones(200), rtol=0, atol=0.1)
    assert ratios[1].min() < 0.75
    assert ratios[1].max() > 1.35
    assert ratios[1].min() > 0.6
    assert ratios[1].max() < 1.6


def test_varied_lightness_keeps_the_order_and_the_limits() -> None:
    ramp = torch.linspace(0, 100, 50).expand(300, 1, 1, 50)
    varied = vary_lightness(ramp, 1.25, 0.0, generator())
    assert torch.equal(varied[..., [0, -1]], ramp[..., [0, -1]])
    assert (varied.diff(dim=-1) > 0).all()
    exponents = (varied[:, 0, 0, 20] / 100).log() / (ramp[0, 0, 0, 20] / 100).log()
    assert 0.8 <= exponents.min() < 0.83
    assert 1.2 < exponents.max() <= 1.25
    torch.testing.assert_close(exponents.log().mean(), torch.tensor(0.0), rtol=0, atol=0.03)


def test_noise_of_the_lightness_has_its_own_strength_in_every_image() -> None:
    middle = torch.full((300, 1, 10, 10), 50.0)
    noisy = vary_lightness(middle, 1.0, 3.0, generator())
    deviations = (noisy - middle).std(dim=(1, 2, 3))
    assert deviations.min() < 0.1
    assert 2.5 < deviations.max() < 3.8
    assert deviations.mean() == pytest.approx(1.5, abs=0.2)
    black = vary_lightness(torch.zeros(5, 1, 10, 10), 1.25, 3.0, generator())
    assert black.min() == 0


def test_flips_mirror_about_half_of_the_images() -> None:
    images = torch.arange(400 * 12).reshape(400, 3, 2, 2)
    flipped = flip_some(images, generator())
    mirrored = (flipped == images.flip(-1)).all(dim=(1, 2, 3))
    assert (mirrored | (flipped == images).all(dim=(1, 2, 3))).all()
    assert 150 < mirrored.sum() < 250


def test_cells_have_the_mean_colour_of_their_pixels() -> None:
    ab = torch.zeros(1, 2, 8, 4)
    ab[0, 0, :4] = torch.tensor([10.0, 30.0]).repeat(2)
    bins, weights = cell_colors(ab)
    assert bins.shape == weights.shape == (1, 4, 2, 1)
    assert bins[0, weights[0, :, 0, 0].argmax(), 0, 0] == 264 + 2 * 23
    assert bins[0, weights[0, :, 1, 0].argmax(), 1, 0] == 264
    torch.testing.assert_close(weights.amax(dim=1), torch.ones(1, 2, 1))


def test_counts_sum_to_the_cells_and_find_the_colour() -> None:
    red = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    red[:, 0] = 255
    counts = color_counts(red, batch_size=2)
    assert counts.shape == (AB_BINS,)
    assert counts.sum().item() == pytest.approx(12)
    lab = rgb_to_lab(red[:1].float() / 255)[0, 1:, 0, 0]
    assert counts.argmax() == ((lab + 110) / 10).round().long() @ torch.tensor([23, 1])


def frequencies():
    values = torch.rand(AB_BINS, generator=generator()).double() ** 8
    return values / values.sum()


@pytest.mark.parametrize("share", [0.5, 0.98])
def test_weights_have_expectation_one_and_favour_rare_colours(share) -> None:
    counts = torch.full((AB_BINS,), 1e-6).double()
    counts[264] = 1
    common = counts / counts.sum()
    weights = rebalancing_weights(common, share)
    assert (weights * common).sum().item() == pytest.approx(1, abs=1e-6)
    assert weights.argmin() == 264
    # Far from the peak the smoothed frequency is negligible: the ratio is that of the mixture.
    peak = 1 / weights[264] * weights[0] * share / AB_BINS - share / AB_BINS
    assert 0.4 * (1 - share) < peak < 1 - share


def test_a_uniform_share_of_one_weighs_all_alike() -> None:
    torch.testing.assert_close(rebalancing_weights(frequencies(), 1.0), torch.ones(AB_BINS))


def test_hints_reveal_true_colours_only_where_the_mask_is_one() -> None:
    ab = 1 + torch.rand(400, 2, 12, 20, generator=generator())
    hints, mask = random_hints(ab, 0.5, generator())
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(hints, torch.where(mask.bool(), ab, 0.0))
    hinted = mask.amax(dim=(1, 2, 3)) > 0
    assert 150 < hinted.sum() < 250
    assert mask.sum(dim=(1, 2, 3)).max() <= 8 * 16
    # Rectangles reach every border.
    assert mask.amax(dim=(0, 1)).min() == 1


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 50)])
def test_share_of_hinted_images(share, expected) -> None:
    _, mask = random_hints(torch.ones(50, 2, 8, 8), share, generator())
    assert (mask.amax(dim=(1, 2, 3)) > 0).sum() == expected


def test_stack_keeps_the_pixels() -> None:
    picture = gradient_picture(7, 5)
    assert np.array_equal(stack([picture, picture])[1].movedim(0, -1).numpy(), np.asarray(picture))
