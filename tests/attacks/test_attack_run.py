"""Attacking a data set: the folder written, resuming, targets, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from networks import SHAPE, Patches, random_images, smooth

from concert.attacks.run import AttackProgress, StepProgress, attack_data, chosen_targets
from concert.attacks.settings import AttackSettings, method_arguments
from concert.attacks.spoofing import spoofing_shadow
from concert.data import ImageSet, load_images
from concert.errors import ConcertError
from concert.evaluation.attack_bands import main as bands
from concert.noise import IsotropicNoise
from concert.smoothing import SmoothedClassifier

SMALL = {"steps": 3, "draws": 8, "success_draws": 32}


@pytest.fixture(scope="module")
def smoothed() -> SmoothedClassifier:
    return smooth(Patches(), IsotropicNoise(0.25))


@pytest.fixture(scope="module")
def images(smoothed: SmoothedClassifier) -> ImageSet:
    pictures = (random_images(7) * 255).round().to(torch.uint8)
    labels = smoothed.classifier(pictures / 255).argmax(dim=1)
    return ImageSet("pictures", "test", pictures, labels, [f"class {k}" for k in range(4)])


def settings_of(method: str = "pgd", **changes: object) -> AttackSettings:
    targets, batch = str(changes.pop("targets", "none")), int(changes.pop("images_per_batch", 3))
    arguments = method_arguments(method, "fast", {**SMALL, **changes})
    return AttackSettings(method, arguments, targets, subset="first:5", images_per_batch=batch)


def interrupted(after: int):
    def stop(progress: AttackProgress) -> None:
        if progress.done >= after:
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize("method", ["cadv", "pgd", "shadow"])
def test_the_folder_is_a_data_set_of_what_the_attack_returned(
    method: str, smoothed: SmoothedClassifier, images: ImageSet, tmp_path: Path
) -> None:
    seen: list[AttackProgress] = []
    summary = attack_data(smoothed, images, settings_of(method), tmp_path / "out", seen.append)
    assert [(each.done, each.total) for each in seen] == [(3, 5), (5, 5)]
    attacked = load_images("pictures", "test", tmp_path / "out")
    returned = torch.cat([each.result.images for each in seen])
    assert torch.equal(attacked.images(range(5)), returned)
    assert torch.equal(attacked.labels, images.labels[:5])
    assert attacked.class_names == images.class_names
    told = attacked.attack
    assert told is not None
    assert told["method"] == method
    assert told["index"] == [0, 1, 2, 3, 4]
    assert told["l2"] == pytest.approx(torch.cat([each.result.l2 for each in seen]).tolist())
    assert told["clean_predict"] == images.labels[:5].tolist()
    clean = pyarrow.parquet.read_table(tmp_path / "out" / "test.parquet").column("clean")
    stored = torch.tensor(clean.to_pylist(), dtype=torch.float32)
    assert torch.equal(stored, images.images(range(5)))
    if method == "cadv":
        found = json.loads(bands(tmp_path / "out"))
        begun = torch.cat([each.result.start for each in seen])
        for name, change in (("start", begun - stored), ("own", returned - begun)):
            squares = float(change.double().square().sum())
            assert found[name]["sum_of_squares"] == pytest.approx(squares, rel=1e-5)
    assert summary["images"] == summary["clean_correct"] == 5
    assert summary["succeeded"] == sum(told["success"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"attack.json", "test.parquet"}


def test_an_interrupted_attack_goes_on_to_the_same_images(
    smoothed: SmoothedClassifier, images: ImageSet, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings = settings_of(images_per_batch=2)
    attack_data(smoothed, images, settings, whole)
    with pytest.raises(KeyboardInterrupt):
        attack_data(smoothed, images, settings, parts, interrupted(2))
    assert not (parts / "test.parquet").exists()
    with pytest.raises(ConcertError, match="holds no test images"):
        load_images("pictures", "test", parts)
    later: list[AttackProgress] = []
    attack_data(smoothed, images, settings, parts, later.append)
    assert [each.done for each in later] == [4, 5]
    first, second = (load_images("pictures", "test", folder) for folder in (whole, parts))
    assert first.fingerprint == second.fingerprint
    again: list[AttackProgress] = []
    attack_data(smoothed, images, settings, parts, again.append)
    assert not again


def test_another_network_around_the_same_weights_is_another_attack(
    smoothed: SmoothedClassifier, images: ImageSet, tmp_path: Path
) -> None:
    """What normalises the images is no weight: the description of the network has it."""
    kinds = ({"name": "own", "normalize": mean} for mean in ("center", "none"))
    first, second = (dict(kind) for kind in kinds)
    with pytest.raises(KeyboardInterrupt):
        attack_data(
            smoothed, images, settings_of(), tmp_path / "out", interrupted(3), classifier=first
        )
    with pytest.raises(ConcertError, match="another model"):
        attack_data(smoothed, images, settings_of(), tmp_path / "out", classifier=second)
    attack_data(smoothed, images, settings_of(), tmp_path / "out", classifier=first)
    told = load_images("pictures", "test", tmp_path / "out").attack
    assert told["classifier"] == first
    assert len(told["classifier_source"]) == 64, "the network is of these tests"


def test_what_the_smoothed_classifier_said_before_is_kept(images: ImageSet, tmp_path: Path) -> None:
    """A network that only noise changes: without it every image is of class 0."""

    class Rough(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            off_grid = (images * 255 - (images * 255).round()).abs().flatten(1).mean(dim=1)
            score = 1e4 * (off_grid - 0.05)
            return torch.stack([-score, score, score - 1e3, score - 1e3], dim=1)

    noisy = smooth(Rough(), IsotropicNoise(0.25))
    for against, attacked in (("base", 0), ("deployed", 1)):
        settings = settings_of(against=against)
        attack_data(noisy, images, settings, tmp_path / against)
        told = load_images("pictures", "test", tmp_path / against).attack
        assert told["clean_predict"] == [attacked] * 5
        assert told["clean_vote"] == [1] * 5


def test_settings_are_told_beside_the_references() -> None:
    reference = settings_of("shadow", lambda_c=60.0).reference()
    assert (reference["steps"], reference["draws"], reference["lambda_c"]) == (300, 400, 1.0)
    assert "lambda_tv" not in reference
    assert AttackSettings("pgd", method_arguments("pgd", "reference", {})).reference() == {}
    base = settings_of("cadv")
    assert base.described()["arguments"]["draws"] == 1, "without noise there is nothing to draw"
    assert "draws" not in base.reference()
    assert settings_of("cadv", draws=9).described() == base.described()


def test_caveats_of_the_data_stay(smoothed: SmoothedClassifier, tmp_path: Path) -> None:
    pictures = (random_images(7) * 255).round().to(torch.uint8)
    noted = ImageSet("pictures", "test", pictures, torch.zeros(7).long(), "abcd", notes="faded")
    attack_data(smoothed, noted, settings_of(), tmp_path / "out")
    assert load_images("pictures", "test", tmp_path / "out").notes == "attacked by pgd; faded"


def test_what_a_killed_process_leaves_is_no_obstacle(
    smoothed: SmoothedClassifier, images: ImageSet, tmp_path: Path
) -> None:
    out, settings = tmp_path / "out", settings_of()
    out.mkdir()
    (out / ".attack.json.k3x").write_text("half")
    attack_data(smoothed, images, settings, out)
    (out / "parts").mkdir()
    (out / "parts" / "000000000.parquet").write_text("of a batch that is in the data set")
    attack_data(smoothed, images, settings, out)
    assert not (out / "parts").exists()


@pytest.mark.parametrize("method", ["cadv", "pgd", "shadow"])
def test_steps_are_told_and_can_be_the_last(
    method: str, smoothed: SmoothedClassifier, images: ImageSet, tmp_path: Path
) -> None:
    seen: list[StepProgress] = []
    settings = settings_of(method, images_per_batch=3)
    attack_data(smoothed, images, settings, tmp_path / "out", on_step=seen.append)
    assert (seen[0].step, seen[0].images, seen[0].done) == (1, 3, 0)
    assert (seen[-1].images, seen[-1].done) == (2, 3)
    assert {(each.steps, each.total) for each in seen} == {(3, 5)}
    assert all(each.seconds > 0 for each in seen)

    def stop(progress: StepProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attack_data(smoothed, images, settings, tmp_path / "stopped", on_step=stop)
    assert not (tmp_path / "stopped").exists()


def test_a_folder_is_one_attacks_at_a_time(
    smoothed: SmoothedClassifier, images: ImageSet, tmp_path: Path
) -> None:
    settings, out = settings_of(images_per_batch=2), tmp_path / "out"

    def again(progress: AttackProgress) -> None:
        with pytest.raises(ConcertError, match="in use by another process"):
            attack_data(smoothed, images, settings, out)

    attack_data(smoothed, images, settings, out, again)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConcertError, match="cannot write"):
        attack_data(smoothed, images, settings, tmp_path / "file")


def test_a_folder_of_another_attack_is_refused(
    smoothed: SmoothedClassifier, images: ImageSet, tmp_path: Path
) -> None:
    attack_data(smoothed, images, settings_of(), tmp_path / "out")
    with pytest.raises(ConcertError, match="with other settings"):
        attack_data(smoothed, images, settings_of(steps=4), tmp_path / "out")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(ConcertError, match="is not empty"):
        attack_data(smoothed, images, settings_of(), tmp_path / "notes")
    other = smooth(Patches(shape=(1, 8, 8)), IsotropicNoise(0.25), shape=(1, 8, 8))
    with pytest.raises(ConcertError, match="takes images of shape"):
        attack_data(other, images, settings_of(), tmp_path / "new")
    with pytest.raises(ConcertError, match="unknown targets 'spoof'"):
        attack_data(smoothed, images, settings_of(targets="spoof"), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "out" / "test.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(ConcertError, match="is damaged"):
        attack_data(smoothed, images, settings_of(), tmp_path / "out")


def test_attacked_images_are_not_attacked_again(
    smoothed: SmoothedClassifier, images: ImageSet, tmp_path: Path
) -> None:
    """Their norms would be measured from attacked images."""
    attack_data(smoothed, images, settings_of(), tmp_path / "first")
    attacked = load_images("pictures", "test", tmp_path / "first")
    with pytest.raises(ConcertError, match="attacked already"):
        attack_data(smoothed, attacked, settings_of(), tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_targets_are_a_class_or_drawn_for_each_image(
    smoothed: SmoothedClassifier, images: ImageSet, tmp_path: Path
) -> None:
    labels = torch.tensor([0, 1, 2, 3])
    fixed = chosen_targets(settings_of(targets="3"), labels, [0, 1, 2, 3], 4)
    assert fixed.tolist() == [3, 3, 3, 0]
    drawn = chosen_targets(settings_of(targets="random"), labels, [8, 9, 10, 11], 4)
    assert (drawn != labels).all()
    alone = chosen_targets(settings_of(targets="random"), labels[2:3], [10], 4)
    assert alone[0] == drawn[2]
    many = chosen_targets(
        settings_of(targets="random"), torch.zeros(300, dtype=torch.int64), list(range(300)), 4
    )
    assert torch.bincount(many).tolist()[0] == 0
    assert int(torch.bincount(many)[1:].min()) > 70
    attack_data(smoothed, images, settings_of(targets="random"), tmp_path / "out")
    told = load_images("pictures", "test", tmp_path / "out").attack
    assert told is not None
    assert (
        told["target"]
        == chosen_targets(
            settings_of(targets="random"), images.labels[:5], list(range(5)), 4
        ).tolist()
    )


def test_spoofed_targets_are_those_of_the_library(
    smoothed: SmoothedClassifier, images: ImageSet, tmp_path: Path
) -> None:
    settings = settings_of("shadow", targets="spoof", images_per_batch=5)
    assert settings.described()["arguments"]["spoof_draws"] == 200
    attack_data(smoothed, images, settings, tmp_path / "out")
    attacked = load_images("pictures", "test", tmp_path / "out")
    clean = images.images([2])
    alone = spoofing_shadow(
        smoothed, clean, images.labels[2:3], indices=[2], seed=0, **settings.arguments
    )
    assert torch.equal(attacked.images([2]), alone.images)
    seen: list[tuple[int, int]] = []
    spoofing_shadow(
        smoothed,
        clean,
        images.labels[2:3],
        on_step=lambda *step: seen.append(step),
        **settings.arguments,
    )
    assert seen == [(step, 9) for step in range(1, 10)], "three targets of three steps"


def test_arguments_are_defaults_then_the_preset_then_those_given() -> None:
    reference = method_arguments("shadow", "reference", {})
    assert (reference["steps"], reference["draws"], reference["lambda_tv"]) == (300, 400, 0.3)
    fast = method_arguments("shadow", "fast", {"draws": 7})
    assert (fast["steps"], fast["draws"], fast["lambda_tv"]) == (100, 7, 0.3)
    for arguments, message in (
        (("shadows", "fast", {}), "did you mean 'shadow'"),
        (("pgd", "quick", {}), "unknown preset 'quick'"),
        (("pgd", "fast", {"hints": 3}), "has no setting 'hints'"),
    ):
        with pytest.raises(ConcertError, match=message):
            method_arguments(*arguments)


def test_the_summary_counts_images_that_were_right_before(
    smoothed: SmoothedClassifier, images: ImageSet, tmp_path: Path
) -> None:
    wrong = images.labels.clone()
    wrong[0] = (wrong[0] + 1) % 4
    mislabelled = ImageSet("pictures", "test", images.images(range(7)), wrong, images.class_names)
    arguments = method_arguments("pgd", "fast", {**SMALL, "epsilon": 0.0})
    summary = attack_data(smoothed, mislabelled, AttackSettings("pgd", arguments), tmp_path / "out")
    # No perturbation: it "succeeds" where the answer was wrong before.
    assert summary["clean_correct"] == 6
    assert summary["succeeded"] == 1
    assert summary["succeeded_of_clean_correct"] == 0
    stored = json.loads((tmp_path / "out" / "attack.json").read_text())
    assert stored["result"] == summary
    assert images.shape == SHAPE
