"""From a setting to a colorizer, the user's own class included."""

from __future__ import annotations

import hashlib
import re
from math import log

import pytest
import torch

from concert.colorization import CompactColorizer, build_colorizer, cached_entropy_maps
from concert.colorization.build import check_colorizer, probe_picture
from concert.errors import ConcertError
from concert.parsers import Parser
from concert.recipes.config import (
    DataSettings,
    ObjectiveSettings,
    Recipe,
    TrainingSettings,
)
from concert.recipes.writing import to_yaml
from concert.training.loop import train


class Gradient(torch.nn.Module):
    """A user's colorizer: 600 colours, sharper where it is brighter; it has no parameters."""

    def __init__(self, colors: int = 600, sharpness: float = 0.5) -> None:
        super().__init__()
        self.colors, self.sharpness = colors, sharpness

    def forward(self, lightness, hints, mask):
        cells = torch.nn.functional.avg_pool2d(lightness, 4, ceil_mode=True)
        ramp = torch.linspace(0, 1, self.colors).reshape(1, -1, 1, 1)
        return self.sharpness * cells * ramp


class Flat(Gradient):
    def forward(self, lightness, hints, mask):
        return super().forward(torch.full_like(lightness, 50.0), hints, mask)


class Coarse(Gradient):
    def forward(self, lightness, hints, mask):
        return super().forward(lightness, hints, mask)[..., ::2, ::2]


class Failing(Gradient):
    def forward(self, lightness, hints, mask):
        raise ValueError("first line\nsecond line")


@pytest.fixture(autouse=True)
def importable(monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "own_colorizers", sys.modules[__name__])


def test_the_shipped_one_is_the_default(colorizer, caplog) -> None:
    built = build_colorizer()
    assert isinstance(built, CompactColorizer)
    assert built.fingerprint == colorizer.fingerprint
    assert (built.bins, built.takes_hints) == (529, True)
    assert caplog.text == ""


def test_a_class_of_the_user(caplog) -> None:
    built = build_colorizer("own_colorizers.Gradient", {"sharpness": 0.2}, trust=True)
    assert isinstance(built, Gradient)
    assert not built.training
    assert (built.bins, built.sharpness) == (600, 0.2)
    assert re.fullmatch("[0-9a-f]{64}", built.fingerprint)
    assert caplog.text == ""
    others = [
        build_colorizer("own_colorizers.Gradient", {"sharpness": 0.1}, trust=True),
        build_colorizer("own_colorizers.Gradient", trust=True),
    ]
    assert len({built.fingerprint, *(other.fingerprint for other in others)}) == 3


def test_its_maps_are_cached_whatever_its_number_of_colours(tmp_path, caplog) -> None:
    class Two:
        fingerprint = "two images"

        def __len__(self) -> int:
            return 2

        def images(self, indices):
            generator = torch.Generator().manual_seed(0)
            return torch.rand(2, 1, 16, 16, generator=generator)[list(indices)]

    built = build_colorizer("own_colorizers.Gradient", {"colors": 9000}, trust=True)
    first = cached_entropy_maps(Two(), built, tmp_path).maps([0, 1])
    again = cached_entropy_maps(Two(), built, tmp_path)
    assert again.entropies.max() > log(529)
    assert torch.equal(again.maps([0, 1]), first)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("name", "arguments", "trust", "message"),
    [
        ("own_colorizers.Gradient", {}, False, "say so with --trust"),
        ("own_colorizers.Gradiant", {}, True, "did you mean 'Gradient'"),
        ("own_colorizers.Gradient", {"colours": 3}, True, "cannot construct colorizer"),
        ("own_colorizers.Coarse", {}, True, r"must give logits \(1, Q, 16, 16\)"),
        ("own_colorizers.Failing", {}, True, "fails on lightness.*first line"),
        ("no_such_module.Colorizer", {}, True, "cannot import 'no_such_module'"),
        ("sigraph17", {}, True, "did you mean 'siggraph17'"),
        ("compact", {"mask_center": 0}, True, "takes no arguments: leave out mask_center"),
    ],
)
def test_mistakes_are_one_line(name, arguments, trust, message) -> None:
    with pytest.raises(ConcertError, match=message) as error:
        build_colorizer(name, arguments, trust)
    assert "\n" not in str(error.value)


def test_entropies_that_do_not_vary_are_warned_of(caplog) -> None:
    build_colorizer("own_colorizers.Flat", trust=True)
    assert "own_colorizers.Flat' looks untrained" in caplog.text


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_network_that_was_never_trained_is_warned_of(seed, caplog) -> None:
    torch.manual_seed(seed)
    check_colorizer(CompactColorizer().eval(), "fresh")
    assert "'fresh' looks untrained" in caplog.text


def test_a_file_of_the_shipped_ones_name_is_not_meant(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "compact").write_text("mine")
    assert build_colorizer("compact").fingerprint
    assert not caplog.text


def test_certain_predictions_are_warned_of(caplog) -> None:
    build_colorizer("own_colorizers.Gradient", {"sharpness": 1e4}, trust=True)
    assert "looks untrained" in caplog.text


def test_the_probe_is_a_picture() -> None:
    picture = probe_picture()
    assert picture.shape == (1, 1, 64, 64)
    assert picture.min() >= 0
    assert picture.max() <= 100
    assert picture.std() > 10


def test_it_is_a_setting_of_training(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CONCERT_CACHE", str(tmp_path / "cache"))
    parser = Parser()
    parser.add_class_arguments(Recipe, None)
    flags = ["--colorizer=own_colorizers.Gradient", "--colorizer_args.sharpness=0.3"]
    options = parser.instantiate(parser.parse_args(flags))
    recipe = Recipe(
        DataSettings("digits", subset="first:16"),
        objective=ObjectiveSettings("concert", m=1, start_epoch=0),
        training=TrainingSettings(epochs=1, batch_size=16, accelerator="cpu"),
        colorizer=options.colorizer,
        colorizer_args=options.colorizer_args,
    )
    assert recipe.colorizer_args == {"sharpness": 0.3}
    assert train(recipe, tmp_path / "run")
    built = build_colorizer(recipe.colorizer, recipe.colorizer_args, trust=True)
    (maps,) = (tmp_path / "cache").glob("entropy-*.npy")
    assert hashlib.sha256(built.fingerprint.encode()).hexdigest()[:24] in maps.name
    assert built.fingerprint in (tmp_path / "run" / "model" / "config.json").read_text()
    # Without arguments a recipe is written as it always was.
    assert "colorizer_args" not in to_yaml(Recipe())


def test_other_code_is_another_colorizer(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "own_colorizers.Gradient"
    before = build_colorizer(name, {}, trust=True).fingerprint
    assert build_colorizer(name, {}, trust=True).fingerprint == before
    monkeypatch.setattr("concert.colorization.build.source_hash", lambda classes: "edited")
    assert build_colorizer(name, {}, trust=True).fingerprint != before
