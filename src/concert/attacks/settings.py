"""What decides an attack: its method, arguments and images, and what of them does not exist."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import nn

from concert.attacks.base import check_victim
from concert.attacks.cadv import PRESETS as CADV_PRESETS
from concert.attacks.cadv import cadv
from concert.attacks.cadv import check as check_cadv
from concert.attacks.pgd import PRESETS as PGD_PRESETS
from concert.attacks.pgd import check as check_pgd
from concert.attacks.pgd import pgd
from concert.attacks.shadow import PRESETS as SHADOW_PRESETS
from concert.attacks.shadow import check as check_shadow
from concert.attacks.shadow import shadow
from concert.attacks.spoofing import SPOOF_DRAWS
from concert.errors import ConcertError, nearest

METHODS: Final[dict[str, Any]] = {"cadv": cadv, "pgd": pgd, "shadow": shadow}
PRESETS: Final = {"cadv": CADV_PRESETS, "pgd": PGD_PRESETS, "shadow": SHADOW_PRESETS}
CHECKS: Final[dict[str, Any]] = {"cadv": check_cadv, "pgd": check_pgd, "shadow": check_shadow}


@dataclass(frozen=True)
class AttackSettings:
    """What decides the attacked images.

    method: cadv, pgd or shadow. arguments: of its function, beside those of every attack. targets:
    "none" (untargeted), "random" (a class drawn for each image), a class, or for shadow "spoof"
    (the class of the largest spoofed radius). split, subset: which images. seed: of everything
    drawn. images_per_batch: 0 chooses; it changes speed only.
    """

    method: str
    arguments: Mapping[str, Any]
    targets: str = "none"
    split: str = "test"
    subset: str = "all"
    seed: int = 0
    images_per_batch: int = 0

    def described(self) -> dict[str, Any]:
        """As an attack's folder has it, whatever the model and the images."""
        used = {name: named(value) for name, value in self.arguments.items()}
        if used["against"] == "base":
            used["draws"] = 1  # without noise there is nothing to draw
        if self.targets == "spoof":
            used["spoof_draws"] = SPOOF_DRAWS
        return {
            "method": self.method,
            "targets": self.targets,
            "against": self.arguments["against"],
            "arguments": used,
            "seed": self.seed,
            "subset": self.subset,
        }

    def reference(self) -> dict[str, Any]:
        """The reference preset's values of the arguments that this attack has others of."""
        used = self.described()["arguments"]
        chosen = {"against", "colorizer"} | ({"draws"} if used["against"] == "base" else set())
        return {
            name: value
            for name, value in method_arguments(self.method, "reference", {}).items()
            if name not in chosen and value != used[name]
        }

    def check(self, shape: Sequence[int], num_classes: int) -> None:
        """Refuse what cannot be, for images of a shape (C, H, W) of so many classes.

        Whatever needs the images themselves is left to the attack.
        """
        check_targets(self, num_classes)
        if self.images_per_batch < 0:
            raise ConcertError(f"images_per_batch must be 0 or more, got {self.images_per_batch}")
        if not 0 <= self.seed < 2**63:
            raise ConcertError(f"seed must lie in [0, 2^63), got {self.seed}")
        arguments = self.arguments
        check_victim(
            arguments["against"],
            arguments["draws"],
            arguments.get("sigma"),
            arguments["precision"],
        )
        CHECKS[self.method](shape, **arguments)


def method_arguments(method: str, preset: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of an attack: its defaults, then those of a preset, then those given.

    Raises ConcertError for an unknown method or preset, and for an argument it does not have.
    """
    if method not in METHODS:
        raise ConcertError(nearest("attack", method, METHODS))
    if preset not in PRESETS[method]:
        raise ConcertError(nearest("preset", preset, PRESETS[method]))
    parameters = inspect.signature(METHODS[method]).parameters
    known = {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        and name not in ("seed", "indices", "on_step")
    }
    for name, value in given.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConcertError(f"{name} must be a finite number, got {value}")
        if name not in known:
            raise ConcertError(
                f"attack '{method}' has no setting '{name}': remove it "
                f"(it has {', '.join(sorted(known))})"
            )
    return known | PRESETS[method][preset] | dict(given)


def check_targets(settings: AttackSettings, num_classes: int) -> None:
    """Refuse targets that the attack does not have."""
    targets = settings.targets
    if targets in ("none", "random") or (targets == "spoof" and settings.method == "shadow"):
        return
    if not (targets.isdecimal() and int(targets) < num_classes):
        raise ConcertError(
            f"unknown targets '{targets}': use none, random, a class from 0 to {num_classes - 1}"
            ", or with shadow spoof"
        )


def named(value: Any) -> Any:
    """An argument as JSON: a module by its class and the fingerprint of its weights."""
    if isinstance(value, nn.Module):
        return [type(value).__name__, str(getattr(value, "fingerprint", ""))]
    return value
