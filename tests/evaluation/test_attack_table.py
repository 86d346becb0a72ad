"""Tables of certified accuracy under attack: subsets by norm, exact intervals, and layout."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from mpmath import binomial, mp, mpf

from concert.errors import ConcertError
from concert.evaluation import attack_table
from concert.evaluation.attack_table import (
    attack_notes,
    printed,
    tau_grid,
)
from concert.evaluation.attacked_log import perturbation_norms
from concert.evaluation.metrics import proportion_interval
from concert.evaluation.report import write_report
from concert.records.reading import LoadedLog

MakeLog = Callable[..., LoadedLog]


@pytest.fixture
def attacked_log(make_log: MakeLog) -> MakeLog:
    """A function to a log of four images: certified, wrong, abstained, correct with radius 0."""

    def make(
        data: str = "cifar10, cadv",
        method: str = "cadv",
        name: str = "run",
        identity: dict[str, Any] | None = None,
        l2: Sequence[float] = (1.0, 2.0, 2.5, 5.0),
        votes: Sequence[int] | None = None,
    ) -> LoadedLog:
        outcomes = [(3, 3, 0.4), (3, 5, 0.2), (3, -1, 0.0), (3, 3, 0.0)]
        attack = {"method": method, "against": "base", "l2": list(l2), "weights": "aa"}
        if votes is not None:
            attack["clean_vote"] = list(votes)
        return make_log(outcomes, name, identity=identity, data=data, attack=attack)

    return make


def test_the_subsets_are_of_images_perturbed_by_at_most_tau(attacked_log: MakeLog) -> None:
    log = attacked_log()
    assert perturbation_norms(log).tolist() == [1.0, 2.0, 2.5, 5.0]
    table = attack_table.attack_table([log], [0.5, 1.0, 2.25, 5.0])
    assert table["tau"].tolist() == [0.5, 1.0, 2.25, 5.0, math.inf]
    assert table["N"].tolist() == [0, 1, 2, 4, 4]
    # Correct with radius 0 is not certified.
    assert table["certified"].tolist() == [0, 1, 1, 1, 1]
    assert table["accuracy"].tolist()[1:] == [1.0, 0.5, 0.25, 0.25]
    assert math.isnan(table["accuracy"][0])


def test_images_that_were_right_before_are_told_apart(attacked_log: MakeLog) -> None:
    """The second image was wrong anyway, and barely perturbed."""
    logs = [attacked_log(votes=[3, 5, 3, 3]), attacked_log(name="unknown")]
    table = attack_table.attack_table(logs, [2.25])
    cells = table[["log", "images", "tau", "N", "certified"]].to_numpy().tolist()
    assert cells == [
        [0, "all", 2.25, 2, 1],
        [0, "all", math.inf, 4, 1],
        [0, "right before", 2.25, 1, 1],
        [0, "right before", math.inf, 3, 1],
        [1, "all", 2.25, 2, 1],
        [1, "all", math.inf, 4, 1],
    ]
    shown = printed(table)
    assert shown["images"].tolist() == ["all", "right before", "all"]
    assert shown["clean"].tolist() == ["0.75", "", ""]
    assert table["right before"].tolist()[:4] == [1, 3, 1, 3]
    notes = attack_notes(logs)
    (told,) = (note for note in notes if "before the attack (" in note)
    assert told.startswith("run: its smoothed classifier was right on 3 of 4 images")
    assert any("answered wrong anyway" in note for note in notes)
    fixed = attack_notes([attacked_log("cifar10, shadow", method="shadow", name="s")])
    assert not any("answered wrong anyway" in note for note in fixed)
    assert any("compare models by the column of all images" in note for note in fixed)


def test_intervals_are_exact() -> None:
    """At its lower end k or more successes have probability 2.5 %, at its upper end k or fewer."""
    mp.dps = 30
    for k, n in ((1, 4), (39, 100), (7, 9)):
        low, high = (mpf(end) for end in proportion_interval(k, n))
        tails = [
            sum(binomial(n, i) * p**i * (1 - p) ** (n - i) for i in successes)
            for p, successes in ((low, range(k, n + 1)), (high, range(k + 1)))
        ]
        assert [float(tail) for tail in tails] == pytest.approx([0.025, 0.025], abs=1e-6)
    assert proportion_interval(0, 10)[0] == 0.0
    assert proportion_interval(10, 10)[1] == 1.0
    assert all(math.isnan(end) for end in proportion_interval(0, 0))


def test_the_papers_grids_are_the_defaults(attacked_log: MakeLog) -> None:
    assert tau_grid([attacked_log()]) == [2.0, 2.25, 2.5, 2.75, 3.0, 4.0, 5.0, 6.0]
    assert tau_grid([attacked_log(method="shadow", name="c")]) == [3.0, 4.0, 5.0, 6.0]
    imagenet = attacked_log("imagenet, cadv", name="a")
    assert tau_grid([imagenet]) == [10.0, 20.0, 40.0, 80.0, 160.0, 320.0]
    shadow = attacked_log("imagenet, shadow", method="shadow", name="b")
    assert tau_grid([shadow]) == [10.0, 30.0, 90.0, 270.0]


def test_the_printed_table_has_a_row_a_log_and_a_cell_a_tau(attacked_log: MakeLog) -> None:
    logs = [attacked_log(), attacked_log(name="other")]
    shown = printed(attack_table.attack_table(logs, [0.5, 2.25]))
    assert len(shown) == 2
    assert list(shown.columns) == [
        "sigma",
        "method",
        "attack",
        "targets",
        "against",
        "images",
        "clean",
        "tau 0.5",
        "tau 2.25",
        "all",
        "guarantee",
        "certificate",
    ]
    assert shown["tau 0.5"][0] == "- (0)"
    # 1 of 2: the exact interval is [0.0126, 0.9874], rounded outwards.
    assert shown["tau 2.25"][0] == "0.50 [0.01, 0.99] (2)"


def test_images_attacked_through_another_model_are_named(attacked_log: MakeLog) -> None:
    own, other = (
        attacked_log(name=weights, identity={"weights": weights}) for weights in ("aa", "bb")
    )
    assert not any("another model" in note for note in attack_notes([own]))
    (note,) = (note for note in attack_notes([own, other]) if "another model" in note)
    assert note.startswith("bb")


def test_the_notes_say_how_the_images_were_attacked(make_log: MakeLog) -> None:
    outcomes = [(3, 3, 0.4), (2, 5, 0.2)]
    logs = [
        make_log(
            outcomes,
            name,
            identity={"weights": "aa", "noise": {"kind": "isotropic", "sigma": sigma}},
            data="cifar10, pgd",
            attack={
                "method": "pgd",
                "targets": targets,
                "against": "deployed",
                "arguments": {"against": "deployed", "epsilon": 0.5, "step_size": None},
                "l2": [0.1, 0.2],
                "index": index,
                "clean_predict": [3, 3],
                "reference": {"steps": 20, "step_size": None},
                "weights": "aa",
                "noise": {"kind": "isotropic", "sigma": 0.25},
            },
        )
        for name, sigma, targets, index in (
            ("a", 0.25, "none", [4, 5]),
            ("b", 0.25, "3", [4, 5]),
            ("c", 0.5, "none", [4, 6]),
        )
    ]
    notes = attack_notes(logs)
    assert any(note.startswith("a: its smoothed classifier was right on 1 of 2") for note in notes)
    assert (
        "a; c: attacked with method pgd, targets none, against deployed, epsilon 0.5 (the "
        "reference preset has steps 20, no step_size)."
    ) in notes
    assert any(note.startswith("b: attacked with method pgd, targets 3") for note in notes)
    assert "The attacks are not of the same clean images: rows differ by that too." in notes
    assert "The attacks are not" not in " ".join(attack_notes(logs[:2]))
    # The same weights with another sigma are another model.
    assert "c: its images were attacked through another model." in notes
    assert attack_table.attack_table(logs)["targets"].unique().tolist() == ["none", "3"]


def test_thresholds_must_be_numbers_and_keep_their_names(attacked_log: MakeLog) -> None:
    log = attacked_log()
    for taus in ([-1.0], [math.nan], [math.inf]):
        with pytest.raises(ConcertError, match="taus must be finite"):
            attack_table.attack_table([log], taus)
    shown = printed(attack_table.attack_table([log], [0.5, 0.5000001, 0.5]))
    assert [name for name in shown.columns if name.startswith("tau")] == [
        "tau 0.5",
        "tau 0.5000001",
    ]


def test_a_report_of_attacked_logs_has_the_table(
    attacked_log: MakeLog, make_log: MakeLog, tmp_path: Path
) -> None:
    log = attacked_log()
    files = write_report([log], tmp_path)
    assert tmp_path / "attacks.csv" in files
    text = (tmp_path / "attacks.txt").read_text()
    assert "tau 2.25" in text
    assert "radius above 0" in text
    clean = make_log([(3, 3, 0.4)], "clean", data="cifar10")
    with pytest.raises(ConcertError, match="do not go into one table"):
        write_report([clean, log], tmp_path)
    with pytest.raises(ConcertError, match="not a log of attacked images"):
        attack_table.attack_table([clean])


def test_a_log_with_more_images_than_its_attack_is_refused(attacked_log: MakeLog) -> None:
    with pytest.raises(ConcertError, match="the attack beside it does not"):
        attack_table.attack_table([attacked_log(l2=[1.0, 2.0])])
