"""Training that starts from a model: fine-tuning, and a denoiser before a classifier that stays."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file

from concert import load
from concert.classifiers import Denoised, DnCNN, LeNet
from concert.cli import main
from concert.errors import ConcertError
from concert.noise import IsotropicNoise
from concert.objectives import DenoiseObjective
from concert.recipes.config import (
    ClassifierSettings,
    DataSettings,
    NoiseSettings,
    ObjectiveSettings,
    Recipe,
    TrainingSettings,
)
from concert.records.reading import read_log
from concert.training.loop import train

SIGMA = 1.0
# As good as no noise, which a recipe cannot say.
PLAIN = Recipe(
    DataSettings("digits"),
    noise=NoiseSettings("isotropic", sigma=1e-6),
    objective=ObjectiveSettings("gaussian"),
    training=TrainingSettings(epochs=4, batch_size=64, lr=0.02),
)
NOISY = replace(PLAIN, noise=NoiseSettings("isotropic", sigma=SIGMA))
DENOISED = replace(
    NOISY,
    classifier=ClassifierSettings("lenet", denoiser="dncnn", denoiser_args={"depth": 4}),
    objective=ObjectiveSettings("denoise"),
    training=TrainingSettings(epochs=1, batch_size=64, lr=0.01),
)
STILL = TrainingSettings(epochs=1, batch_size=64, lr=1e-30, momentum=0.0, weight_decay=0.0)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LeNet trained without noise, under a noise model that is 1e-6 wide."""
    run = tmp_path_factory.mktemp("plain") / "plain"
    assert train(PLAIN, run)
    return run


@pytest.fixture(scope="module")
def denoised(plain: Path) -> Path:
    run = plain.parent / "denoised"
    assert train(replace(DENOISED, init=plain), run)
    return run


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "weights.safetensors")


def accuracy(run: Path) -> float:
    log = read_log(run / "certify-n100.tsv")
    return float((log.frame["correct"] == 1).mean())


def test_fine_tuning_starts_from_the_weights(plain: Path, tmp_path: Path) -> None:
    assert train(replace(NOISY, init=plain, training=STILL), tmp_path / "still")
    before, after = tensors(plain), tensors(tmp_path / "still")
    assert all(torch.equal(before[name], after[name]) for name in before)
    config = yaml.safe_load((tmp_path / "still" / "config.yaml").read_text())
    assert config["init"] == plain.as_posix()
    made = json.loads((tmp_path / "still" / "model" / "config.json").read_text())
    source = json.loads((plain / "model" / "config.json").read_text())
    assert made["trained_on"]["initial weights"] == source["sha256"]


def test_other_initial_weights_are_another_run(plain: Path, tmp_path: Path) -> None:
    recipe = replace(NOISY, init=plain, training=replace(NOISY.training, epochs=1))
    assert train(recipe, tmp_path / "run")
    with pytest.raises(ConcertError, match="holds a run with init"):
        train(replace(recipe, init=tmp_path / "run"), tmp_path / "run")


def test_weights_for_images_of_other_channels_are_refused(plain: Path, tmp_path: Path) -> None:
    recipe = replace(NOISY, data=DataSettings("cifar10"), init=plain)
    with pytest.raises(ConcertError, match=r"takes images of shape \(1, 28, 28\), cifar10 has"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_generator_is_taken_over_where_it_fits(tmp_path: Path) -> None:
    queried = Recipe(
        DataSettings("digits", subset="first:64"),
        noise=NoiseSettings("queried"),
        objective=ObjectiveSettings("gaussian"),
        training=STILL,
    )
    assert train(queried, tmp_path / "first")
    other = replace(STILL, seed=5)
    wider = NoiseSettings("queried", low=0.5, high=1.0)
    again = replace(queried, training=other, noise=wider, init=tmp_path / "first")
    assert train(again, tmp_path / "second")
    first, second = tensors(tmp_path / "first"), tensors(tmp_path / "second")
    assert any(name.startswith("noise.") for name in first)
    assert all(torch.allclose(first[name], second[name], atol=1e-20) for name in first)
    # Another generator starts afresh, with the classifier taken over.
    codebook = NoiseSettings("queried", generator="codebook")
    assert train(replace(again, noise=codebook), tmp_path / "third")
    third = tensors(tmp_path / "third")
    own = [name for name in first if name.startswith("classifier.")]
    assert all(torch.equal(first[name], third[name]) for name in own)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classifier": ClassifierSettings("resnet20")}, "has classifier.name = lenet"),
        (
            {"classifier": ClassifierSettings("lenet", mean=[0.5], std=[0.5])},
            r"has classifier.mean = \[0.0\], this recipe has \[0.5\]",
        ),
        ({"init": Path("nowhere")}, "no such folder: nowhere"),
        ({"init": None, "classifier": DENOISED.classifier}, "give its run by --init"),
        ({"objective": ObjectiveSettings("denoise")}, "trains a denoiser"),
        ({"classifier": replace(DENOISED.classifier, denoiser="dncn")}, "did you mean 'dncnn'"),
        (
            {"classifier": replace(DENOISED.classifier, denoiser_args={"deep": 3})},
            "cannot construct denoiser 'dncnn'",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(
    plain: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    recipe = replace(NOISY, **({"init": plain} | change))  # type: ignore[arg-type]
    with pytest.raises(ConcertError, match=message) as error:
        train(recipe, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_only_the_denoiser_is_trained(plain: Path, denoised: Path) -> None:
    before, after = tensors(plain), tensors(denoised)
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name.replace("classifier.", "classifier.classifier.", 1)])
    assert any(name.startswith("classifier.denoiser.") for name in after)


def test_the_certified_classifier_is_the_denoiser_and_then_the_classifier(
    plain: Path, denoised: Path
) -> None:
    images = torch.rand(3, 1, 28, 28)
    whole = load(denoised).classifier
    assert isinstance(whole, Denoised)
    with torch.inference_mode():
        expected = load(plain).classifier(whole.denoiser(images))
        assert torch.equal(whole(images), expected)
    description = json.loads((denoised / "model" / "config.json").read_text())
    assert description["classifier"]["denoiser"] == {"name": "dncnn", "init_args": {"depth": 4}}


def test_certify_says_once_what_to_do_about_a_classifier_without_noise(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    far = NoiseSettings("isotropic", sigma=12.0)
    recipe = replace(NOISY, noise=far, init=plain, training=STILL)
    assert train(recipe, tmp_path / "before")
    flags = ["--subset", "first:20", "--n", "200", "--n0", "32"]
    assert main(["certify", str(tmp_path / "before"), *flags]) == 0
    assert "seems to have learned nothing" in capsys.readouterr().out
    # As a model that comes from elsewhere.
    (tmp_path / "before" / "metrics.csv").unlink()
    again = ["--log", str(tmp_path / "again.tsv")]
    assert main(["certify", str(tmp_path / "before"), *flags, *again]) == 0
    said = capsys.readouterr().out
    assert said.count("does not seem to be trained with this noise") == 1
    assert "of the first 16 images " in said
    assert f"--init {tmp_path / 'before'}" in said
    assert main(["certify", str(plain), *flags]) == 0
    assert "does not seem" not in capsys.readouterr().out
    # What attacked images are answered is the attack's doing.
    attack = ["--method", "pgd", "--subset", "first:20", "--steps", "1", "--draws", "4"]
    assert main(["attack", str(tmp_path / "before"), *attack]) == 0
    attacked = ["--data.path", str(tmp_path / "before" / "attack-pgd")]
    log = ["--log", str(tmp_path / "attacked.tsv")]
    assert main(["certify", str(tmp_path / "before"), *flags, *attacked, *log]) == 0
    assert "does not seem" not in capsys.readouterr().out


@pytest.mark.slow
def test_certified_accuracy_rises_with_a_denoiser(tmp_path: Path) -> None:
    """A network with batch norm that never saw noise is no use under it; a denoiser mends that."""
    small = {"depth": 8, "num_classes": 10, "in_channels": 1}
    classifier = ClassifierSettings("concert.classifiers.CifarResNet", small)
    plain = replace(PLAIN, classifier=classifier, training=replace(PLAIN.training, epochs=5))
    assert train(plain, tmp_path / "plain")
    noisy = replace(plain, noise=NoiseSettings("isotropic", sigma=0.5), init=tmp_path / "plain")
    assert train(replace(noisy, training=STILL), tmp_path / "before")
    before = replace(
        noisy,
        classifier=replace(classifier, denoiser="dncnn", denoiser_args={"depth": 4}),
        objective=ObjectiveSettings("denoise", mse=1.0, agreement=0.3),
        training=TrainingSettings(epochs=4, batch_size=32, lr=0.03, milestones=[3]),
    )
    assert train(before, tmp_path / "denoised")
    flags = ["--subset", "first:40", "--n", "100", "--n0", "16"]
    for name in ("before", "denoised"):
        assert main(["certify", str(tmp_path / name), *flags]) == 0
    assert accuracy(tmp_path / "denoised") > accuracy(tmp_path / "before") + 0.3


def test_a_denoiser_keeps_the_shape_and_starts_as_the_identity() -> None:
    images = torch.rand(2, 3, 10, 12)
    assert torch.equal(DnCNN(3)(images), images)
    for wrong in ({"depth": 1}, {"width": 0}):
        with pytest.raises(ConcertError, match="a DnCNN needs"):
            DnCNN(3, **wrong)


@pytest.mark.parametrize(("mse", "agreement"), [(1.0, 0.0), (0.0, 2.0), (0.5, 0.25)])
def test_the_loss_is_distance_and_agreement(mse: float, agreement: float) -> None:
    torch.manual_seed(0)
    model = Denoised(DnCNN(1, depth=3), LeNet())
    torch.nn.init.normal_(model.denoiser.noise[-1].weight, std=0.1)
    images, labels = torch.rand(4, 1, 28, 28), torch.tensor([1, 2, 3, 4])
    noise = IsotropicNoise(0.5)
    objective = DenoiseObjective(2, mse, agreement)
    terms = objective(model, noise, images, labels, None, 0, torch.Generator().manual_seed(3))
    noisy, _ = noise.copies(images, 2, torch.Generator().manual_seed(3))
    clean = model.denoiser(noisy)
    distance = ((clean - images.repeat_interleave(2, dim=0)) ** 2).mean()
    own = model.classifier(images).argmax(dim=1).repeat_interleave(2)
    expected = mse * distance + agreement * F.cross_entropy(model.classifier(clean), own)
    assert torch.allclose(terms.total, expected)
    terms.total.backward()
    assert all(parameter.grad is None for parameter in model.classifier.parameters())
    assert all(parameter.grad is not None for parameter in model.denoiser.parameters())


def test_bad_weights_of_the_objective_are_refused() -> None:
    for wrong in ({"m": 0}, {"mse": -1.0}, {"mse": 0.0}):
        with pytest.raises(ConcertError):
            DenoiseObjective(**wrong)  # type: ignore[arg-type]
