"""Generators: networks from an image to a map of noise standard deviations in a box [low, high].

`PaperGenerator` is the one of the paper (Appendix G). `CoarseGenerator` is a small one whose map is
smooth and changes little under noise on its input; `CodebookGenerator` chooses among a few learned
maps; `BoundedGenerator` has a known Lipschitz constant.
"""

from concert.generator.bounded import BoundedGenerator
from concert.generator.box import gate
from concert.generator.build import GENERATORS, build_generator, multiply_adds
from concert.generator.coarse import CoarseGenerator
from concert.generator.codebook import CodebookGenerator
from concert.generator.paper import PaperGenerator

__all__ = [
    "GENERATORS",
    "BoundedGenerator",
    "CoarseGenerator",
    "CodebookGenerator",
    "PaperGenerator",
    "build_generator",
    "gate",
    "multiply_adds",
]
