"""Colorization: Lab colours, the compact colorizer, entropy maps."""

from concert.colorization.compact import CompactColorizer, load_colorizer
from concert.colorization.entropy import (
    EntropyMaps,
    cached_entropy_maps,
    color_entropy,
    entropy_map,
)
from concert.colorization.lab import decode_ab, encode_ab, lab_to_rgb, rgb_to_lab

__all__ = [
    "CompactColorizer",
    "EntropyMaps",
    "cached_entropy_maps",
    "color_entropy",
    "decode_ab",
    "encode_ab",
    "entropy_map",
    "lab_to_rgb",
    "load_colorizer",
    "rgb_to_lab",
]
