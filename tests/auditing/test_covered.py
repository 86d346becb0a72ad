"""Which attacked images lie in the certified regions of their clean images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from concert.auditing.covered import covered_images, main
from concert.classifiers import LeNet
from concert.cli import main as command
from concert.data import load_images
from concert.errors import ConcertError
from concert.evaluation.certify import CertifySettings, certify_data
from concert.noise import BandedNoise, GridNoise
from concert.recipes.building import Description
from concert.records.reading import read_log
from concert.runs import load, save_model

SMALL = ["--subset", "first:6", "--n", "500", "--n0", "64", "--alpha", "0.01"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LeNet on digits under noise that is large where brightness is smooth, certified."""
    folder = tmp_path_factory.mktemp("covered")
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        "objective: {name: gaussian}\n"
        "noise: {kind: banded, sigma: 0.2, smooth_sigma: 0.8, block: 7}\n"
        "training: {epochs: 12, batch_size: 32}\n"
        "data: {subset: first:512}\n"
    )
    assert command(["train", str(recipe), "--out", str(folder / "run")]) == 0
    log = ["--log", str(folder / "run" / "certify.tsv")]
    assert command(["certify", str(folder / "run"), *SMALL, *log]) == 0
    return folder / "run"


def test_the_ellipsoid_covers_what_the_ball_does_not(run: Path) -> None:
    log, smoothed = read_log(run / "certify.tsv"), load(run)
    assert isinstance(smoothed.noise, BandedNoise)
    right = log.frame[(log.frame["correct"] == 1) & (log.frame["radius"] > 0)]
    assert len(right) >= 3
    numbers = log.frame["idx"].tolist()
    clean = torch.full((6, 1, 28, 28), 0.5)
    ramp = torch.linspace(-1.0, 1.0, 28).expand(1, 28, 28)
    smallest = float(right["radius"].min())
    large = int((right["radius"] > 3.6 * smallest).sum())
    assert large < len(right)
    # Whole images brightened by almost the long semi-axis of the smallest region, and pixels
    # changed at random by twice the largest ball's radius.
    bright = torch.ones(1, 28, 28) / 28
    noise = torch.randn(1, 28, 28, generator=torch.Generator().manual_seed(0))
    for direction, by_ball, covered in (
        (bright * 3.6 * smallest, large, len(right)),
        (noise / noise.norm() * 2 * float(right["radius"].max()), 0, 0),
        (ramp / ramp.norm() * 0.9 * smallest, len(right), len(right)),
    ):
        found = covered_images(smoothed, log, clean, clean + direction, numbers)
        assert (found.images, found.certified) == (6, len(right))
        assert (found.by_ball, found.covered) == (by_ball, covered)
        assert found.low <= found.share <= found.high
        assert found.share == pytest.approx(covered / 6)
    assert found.largest_l2 == pytest.approx(0.9 * smallest, rel=1e-5)


def test_a_certificate_on_a_grid_does_not_speak_of_images_off_it(tmp_path: Path) -> None:
    digits = load_images("digits", "test")
    label = int(digits.labels[0])
    network, noise = LeNet(), GridNoise(0.25)
    with torch.no_grad():
        network.fc2.weight.zero_()
        network.fc2.bias.copy_(torch.arange(10).eq(label))
    names = tuple("0123456789")
    described = Description(
        {"name": "lenet", "init_args": {}}, noise.settings(), 10, (1, 28, 28), names, "digits"
    )
    save_model(tmp_path / "model", described, network, noise)
    settings = CertifySettings(subset="first:1", n0=32, n=1000)
    smoothed, file = load(tmp_path), tmp_path / "certify.tsv"
    certify_data(smoothed, tmp_path, digits, settings, file)
    clean = digits.images([0])
    for steps, covered in ((1.0, 1), (0.3, 0)):
        attacked = clean + steps / 255
        found = covered_images(smoothed, read_log(file), clean, attacked, [0])
        assert (found.certified, found.by_ball, found.covered) == (1, covered, covered)
        assert (found.largest_l2 is None) == (covered == 0)
    assert "255" in found.guarantee


def test_an_attack_of_the_command_line(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "pgd"
    small = ["--subset", "first:6", "--steps", "2", "--draws", "16", "--epsilon", "0.02"]
    assert command(["attack", str(run), "--method", "pgd", *small, "--out", str(out)]) == 0
    told = json.loads(main(run, run / "certify.tsv", out, tmp_path / "covered.json"))
    assert told["attack"]["method"] == "pgd"
    assert told["certification"]["noise"]["kind"] == "banded"
    assert (
        told["certification"]["certificate"]
        == read_log(run / "certify.tsv").frame["certificate"][0]
    )
    # Every certified radius is larger than this attack.
    assert told["by_ball"] == told["covered"] == told["certified"]
    assert told["largest_l2"] <= 0.02
    assert json.loads((tmp_path / "covered.json").read_text()) == told
    # Nothing that is covered may be answered wrong.
    attacked = ["--data.path", str(out), "--log", str(tmp_path / "attacked.tsv"), "--n", "500"]
    assert command(["certify", str(run), *attacked, "--alpha", "0.01"]) == 0
    clean, after = (read_log(p).frame for p in (run / "certify.tsv", tmp_path / "attacked.tsv"))
    certified = clean[(clean["correct"] == 1) & (clean["radius"] > 0.02)]["idx"]
    answered = after.set_index("idx").loc[certified]
    assert (answered["predict"] == answered["label"]).all()


def test_what_does_not_belong_together_is_refused(run: Path, tmp_path: Path) -> None:
    log, smoothed = read_log(run / "certify.tsv"), load(run)
    images = torch.rand(2, 1, 28, 28)
    with pytest.raises(ConcertError, match="no image in common"):
        covered_images(smoothed, log, images, images, [77, 78])
    smoothed.noise = BandedNoise(0.2, smooth_sigma=0.9, block=7)
    with pytest.raises(ConcertError, match=r"smooth_sigma 0\.8"):
        covered_images(smoothed, log, images, images, [0, 1])
    with pytest.raises(ConcertError, match=r"attack\.json"):
        main(run, run / "certify.tsv", tmp_path)
