"""Noise models: how one noisy copy of an image is drawn, and what a certificate may rest on.

A model turns standard normals into noisy copies and says which sigma map each copy used. Noise is
in the units of the image's [0, 1] range, added in float32 and never clipped. The models differ in
where the sigma map comes from: a number, one map for all images, the image itself (the paper), or a
noisy query of the image (whose guarantee holds for the classifier as deployed). With a number, the
noise can also be drawn and added as integers, on the grid of 8-bit images; and colour, smooth
brightness and detail can have a number each.
"""

from concert.noise.banded import BandedNoise
from concert.noise.base import NoiseModel
from concert.noise.fixed import IsotropicNoise, StaticNoise
from concert.noise.generated import GeneratedNoise
from concert.noise.grid import GridNoise
from concert.noise.queried import QueriedNoise

__all__ = [
    "BandedNoise",
    "GeneratedNoise",
    "GridNoise",
    "IsotropicNoise",
    "NoiseModel",
    "QueriedNoise",
    "StaticNoise",
]
