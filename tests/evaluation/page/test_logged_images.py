"""The images that a report shows beside its logs: theirs, or none."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from concert.commands.logged_images import find_images
from concert.data import load_images
from concert.errors import ConcertError
from concert.records.reading import LoadedLog
from concert.runs import GivenData


def test_logs_of_different_images_show_none(make_log: Callable[..., LoadedLog]) -> None:
    """They would stand in each other's place."""
    digits = load_images("digits", "test")
    said = {"name": "digits", "split": "test", "fingerprint": digits.fingerprint}
    one = make_log([(0, 0, 1.0)], "one", identity={"data": said})
    train = {**said, "split": "train", "fingerprint": load_images("digits", "train").fingerprint}
    other = make_log([(0, 0, 1.0)], "other", identity={"data": train})
    none, asked = GivenData(), GivenData(name="digits")
    shown = find_images([one], none)
    assert shown is not None
    assert shown.fingerprint == digits.fingerprint
    assert find_images([one, other], none) is None
    with pytest.raises(ConcertError, match="logs are of different images"):
        find_images([one, other], asked)
