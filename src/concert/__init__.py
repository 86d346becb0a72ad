"""Concert: certified robustness by context-aware randomized smoothing."""

from concert.certificates import Guarantee, Region
from concert.errors import ConcertError
from concert.noise import (
    BandedNoise,
    GeneratedNoise,
    GridNoise,
    IsotropicNoise,
    NoiseModel,
    QueriedNoise,
    StaticNoise,
)
from concert.records.record import Certification
from concert.runs import load
from concert.sampling.sampler import SamplingSettings
from concert.smoothing import SmoothedClassifier

__all__ = [
    "BandedNoise",
    "Certification",
    "ConcertError",
    "GeneratedNoise",
    "GridNoise",
    "Guarantee",
    "IsotropicNoise",
    "NoiseModel",
    "QueriedNoise",
    "Region",
    "SamplingSettings",
    "SmoothedClassifier",
    "StaticNoise",
    "load",
]
