"""Settings and logs that a comparison refuses before it trains."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from specs import SPEC, change
from written_runs import cut, write_log

from concert.cli import main
from concert.comparison.checks import check_subset_rule, shape_of
from concert.comparison.spec import read_spec
from concert.errors import ConcertError
from concert.recipes.config import DataSettings


@pytest.mark.parametrize("rule", ["all", "first:500", "every:20", "random:50:7"])
def test_rules_for_subsets_need_no_images(rule: str) -> None:
    check_subset_rule(rule)


@pytest.mark.parametrize("rule", ["frst:2", "first", "first:0", "first:-1", "every:x", "all:3"])
def test_what_is_no_rule_is_refused(rule: str) -> None:
    with pytest.raises(ConcertError, match=r"subset rule"):
        check_subset_rule(rule)


def test_shapes_of_known_and_other_images() -> None:
    assert shape_of(DataSettings("mnist")) == (1, 28, 28)
    assert shape_of(DataSettings("mnist", size=32)) == (1, 32, 32)
    assert shape_of(DataSettings("of-my-own", size=64)) == (3, 64, 64)


def test_a_finished_run_of_other_code_is_refused(folder: Path) -> None:
    """Its model would be loaded into another classifier, and its old log be reported."""
    code = "from torch import nn\n\nclass Net(nn.Sequential):\n    def __init__(self):\n"
    code += "        super().__init__(nn.Flatten(), nn.Linear(784, 10))\n"
    Path("net_of_checks.py").write_text(code)
    sys.path.insert(0, str(folder))
    try:
        runs = [{"recipe": "cohen.yaml", "set": {"classifier.name": "net_of_checks.Net"}}]
        change(folder, runs=runs, certify=SPEC["certify"] | {"trust": True})
        flags = ["--classifier.name", "net_of_checks.Net", "--training.lr", "0.02"]
        assert main(["train", "cohen.yaml", "--out", "out/cohen", *flags]) == 0
        read_spec("spec.yaml", Path("out"))
        Path("net_of_checks.py").write_text(code + "# changed\n")
        with pytest.raises(ConcertError, match="code of the classifier has changed since out"):
            read_spec("spec.yaml", Path("out"))
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("net_of_checks", None)


def test_runs_of_two_splits_are_refused(folder: Path) -> None:
    runs = [
        {"recipe": "cohen.yaml", "name": split, "certify": {"split": split}}
        for split in ("test", "train")
    ]
    change(folder, runs=runs)
    with pytest.raises(ConcertError, match="digits test images and train of digits train images"):
        read_spec("spec.yaml", Path("out"))


def test_data_that_nobody_knows_are_refused(folder: Path) -> None:
    """Each run would fail by itself, one after the other."""
    change(folder, set={"data.name": "digit"})
    with pytest.raises(ConcertError, match="unknown data set 'digit': did you mean 'digits'"):
        read_spec("spec.yaml", Path("out"))
    change(folder, certify=SPEC["certify"] | {"data.name": "letters"})
    with pytest.raises(ConcertError, match="unknown data set 'letters'"):
        read_spec("spec.yaml", Path("out"))
    change(folder, certify=SPEC["certify"] | {"data.name": "letters", "data.path": "somewhere"})
    read_spec("spec.yaml", Path("out"))


def test_a_method_whose_own_terms_never_begin_is_refused(folder: Path) -> None:
    """Its row would be plain cross-entropy under the method's name."""
    for start, refused in ((1, False), (2, True)):
        entry = {"recipe": "concert.yaml", "set": {"objective.start_epoch": start}}
        change(folder, runs=[entry])
        if not refused:
            read_spec("spec.yaml", Path("out"))
            continue
        with pytest.raises(ConcertError, match=r"from epoch 2 on .* there are 2 epochs"):
            read_spec("spec.yaml", Path("out"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 300}, "n = 200, this comparison has 300"),
        ({"n0": 17}, "n0 = 16, this comparison has 17"),
        ({"alpha": 0.01}, "alpha = 0.001, this comparison has 0.01"),
        ({"stopping": "grid:0,1"}, "stopping = full, this comparison has grid:0,1"),
        ({"split": "train"}, "split = test, this comparison has train"),
        ({"vote_margin": 0.0}, "vote_margin = 0.0001, this comparison has 0.0"),
        ({"batch_size": 64}, "batch_size = 256, this comparison has 64"),
        ({"subset": "first:2"}, "has images of subset first:4 that first:2 does not have"),
    ],
)
def test_a_log_of_other_settings_is_refused(
    folder: Path, settings: dict[str, object], message: str
) -> None:
    write_log(folder / "out" / "cohen")
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    read_spec("spec.yaml", Path("out"))
    common = {"subset": "first:4", "n": 200, "n0": 16}
    change(folder, certify=common | settings)
    before[folder / "spec.yaml"] = (folder / "spec.yaml").read_bytes()
    with pytest.raises(ConcertError, match=message) as error:
        read_spec("spec.yaml", Path("out"))
    assert str(error.value).endswith(
        "delete out/cohen/certify.tsv and certify.json, or choose another --out"
    )
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_a_subset_may_grow(folder: Path) -> None:
    log = write_log(folder / "out" / "cohen")
    change(folder, certify=SPEC["certify"] | {"subset": "first:8"})
    assert read_spec("spec.yaml", Path("out")).runs
    change(folder, certify=SPEC["certify"] | {"subset": "every:2"})
    with pytest.raises(ConcertError, match="subset first:4 that every:2 does not have"):
        read_spec("spec.yaml", Path("out"))
    cut(log, 1)
    assert read_spec("spec.yaml", Path("out")).runs


def test_a_log_that_has_not_begun_is_no_obstacle(folder: Path) -> None:
    log = write_log(folder / "out" / "cohen")
    change(folder, certify=SPEC["certify"] | {"n": 300})
    log.write_text("")
    assert read_spec("spec.yaml", Path("out")).runs


def test_a_log_without_its_description_is_refused(folder: Path) -> None:
    log = write_log(folder / "out" / "cohen")
    log.with_suffix(".json").unlink()
    with pytest.raises(ConcertError, match=r"without certify\.json: delete out/cohen/certify\.tsv"):
        read_spec("spec.yaml", Path("out"))
