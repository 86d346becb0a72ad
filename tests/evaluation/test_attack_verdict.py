"""Paired comparison of attacked logs: which images are compared, and what counts as different."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from concert.errors import ConcertError
from concert.evaluation.attack_verdict import clean_indexed, common, main, verdict_table
from concert.records.reading import LoadedLog

CERTIFIED, WRONG, RADIUS_0 = (3, 3, 0.4), (3, 5, 0.2), (3, 3, 0.0)


@pytest.fixture
def attacked(make_log: Callable[..., LoadedLog]) -> Callable[..., LoadedLog]:
    """A function to a log of an attack: its outcomes, the clean images' numbers, the norms."""

    def make(
        name: str,
        outcomes: Sequence[tuple[int, int, float]],
        index: Sequence[int] | None,
        l2: Sequence[float],
    ) -> LoadedLog:
        attack: dict[str, Any] = {"method": "shadow", "against": "deployed", "l2": list(l2)}
        if index is not None:
            attack["index"] = list(index)
        return make_log(outcomes, name, data="cifar10, shadow", method=name, attack=attack)

    return make


def test_images_are_paired_by_their_number_in_the_clean_data(
    attacked: Callable[..., LoadedLog],
) -> None:
    first = attacked("a", [CERTIFIED, WRONG, RADIUS_0], [10, 20, 30], [1.0, 2.0, 9.0])
    second = attacked("b", [WRONG, CERTIFIED, CERTIFIED], [20, 30, 40], [1.0, 2.0, 1.0])
    frames = [clean_indexed(log) for log in (first, second)]
    assert frames[0]["idx"].tolist() == [10, 20, 30]
    everything = common(frames[0], frames[1], math.inf)
    assert [frame["idx"].tolist() for frame in everything] == [[20, 30], [20, 30]]
    # Both perturbations must be small enough.
    assert [len(frame) for frame in common(frames[0], frames[1], 2.0)] == [1, 1]
    table = verdict_table(first, [second], [0.5, 2.0])
    assert table["N"].tolist() == [0, 1, 2]
    assert table["difference"].tolist()[1:] == [0.0, -0.5]
    assert math.isnan(table["difference"][0])
    # Two images decide nothing, and have no interval.
    assert math.isnan(table["low"][2])
    assert table["verdict"].tolist() == ["no images", "undecided", "undecided"]


def test_one_log_of_other_images_leaves_the_others(attacked: Callable[..., LoadedLog]) -> None:
    logs = [
        attacked(name, [CERTIFIED, WRONG, CERTIFIED], numbers, [1.0] * 3)
        for name, numbers in (("a", [0, 1, 2]), ("b", [0, 1, 2]), ("c", [7, 8, 9]))
    ]
    table = verdict_table(logs[0], logs[1:], [2.0])
    assert table["verdict"].tolist() == ["undecided"] * 2 + ["no images"] * 2
    assert table["N"].tolist() == [3, 3, 0, 0]
    relabelled = attacked("d", [(4, 4, 0.4)], [1], [1.0])
    with pytest.raises(ConcertError, match="give image 1 different labels"):
        verdict_table(logs[0], [relabelled])
    with pytest.raises(ConcertError, match="at least one other log"):
        verdict_table(logs[0], [])


def test_a_difference_is_found_where_there_is_one_and_only_there(
    attacked: Callable[..., LoadedLog],
) -> None:
    """Independent coins of 0.6 and 0.3 on 400 images, and two of 0.5."""
    drawn = np.random.default_rng(0).random((4, 400))
    norms, numbers = [1.0] * 400, list(range(400))
    logs = [
        attacked(name, [CERTIFIED if u < share else WRONG for u in row], numbers, norms)
        for name, row, share in zip("abcd", drawn, (0.6, 0.3, 0.5, 0.5), strict=True)
    ]
    table = verdict_table(logs[0], [logs[1]], [2.0])
    assert table["verdict"].tolist() == ["higher", "higher"]
    assert (table["low"] < 0.3).all()
    assert (table["high"] > 0.3).all()
    # The standard error of a difference of independent shares.
    width = 2 * 1.96 * math.sqrt((0.6 * 0.4 + 0.3 * 0.7) / 400)
    assert (table["high"] - table["low"]).to_numpy() == pytest.approx([width] * 2, rel=0.15)
    assert verdict_table(logs[1], [logs[0]], [2.0])["verdict"].tolist() == ["lower", "lower"]
    assert verdict_table(logs[2], [logs[3]], [2.0])["verdict"].tolist() == ["undecided"] * 2


def test_differences_that_are_all_alike_have_no_interval(
    attacked: Callable[..., LoadedLog],
) -> None:
    """None of 100 images against none says little of the next hundred."""
    numbers, norms = list(range(100)), [1.0] * 100
    never = [attacked(name, [WRONG] * 100, numbers, norms) for name in "ab"]
    always = attacked("c", [CERTIFIED] * 100, numbers, norms)
    for first, second, difference in ((*never, 0.0), (always, never[0], 1.0)):
        table = verdict_table(first, [second], [])
        assert table["difference"].tolist() == [difference]
        assert math.isnan(table["low"][0])
        assert math.isnan(table["high"][0])


def test_a_verdict_needs_an_exact_test(attacked: Callable[..., LoadedLog]) -> None:
    """Five images that one method has alone could be chance (p = 1/16), six hardly (1/32)."""
    others = [CERTIFIED] * 20
    for alone, p, verdict in ((5, 2 / 32, "undecided"), (6, 2 / 64, "higher")):
        worse = [WRONG] * alone + others[alone:]
        logs = [
            attacked(f"{name}{alone}", outcomes, range(20), [1.0] * 20)
            for name, outcomes in (("a", others), ("b", worse))
        ]
        table = verdict_table(logs[0], [logs[1]], [2.0])
        assert table["p"].tolist() == pytest.approx([p, p])
        assert table["verdict"].tolist() == [verdict] * 2


def test_attacks_that_differ_are_not_compared(make_log: Callable[..., LoadedLog]) -> None:
    def log(name: str, weights: str = "aa", **changes: Any) -> LoadedLog:
        attack = {"method": "pgd", "against": "base", "targets": "none", "weights": "aa"}
        attack |= {"arguments": {"epsilon": 0.5}, "l2": [0.1], "index": [0]} | changes
        identity = {"weights": weights}
        return make_log([CERTIFIED], name, identity=identity, data="x, pgd", attack=attack)

    first = log("first")
    assert len(verdict_table(first, [log("same")], [1.0])) == 2
    for other in (log("aimed", targets="3"), log("far", arguments={"epsilon": 2.0})):
        with pytest.raises(ConcertError, match="attack both with the same settings"):
            verdict_table(first, [other])
    with pytest.raises(ConcertError, match="through another model"):
        verdict_table(first, [log("transfer", weights="bb")])


def test_an_attack_through_a_generator_is_through_the_certified_model(
    make_log: Callable[..., LoadedLog],
) -> None:
    """The log describes the whole generator, the attack only the kind of its noise."""

    def log(name: str, low: float, weights: str = "aa") -> LoadedLog:
        noise = {"kind": "generated", "low": low, "generator": "coarse"}
        attack = {"method": "pgd", "against": "base", "l2": [0.1], "index": [0], "weights": "aa"}
        attack |= {"noise": {"kind": "generated", "low": 0.25}}
        identity = {"weights": weights, "noise": noise}
        return make_log([CERTIFIED], name, identity=identity, data="x, pgd", attack=attack)

    first = log("first", 0.25)
    assert len(verdict_table(first, [log("same", 0.25)], [1.0])) == 2
    for other in (log("box", 0.5), log("weights", 0.25, "bb")):
        with pytest.raises(ConcertError, match="through another model"):
            verdict_table(first, [other])


def test_a_log_that_does_not_name_its_images_is_refused(
    attacked: Callable[..., LoadedLog],
) -> None:
    first = attacked("a", [CERTIFIED], [0], [1.0])
    with pytest.raises(ConcertError, match="certify it again"):
        verdict_table(first, [attacked("b", [CERTIFIED], None, [1.0])])


def test_the_tool_writes_what_it_prints(attacked: Callable[..., LoadedLog], tmp_path: Path) -> None:
    outcomes = [CERTIFIED, WRONG] * 6
    logs = [
        attacked(name, outcomes if name == "a" else outcomes[::-1], range(12), [2.5] * 12)
        for name in "ab"
    ]
    text = main(logs[0].path, [logs[1].path], tmp_path / "verdict", [3.0])
    assert "undecided" in text
    assert "deployed: " in text
    assert "not corrected" in (tmp_path / "verdict" / "verdict.md").read_text()
    assert (tmp_path / "verdict" / "verdict.csv").read_text().count("\n") == 3
