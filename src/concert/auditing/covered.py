"""Is an attack inside the certified region? The images that a clean certificate already covers.

    python -m concert.auditing.covered RUN LOG ATTACK [--out FILE]

LOG certifies clean images of RUN, ATTACK is a folder that `concert attack` wrote of the same
images, against this or another model. Where the certificate of a clean image has the right class
and its region holds the attacked image, the smoothed classifier is proven to answer that image
right too, at the certificate's error and guarantee. What it answers for others is not known from
this. A certificate for images on a grid says nothing of an attacked image that is not on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from torch import Tensor

from concert.auditing.claims import claimed_region
from concert.auditing.run import check_same_model, log_identity
from concert.certificates import Guarantee
from concert.errors import ConcertError
from concert.evaluation.attack_folder import read_attack, read_images, told_of
from concert.evaluation.metrics import share_interval
from concert.import_paths import import_from_here
from concert.noise import NoiseModel
from concert.records.reading import LoadedLog, read_log
from concert.runs import load
from concert.smoothing import SmoothedClassifier
from concert.tool import as_json, run_tool

# Of the certification, what a finding about it names.
CERTIFICATION: Final = ("weights", "noise", "certificate", "subset", "n0", "n", "alpha", "seed")


@dataclass(frozen=True)
class Covered:
    """How many attacked images the certificates of their clean images cover.

    images: that the log and the attack have in common. certified: of them, right with a radius
    above 0. by_ball: attacked images inside the ball. covered: inside the ball or the ellipsoid;
    share, low, high: of all images in common, with its exact 95 % interval. largest_l2: norm of the
    largest perturbation covered, None for none. guarantee: of the certificates.
    """

    images: int
    certified: int
    by_ball: int
    covered: int
    share: float
    low: float
    high: float
    largest_l2: float | None
    guarantee: str


def covered_images(
    smoothed: SmoothedClassifier,
    log: LoadedLog,
    clean: Tensor,
    attacked: Tensor,
    numbers: list[int],
) -> Covered:
    """Count the pairs (B, C, H, W) whose attacked image is in the clean one's certified region.

    `numbers`: of the images in their data set. The ellipsoids' maps are computed again from the
    selection draws. Raises ConcertError for a log of another model, and without common images.
    """
    identity = log_identity(log)
    check_same_model(smoothed, log)
    rows = {int(row["idx"]): row for row in log.frame.to_dict("records")}
    common = [place for place, number in enumerate(numbers) if number in rows]
    if not common:
        raise ConcertError("the log and the attack have no image in common: certify the same ones")
    certified = by_ball = 0
    inside: list[float] = []
    for place in common:
        row = {str(name): cell for name, cell in rows[numbers[place]].items()}
        if row["correct"] != 1 or row["radius"] <= 0:
            continue
        certified += 1
        if not takes(smoothed.noise, attacked[place]):
            continue
        delta = attacked[place].double() - clean[place].double()
        by_ball += float(delta.norm()) < row["radius"]
        if bool(claimed_region(smoothed, clean[place], row, identity).contains(delta)):
            inside.append(float(delta.norm()))
    guarantee = Guarantee(str(log.frame["guarantee"].iloc[0]))
    share = share_interval(np.array([1.0] * len(inside) + [0.0] * (len(common) - len(inside))))
    return Covered(
        images=len(common),
        certified=certified,
        by_ball=by_ball,
        covered=len(inside),
        share=float(share.value),
        low=float(share.low),
        high=float(share.high),
        largest_l2=max(inside, default=None),
        guarantee=log.guarantee_sentence(guarantee),
    )


def takes(noise: NoiseModel, image: Tensor) -> bool:
    """Whether certificates of this noise speak of an image (C, H, W): one off its grid is none."""
    try:
        noise.accept(image[None])
    except ConcertError:
        return False
    return True


def check_same_images(log: LoadedLog, attack: Mapping[str, Any], folder: Path) -> None:
    """Refuse an attack on other images than the log's."""
    ours, theirs = (of["data"].get("fingerprint") for of in (log_identity(log), attack))
    if ours != theirs:
        raise ConcertError(
            f"{folder} is an attack on other images than those of {log.path}: certify these, or "
            "attack those"
        )


def main(run: Path, log: Path, attack: Path, out: Path | None = None, trust: bool = False) -> str:
    """What the certificates of a log cover of an attack, as JSON; with `out` also as a file."""
    if trust:
        import_from_here()
    described, read = read_attack(attack), read_log(log)
    check_same_images(read, described, attack)
    images = read_images(attack)
    found = covered_images(load(run, trust), read, images.clean, images.attacked, images.numbers)
    identity = log_identity(read)
    certification = {name: identity.get(name) for name in CERTIFICATION}
    told = {"attack": told_of(described), "certification": certification}
    return as_json(told | asdict(found), out)


if __name__ == "__main__":
    run_tool(main)
