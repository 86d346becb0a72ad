"""Specifications as files have them, and files that are none."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from concert.comparison.written import read_yaml
from concert.errors import ConcertError
from concert.recipes.shipped import find_spec, spec_names


def read(folder: Path, text: str) -> object:
    (folder / "spec.yaml").write_text(text)
    return read_yaml(folder / "spec.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("runs:\n- {recipe: a, name: b, name: c}", "line 2: 'name' is there twice"),
        ("set:\n  a.b: 1\n  a.b: 2", "line 3: 'a.b' is there twice"),
        ("runs:\n- {recipe: a\n", "line 3: while parsing a flow mapping, expected ',' or '}'"),
        ("runs: \x07", "unacceptable character"),
        ("0x10: a\n16: b", "line 2: '16' is there twice"),
        ("runs: 2024-13-45", "month"),
        ("a: 1\n---\nb: 2", "expected a single document in the stream, but found"),
    ],
)
def test_mistakes_have_their_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConcertError, match=rf"^cannot read .*spec\.yaml.*{message}"):
        read(tmp_path, text)


def test_what_is_merged_may_be_changed(tmp_path: Path) -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 3}\nc: {y: 4, <<: *b, z: 5}"
    assert read(tmp_path, text) == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": {"x": 1, "y": 4, "z": 5},
    }


@pytest.mark.parametrize("name", spec_names())
def test_shipped_specifications_are_read_as_yaml_reads_them(name: str) -> None:
    file = find_spec(name)
    assert read_yaml(file) == yaml.safe_load(file.read_text())
