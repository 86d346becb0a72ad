"""The images of certification logs, as a page lists them: thumbnails, votes, certificates."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from concert.certificates import Guarantee
from concert.data import ImageSet
from concert.evaluation.rendering import rounded_down
from concert.evaluation.words import (
    ABSTAINED,
    UNCERTIFIED,
    abstention_reason,
    certified_sentence,
)
from concert.records.reading import LoadedLog

THUMBNAIL: Final = 56


def image_rows(logs: Sequence[LoadedLog], names: Sequence[str]) -> dict[str, Any]:
    """All rows of all logs by column, and the sentences that a row fills in, as JSON values.

    Radii are texts rounded down; "" where a log lacks a number.
    """
    return {
        "classes": class_names(logs),
        "uncertified": UNCERTIFIED,
        "abstained": ABSTAINED,
        "logs": [_log_rows(log, name) for log, name in zip(logs, names, strict=True)],
    }


def _log_rows(log: LoadedLog, name: str) -> dict[str, Any]:
    frame, alpha = log.frame, log.run["identity"].get("alpha")
    kinds = list(dict.fromkeys(zip(frame["guarantee"], frame["certificate"], strict=True)))
    return {
        "name": name,
        "kinds": [
            {
                "guarantee": guarantee,
                "certificate": certificate,
                "sentence": certified_sentence(Guarantee(guarantee), certificate, alpha),
            }
            for guarantee, certificate in kinds
        ],
        "kind": [
            kinds.index(kind) for kind in zip(frame["guarantee"], frame["certificate"], strict=True)
        ],
        "idx": frame["idx"].astype(int).tolist(),
        "label": frame["label"].astype(int).tolist(),
        "predict": frame["predict"].astype(int).tolist(),
        "radius": [rounded_down(radius, 4) for radius in frame["radius"].astype(float)],
        "axis": _texts(frame["proxy_volume"].astype(float), 4),
        "p": _texts(frame["p_lower"].astype(float), 5),
        "n": [0 if np.isnan(n) else int(n) for n in frame["n_used"].astype(float)],
        "votes": frame["votes"].tolist(),
        "reason": [
            abstention_reason(reason, p_lower)
            for reason, p_lower in zip(frame["reason"], frame["p_lower"].astype(float), strict=True)
        ],
    }


def _texts(values: Any, digits: int) -> list[str]:
    return ["" if np.isnan(value) else rounded_down(value, digits) for value in values]


def class_names(logs: Sequence[LoadedLog]) -> list[str]:
    """The names that the runs give to the classes, [] if none does.

    A run's file may hold anything: what is not a list of texts or numbers names no classes.
    """
    named = (log.run["info"].get("classes") for log in logs)
    return next((list(map(str, names)) for names in named if names and _are_names(names)), [])


def _are_names(given: object) -> bool:
    return isinstance(given, list) and all(isinstance(name, str | int) for name in given)


def thumbnails(logs: Sequence[LoadedLog], images: ImageSet) -> dict[str, str]:
    """Index of each image in a log -> a data URI of at most 56 x 56 pixels."""
    indices = sorted({int(i) for log in logs for i in log.frame["idx"] if 0 <= i < len(images)})
    return {str(index): data_uri(thumbnail(images.images([index])[0])) for index in indices}


def thumbnail(image: Tensor) -> bytes:
    """A PNG of an image (C, H, W), made smaller where it is large, never larger."""
    values = (image.clamp(0, 1) * 255).round().to(torch.uint8).movedim(0, -1).numpy()
    picture = Image.fromarray(values[..., 0] if values.shape[-1] < 3 else values[..., :3])
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def data_uri(content: bytes, kind: str = "image/png") -> str:
    """A file's content as an address that needs no file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
