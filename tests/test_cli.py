"""The commands as a user gives them: what they write, and one line for every mistake."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from concert.certification.stopping import Stages, staging_loss
from concert.cli import main
from concert.records.reading import read_log

COHEN = {
    "data": {"name": "digits", "subset": "first:256"},
    "noise": {"kind": "isotropic", "sigma": 0.25},
    "objective": {"name": "gaussian", "m": 1},
    "training": {"epochs": 3, "batch_size": 32, "lr": 0.05},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "cohen.yaml").write_text(yaml.safe_dump(COHEN))
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    assert main(["train", str(folder / "cohen.yaml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def log(run: Path) -> Path:
    arguments = ["certify", str(run), "--subset", "first:6", "--n", "200", "--n0", "32"]
    assert main(arguments) == 0
    return run / "certify-n200.tsv"


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line on standard error of a command that must exit with code 2."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("concert: error: ")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err + captured.out
    return captured.err


def test_train_writes_a_run_folder(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "metrics.csv", "checkpoints", "model"} <= names
    assert yaml.safe_load((run / "config.yaml").read_text())["training"]["epochs"] == 3
    header, *rows = (run / "metrics.csv").read_text().splitlines()
    assert len(rows) == 3
    for column in ("loss", "classification", "robustness", "penalty", "soft_accuracy"):
        assert column in header.split(",")
    assert not list(run.rglob("*.pkl")) + list(run.rglob("*.pt"))


def test_training_again_is_harmless(
    run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "model" / "weights.safetensors").read_bytes()
    assert main(["train", str(folder / "cohen.yaml"), "--out", str(run)]) == 0
    assert "already trained" in capsys.readouterr().out
    assert (run / "model" / "weights.safetensors").read_bytes() == before
    assert "training.lr" in fails(
        capsys, "train", folder / "cohen.yaml", "--out", run, "--training.lr", "0.5"
    )


def test_train_prints_the_cost(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--noise.kind",
        "queried",
        "--training.epochs",
        "1",
        "--objective.name",
        "gaussian",
    ]
    out = ["--out", str(folder / "queried")]
    assert main(["train", str(folder / "cohen.yaml"), *arguments, *out]) == 0
    printed = capsys.readouterr().out
    assert "classifier 2.29 M multiply-adds" in printed
    assert "generator 0.13" in printed


def test_flags_override_the_recipe_wherever_it_stands(folder: Path) -> None:
    out = folder / "short"
    arguments = ["train", "--training.epochs", "1", "--out", str(out), str(folder / "cohen.yaml")]
    assert main(arguments) == 0
    assert yaml.safe_load((out / "config.yaml").read_text())["training"]["epochs"] == 1


def test_certify_writes_a_log_and_resumes_it(run: Path, log: Path) -> None:
    content = log.read_text()
    assert len(content.splitlines()) == 7
    description = json.loads(log.with_suffix(".json").read_text())
    assert description["identity"]["n"] == 200
    assert description["info"]["guarantee"] == "deployed"
    log.write_text("".join(content.splitlines(keepends=True)[:4]) + "3\t5")  # a torn fourth line
    assert main(["certify", str(run), "--subset", "first:6", "--n", "200", "--n0", "32"]) == 0

    def rows(text: str) -> list[list[str]]:
        cells = [line.split("\t") for line in text.splitlines()]
        return [row[:5] + row[6:] for row in cells]  # all but the time

    assert rows(log.read_text()) == rows(content)


def test_certify_prints_what_stopping_early_costs_and_saves(
    run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    log = folder / "early.tsv"
    arguments = ["certify", str(run), "--subset", "first:3", "--n", "4000", "--n0", "32"]
    assert main([*arguments, "--stopping", "grid:0", "--log", str(log)]) == 0
    printed = capsys.readouterr().out
    loss = staging_loss(Stages((512, 1536, 4000), (0.06, 0.07, 0.87)), 0.001)
    assert f"at most {loss.unanimous:.2%} of its radius where all votes agree" in printed
    assert f"{loss.ninety:.2%} where 90 % do" in printed
    used = [row["n_used"] for row in read_log(log).frame.to_dict("records")]
    assert f"draws used: {sum(used) / 12_000:.1%} of n=4000 an image" in printed
    assert sum(used) < 12_000

    assert main([*arguments, "--log", str(folder / "full.tsv")]) == 0
    printed = capsys.readouterr().out
    assert "looking early" not in printed
    assert "draws used" not in printed


def test_report_prints_and_writes_tables(
    log: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(log), "--out", str(folder / "report")]) == 0
    printed = capsys.readouterr().out
    assert "AMCR" in printed
    assert "deployed" in printed
    for name in ("table.txt", "table.csv", "table.md", "table.tex", "certified_accuracy.png"):
        assert (folder / "report" / name).stat().st_size > 0


def test_the_page_has_thumbnails_and_explains_images_of_the_run(
    run: Path, log: Path, folder: Path
) -> None:
    out = folder / "page"
    assert main(["report", str(log), "--gallery", "2", "--out", str(out)]) == 0
    page = (out / "report.html").read_text()
    assert page.count("<figcaption>") == 2
    assert page.count("data:image/png;base64,") == 2 + 6
    assert f"concert report {log} --gallery 2 --out {out}" in page


def test_a_gallery_needs_the_model_that_made_the_log(
    run: Path, log: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = folder / "alone" / "certify.tsv"
    other.parent.mkdir()
    other.write_bytes(log.read_bytes())
    other.with_suffix(".json").write_bytes(log.with_suffix(".json").read_bytes())
    assert "no log lies in the run folder" in fails(capsys, "report", other, "--gallery", 1)
    other.with_suffix(".json").unlink()
    assert f"needs {other.with_suffix('.json')}" in fails(capsys, "report", other, "--gallery", 1)
    wrong = ("report", log, "--data.name", "digits", "--data.path", folder / "nothing")
    assert "nothing" in fails(capsys, *wrong)
    assert "must not be negative" in fails(capsys, "report", log, "--gallery", -1)


def test_explain_writes_a_picture_and_prints_the_sentence(
    run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from concert.data import load_images

    image = load_images("digits", "test").images([0])[0, 0].numpy()
    for name in ("a", "b"):
        (folder / name).mkdir()
        Image.fromarray((image * 255).astype(np.uint8)).save(folder / name / "digit.png")
    files = [str(folder / name / "digit.png") for name in ("a", "b")]
    out = folder / "explained"
    assert main(["explain", str(run), *files, "--n", "200", "--n0", "32", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "With probability at least 1 - 0.001" in printed or "Abstains" in printed
    names = {"1-digit.png", "1-digit.svg", "2-digit.png", "2-digit.svg"}
    assert {path.name for path in out.iterdir()} == names
    with Image.open(out / "1-digit.png") as picture:
        assert picture.size == (1500, 990)
    assert "can never certify" in fails(capsys, "explain", run, files[0], "--n", 3)
    assert "is a folder: give the image files" in fails(capsys, "explain", run, folder / "a")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "small.png")
    small = ["explain", str(run), str(folder / "small.png"), "--resize", "--n", "200"]
    assert main([*small, "--out", str(out)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "resized to 28 x 28: the statement is about that image" in printed
    before = Path(files[0]).read_bytes()
    over = fails(capsys, "explain", run, files[0], "--out", Path(files[0]).parent)
    assert "would be overwritten: give another --out" in over
    assert Path(files[0]).read_bytes() == before
    assert "takes no arguments" in fails(
        capsys, "explain", run, files[0], "--colorizer_args.mask_center", 0.5
    )


def test_predict_names_the_class_of_an_image_file(
    run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from concert.data import load_images

    images = load_images("digits", "test")
    pixels = (images.images([0])[0, 0].numpy() * 255).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "digit.png")
    assert main(["predict", str(run), str(folder / "digit.png"), "--seed", "3"]) == 0
    first = capsys.readouterr().out
    assert "digit.png: " in first
    assert "/1000 votes for" in first
    assert main(["predict", str(run), str(folder / "digit.png"), "--seed", "3"]) == 0
    assert capsys.readouterr().out == first
    Image.fromarray(pixels).resize((40, 40)).save(folder / "large.png")
    assert "--resize" in fails(capsys, "predict", run, folder / "large.png")
    assert main(["predict", str(run), str(folder / "large.png"), "--resize"]) == 0


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"]])
def test_help_needs_nothing(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert "concert" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["train", "certify", "predict", "explain", "report", "demo"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([command, "--help"])
    assert exit_info.value.code == 0
    assert f"concert {command}" in capsys.readouterr().out


MISTAKES = [
    (["trian"], "did you mean 'train'"),
    (["train"], "needs a recipe"),
    (["train", "nowhere.yaml"], "no such recipe file"),
    (["train", "mnist/concert-0.25-cup"], "did you mean 'mnist/concert-0.25-cpu'"),
    (["train", "COHEN", "--training.epoch", "3"], "--training.epochs"),
    (["train", "COHEN", "--training.epochs", "many"], "training.epochs"),
    (["train", "COHEN", "--noise.kind", "isotropc"], "isotropic"),
    (["train", "COHEN", "--data.path", "nowhere", "--data.name", "mine"], "nowhere"),
    (["train", "COHEN", "--classifier.name", "lenett"], "did you mean 'lenet'"),
    (["train", "COHEN", "--classifier.name", "no.such.Module"], "no.such"),
    (["train", "COHEN", "--noise.low", "0.6", "--noise.kind", "queried"], "sigma box"),
    (["train", "COHEN", "--training.accelerator", "gpuu"], "gpuu"),
    (["train", "COHEN", "--training.precision", "8"], "precision"),
    (["train", "COHEN", "--training.batch_size", "0"], "batch_size"),
    (["train", "COHEN", "--training.epochs", "0"], "epochs"),
    (["certify", "nowhere"], "no such folder"),
    (["certify", "RUN", "--n", "9"], "smallest n that could is 10"),
    (["certify", "RUN", "--n", "0"], "smallest n that could is 10"),
    (["certify", "RUN", "--alpha", "2"], "alpha must lie between 0 and 1"),
    (["certify", "RUN", "--subset", "first"], "unknown subset rule"),
    (["certify", "RUN", "--subset", "first:100000"], "more than"),
    (["certify", "RUN", "--split", "validation"], "split"),
    (["certify", "RUN", "--certificate", "queried"], "isotropic"),
    (["certify", "RUN", "--stopping", "grib:0"], "did you mean 'grid:R,R'"),
    (["certify", "RUN", "--batch_size", "100"], "multiple of 16"),
    (["certify", "RUN", "--accelerator", "nonsense"], "nonsense"),
    (["certify", "RUN", "--seed", "-1"], "seed"),
    (["predict", "RUN", "nowhere.png"], "no such file"),
    (["predict", "RUN", "COHEN"], "as an image"),
    (["predict", "RUN", "COHEN", "--n", "10"], "as an image"),
    (["report", "nowhere.tsv"], "nowhere.tsv"),
    (["predict", "RUN", "BOMB"], "as an image"),
    (["report", "COHEN"], "cohen.yaml"),
    (["train", "--trust", "nowhere.yaml"], "no such recipe file"),
    (["train", "--print_config", "nowhere.yaml"], "no such recipe file"),
    (["compare", "nowhere.yaml"], "no such file: nowhere.yaml"),
    (["compare", "compare/mnits"], "did you mean 'compare/mnist'"),
    (["train", "mnist/cohen-0.5-cpu", "--training.epochs", "many"], "Expected int."),
    (["train", "mnist/macer-0.5-cpu", "--objective.lambda", "3"], "'--objective.lambda_weight'"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_mistake_is_one_line_that_says_what_to_change(
    arguments: list[str],
    message: str,
    run: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    bomb = folder / "bomb.png"
    if "BOMB" in arguments:
        Image.new("1", (20_000, 10_000)).save(bomb)
    names = {"COHEN": str(folder / "cohen.yaml"), "RUN": str(run), "BOMB": str(bomb)}
    line = fails(capsys, *(names.get(argument, argument) for argument in arguments))
    assert message in line
    assert not list(tmp_path.iterdir()), "a refused command must leave nothing behind"


def test_taus_are_for_attacked_images(
    log: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = fails(capsys, "report", str(log), "--taus", "[1]", "--out", str(tmp_path / "report"))
    assert "--taus is for logs of attacked images" in line


def test_a_full_disk_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], log: Path
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("concert.commands.report.write_report", full)
    assert "No space left on device" in fails(capsys, "report", str(log))


def test_no_network_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CONCERT_CACHE", str(folder / "cache"))
    line = fails(
        capsys, "train", folder / "cohen.yaml", "--data.name", "mnist", "--out", folder / "offline"
    )
    assert "--data.path" in line
    assert not (folder / "offline").exists()


def test_a_model_of_another_shape_or_class_count_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCERT_CACHE", str(tmp_path / "cache"))
    for size, classes, message in ((28, 3, "10 classes"), (20, 10, "shape")):
        data = tmp_path / f"{size}"
        for number in range(classes):
            target = data / "test" / f"class{number}"
            target.mkdir(parents=True)
            Image.fromarray(np.full((size, size), 9 * number, np.uint8)).save(target / "0.png")
        assert message in fails(
            capsys, "certify", run, "--data.name", "mine", "--data.path", data, "--n", "50"
        )


def test_code_outside_the_package_needs_trust(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_network.py").write_text(
        "from torch import nn\n"
        "class Small(nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(784, 10))\n"
    )
    arguments = ["--classifier.name", "own_network.Small", "--out", str(tmp_path / "own")]
    assert main(["train", str(folder / "cohen.yaml"), *arguments]) == 0
    certify = ["certify", tmp_path / "own", "--subset", "first:2", "--n", "50"]
    assert "--trust" in fails(capsys, *certify)
    assert main([*(str(argument) for argument in certify), "--trust"]) == 0


def test_debug_shows_the_traceback(run: Path) -> None:
    from concert.errors import ConcertError

    with pytest.raises(ConcertError):
        main(["certify", str(run), "--n", "9", "--debug"])


def test_photographs_are_read_as_the_camera_was_held(tmp_path: Path) -> None:
    from concert.commands.predict import read_image

    pixels = np.zeros((28, 28), np.uint8)
    pixels[2] = 250
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(pixels).save(tmp_path / "held.png", exif=exif)
    held = read_image(tmp_path / "held.png", (1, 28, 28), resize=False)[0, 0]
    assert bool((held[:, 25] > 0.9).all())
    assert float(held[2, :20].max()) == 0
