"""The figure of certified accuracy against radius."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from concert.certificates import Guarantee
from concert.errors import ConcertError
from concert.evaluation.figures import COLOURS, LINE_STYLES, certified_accuracy_figure, step_radii
from concert.records.reading import LoadedLog, read_log

DATA = Path(__file__).parents[1] / "data_files"
OUTCOMES = [(0, 0, 0.8), (1, 1, 0.5), (2, 3, 5.0), (4, -1, 0.0)]


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def has_colour(image: np.ndarray, colour: str) -> bool:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((np.abs(image.astype(int) - wanted).max(axis=2) <= 2).any())


def test_a_png_of_a_sensible_size_with_a_curve_per_log(make_log: Callable[..., LoadedLog]) -> None:
    logs = [
        make_log(OUTCOMES, "a", method="Cohen $_1$", sigma="0.25"),
        make_log(OUTCOMES[:1], "b", [Guarantee.FROZEN], method="Concert"),
        read_log(DATA / "cohen_clock"),
    ]
    image = pixels(certified_accuracy_figure(logs))
    height, width, _ = image.shape
    assert 1000 <= width <= 1600
    assert 600 <= height <= 1200
    assert [has_colour(image, colour) for colour in COLOURS[:4]] == [True, True, True, False]


def test_a_curve_that_has_ended_keeps_its_band(make_log: Callable[..., LoadedLog]) -> None:
    """The second log ends at a quarter of the axis; 0 of 4 images have an interval too."""
    logs = [make_log([(0, 0, 1.0)] * 4, "a"), make_log([(0, 0, 0.25)] * 4, "b")]
    image = pixels(certified_accuracy_figure(logs))
    channels = [int(COLOURS[1][i : i + 2], 16) for i in (1, 3, 5)]
    band = "#" + "".join(f"{round(255 * 0.87 + 0.13 * channel):02x}" for channel in channels)
    assert has_colour(image[:, image.shape[1] * 3 // 4 :], band)


def test_many_logs_and_logs_without_a_certified_image(make_log: Callable[..., LoadedLog]) -> None:
    logs = [make_log([(0, -1, 0.0)], f"run{i}") for i in range(9)]
    assert pixels(certified_accuracy_figure(logs)).shape[1] > 1000


def test_data_sets_are_not_mixed(make_log: Callable[..., LoadedLog]) -> None:
    logs = [make_log(OUTCOMES, name, data=name) for name in ("mnist", "cifar10")]
    with pytest.raises(ConcertError, match="mnist and cifar10"):
        certified_accuracy_figure(logs)


def test_every_guarantee_has_its_own_line_style() -> None:
    assert len(set(LINE_STYLES.values())) == len(LINE_STYLES) == len(Guarantee)


def test_steps_end_where_the_curve_drops() -> None:
    steps = step_radii(np.array([0.5, 0.25, 0.5, 0.0]))
    assert list(steps) == [0, 0.25, 0.5, np.nextafter(0.5, 1)]


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    radii = np.random.default_rng(0).random(10_000)
    steps = step_radii(radii)
    assert len(steps) == 401
    assert (steps[0], steps[-2]) == (0, radii.max())
    assert (np.diff(steps) > 0).all()
