"""The recipes that come with the project: one YAML each, by name or by path."""

from __future__ import annotations

from pathlib import Path

from concert.errors import ConcertError, nearest


def recipes_folder() -> Path:
    """configs/ inside the installed package, or at the root of a source checkout."""
    installed = Path(__file__).parents[1] / "configs"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "configs"


def recipe_names() -> list[str]:
    """Names such as mnist/concert-0.25-cpu."""
    return [name for name in _names() if not name.startswith("compare/")]


def spec_names() -> list[str]:
    """Names of the comparisons that come with the project, such as compare/mnist."""
    return [name for name in _names() if name.startswith("compare/")]


def find_spec(name: str) -> Path:
    """The file of a comparison given by path, or by the name of a shipped one."""
    if Path(name).is_file():
        return Path(name)
    shipped = name.removeprefix("configs/").removesuffix(".yaml")
    if shipped in spec_names():
        return recipes_folder() / f"{shipped}.yaml"
    if _is_path(name):
        raise ConcertError(f"no such file: {name}")
    raise ConcertError(nearest("comparison", shipped, spec_names()))


def find_recipe(name: str) -> Path:
    """The file of a recipe given by path, or by the name of a shipped one."""
    if Path(name).is_file():
        return Path(name)
    shipped = name.removeprefix("configs/").removesuffix(".yaml")
    candidate = recipes_folder() / f"{shipped}.yaml"
    if candidate.is_file():
        return candidate
    if _is_path(name):
        raise ConcertError(f"no such recipe file: {name}")
    raise ConcertError(nearest("recipe", shipped, recipe_names()))


def _is_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) and not name.startswith("configs/")


def _names() -> list[str]:
    folder = recipes_folder()
    return sorted(
        path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")
    )
