"""Training objectives, one file a method: what a batch costs, and nothing of the loop around it."""

from concert.objectives.base import LossTerms, Objective
from concert.objectives.concert import ConcertObjective
from concert.objectives.consistency import ConsistencyObjective
from concert.objectives.denoise import DenoiseObjective
from concert.objectives.gaussian import GaussianObjective
from concert.objectives.macer import MacerObjective
from concert.objectives.smoothadv import SmoothAdvObjective

OBJECTIVES: dict[str, type[Objective]] = {
    "denoise": DenoiseObjective,
    "gaussian": GaussianObjective,
    "smoothadv": SmoothAdvObjective,
    "macer": MacerObjective,
    "consistency": ConsistencyObjective,
    "concert": ConcertObjective,
}

__all__ = [
    "OBJECTIVES",
    "ConcertObjective",
    "ConsistencyObjective",
    "DenoiseObjective",
    "GaussianObjective",
    "LossTerms",
    "MacerObjective",
    "Objective",
    "SmoothAdvObjective",
]
