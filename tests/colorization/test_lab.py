import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from concert.colorization.lab import AB_BINS, ab_grid, decode_ab, encode_ab, lab_to_rgb, rgb_to_lab
from concert.errors import ConcertError

# scikit-image 0.26, rgb2lab in double precision.
REFERENCE = [
    ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    ((1.0, 0.0, 0.0), (53.2405879437449, 80.0923082256922, 67.2027510444287)),
    ((0.0, 1.0, 0.0), (87.73509948831895, -86.18302974439501, 83.17970317538452)),
    ((1.0, 1.0, 0.0), (97.13950703971322, -21.55468101695357, 94.47812227647825)),
    ((0.01, 0.01, 0.01), (0.6991424148606811, -4.438817477470103e-05, 8.413780360760903e-05)),
    (
        (128 / 255, 64 / 255, 32 / 255),
        (34.72479591236425, 24.9995677303827, 31.372839725488376),
    ),
]


def pixel(values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype).reshape(1, -1, 1, 1)


@pytest.mark.parametrize(("rgb", "lab"), REFERENCE)
def test_rgb_to_lab_agrees_with_scikit_image(rgb, lab) -> None:
    torch.testing.assert_close(rgb_to_lab(pixel(rgb)), pixel(lab), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("rgb", "lab"), REFERENCE)
def test_lab_to_rgb_inverts(rgb, lab) -> None:
    torch.testing.assert_close(lab_to_rgb(pixel(lab)), pixel(rgb), rtol=0, atol=2e-4)


def test_round_trip_of_random_images() -> None:
    images = torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(lab_to_rgb(rgb_to_lab(images)), images, rtol=0, atol=1e-4)


def test_colours_outside_the_gamut_are_not_clipped_and_keep_their_gradient() -> None:
    lab = pixel((60.0, 100.0, 80.0)).requires_grad_()
    rgb = lab_to_rgb(lab)
    assert rgb.max() > 1
    rgb.sum().backward()
    assert (lab.grad != 0).all()


def test_gradients_are_finite_at_black_and_right_elsewhere() -> None:
    black = torch.zeros(1, 3, 2, 2, requires_grad=True)
    rgb_to_lab(black).sum().backward()
    assert black.grad.isfinite().all()
    colour = pixel((0.3, 0.6, 0.2)).requires_grad_()
    assert torch.autograd.gradcheck(rgb_to_lab, colour)


def test_grey_images_have_no_colour() -> None:
    grey = torch.linspace(0, 1, 12).reshape(1, 1, 3, 4)
    lab = rgb_to_lab(grey)
    torch.testing.assert_close(lab, rgb_to_lab(grey.repeat(1, 3, 1, 1)))
    assert lab[:, 1:].abs().max() < 0.02
    assert lab[0, 0].flatten().diff().min() > 0


@pytest.mark.parametrize("shape", [(1, 2, 4, 4), (3, 4, 4), (1, 4, 4, 4)])
def test_other_shapes_are_refused_in_one_line(shape) -> None:
    with pytest.raises(ConcertError, match="no Lab colours") as error:
        rgb_to_lab(torch.zeros(shape))
    assert "\n" not in str(error.value)


def test_grid_is_a_major_and_ten_apart() -> None:
    grid = ab_grid(torch.zeros(()))
    assert grid.shape == (AB_BINS, 2)
    assert grid[0].tolist() == [-110, -110]
    assert grid[1].tolist() == [-110, -100]
    assert grid[23].tolist() == [-100, -110]
    assert grid[264].tolist() == [0, 0]
    assert grid[528].tolist() == [110, 110]


def dense(ab):
    bins, weights = encode_ab(ab)
    shape = (len(ab), AB_BINS, *ab.shape[2:])
    return torch.zeros(shape, dtype=ab.dtype).scatter_add_(1, bins, weights)


@given(st.floats(-110, 110), st.floats(-110, 110))
def test_encoding_is_a_distribution_whose_mean_is_the_colour(a, b) -> None:
    ab = pixel((a, b))
    bins, weights = encode_ab(ab)
    assert weights.min() >= 0
    assert 0 <= bins.min() <= bins.max() < AB_BINS
    torch.testing.assert_close(weights.sum(1), torch.ones_like(weights.sum(1)))
    torch.testing.assert_close(decode_ab(dense(ab)), ab, rtol=0, atol=1e-10)
    # Only the four corners of the cell around the colour have weight.
    near = ab_grid(ab)[bins.flatten()][weights.flatten() > 1e-12]
    assert (near - torch.tensor([a, b])).abs().max() <= 10


def test_grid_points_are_one_hot() -> None:
    points = ab_grid(torch.zeros((), dtype=torch.float64))
    encoded = dense(points.reshape(AB_BINS, 2, 1, 1))
    torch.testing.assert_close(encoded[..., 0, 0], torch.eye(AB_BINS, dtype=torch.float64))


def test_colours_beyond_the_grid_are_clamped() -> None:
    torch.testing.assert_close(decode_ab(dense(pixel((150.0, -200.0)))), pixel((110.0, -110.0)))
