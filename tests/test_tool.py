"""The arguments of the small tools beside the commands."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from concert.tool import run_tool


def say(run: Path, trust: bool = False, out: Path | None = None) -> str:
    return f"{run} {trust} {out}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a"], "a False None"),
        (["a", "--trust"], "a True None"),
        (["--trust", "--out", "b", "a"], "a True b"),
        (["--trust", "a"], "a True None"),
        (["a", "--trust", "true"], "a True None"),
        (["a", "--trust", "false"], "a False None"),
        (["a", "--trust=true", "--out", "b"], "a True b"),
    ],
)
def test_trust_needs_no_value(
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["tool", *arguments])
    run_tool(say)
    assert capsys.readouterr().out == f"{said}\n"
