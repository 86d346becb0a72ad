import pytest

from concert.colorization import CompactColorizer, load_colorizer


@pytest.fixture(scope="session")
def colorizer() -> CompactColorizer:
    """The shipped colorizer."""
    return load_colorizer()
