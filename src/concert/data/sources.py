"""Where images come from: a folder of Parquet files or of images, or the Hugging Face hub."""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from concert.data.cache import cache_folder, files_key
from concert.data.decode import FloatRows, Rows
from concert.data.floats import is_numeric, numeric_rows
from concert.data.known import KNOWN
from concert.errors import ConcertError

SPLIT_NAMES = {"train": ("train", "training"), "test": ("test", "validation", "val")}
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label", "labels", "class")


@dataclass(frozen=True)
class Source:
    """Where a data set would be read from; nothing of it is read before `rows` is called.

    `key` changes whenever what is read changes; `description` names the source without naming
    folders of this computer.
    """

    key: str
    description: str
    rows: Callable[[], Rows | FloatRows]


def split_names(name: str, split: str) -> tuple[str, ...]:
    """File and folder names of a split, the preferred one first."""
    # The test images of ImageNet have no labels: its validation images take their place.
    return ("validation", "val") if (name, split) == ("imagenet", "test") else SPLIT_NAMES[split]


def folder_source(name: str, split: str, path: Path) -> Source:
    """The source in a folder of the user: Parquet files, or one folder of images per class."""
    if not path.is_dir():
        raise ConcertError(f"'{path}' is not a folder: pass the folder that holds the data set")
    for place in (path, path / "data"):
        for prefix in split_names(name, split):
            if files := sorted(place.glob(f"{prefix}*.parquet")):
                return parquet_source(place, files)
    for folder in split_names(name, split):
        if (path / folder).is_dir():
            return image_folder_source(path, path / folder)
    names = " or ".join(split_names(name, split))
    raise ConcertError(
        f"'{path}' holds no {split} images: expected {names}, either as NAME*.parquet files or as "
        "NAME/CLASS/ folders of images"
    )


def image_folder_source(root: Path, folder: Path) -> Source:
    """One folder per class below `folder`; classes are numbered in the order of their names.

    The classes are those of the training folder if there is one, so that a class without test
    images does not renumber the others.
    """
    training = [root / train for train in SPLIT_NAMES["train"] if (root / train).is_dir()]
    class_names = class_folders(training[0] if training else folder)
    unknown = sorted(set(class_folders(folder)) - set(class_names))
    if unknown:
        raise ConcertError(
            f"class folder '{unknown[0]}' of '{folder}' is missing in '{training[0]}': add it there"
        )
    files = [
        (file, label)
        for label, class_name in enumerate(class_names)
        for file in sorted((folder / class_name).rglob("*"))
        if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
    ]
    if not files:
        raise ConcertError(f"no images in the class folders of '{folder}': add PNG or JPEG files")
    rows = Rows(
        encoded=lambda index: files[index][0].read_bytes(),
        where=lambda index: f"'{files[index][0]}'",
        labels=torch.tensor([label for _, label in files]),
        class_names=class_names,
    )
    key = files_key(root, [file for file, _ in files])
    key = hashlib.sha256("\n".join((key, *class_names)).encode()).hexdigest()
    return Source(key, f"image folder {folder.name}", lambda: rows)


def class_folders(folder: Path) -> tuple[str, ...]:
    """The names of the class folders in `folder`, sorted."""
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise ConcertError(f"no class folders in '{folder}': put the images in CLASS/ folders")
    return tuple(names)


def parquet_source(folder: Path, files: Sequence[Path]) -> Source:
    """One split in Parquet files as the `datasets` library writes them.

    That library and Arrow are imported when they are needed, because it takes a second.
    """
    # All splits together number the classes when the file does not name them, so all are hashed.
    everything = sorted(folder.glob("*.parquet"))
    key = "\n".join((files_key(folder, everything), *(file.name for file in files)))
    key = hashlib.sha256(key.encode()).hexdigest()
    description = files[0].name if len(files) == 1 else f"{files[0].name} .. {files[-1].name}"

    def rows() -> Rows | FloatRows:
        import datasets
        import pyarrow.parquet

        if is_numeric(files[0], IMAGE_COLUMNS):
            return numeric_rows(files, description, IMAGE_COLUMNS)
        shown = not datasets.are_progress_bars_disabled()
        datasets.disable_progress_bars()
        try:
            schema = pyarrow.parquet.read_schema(files[0])
            # Without the metadata, because `datasets` refuses ImageNet's class names: two of them
            # occur twice.
            features = datasets.Features.from_arrow_schema(schema.remove_metadata())
            names = [glob.escape(str(file)) for file in files]
            arrow = str(cache_folder() / "arrow" / key[:24])
            count = sum(pyarrow.parquet.read_metadata(file).num_rows for file in files)
            if count:
                table = datasets.Dataset.from_parquet(names, features=features, cache_dir=arrow)
        # The library raises whatever its readers meet: OSError, ValueError, Arrow's own errors.
        except Exception as error:
            raise ConcertError(
                f"cannot read '{files[0]}' ({one_line(error)}): check that it is a Parquet file "
                "and that the cache folder can be written"
            ) from error
        finally:
            if shown:
                datasets.enable_progress_bars()
        if not count:
            raise ConcertError(f"{description} is empty: pass a file with images")
        label = label_column(table.column_names, description)
        class_names = class_names_of(schema, label)
        return table_rows(table, description, label, class_names, everything)

    return Source(key, description, rows)


def hub_source(name: str, split: str) -> Source:
    """A split of a known data set on the Hugging Face hub, downloaded by `datasets`."""
    hub, hub_split = KNOWN[name].hub, KNOWN[name].hub_splits[split]

    def rows() -> Rows:
        import datasets

        try:
            table = datasets.load_dataset(hub, split=hub_split)
        # Offline, gated, renamed, disk full: dozens of exception types, one remedy.
        except Exception as error:
            raise ConcertError(
                f"cannot get {name} from the Hugging Face hub ({one_line(error)}): pass a folder "
                "that holds it (--data.path FOLDER) or use the built-in data set 'digits'"
            ) from error
        label = label_column(table.column_names, hub)
        names = getattr(table.features[label], "names", None)
        return table_rows(table, hub, label, names, [])

    key = hashlib.sha256(f"{hub}\n{hub_split}".encode()).hexdigest()
    return Source(key, f"huggingface.co/datasets/{hub} {hub_split}", rows)


def label_column(columns: Sequence[str], where: str) -> str:
    """The column that holds the labels."""
    for column in LABEL_COLUMNS:
        if column in columns:
            return column
    raise ConcertError(f"{where} has columns {', '.join(columns)}: name the labels' one 'label'")


def class_names_of(schema: Any, label: str) -> list[str] | None:
    """The class names that `datasets` stores beside the schema of a Parquet file, if any."""
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])["info"]
        names = info["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def table_rows(
    table: Any, where: str, label: str, names: Sequence[str] | None, files: Sequence[Path]
) -> Rows:
    """The rows of a `datasets.Dataset`: its image column undecoded, and its labels."""
    image = next((column for column in IMAGE_COLUMNS if column in table.column_names), None)
    if image is None:
        columns = ", ".join(table.column_names)
        raise ConcertError(f"{where} has columns {columns}: name the images' one 'image'")
    labels, class_names = number_classes(table.data.column(label), where, label, names, files)
    cells = table.data.column(image)

    def encoded(index: int) -> bytes:
        cell = cells[index].as_py()
        if isinstance(cell, dict):
            data = cell.get("bytes")
            cell = Path(cell["path"]).read_bytes() if data is None and cell.get("path") else data
        if not isinstance(cell, bytes):
            raise ConcertError(f"image {index} of {where} is missing: store encoded images (PNG)")
        return cell

    return Rows(encoded, lambda index: f"image {index} of {where}", labels, class_names)


def number_classes(
    column: Any, where: str, label: str, names: Sequence[str] | None, files: Sequence[Path]
) -> tuple[Tensor, tuple[str, ...]]:
    """Labels (N,) int64 and class names: those given, else those found in the splits' `files`."""
    values = np.asarray(column.to_pandas())
    if names is None:
        import pyarrow.parquet

        tables = [pyarrow.parquet.read_table(f, columns=[label]).column(label) for f in files]
        found = {value for table in [column, *tables] for value in table.unique().to_pylist()}
        if all(isinstance(value, str) for value in found):
            numbers = {value: i for i, value in enumerate(sorted(found))}
            return torch.tensor([numbers[value] for value in values]), tuple(numbers)
        if all(isinstance(value, int) for value in found):
            names = [str(i) for i in range(max(found, default=0) + 1)]
    if names is None or (len(values) and values.dtype.kind not in "iu"):
        raise ConcertError(
            f"column '{label}' of {where} must hold an integer or a class name for every image"
        )
    return torch.from_numpy(values.astype(np.int64)), tuple(names)


def one_line(error: Exception) -> str:
    """The first line of a foreign exception's message."""
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
