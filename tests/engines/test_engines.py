"""Engines give the trained network's votes, and what is certified is what is deployed."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from concert.cli import main
from concert.engines import EngineChoice, build_engine, read_choice
from concert.engines.choice import ENGINES
from concert.engines.export import export_engine, to_onnx
from concert.engines.torch_engines import check_drift, noisy_probe
from concert.errors import ConcertError
from concert.noise import IsotropicNoise
from concert.records.reading import read_log
from concert.runs import load
from concert.smoothing import SmoothedClassifier

SHAPE = (1, 28, 28)
FAST = ("onnxruntime", "onnxruntime-int8", "openvino", "openvino-int8")
CERTIFY = ("--data.name", "digits", "--subset", "first:2", "--n", "1000", "--n0", "32")


def export(folder: Path, network: torch.nn.Module, name: str, weights: str = "w") -> EngineChoice:
    noisy = noisy_probe(SHAPE, 64)
    export_engine(folder, name, network, 10, weights, noisy, 2.5e-5)
    return read_choice(folder, weights)


@pytest.mark.parametrize("name", FAST)
def test_an_exported_network_votes_as_the_trained_one(
    name: str, network: torch.nn.Module, tmp_path: Path
) -> None:
    choice = export(tmp_path, network, name)
    assert choice.name == name
    assert choice.file == tmp_path / "engine.onnx"
    engine = build_engine(choice, network, SHAPE, 10, torch.device("cpu"), 2.5e-5, 32, 1)
    # Channels-last memory, as the hot loop has it.
    images = noisy_probe(SHAPE, 32).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        wanted = network(images)
        got = engine(images)
        again = engine(images)
    assert torch.equal(got, again)
    agreeing = (got.argmax(dim=1) == wanted.argmax(dim=1)).double().mean()
    if name.endswith("-int8"):
        assert choice.precision == "int8"
        assert agreeing >= 0.9
        # It is another network: no rounding of float32 explains the difference.
        with pytest.raises(ConcertError, match="no rounding"):
            check_drift(name, got, wanted)
    else:
        assert check_drift(name, got, wanted) < 1e-3
        assert agreeing == 1.0
    assert name.removesuffix("-int8") in engine.name
    assert choice.precision in engine.name


def test_colour_images_arrive_in_the_right_order(tmp_path: Path) -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 64, 4)
    ).eval()
    noisy = noisy_probe((3, 10, 10), 16)
    export_engine(tmp_path, "onnxruntime", network, 4, "w", noisy, 2.5e-5)
    choice = read_choice(tmp_path, "w")
    engine = build_engine(choice, network, (3, 10, 10), 4, torch.device("cpu"), 2.5e-5, 16, 1)
    with torch.inference_mode():
        got = engine(noisy.contiguous(memory_format=torch.channels_last))
        assert torch.allclose(got, network(noisy), atol=1e-5)


@pytest.mark.slow
def test_the_compiled_network_votes_as_the_trained_one(network: torch.nn.Module) -> None:
    choice = EngineChoice("torch-compile")
    engine = build_engine(choice, network, SHAPE, 10, torch.device("cpu"), 2.5e-5, 32, 1)
    images = noisy_probe(SHAPE, 32).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        check_drift("torch-compile", engine(images), network(images))
    assert engine.name.startswith("torch-compile-")


def test_certify_and_predict_use_the_deployed_engine(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, logs = str(run_folder), run_folder / "logs"
    assert main(["certify", run, *CERTIFY, "--log", str(logs / "torch.tsv")]) == 0
    arguments = ["--data.name", "digits", "--images", "64"]
    assert main(["export", run, "--engine", "onnxruntime", *arguments]) == 0
    assert "fall into another class" in " ".join(capsys.readouterr().out.split())
    assert load(run).engine.name == "onnxruntime"
    assert load(run, deployed=False).engine.name == "torch"

    # A log of one engine is not gone on with by another.
    assert main(["certify", run, *CERTIFY, "--log", str(logs / "torch.tsv")]) == 2
    assert "engine" in capsys.readouterr().err
    assert main(["certify", run, *CERTIFY, "--log", str(logs / "onnx.tsv")]) == 0
    identity = json.loads((logs / "onnx.json").read_text())["identity"]
    assert identity["engine"].startswith("onnxruntime-")
    assert identity["engine_sha256"] == load(run).engine.sha256
    # float32 against float32: the same votes up to rare ones within rounding of the margin.
    votes = [read_log(logs / f"{name}.tsv").frame for name in ("torch", "onnx")]
    assert list(votes[0]["predict"]) == list(votes[1]["predict"])
    assert np.allclose(votes[0]["radius"], votes[1]["radius"], atol=0.02)

    # Predictions too: the vote margin does not hide which network answered.
    smoothed = load(run)
    sampler = smoothed.sampler(SHAPE)
    assert sampler.engine == identity["engine"]
    assert smoothed.predict(torch.rand(1, *SHAPE), n=64, seed=0).shape == (1,)

    # Back to torch: nothing is left of the other engine.
    assert main(["export", run, "--engine", "torch", *arguments]) == 0
    assert load(run).engine.name == "torch"
    assert not (run_folder / "model" / "engine.onnx").exists()
    assert main(["certify", run, *CERTIFY, "--log", str(logs / "torch.tsv")]) == 0


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_an_export_leaves_its_network_alone(
    engine: str, network: torch.nn.Module, tmp_path: Path
) -> None:
    given = copy.deepcopy(network).double().train()
    result = export_engine(tmp_path, engine, given, 10, "weights", noisy_probe(SHAPE, 32), 1e-4)
    assert given.training
    assert {parameter.dtype for parameter in given.parameters()} == {torch.float64}
    # The exported network is the rounded one.
    assert result.drift < 1e-2


def test_what_does_not_belong_together_is_refused(network: torch.nn.Module, tmp_path: Path) -> None:
    export(tmp_path, network, "onnxruntime")
    with pytest.raises(ConcertError, match="other weights"):
        read_choice(tmp_path, "another hash")
    file = tmp_path / "engine.onnx"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(ConcertError, match="missing or damaged"):
        read_choice(tmp_path, "w")
    file.unlink()
    with pytest.raises(ConcertError, match="missing or damaged"):
        read_choice(tmp_path, "w")
    (tmp_path / "engine.json").write_text("{")
    with pytest.raises(ConcertError, match="is damaged"):
        read_choice(tmp_path, "w")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_network_that_sees_its_batch_is_not_exported(engine: str, tmp_path: Path) -> None:
    coupled = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 28), torch.nn.BatchNorm2d(4, track_running_stats=False)
    )
    network = torch.nn.Sequential(coupled, torch.nn.Flatten(), torch.nn.Linear(4, 10)).eval()
    with pytest.raises(ConcertError, match="depends on the other images of its batch"):
        export(tmp_path, network, engine)
    assert not (tmp_path / "engine.json").exists()
    # One that an earlier version let through.
    file = tmp_path / "engine.onnx"
    file.write_bytes(to_onnx(network, SHAPE))
    choice = EngineChoice(engine, file, "digest")
    smoothed = SmoothedClassifier(network, IsotropicNoise(0.5), 10, engine=choice)
    with pytest.raises(ConcertError, match="depends on the other images of its batch"):
        smoothed.predict(torch.rand(1, *SHAPE), n=16)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_class_that_is_ruled_out_is_no_drift(network: torch.nn.Module, tmp_path: Path) -> None:
    class Masked(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = copy.deepcopy(network)
            self.register_buffer("mask", torch.tensor([0.0] * 9 + [-torch.inf]))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.network(images) + self.mask

    export = tmp_path, Masked(), 10, "w", noisy_probe(SHAPE, 64), 2.5e-5
    result = export_engine(export[0], "onnxruntime", *export[1:])
    assert 0 <= result.drift < 1e-3
    # Infinity has no place among 256 levels.
    with pytest.raises(ConcertError, match="no numbers, as of classes ruled out"):
        export_engine(export[0], "onnxruntime-int8", *export[1:])


def test_infinities_that_differ_are_drift() -> None:
    wanted = torch.tensor([[1.0, -torch.inf]])
    assert check_drift("engine", wanted.clone(), wanted) == 0
    # Of a class that is ruled out nothing is drift, and it hides none.
    ruled_out = torch.tensor([[2.0, 1.0, -1e9]])
    assert check_drift("engine", ruled_out - torch.tensor([0.0, 0.0, 64.0]), ruled_out) == 0
    with pytest.raises(ConcertError, match="no rounding"):
        check_drift("engine", torch.tensor([[1.0, 2.0, -1e9]]), ruled_out)
    for other in (0.0, torch.inf, torch.nan):
        with pytest.raises(ConcertError, match="no rounding"):
            check_drift("engine", torch.tensor([[1.0, other]]), wanted)


def test_a_failed_export_leaves_what_was_deployed(network: torch.nn.Module, tmp_path: Path) -> None:
    class Unexportable(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            rows = [network(image[None]) for image in images if image.mean().item() > -1e9]
            return torch.cat(rows)

    before = export(tmp_path, network, "onnxruntime")
    with pytest.raises(ConcertError, match="cannot export"):
        export(tmp_path, Unexportable().eval(), "onnxruntime")
    assert read_choice(tmp_path, "w") == before


def test_bad_input_is_one_line(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(run_folder)
    for arguments, part in (
        (["--engine", "onnxrutime"], "did you mean 'onnxruntime'"),
        (["--engine", "torch", "--images", "0"], "at least 1"),
        (["--engine", "torch", "--data.name", "mnist", "--data.path", "/nowhere"], "/nowhere"),
    ):
        assert main(["export", run, *arguments]) == 2
        error = capsys.readouterr().err
        assert part in error
        assert error.count("\n") == 1
    with pytest.raises(ConcertError, match="needs an exported network"):
        EngineChoice("openvino")
    assert set(FAST) < set(ENGINES)


def test_an_exported_network_needs_a_processor(network: torch.nn.Module, tmp_path: Path) -> None:
    choice = export(tmp_path, network, "onnxruntime")
    with pytest.raises(ConcertError, match="processor only"):
        build_engine(choice, network, SHAPE, 10, torch.device("meta"), 2.5e-5, 32, 1)
