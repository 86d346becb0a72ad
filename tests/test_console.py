"""What the command-line tool shows while it works."""

from __future__ import annotations

import pytest

from concert.console import clock


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0:00"), (0.01, "0:01"), (59.5, "1:00"), (60, "1:00"), (725, "12:05"), (3600, "60:00")],
)
def test_times_are_rounded_up_so_that_what_is_under_way_is_never_done(
    seconds: float, said: str
) -> None:
    assert clock(seconds) == said
