"""From recipes to descriptions and modules: normalised classifiers, and noise settings."""

from __future__ import annotations

import pytest
import torch

from concert.classifiers import Normalize
from concert.errors import ConcertError
from concert.recipes.building import (
    NOISE_SETTINGS,
    build_base,
    check_noise_settings,
    describe,
    describe_noise,
)
from concert.recipes.config import ClassifierSettings, DataSettings, NoiseSettings, Recipe

SHAPE = (3, 32, 32)
OWN = "concert.classifiers.CifarResNet"
ARGUMENTS = {"depth": 8, "num_classes": 10, "in_channels": 3}


def described(classifier: ClassifierSettings, data: str = "cifar10") -> Recipe:
    return Recipe(DataSettings(data), classifier)


def test_a_module_given_by_import_path_is_normalised_as_it_says() -> None:
    settings = ClassifierSettings(OWN, ARGUMENTS, mean=[0.5, 0.4, 0.3], std=[0.25, 0.5, 1.0])
    description = describe(described(settings), SHAPE, 10, ())
    network = build_base(description, trust=False).eval()
    assert isinstance(network[0], Normalize)  # type: ignore[index]
    images = torch.rand(2, *SHAPE)
    scaled = (images - torch.tensor([0.5, 0.4, 0.3]).reshape(3, 1, 1)) / torch.tensor(
        [0.25, 0.5, 1.0]
    ).reshape(3, 1, 1)
    with torch.inference_mode():
        assert torch.equal(network(images), network[1](scaled))  # type: ignore[index]


def test_a_module_given_by_import_path_has_no_normalisation_of_the_data() -> None:
    description = describe(described(ClassifierSettings(OWN, ARGUMENTS)), SHAPE, 10, ())
    assert dict(description.classifier) == {"name": OWN, "init_args": ARGUMENTS}
    assert not isinstance(build_base(description, trust=False), torch.nn.Sequential)


def test_one_of_ours_has_the_normalisation_of_the_data() -> None:
    description = describe(described(ClassifierSettings("resnet20")), SHAPE, 10, ())
    assert description.classifier["mean"] == [0.4914, 0.4822, 0.4465]
    description = describe(described(ClassifierSettings("resnet20"), "other"), SHAPE, 10, ())
    assert description.classifier["mean"] is None


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("isotropic", "low"),
        ("isotropic", "generator"),
        ("isotropic", "query_sigma"),
        ("static", "sigma"),
        ("static", "generator_args"),
        ("generated", "sigma"),
        ("generated", "query_sigma"),
        ("queried", "sigma"),
        ("queried", "grid"),
    ],
)
def test_a_noise_setting_of_another_kind_is_refused(kind: str, given: str) -> None:
    with pytest.raises(ConcertError, match=f"noise.{given} has no meaning for {kind} noise"):
        check_noise_settings(kind, {"kind", given})
    check_noise_settings(kind, {"kind", *NOISE_SETTINGS[kind]})


@pytest.mark.parametrize("kind", NOISE_SETTINGS)
def test_what_a_noise_setting_of_another_kind_says_changes_nothing(kind: str) -> None:
    """The table of settings is true: those that are left out of it have no effect."""
    others = {"sigma": 0.7, "low": 0.3, "high": 0.9, "omega": 0.8, "query_sigma": 0.6}
    others |= {"generator": "bounded", "generator_args": {"width": 3}}
    plain = describe_noise(NoiseSettings(kind), SHAPE)  # type: ignore[arg-type]
    for name, value in others.items():
        changed = describe_noise(NoiseSettings(kind, **{name: value}), SHAPE)  # type: ignore[arg-type]
        assert (changed != plain) == (name in NOISE_SETTINGS[kind]), name
