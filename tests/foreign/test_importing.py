"""Checkpoints in the published layouts: the same logits after the way into a run folder."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from concert import load
from concert.classifiers import CifarResNet, LeNet, Normalize, ResNet50
from concert.cli import main
from concert.data.known import KNOWN
from concert.errors import ConcertError
from concert.foreign.checkpoints import read_checkpoint, recognize
from concert.foreign.importing import ImportSettings, import_checkpoint

CIFAR = KNOWN["cifar10"].mean_std
IMAGENET = KNOWN["imagenet"].mean_std
assert CIFAR is not None
assert IMAGENET is not None


def network(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A network with random weights and random statistics of its batch norms."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = make()
        for name, buffer in made.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand_like(buffer) * 0.2 + ("var" in name))
    return made.eval()


def published(module: nn.Module, prefix: str, **facts: Any) -> dict[str, Any]:
    """The layout of Cohen's, SmoothAdv's and consistency's checkpoints."""
    tensors = {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}
    return {"epoch": 90, "state_dict": tensors, "optimizer": {"state": {}}, **facts}


def logits(folder: Path, images: torch.Tensor, trust: bool = False) -> torch.Tensor:
    with torch.inference_mode():
        return load(folder, trust).classifier(images)


CASES: dict[str, tuple[Callable[[], nn.Module], Any, dict[str, Any], Any]] = {
    "cohen-cifar": (
        lambda: CifarResNet(20),
        lambda module: published(module, "1.", arch="cifar_resnet20"),
        {"normalization": "standard"},
        CIFAR,
    ),
    "smoothadv-cifar": (
        lambda: CifarResNet(110),
        lambda module: published(module, "1.", arch="cifar_resnet110"),
        {"normalization": "center"},
        (CIFAR[0], [1.0] * 3),
    ),
    "cohen-parallel-outside": (
        lambda: CifarResNet(20),
        lambda module: published(module, "module.1."),
        {"normalization": "standard"},
        CIFAR,
    ),
    "macer-cifar": (
        lambda: CifarResNet(20),
        lambda module: {"net": module.state_dict(), "epoch": 440},
        {},
        None,
    ),
    "mnist-identity": (LeNet, lambda module: published(module, "1.", arch="lenet"), {}, None),
    "bare": (LeNet, lambda module: module.state_dict(), {}, None),
    "other-depth": (lambda: CifarResNet(32), lambda module: module.state_dict(), {}, None),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_the_same_after_the_import(case: str, tmp_path: Path) -> None:
    make, layout, given, mean_std = CASES[case]
    module = network(make)
    torch.save(layout(module), tmp_path / "checkpoint.pth.tar")
    made = import_checkpoint(
        tmp_path / "checkpoint.pth.tar", tmp_path / "run", ImportSettings(0.5, **given)
    )
    images = torch.rand((3, *made.shape), generator=torch.Generator().manual_seed(1))
    whole = module if mean_std is None else nn.Sequential(Normalize(*mean_std), module).eval()
    with torch.inference_mode():
        assert torch.equal(logits(tmp_path / "run", images), whole(images))
    assert load(tmp_path / "run").noise.settings() == {"kind": "isotropic", "sigma": 0.5}
    names = {path.name for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert names == {"config.yaml", "config.json", "weights.safetensors"}


def test_imagenet_with_devices_inside_the_normalisation(tmp_path: Path) -> None:
    module = network(ResNet50)
    torch.save(published(module, "1.module.", arch="resnet50"), tmp_path / "checkpoint.pth.tar")
    settings = ImportSettings(0.25, normalization="center", method="SmoothAdv")
    made = import_checkpoint(tmp_path / "checkpoint.pth.tar", tmp_path / "run", settings)
    assert (made.shape, made.num_classes, made.data) == ((3, 224, 224), 1000, "imagenet")
    assert made.classifier["mean"] == list(IMAGENET[0])
    assert made.classifier["std"] == [1.0] * 3
    record = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert record["imported"] | {"sha256": ""} == {
        "file": "checkpoint.pth.tar",
        "sha256": "",
        "layout": "state_dict",
        "arch": "resnet50",
        "epoch": 90,
    }
    description = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert description["trained_on"] == {"checkpoint": record["imported"]["sha256"]}
    expected = module.state_dict()["layer4.2.conv3.weight"]
    stored = load(tmp_path / "run").classifier.state_dict()["1.layer4.2.conv3.weight"]
    assert torch.equal(stored, expected)


def test_checkpoints_from_before_the_counters_of_batch_norm(tmp_path: Path) -> None:
    module = network(lambda: CifarResNet(20))
    tensors = module.state_dict()
    old = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    torch.save({"net": old, "epoch": 1}, tmp_path / "old.pth")
    import_checkpoint(tmp_path / "old.pth", tmp_path / "run", ImportSettings(0.25))
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(logits(tmp_path / "run", images), module(images))


def test_an_imported_run_is_certified_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(published(network(LeNet), "1.", arch="lenet"), tmp_path / "checkpoint.pth.tar")
    run = tmp_path / "run"
    arguments = ["--sigma", "0.25", "--data.name", "digits", "--method", "Cohen"]
    assert (
        main(["import", str(tmp_path / "checkpoint.pth.tar"), "--out", str(run), *arguments]) == 0
    )
    assert "lenet for 1x28x28 images of 10 classes, not normalised" in capsys.readouterr().out
    certify = ["certify", str(run), "--subset", "first:3", "--n", "100", "--n0", "16"]
    assert main(certify) == 0
    assert main(["report", str(run / "certify-n100.tsv"), "--out", str(tmp_path / "report")]) == 0
    table = (tmp_path / "report" / "table.csv").read_text()
    assert table.splitlines()[1].startswith("0.25,Cohen,")


OWN = """
from torch import nn

class Own(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(12, width), nn.Linear(width, 3))

    def forward(self, images):
        return self.layers(images)
"""


@pytest.mark.parametrize("form", ["safetensors", "torch", "devices"])
def test_a_classifier_of_the_users_own(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_classifier.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    from own_classifier import Own  # type: ignore[import-not-found]

    module = network(lambda: Own(5))
    file = tmp_path / ("own.safetensors" if form == "safetensors" else "own.pt")
    prefix = "module." if form == "devices" else ""
    tensors = {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}
    if form == "safetensors":
        save_file(tensors, file)
    else:
        torch.save(tensors, file)
    arguments = ["--classifier.name", "own_classifier.Own", "--classifier.init_args", "{width: 5}"]
    arguments += ["--input-size", "2", "--channels", "3", "--num_classes", "3", "--sigma", "0.1"]
    arguments += ["--mean", "[0.5,0.4,0.3]", "--std", "[0.2,0.2,0.2]"]
    assert main(["import", str(file), "--out", "run", *arguments]) == 0
    images = torch.rand(4, 3, 2, 2)
    whole = nn.Sequential(Normalize([0.5, 0.4, 0.3], [0.2] * 3), module)
    with torch.inference_mode():
        assert torch.equal(logits(tmp_path / "run", images, trust=True), whole(images))
    with pytest.raises(ConcertError, match="--trust"):
        load(tmp_path / "run")


class Runs:
    """A pickle that would run code if it were loaded with trust."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("code ran",)


def damaged(name: str) -> Any:
    tensors = network(LeNet).state_dict()
    if name == "short":
        del tensors["fc2.bias"]
    elif name == "long":
        tensors["fc3.weight"] = torch.zeros(2, 2)
    elif name == "shape":
        tensors["conv2.bias"] = torch.zeros(7)
    elif name == "nan":
        tensors["fc1.bias"][3] = torch.nan
    return tensors


def with_tensor(name: Any, tensor: torch.Tensor, make: Callable[[], nn.Module] = LeNet) -> Any:
    """A state dict in which one tensor is another."""
    return {**network(make).state_dict(), name: tensor}


def resnet(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    tensors = network(lambda: CifarResNet(20)).state_dict()
    return {**tensors, name: change(tensors[name])}


def quantized() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.zeros(20), 1.0, 0, torch.qint8)


REFUSED: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "code": (lambda: {"net": Runs()}, {}, "which may run code"),
    "module": (lambda: LeNet(), {}, "which may run code"),
    "list": (lambda: [torch.zeros(1)], {}, "holds a list"),
    "strange": (lambda: {"weights": 3}, {}, "'weights' is no tensor"),
    "empty": (lambda: {"net": {}}, {}, "it is empty"),
    "unknown": (lambda: {"a.weight": torch.zeros(2)}, {}, "of none of lenet"),
    "normalisation": (
        lambda: {"0.means": torch.zeros(1), **published(LeNet(), "1.")["state_dict"]},
        {},
        r"is before the network \(0\.means\): if they are a normalisation's",
    ),
    "other classes": (
        lambda: LeNet(num_classes=7).state_dict(),
        {},
        r"mnist has \(1, 28, 28\) in 10: give another --data\.name",
    ),
    "short": (lambda: damaged("short"), {}, "has no 'fc2.bias'"),
    "long": (lambda: damaged("long"), {}, "'fc3.weight' is not in"),
    "shape": (lambda: damaged("shape"), {}, r"'conv2.bias' has shape \(7,\), not \(50,\)"),
    "nan": (lambda: damaged("nan"), {}, "'fc1.bias' has values that are not finite"),
    "which normalisation": (
        lambda: published(CifarResNet(20), "1."),
        {},
        "--normalization standard",
    ),
    "no usual normalisation": (lambda: damaged(""), {"normalization": "center"}, "mnist has no"),
    "both": (lambda: damaged(""), {"normalization": "none", "mean": [0.5]}, "but not both"),
    "means": (lambda: damaged(""), {"mean": [0.5, 0.5]}, "2 normalisation means"),
    "which, of unknown data": (
        lambda: published(CifarResNet(20), "1."),
        {"data": "svhn"},
        r"--mean and --std \(svhn has no usual ones\) or --normalization none",
    ),
    "data": (lambda: damaged(""), {"data": "cifar10"}, r"cifar10 has \(3, 32, 32\) in 10"),
    "classes": (lambda: damaged(""), {"num_classes": 7}, "has 10 classes, not 7"),
    "sigma": (lambda: damaged(""), {"sigma": 0.0}, "sigma must be a positive number"),
    "own": (lambda: damaged(""), {"classifier": "a.B"}, "--channels and --input_size and"),
    "size": (lambda: damaged(""), {"input_size": 40, "data": "x"}, "'fc1.weight' has shape"),
    "size of the data": (
        lambda: CifarResNet(20).state_dict(),
        {"input_size": 64},
        r"shape \(3, 64, 64\) in 10 classes, cifar10 has \(3, 32, 32\)",
    ),
    "channels": (
        lambda: CifarResNet(20).state_dict(),
        {"channels": 1},
        "takes 3 channels, not 1: leave out --channels",
    ),
    "arguments": (
        lambda: CifarResNet(20).state_dict(),
        {"init_args": {"depth": 110}},
        "init_args belongs to",
    ),
    "no means": (lambda: damaged(""), {"mean": []}, "0 normalisation means for images of 1"),
    "no stds": (lambda: damaged(""), {"std": []}, "1 means but 0 stds"),
    "arch": (
        lambda: published(CifarResNet(20), "", arch="cifar_resnet110"),
        {},
        "is of cifar_resnet110, but its tensors are of resnet20",
    ),
    "number": (lambda: with_tensor("fc2.weight", torch.tensor(1.0)), {}, "of none of lenet"),
    "number, resnet": (lambda: resnet("fc.weight", lambda t: t[0, 0]), {}, "of none of lenet"),
    "no features": (lambda: with_tensor("conv2.weight", torch.zeros(0, 2)), {}, "of none of"),
    "no dimensions": (lambda: with_tensor("conv1.weight", torch.zeros(2)), {}, "of none of"),
    "no classes": (lambda: with_tensor("fc2.weight", torch.zeros(0, 500)), {}, "needs two classes"),
    "keys": (lambda: with_tensor(3, torch.zeros(2)), {}, "the name 3: names must be text"),
    "lines": (lambda: with_tensor("a\nb", torch.zeros(2)), {}, "names must be text"),
    "sparse": (
        lambda: with_tensor("conv1.bias", torch.ones(20).to_sparse()),
        {},
        "'conv1.bias' that is sparse",
    ),
    "quantised": (lambda: with_tensor("conv1.bias", quantized()), {}, "of type torch.qint8"),
    "complex": (
        lambda: with_tensor("conv1.bias", torch.zeros(20, dtype=torch.complex64)),
        {},
        "of type torch.complex64",
    ),
    "meta": (
        lambda: with_tensor("conv1.bias", torch.zeros(20, device="meta")),
        {},
        "without values",
    ),
    "strides": (
        lambda: with_tensor("conv1.bias", torch.zeros(1).expand(20)),
        {},
        "'conv1.bias' that is larger than what is stored of it",
    ),
    "depth": (
        lambda: {
            **network(lambda: CifarResNet(20)).state_dict(),
            **{f"layer1.{block}.x": torch.zeros(1) for block in range(300)},
        },
        {},
        "of none of lenet",
    ),
    "variance": (
        lambda: resnet("layer2.0.bn1.running_var", lambda t: -t),
        {},
        "'layer2.0.bn1.running_var' has negative variances",
    ),
    "too large for float32": (
        lambda: resnet("fc.bias", lambda t: torch.full_like(t, 1e300, dtype=torch.float64)),
        {},
        "'fc.bias' has values that are not finite",
    ),
    "outputs": (
        lambda: resnet("fc.weight", lambda t: torch.full_like(t, 3e38)),
        {},
        "outputs are not finite",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
# The one that is quantised and loaded again.
@pytest.mark.filterwarnings("ignore:torch.quantize", "ignore:TypedStorage")
def test_what_does_not_fit_is_refused_in_one_line(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, given, message = REFUSED[case]
    torch.save(content(), tmp_path / "checkpoint.pt")
    settings = ImportSettings(**({"sigma": 0.25} | given))
    with pytest.raises(ConcertError, match=message) as error:
        import_checkpoint(tmp_path / "checkpoint.pt", tmp_path / "run", settings)
    assert "\n" not in str(error.value)
    assert "code ran" not in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


BOMBS = {
    "expanded": "'fc.weight' that is larger than what is stored of it",
    "empty": "'fc.weight' has shape (1000000000000, 0)",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_file_that_claims_to_be_large_takes_no_memory(bomb: str, tmp_path: Path) -> None:
    tensors = network(lambda: CifarResNet(20)).state_dict()
    if bomb == "expanded":
        tensors["fc.weight"] = torch.zeros(1).expand(10**8, 64)
        tensors["fc.bias"] = torch.zeros(1).expand(10**8)
    else:
        tensors["fc.weight"] = torch.zeros(10**12, 0)
    torch.save(tensors, tmp_path / "bomb.pt")
    assert (tmp_path / "bomb.pt").stat().st_size < 2_000_000
    limited = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))\n"
        "from concert.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    flags = ["--sigma", "0.5", "--data.name", "own", "--out", str(tmp_path / "run")]
    command = [sys.executable, "-c", limited, "import", str(tmp_path / "bomb.pt"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr[-300:]
    assert BOMBS[bomb] in done.stderr
    assert not (tmp_path / "run").exists()


def test_an_archive_that_is_larger_when_unpacked_is_refused(tmp_path: Path) -> None:
    stored = io.BytesIO()
    torch.save({"net": {"a": torch.zeros(10**6)}}, stored)
    with (
        zipfile.ZipFile(stored) as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry.filename))
    assert torch.load(tmp_path / "bomb.pt")["net"]["a"].numel() == 10**6
    with pytest.raises(ConcertError, match="would take 4,"):
        read_checkpoint(tmp_path / "bomb.pt")


def test_what_a_setting_says_is_taken_where_it_is_true(tmp_path: Path) -> None:
    torch.save(published(network(lambda: CifarResNet(20)), "", arch="resnet20"), tmp_path / "a.pt")
    given = ImportSettings(0.5, data="svhn", input_size=64, channels=3, num_classes=10)
    made = import_checkpoint(tmp_path / "a.pt", tmp_path / "a", given)
    assert (made.shape, made.data, made.classifier["mean"]) == ((3, 64, 64), "svhn", None)
    assert made.class_names == tuple("0123456789")
    torch.save(published(network(lambda: CifarResNet(20)), "1."), tmp_path / "b.pt")
    given = ImportSettings(0.5, data="svhn", std=[0.2, 0.2, 0.2])
    made = import_checkpoint(tmp_path / "b.pt", tmp_path / "b", given)
    assert (made.classifier["mean"], made.classifier["std"]) == ([0.0] * 3, [0.2] * 3)


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no checkpoint")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10")
    torch.save(LeNet().state_dict(), tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:5000])
    for name in ("text.pt", "cut.safetensors", "cut.pt", "missing.pt", "."):
        with pytest.raises(ConcertError):
            read_checkpoint(tmp_path / name)


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    torch.save(LeNet().state_dict(), tmp_path / "checkpoint.pt")
    import_checkpoint(tmp_path / "checkpoint.pt", tmp_path / "run", ImportSettings(0.25))
    with pytest.raises(ConcertError, match="holds a run already"):
        import_checkpoint(tmp_path / "checkpoint.pt", tmp_path / "run", ImportSettings(0.5))


@pytest.mark.parametrize("size", [16, 20, 28, 32, 64])
def test_the_image_size_of_a_lenet_is_one_that_it_takes(size: int) -> None:
    found = recognize(LeNet(image_size=size, in_channels=3).state_dict())
    assert found.name == "lenet"
    assert found.shape == (3, size, size)
