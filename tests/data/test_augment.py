"""The geometry of the augmentations, read off images whose pixels know where they are."""

from __future__ import annotations

import pytest
import torch

from concert.data.augment import crop_and_flip, resized_crop, resized_crop_boxes


def coordinates(batch: int, height: int, width: int) -> torch.Tensor:
    """Two channels: row + 1 and column + 1, so that 0 means padding."""
    rows = torch.arange(1.0, height + 1)[:, None].expand(height, width)
    columns = torch.arange(1.0, width + 1).expand(height, width)
    return torch.stack((rows, columns)).expand(batch, 2, height, width).clone()


def test_crops_shift_by_up_to_the_padding_and_flip() -> None:
    height, width = 12, 16
    views = crop_and_flip(coordinates(2000, height, width), torch.Generator().manual_seed(0))
    shifts, flips = set(), 0
    for view in views:
        row, column = view[:, height // 2, width // 2].tolist()
        step = int(view[1, height // 2, width // 2 + 1] - column)
        top = int(row) - 1 - height // 2
        at_left = int(column) - 1 - (width // 2) * step
        flips += step == -1
        shifts.add((top, at_left if step == 1 else at_left - width + 1))
        rows = torch.arange(height)[:, None] + top
        columns = torch.arange(width) * step + at_left
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        assert torch.equal(view[0], torch.where(inside, rows + 1.0, 0.0))
        assert torch.equal(view[1], torch.where(inside, columns + 1.0, 0.0))
    assert shifts == {(top, left) for top in range(-4, 5) for left in range(-4, 5)}
    assert 900 < flips < 1100


def test_boxes_have_the_areas_and_ratios_they_should() -> None:
    size = 4000
    heights, widths = torch.full((size,), 240), torch.full((size,), 240)
    boxes, flips = resized_crop_boxes(heights, widths, torch.Generator().manual_seed(0))
    top, left, height, width = boxes.double().unbind(1)
    assert bool((top >= 0).all() and (top + height <= 240).all())
    assert bool((left >= 0).all() and (left + width <= 240).all())
    area, ratio = height * width / (240**2), width / height
    assert area.min() > 0.075
    assert area.min() < 0.09
    assert area.max() > 0.9
    assert ratio.min() > 0.73
    assert ratio.max() < 1.36
    assert ratio.log().mean().abs() < 0.02
    assert abs(flips.double().mean() - 0.5) < 0.03


@pytest.mark.parametrize(
    ("height", "width", "box"), [(10, 1000, [0, 493, 10, 13]), (900, 12, [442, 0, 16, 12])]
)
def test_extreme_shapes_fall_back_to_the_centre(height: int, width: int, box: list[int]) -> None:
    boxes, _ = resized_crop_boxes(
        torch.full((50,), height), torch.full((50,), width), torch.Generator().manual_seed(0)
    )
    assert box in boxes.tolist()
    assert bool((boxes[:, 2] <= height).all() and (boxes[:, 3] <= width).all())
    assert bool((boxes[:, 2:] >= 1).all())


def test_draws_do_not_depend_on_the_sizes() -> None:
    first, second = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    resized_crop_boxes(torch.tensor([5, 900]), torch.tensor([700, 9]), first)
    resized_crop_boxes(torch.tensor([64, 64]), torch.tensor([64, 64]), second)
    assert torch.equal(first.get_state(), second.get_state())


def test_resized_crops_are_linear_in_the_coordinates() -> None:
    """Upsampled coordinates grow evenly, except where the border clamps them."""
    views = resized_crop(coordinates(20, 64, 64) / 64, torch.Generator().manual_seed(0))
    for view in views:
        rows, columns = view[0, :, 32], view[1, 32, :]
        for line in (rows, columns):
            steps = line.diff()[8:-8]
            torch.testing.assert_close(steps, steps.mean().expand_as(steps), atol=1e-5, rtol=1e-3)
            assert 0.2 / 64 < steps.mean().abs() < 1.05 / 64
        torch.testing.assert_close(view[0], rows[:, None].expand(64, 64))
