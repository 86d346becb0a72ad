"""The training loop: what it learns, resuming bit for bit, and refusing what does not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from watchers import StopAfter

from concert.data import load_images
from concert.errors import ConcertError
from concert.evaluation.certify import CertifySettings, certify_data
from concert.evaluation.describing import describe_method
from concert.generator import CoarseGenerator
from concert.noise import GeneratedNoise, IsotropicNoise
from concert.recipes.config import (
    ClassifierSettings,
    DataSettings,
    NoiseSettings,
    ObjectiveSettings,
    Recipe,
    TrainingSettings,
)
from concert.records.reading import read_log
from concert.runs import load, read_description
from concert.training.loop import Watcher, train
from concert.training.sharing import check_precision

QUERIED = Recipe(
    DataSettings("digits", subset="first:96"),
    noise=NoiseSettings(kind="queried"),
    objective=ObjectiveSettings("concert", m=2, start_epoch=1),
    training=TrainingSettings(epochs=2, batch_size=32, checkpoint_seconds=0.0),
)
COHEN = replace(
    QUERIED,
    noise=NoiseSettings(kind="isotropic", sigma=0.25),
    objective=ObjectiveSettings("gaussian", m=1),
)


TIED = """
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(784, 784), nn.Linear(784, 784)
        self.second.weight = self.first.weight
        self.head = nn.Linear(784, 10)

    def forward(self, x):
        return self.head(self.second(self.first(x.flatten(1)).relu()))
"""


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "weights.safetensors")


def metrics_without_times(run: Path) -> list[str]:
    lines = (run / "metrics.csv").read_text().splitlines()
    return [",".join(line.split(",")[:-2]) for line in lines]


@pytest.mark.parametrize("kind", ["queried", "generated", "static"])
def test_a_run_stopped_at_every_step_ends_with_the_same_weights(tmp_path: Path, kind: str) -> None:
    recipe = replace(QUERIED, noise=NoiseSettings(kind=kind))
    assert train(recipe, tmp_path / "whole")
    parts = 0
    while not train(recipe, tmp_path / "parts", StopAfter(1)):
        parts += 1
    assert parts == 5  # 2 epochs of 3 steps, stopped after all but the last

    whole, stopped = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole.keys() == stopped.keys()
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)
    assert metrics_without_times(tmp_path / "whole") == metrics_without_times(tmp_path / "parts")


def test_training_depends_on_the_seed_only(tmp_path: Path) -> None:
    torch.manual_seed(1)
    train(COHEN, tmp_path / "a")
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    train(COHEN, tmp_path / "b")
    assert torch.equal(torch.random.get_rng_state(), state)  # and leaves the global state alone
    train(replace(COHEN, training=replace(COHEN.training, seed=1)), tmp_path / "c")
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(COHEN, tmp_path / "whole")
    run = tmp_path / "run"
    assert not train(COHEN, run, StopAfter(4))
    newest = sorted((run / "checkpoints").iterdir())[-1]
    tensors = newest / "tensors.safetensors"
    content = bytearray(tensors.read_bytes())
    content[len(content) // 2] ^= 1
    tensors.write_bytes(content)
    assert train(COHEN, run)
    assert newest.name in caplog.text
    whole, resumed = weights(tmp_path / "whole"), weights(run)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_it_learns(tmp_path: Path) -> None:
    recipe = replace(
        COHEN,
        data=DataSettings("digits"),
        training=TrainingSettings(epochs=4, batch_size=32, lr=0.05),
    )
    rows: list[float] = []

    class Rows(Watcher):
        def epoch(self, metrics: object) -> None:
            rows.append(metrics.soft_accuracy)  # type: ignore[attr-defined]

    train(recipe, tmp_path, Rows())
    assert rows[-1] > 0.85 > rows[0]


def test_the_lazy_start_leaves_the_generator_alone_until_its_epoch(tmp_path: Path) -> None:
    late = replace(QUERIED, objective=replace(QUERIED.objective, start_epoch=2, beta=0.0))
    train(late, tmp_path / "late")
    started = replace(QUERIED, objective=replace(QUERIED.objective, start_epoch=0, beta=0.0))
    train(started, tmp_path / "started")
    untouched, moved = weights(tmp_path / "late"), weights(tmp_path / "started")
    fresh = "noise.generator.head.bias"
    assert torch.equal(untouched[fresh], torch.zeros_like(untouched[fresh]))
    assert not torch.equal(moved[fresh], torch.zeros_like(moved[fresh]))


def test_the_run_folder_rebuilds_the_model(tmp_path: Path) -> None:
    train(QUERIED, tmp_path)
    description, digest = read_description(tmp_path)
    smoothed = load(tmp_path)
    assert description.noise["kind"] == "queried"
    assert description.noise["generator_args"] == {"pool": 4}
    assert len(digest) == 64
    assert smoothed.shape == (1, 28, 28)
    saved = weights(tmp_path)
    for name, tensor in smoothed.classifier.state_dict().items():
        assert torch.equal(tensor, saved[f"classifier.{name}"])


def test_another_recipe_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    train(COHEN, tmp_path)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    other = replace(COHEN, training=replace(COHEN.training, lr=0.5))
    with pytest.raises(ConcertError, match=r"training.lr = 0.01.*0.5.*--out"):
        train(other, tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_a_diverging_loss_says_what_to_change(tmp_path: Path) -> None:
    recipe = replace(COHEN, training=TrainingSettings(epochs=3, batch_size=16, lr=1e6))
    with pytest.raises(ConcertError, match=r"not finite.*lower training\.lr"):
        train(recipe, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classifier": ClassifierSettings("lenett")}, "did you mean 'lenet'"),
        ({"objective": ObjectiveSettings("concret")}, "did you mean 'concert'"),
        ({"objective": ObjectiveSettings("gaussian", beta=1.0)}, "no setting 'beta'"),
        ({"noise": NoiseSettings(kind="queried", low=0.6, high=0.5)}, "sigma box"),
        ({"noise": NoiseSettings(kind="queried", query_sigma=0.3)}, "raise query_sigma"),
        ({"noise": NoiseSettings(kind="isotropic", sigma=-1.0)}, "sigma must be a positive"),
        ({"data": DataSettings("digits", subset="first:0")}, "selects nothing"),
        ({"data": DataSettings("digitz")}, "digits"),
    ],
)
def test_bad_recipes_are_one_line_and_leave_no_model(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    out = tmp_path / "run"
    with pytest.raises(ConcertError, match=message) as caught:
        train(replace(QUERIED, **change), out)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_damaged_models_are_refused(tmp_path: Path) -> None:
    train(COHEN, tmp_path)
    file = tmp_path / "model" / "weights.safetensors"
    content = file.read_bytes()
    for damaged in (content[: len(content) // 2], content[:-1] + bytes([content[-1] ^ 1]), b""):
        file.write_bytes(damaged)
        with pytest.raises(ConcertError, match="damaged"):
            load(tmp_path)
    file.write_bytes(content)
    config = tmp_path / "model" / "config.json"
    text = json.loads(config.read_text())
    text["num_classes"] = 7
    config.write_text(json.dumps(text))
    with pytest.raises(ConcertError, match="does not fit"):
        load(tmp_path)
    config.write_text("{")
    with pytest.raises(ConcertError, match="damaged"):
        load(tmp_path)


def test_nothing_but_the_start_epoch_turns_the_penalty_on(tmp_path: Path) -> None:
    with_penalty = replace(QUERIED, objective=replace(QUERIED.objective, start_epoch=2))
    without = replace(with_penalty, objective=replace(with_penalty.objective, beta=0.0))
    train(with_penalty, tmp_path / "with")
    train(without, tmp_path / "without")
    first, second = weights(tmp_path / "with"), weights(tmp_path / "without")
    assert all(torch.equal(first[name], second[name]) for name in first)


RIVALS = {
    "SmoothAdv": ObjectiveSettings("smoothadv", m=2, epsilon=0.5, steps=2, warmup_epochs=2),
    "MACER": ObjectiveSettings("macer", m=4, softmax_scale=2.0, start_epoch=1),
    "Consistency": ObjectiveSettings("consistency", lambda_weight=2.0),
}


@pytest.mark.parametrize("title", RIVALS)
def test_the_other_methods_train_go_on_and_are_named(tmp_path: Path, title: str) -> None:
    recipe = replace(COHEN, objective=RIVALS[title])
    assert train(recipe, tmp_path / "whole")
    assert not train(recipe, tmp_path / "parts", StopAfter(4))
    assert train(recipe, tmp_path / "parts")
    whole, stopped = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)
    rows = [row.split(",") for row in (tmp_path / "whole/metrics.csv").read_text().splitlines()]
    columns = {name: [float(row[at]) for row in rows[1:]] for at, name in enumerate(rows[0])}
    assert columns["loss"][1] < columns["loss"][0] or title == "MACER"
    for loss, *parts in zip(
        *(columns[name] for name in ("loss", "classification", "robustness", "penalty")),
        strict=True,
    ):
        assert loss == pytest.approx(sum(parts), rel=1e-5)
    if title == "MACER":
        assert columns["robustness"][0] == 0.0 < columns["robustness"][1]
    description, _ = read_description(tmp_path / "whole")
    assert describe_method(tmp_path / "whole", description)["method"] == title


def test_a_noise_model_that_the_objective_cannot_use_is_refused_first(tmp_path: Path) -> None:
    recipe = replace(QUERIED, objective=RIVALS["MACER"])
    with pytest.raises(ConcertError, match="MACER's radius is that of isotropic noise"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("precision", "objective", "kind"),
    [
        ("bf16-true", "smoothadv", "isotropic"),
        ("bf16-true", "smoothadv", "generated"),
        ("bf16-true", "concert", "queried"),
        ("bf16-mixed", "smoothadv", "generated"),
        ("bf16-mixed", "concert", "queried"),
        ("64-true", "gaussian", "isotropic"),
    ],
)
def test_every_precision_trains_and_is_certified(
    tmp_path: Path, objective: str, kind: str, precision: str
) -> None:
    """Noise stays in float32, and so are the numbers of the weights file."""
    settings = {"smoothadv": {"steps": 2}, "concert": {"start_epoch": 0}}.get(objective, {})
    recipe = replace(
        QUERIED,
        noise=NoiseSettings(kind=kind, sigma=0.25) if kind == "isotropic" else NoiseSettings(kind),
        objective=ObjectiveSettings(objective, m=2, **settings),
        training=replace(QUERIED.training, epochs=1, precision=precision),
    )
    assert train(recipe, tmp_path / "run")
    stored = {n: t for n, t in weights(tmp_path / "run").items() if t.is_floating_point()}
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    if precision == "bf16-true":
        network = [tensor for name, tensor in stored.items() if name.startswith("classifier.")]
        assert all(torch.equal(tensor, tensor.bfloat16().float()) for tensor in network)
    digits, settings = load_images("digits", "test"), CertifySettings(subset="first:1", n0=16, n=64)
    file = tmp_path / "certify.tsv"
    certify_data(load(tmp_path / "run"), tmp_path / "run", digits, settings, file)
    assert len(read_log(file).frame) == 1


def test_tied_weights_of_a_classifier_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "net_with_ties.py").write_text(TIED)
    recipe = replace(COHEN, classifier=ClassifierSettings("net_with_ties.Net"))
    assert not train(recipe, tmp_path / "run", StopAfter(1))
    assert train(recipe, tmp_path / "run")
    network = load(tmp_path / "run", trust=True).classifier
    first, second = (network.get_submodule(name) for name in ("first", "second"))
    assert first.weight is second.weight


def test_images_of_one_class_are_refused_first(tmp_path: Path) -> None:
    (tmp_path / "one" / "train" / "only").mkdir(parents=True)
    Image.new("L", (28, 28)).save(tmp_path / "one" / "train" / "only" / "0.png")
    recipe = replace(COHEN, data=DataSettings("mine", tmp_path / "one"))
    with pytest.raises(ConcertError, match="all of one class"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_low_precision_with_a_generator_needs_one_process() -> None:
    low = TrainingSettings(precision="bf16-true")
    trained = GeneratedNoise(CoarseGenerator(1, 0.2, 0.4))
    with pytest.raises(ConcertError, match=r"use bf16-mixed, or training\.devices 1"):
        check_precision(low, trained, processes=2)
    check_precision(low, trained, processes=1)
    check_precision(low, IsotropicNoise(0.25), processes=2)
    for precision in ("32-true", "64-true", "bf16-mixed"):
        check_precision(TrainingSettings(precision=precision), trained, processes=2)


@pytest.mark.slow
def test_a_compiled_classifier_ends_near_the_eager_one_with_the_same_keys(tmp_path: Path) -> None:
    train(QUERIED, tmp_path / "eager")
    compiled = replace(QUERIED, training=replace(QUERIED.training, compile=True))
    train(compiled, tmp_path / "compiled")
    a, b = weights(tmp_path / "eager"), weights(tmp_path / "compiled")
    assert a.keys() == b.keys()
    assert all(torch.allclose(a[name], b[name], atol=1e-3) for name in a)
