"""Logs for the tests of tables, figures and reports, written and read as users' logs are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from written_logs import log_maker

from concert.records.reading import LoadedLog


@pytest.fixture
def make_log(tmp_path: Path) -> Callable[..., LoadedLog]:
    """A function from outcomes (true label, prediction, radius) to a log in a folder `name`."""
    return log_maker(tmp_path)
