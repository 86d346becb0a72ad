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


# With the paper's constants, which differ where a channel is dark. The matrix is scikit-image's.
PAPER = [
    *(row for row in REFERENCE if row[0] != (0.01, 0.01, 0.01)),
    ((0.01, 0.01, 0.01), (0.6991486068111463, -4.438856789079626e-05, 8.413854877820093e-05)),
]
MATRIX = [
    [0.412453, 0.35758, 0.180423],
    [0.212671, 0.71516, 0.072169],
    [0.019334, 0.119193, 0.950227],
]
WHITE = [0.95047, 1.0, 1.08883]


def paper_lab(rgb):
    """Eqs. 27 and 29 to 32 of (..., 3), with epsilon = 0.008856 and kappa = 903.3.

    They start from linear light: the gamma expansion of sRGB comes first.
    """
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = linear @ torch.tensor(MATRIX, dtype=rgb.dtype).T / torch.tensor(WHITE, dtype=rgb.dtype)
    x, y, z = torch.where(xyz > 0.008856, xyz ** (1 / 3), (903.3 * xyz + 16) / 116).unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-1)


def pixel(values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype).reshape(1, -1, 1, 1)


@pytest.mark.parametrize(("rgb", "lab"), REFERENCE)
def test_rgb_to_lab_agrees_with_scikit_image(rgb, lab) -> None:
    torch.testing.assert_close(rgb_to_lab(pixel(rgb)), pixel(lab), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("rgb", "lab"), PAPER)
def test_the_paper_s_constants_give_the_same_to_four_digits(rgb, lab) -> None:
    colour = torch.tensor(rgb, dtype=torch.float64)
    expected = torch.tensor(lab, dtype=torch.float64)
    torch.testing.assert_close(paper_lab(colour), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(rgb_to_lab(pixel(rgb)).flatten(), expected, rtol=0, atol=1e-4)


def test_every_colour_agrees_with_the_paper_s_constants() -> None:
    axis = torch.linspace(0, 1, 18, dtype=torch.float64) ** 2
    colours = torch.cartesian_prod(axis, axis, axis)
    images = colours.T.reshape(1, 3, 1, -1)
    found = rgb_to_lab(images)[0, :, 0].T
    most = (found - paper_lab(colours)).abs().amax(dim=0)
    assert (most < torch.tensor([7.1e-5, 3.1e-4, 1.3e-4])).all()


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "rgb",
    [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.0, 0.0, 1e-8), (-0.2, 0.5, 1.4), (-1.0, -1.0, -1.0)],
)
def test_gradients_of_lab_are_finite_for_noisy_images(rgb, dtype) -> None:
    colour = pixel(rgb, dtype).requires_grad_()
    for channel in rgb_to_lab(colour).flatten():
        (gradient,) = torch.autograd.grad(channel, colour, retain_graph=True)
        assert channel.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "lab",
    [
        (0.0, 0.0, 0.0),
        (0.0, 60.0, -60.0),
        (5.0, -110.0, 110.0),
        (50.0, -110.0, -110.0),
        (100.0, 110.0, 110.0),
        (-5.0, 0.0, 0.0),
        (120.0, 0.0, 0.0),
    ],
)
def test_gradients_of_rgb_are_finite_at_black_and_out_of_gamut(lab, dtype) -> None:
    colour = pixel(lab, dtype).requires_grad_()
    for channel in lab_to_rgb(colour).flatten():
        (gradient,) = torch.autograd.grad(channel, colour, retain_graph=True)
        assert channel.isfinite()
        assert gradient.isfinite().all()


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
