"""Images stored as numbers: Parquet files whose image column holds float32 (C, H, W).

Pictures have 8 bits a channel; attacked images do not, and their radii and norms depend on the
rest. The file's metadata says how they were made, and further columns hold a number per image.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from concert.data.decode import FloatRows
from concert.errors import ConcertError

# Beside the images of an attack: its settings, and what came out.
ATTACK_FILE: Final = "attack.json"
ATTACK_KEY: Final = b"concert.attack"
# Images beside the attacked ones, not needed for certification: clean, and where the attack began
# if not there.
CLEAN: Final = "clean"
START: Final = "start"


def attack_description(folder: Path) -> dict[str, Any]:
    """What the folder of an attack says of it; {} where there is nothing that can be read."""
    try:
        found = json.loads((folder / ATTACK_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_numeric(file: Path, columns: Sequence[str]) -> bool:
    """Whether the image column of a Parquet file holds lists of numbers."""
    import pyarrow
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(file)
    except (OSError, pyarrow.ArrowException):
        return False  # left to the reader of pictures, whose errors say more
    return any(
        pyarrow.types.is_list(schema.field(name).type)
        or pyarrow.types.is_fixed_size_list(schema.field(name).type)
        for name in columns
        if name in schema.names
    )


def numeric_rows(files: Sequence[Path], where: str, columns: Sequence[str]) -> FloatRows:
    """The images, labels and what is known of their attack, of the Parquet files of a split."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.concat_tables([pyarrow.parquet.read_table(file) for file in files])
    except (OSError, pyarrow.ArrowException) as error:
        raise ConcertError(f"cannot read {where}: {str(error).splitlines()[0]}") from error
    image = next(name for name in columns if name in table.column_names)
    if "label" not in table.column_names or not table.num_rows:
        raise ConcertError(f"{where} must hold images and a column 'label' of integers")
    images = numbers_of(table.column(image), where)
    try:
        labels = torch.tensor(table.column("label").to_pylist(), dtype=torch.int64)
    except (TypeError, ValueError):
        raise ConcertError(f"column 'label' of {where} must hold integers") from None
    metadata = table.schema.metadata or {}
    names = _class_names(metadata)
    if not names:
        names = tuple(str(label) for label in range(int(labels.max()) + 1))
    attack: dict[str, Any] | None = None
    if ATTACK_KEY in metadata:
        attack = json.loads(metadata[ATTACK_KEY])
        pictures = (image, CLEAN, START, "label")
        others = (name for name in table.column_names if name not in pictures)
        attack |= {name: table.column(name).to_pylist() for name in others}
    return FloatRows(images, labels, names, attack)


def numbers_of(column: Any, where: str) -> Tensor:
    """A column of nested lists (C, H, W) as float32 (N, C, H, W)."""
    import pyarrow
    import pyarrow.compute

    flat, sizes = column.combine_chunks(), []
    if isinstance(flat, pyarrow.ChunkedArray):
        flat = flat.chunk(0)
    for _ in range(3):
        if flat.null_count or not hasattr(flat, "flatten"):
            raise ConcertError(f"the images of {where} must be lists (C, H, W) without gaps")
        lengths = pyarrow.compute.unique(pyarrow.compute.list_value_length(flat)).to_pylist()
        if len(lengths) != 1 or lengths == [0]:
            raise ConcertError(f"the images of {where} must all have one size (C, H, W)")
        sizes += lengths
        flat = flat.flatten()
    try:
        values = torch.from_numpy(flat.to_numpy(zero_copy_only=False).copy())
    except (TypeError, pyarrow.ArrowException):
        raise ConcertError(f"the images of {where} must hold numbers") from None
    return values.to(torch.float32).reshape(-1, *sizes)


def _class_names(metadata: Any) -> tuple[str, ...]:
    try:
        info = json.loads(metadata[b"huggingface"])["info"]
        return tuple(str(name) for name in info["features"]["label"]["names"])
    except (KeyError, TypeError, ValueError):
        return ()
