"""Training objectives, one file a method: what a batch costs, and nothing of the loop around it."""

from concert.objectives.base import LossTerms, Objective
from concert.objectives.concert import ConcertObjective
from concert.objectives.denoise import DenoiseObjective
from concert.objectives.gaussian import GaussianObjective

OBJECTIVES: dict[str, type[Objective]] = {
    "denoise": DenoiseObjective,
    "gaussian": GaussianObjective,
    "concert": ConcertObjective,
}

__all__ = [
    "OBJECTIVES",
    "ConcertObjective",
    "DenoiseObjective",
    "GaussianObjective",
    "LossTerms",
    "Objective",
]
