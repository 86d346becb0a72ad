"""The documentation is true: its blocks run as pasted, its names, tests and links exist."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from concert.cli import _config_flag
from concert.comparison.spec import read_spec

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    "docs/certificates.md",
    "docs/colorizer.md",
    "docs/errata.md",
    "docs/equations.md",
    "docs/logs.md",
    "docs/engines.md",
    "docs/performance.md",
    "docs/objectives.md",
    "docs/models.md",
    "docs/compare.md",
    "docs/attacks.md",
    "docs/report.md",
    "docs/start/researcher.md",
    "docs/start/security-engineer.md",
    "docs/extending.md",
)

# Setting up an environment is for a fresh machine; what these lines do is done by `make wheel`.
SETTING_UP = (
    ". .venv/bin/activate",
    "python3 -m venv gpu",
    ". gpu/bin/activate",
    "pip install torch",
    "pip install .",
)


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and content of every fenced block, in order."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", read(page), flags=re.DOTALL | re.MULTILINE)


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):(?!=)", read("Makefile"), flags=re.MULTILINE))


def check_only_parsed(line: str) -> None:
    """A command that needs a download or hours: its recipe exists and its options parse."""
    words = shlex.split(line)
    rest = _config_flag(words[2:]) if words[1] == "train" else words[2:]
    importlib.import_module(f"concert.commands.{words[1]}").parser().parse_args(rest)


def kind_of(line: str) -> str:
    """How a line of a shell block is tested; one that is not accounted for is an error."""
    if line in SETTING_UP:
        return "known"
    if line.startswith("make "):
        return "make"
    if line.startswith("concert "):
        trains = line.startswith("concert train ") and "--help" not in line
        return "parse" if trains or " runs/" in line else "run"
    raise AssertionError(f"no test accounts for this line of a shell block: {line!r}")


def run(command: list[str], folder: Path) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def concert(folder: Path, *arguments: str) -> str:
    return run([sys.executable, "-m", "concert", *arguments], folder)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `make demo` leaves it, with a model trained for a moment."""
    folder = tmp_path_factory.mktemp("readme")
    concert(folder, "demo", "--quick", "--out", "concert-demo")
    return folder


def test_an_unknown_line_is_not_overlooked() -> None:
    with pytest.raises(AssertionError, match="no test accounts for"):
        kind_of("sudo reboot")


def test_every_block_has_a_language_that_is_tested() -> None:
    for page in PAGES:
        fences = len(re.findall(r"^```", read(page), flags=re.MULTILINE))
        assert fences == 2 * len(blocks(page))
        assert {language for language, _ in blocks(page)} <= {"sh", "python", "yaml"}
    assert len(blocks("README.md")) >= 6


@pytest.mark.slow
def test_the_blocks_of_the_readme_run_as_pasted(demo: Path) -> None:
    done = []
    for language, content in blocks("README.md"):
        if language == "python":
            assert run([sys.executable, "-c", content], demo)
            done.append("python")
            continue
        for line in content.splitlines():
            kind = kind_of(line)
            if kind == "make":
                assert line.split()[1] in make_targets()
            elif kind == "parse":
                check_only_parsed(line)
            elif kind == "run":
                assert concert(demo, *shlex.split(line)[1:])
            done.append(kind)
    assert {"python", "make", "parse", "run", "known"} == set(done)
    assert (demo / "concert-demo" / "digit.png").is_file()
    assert (demo / "concert-demo" / "comparison" / "table.txt").is_file()
    assert (demo / "concert-demo" / "explained" / "digit.svg").is_file()
    assert (demo / "concert-demo" / "photographs.png").is_file()
    assert "<figcaption>" in (demo / "concert-demo" / "report" / "report.html").read_text()


def check_module_line(line: str) -> None:
    """`PYTHON -m pytest TESTS` names tests that exist, `PYTHON -m concert.X` a module that does."""
    python, flag, module, *rest = shlex.split(line)
    assert (python, flag) in {(".venv/bin/python", "-m"), ("python", "-m")}
    if module != "pytest":
        assert importlib.util.find_spec(module), module
        return
    assert rest
    for target in rest:
        file, _, test = target.partition("::")
        assert (ROOT / file).exists(), target
        assert not test or f"\ndef {test}(" in read(file), target


@pytest.mark.parametrize("page", PAGES[1:-1])
def test_blocks_of_other_pages(page: str, tmp_path: Path) -> None:
    for language, content in blocks(page):
        if language == "python":
            if "foolbox" not in content or importlib.util.find_spec("foolbox"):
                run([sys.executable, "-c", content], tmp_path)
            continue
        if language == "yaml":
            spec = tmp_path / "spec.yaml"
            spec.write_text("runs: [cifar10/cohen-1.0-cpu, cifar10/concert-1.0-cpu]\n" + content)
            assert read_spec(str(spec), tmp_path / "out").attacks
            continue
        for line in content.splitlines():
            if line.startswith("concert "):
                check_only_parsed(line)
            else:
                check_module_line(line)


@pytest.mark.slow
def test_the_method_that_extends_it_becomes_a_row(tmp_path: Path) -> None:
    labelled = r"`([\w.]+)`:\n\n```\w+\n(.*?)^```$"
    named = re.findall(labelled, read(PAGES[-1]), flags=re.DOTALL | re.MULTILINE)
    for file, content in named:
        (tmp_path / file).write_text(content)
    assert [file for file, _ in named] == ["mine.py", "trades.yaml", "table.yaml"]
    (line,) = (content for language, content in blocks(PAGES[-1]) if language == "sh")
    assert "Trades" in concert(tmp_path, *shlex.split(line)[1:])


def test_named_files_of_the_package_hold_what_is_listed_there() -> None:
    text = read(PAGES[-1])
    for file in re.findall(r"`(concert/[\w/]+(?:\.py)?/?)`", text):
        assert (ROOT / "src" / file).exists(), file
    listed = re.findall(r"`([A-Z_]+)` in `(concert/[\w/]+\.py)`", text)
    assert len(listed) == 5
    for name, file in listed:
        assert re.search(rf"^{name}\b", read(f"src/{file}"), flags=re.M), (name, file)


def test_no_room_uses_one_above_it() -> None:
    table = re.findall(r"^\| (`\w.*?`) \|", read(PAGES[-1]).partition("The rooms")[2], flags=re.M)
    package, row_of = ROOT / "src" / "concert", {}
    for row, cell in enumerate(table):
        for room in re.findall(r"`(\w+)(?:/|\.py)`", cell):
            row_of[room] = row
    assert len(table) == 6
    for room, row in row_of.items():
        files = list((package / room).rglob("*.py")) or [package / f"{room}.py"]
        for file in files:
            used = re.findall(r"^\s*from concert\.(\w+)", file.read_text(), flags=re.M)
            assert all(row_of.get(other, row) >= row for other in used), (file, used)


def test_a_test_that_is_not_there_is_noticed() -> None:
    with pytest.raises(AssertionError, match="no_such_test"):
        check_module_line(".venv/bin/python -m pytest tests/noise/test_noise.py::no_such_test")


def test_indented_commands_parse() -> None:
    lines = [line for page in PAGES for line in re.findall(r"^    (concert .+)$", read(page), re.M)]
    assert lines
    for line in lines:
        assert kind_of(line) == "parse"
        check_only_parsed(line)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", read(page))
    for link in links:
        assert "://" not in link
        assert ((ROOT / page).parent / link).exists(), link


def test_named_code_exists() -> None:
    names = set(re.findall(r"`(concert(?:\.\w+)+)`", "".join(read(page) for page in PAGES)))
    assert len(names) > 30
    for name in names:
        parts = name.split(".")
        for cut in range(len(parts), 0, -1):
            try:
                found = importlib.import_module(".".join(parts[:cut]))
            except ModuleNotFoundError:
                continue
            break
        for part in parts[cut:]:
            found = getattr(found, part)


def test_named_tests_exist() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", "".join(read(page) for page in PAGES)))
    assert len(named) > 8
    for file, test in named:
        assert f"\ndef {test}(" in read(file), f"{file}::{test}"


def test_named_settings_exist_with_their_defaults() -> None:
    from inspect import signature

    from concert.objectives import ConcertObjective
    from concert.recipes.config import NoiseSettings, ObjectiveSettings, TrainingSettings

    groups = {
        "noise": NoiseSettings,
        "objective": ObjectiveSettings,
        "training": TrainingSettings,
    }
    page = read("docs/errata.md")
    for group, name in set(re.findall(r"`(noise|objective|training)\.(\w+)`", page)):
        assert hasattr(groups[group](), name), f"{group}.{name}"
    for name in signature(ConcertObjective.__init__).parameters:
        if name != "self":
            assert f"`objective.{name}`" in page, f"objective.{name} is not explained"


def test_the_citation_has_the_version_of_the_package() -> None:
    version = re.search(r'^version = "(.+)"$', read("pyproject.toml"), re.M)
    assert version is not None
    assert f"\nversion: {version[1]}\n" in read("CITATION.cff")
