"""Labelled images by name (digits, mnist, cifar10, imagenet) or from a folder of the user."""

from concert.data.cache import cache_folder
from concert.data.image_set import ImageSet, subset_indices
from concert.data.known import MEAN_STD
from concert.data.load import load_images
from concert.data.sources import split_names

__all__ = ["MEAN_STD", "ImageSet", "cache_folder", "load_images", "split_names", "subset_indices"]
