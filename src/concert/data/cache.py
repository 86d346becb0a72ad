"""Decoded images in one memory-mapped safetensors file each, checked whenever they are read."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """$CONCERT_CACHE, or ~/.cache/concert."""
    return Path(os.environ.get("CONCERT_CACHE") or Path.home() / ".cache" / "concert").expanduser()


def files_key(root: Path, files: Iterable[Path]) -> str:
    """A hash of the folder, and of its files' names, sizes and times of change: cheap at any size.

    With the folder, because archives may give all files of two data sets the same time.
    """
    lines = [str(root.resolve())]
    for file in files:
        stat = file.stat()
        lines.append(f"{file.relative_to(root)}\0{stat.st_size}\0{stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def fingerprint(images: Tensor, labels: Tensor) -> str:
    """sha256 of the shape, the image bytes and the labels (int64), in hexadecimal."""
    digest = hashlib.sha256(f"{images.dtype} {tuple(images.shape)}\n".encode())
    digest.update(images.contiguous().numpy().data)
    digest.update(labels.contiguous().numpy().data)
    return digest.hexdigest()


def write_cache(
    file: Path,
    images: Tensor,
    labels: Tensor,
    class_names: tuple[str, ...],
    notes: str,
    digest: str,
) -> None:
    """Store a decoded data set and its fingerprint, under the final name only once complete."""
    names = json.dumps(class_names)
    metadata = {"class_names": names, "notes": notes, "fingerprint": digest}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".writing-") as folder:
            unfinished = Path(folder) / file.name
            save_file({"images": images, "labels": labels}, unfinished, metadata=metadata)
            os.replace(unfinished, file)
    except (OSError, SafetensorError) as error:
        # The data set is in memory all the same; it is only decoded again the next time.
        logger.warning(
            "cannot write the cache %s (%s): free some space there or set CONCERT_CACHE to "
            "another folder",
            file.parent,
            error,
        )


def read_cache(file: Path) -> tuple[Tensor, Tensor, tuple[str, ...], str, str] | None:
    """Images (memory-mapped), labels, class names, notes and fingerprint, or None.

    A file that is damaged in any way counts as absent.
    """
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as stored:
            images: Tensor = stored.get_tensor("images")
            # Public, so it may be written to: not the file's memory.
            labels: Tensor = stored.get_tensor("labels").clone()
            metadata: dict[str, str] = stored.metadata()
        if metadata["fingerprint"] != fingerprint(images, labels):
            raise ValueError("the contents do not have the hash that was stored with them")
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError("these are not decoded images")
        names = tuple(json.loads(metadata["class_names"]))
        return images, labels, names, metadata["notes"], metadata["fingerprint"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        logger.warning("rebuilding the damaged cache file %s: %s", file, error)
        return None
