"""Noise models: how one noisy copy of an image is drawn, and what a certificate may rest on.

A model turns standard normals into noisy copies and says which sigma map each copy used. Noise is
in the units of the image's [0, 1] range, added in float32 and never clipped. The four models differ
in where the sigma map comes from: a number, one map for all images, the image itself (the paper),
or a noisy query of the image (whose guarantee holds for the classifier as deployed).
"""

from concert.noise.base import NoiseModel
from concert.noise.fixed import IsotropicNoise, StaticNoise
from concert.noise.shaped import GeneratedNoise, QueriedNoise

__all__ = ["GeneratedNoise", "IsotropicNoise", "NoiseModel", "QueriedNoise", "StaticNoise"]
