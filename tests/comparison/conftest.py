"""A working folder with two recipes and a specification of both."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from specs import COHEN, CONCERT, SPEC


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: cohen.yaml, concert.yaml, spec.yaml."""
    monkeypatch.chdir(tmp_path)
    for name, content in (("cohen", COHEN), ("concert", CONCERT), ("spec", SPEC)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return tmp_path
