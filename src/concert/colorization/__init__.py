"""Colorization: Lab colours, colorizers, entropy maps."""

from concert.colorization.build import build_colorizer
from concert.colorization.compact import CompactColorizer, load_colorizer
from concert.colorization.eccv16 import Eccv16
from concert.colorization.entropy import (
    EntropyMaps,
    cached_entropy_maps,
    color_entropy,
    entropy_map,
)
from concert.colorization.lab import decode_ab, encode_ab, lab_to_rgb, rgb_to_lab
from concert.colorization.siggraph17 import Siggraph17

__all__ = [
    "CompactColorizer",
    "Eccv16",
    "EntropyMaps",
    "Siggraph17",
    "build_colorizer",
    "cached_entropy_maps",
    "color_entropy",
    "decode_ab",
    "encode_ab",
    "entropy_map",
    "lab_to_rgb",
    "load_colorizer",
    "rgb_to_lab",
]
