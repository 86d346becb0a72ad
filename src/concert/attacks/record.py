"""The folder that an attack writes: a data set of attacked images that `certify` takes.

    attack.json  test.parquet  (parts/ while it is not finished)

Every row has the attacked and the clean image, float32 (C, H, W), of cAdv also the image before its
first step, the label, and what is known of the attack on it. Batches are written one by one,
so that an interrupted attack goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pyarrow
import pyarrow.parquet
from torch import Tensor

from concert.attacks.base import AttackResult
from concert.data.floats import ATTACK_FILE, ATTACK_KEY, CLEAN, START, attack_description
from concert.errors import ConcertError
from concert.files import take, write_atomically

# Beside images and label: the image's number in its data set, and the numbers of the attack.
NUMBERS: Final = {
    "index": pyarrow.int64(),
    "clean_predict": pyarrow.int64(),
    "clean_vote": pyarrow.int64(),
    "target": pyarrow.int64(),
    "success": pyarrow.bool_(),
    "success_8bit": pyarrow.bool_(),
    "l2": pyarrow.float64(),
    "linf": pyarrow.float64(),
    "steps": pyarrow.int64(),
    "seconds": pyarrow.float64(),
}


class AttackRecord:
    """An attack's folder, new or resumed, of one process at a time; a context manager.

    `rows` maps an image's index to its numbers. A new folder is not kept before there is something
    to write.
    """

    def __init__(self, folder: Path, file: str, description: Mapping[str, Any]) -> None:
        self.folder, self.file = folder, folder / file
        # As it will be read again.
        self.description: dict[str, Any] = json.loads(json.dumps(description, allow_nan=False))
        self.rows: dict[int, dict[str, Any]] = {}
        self._own = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._own.close()
        with contextlib.suppress(OSError):  # it is not empty
            self.folder.rmdir()

    def _take_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConcertError(f"cannot write {self.folder}: {error.strerror}") from error
        if sys.platform == "win32":
            return
        handle = os.open(self.folder, os.O_RDONLY)
        self._own.callback(os.close, handle)
        take(handle, self.folder, "--out")

    @classmethod
    def open(
        cls, folder: Path, file: str, identity: Mapping[str, Any], info: Mapping[str, Any]
    ) -> AttackRecord:
        """Begin an attack, or go on with one of the same identity; ConcertError for another one."""
        record = cls(folder, file, {"identity": identity, "info": info, "result": None})
        with contextlib.ExitStack() as failing:
            failing.push(record)
            record._take_folder()
            record._read()
            failing.pop_all()
        return record

    def _read(self) -> None:
        """What an earlier process has done."""
        if not (self.folder / ATTACK_FILE).exists():
            # A process that is killed while it writes leaves a temporary file, named with a dot.
            if any(not path.name.startswith(".") for path in self.folder.iterdir()):
                raise ConcertError(
                    f"{self.folder} is not empty and holds no attack: give another --out"
                )
            return
        before = attack_description(self.folder)
        if before.get("identity") != self.description["identity"]:
            raise ConcertError(
                f"{self.folder} holds an attack on another model, with other settings or of "
                "another version of concert: give another --out, or delete it"
            )
        for path in [self.file] if self.file.exists() else self._parts():
            try:
                table = pyarrow.parquet.read_table(path, columns=list(NUMBERS))
            except (OSError, pyarrow.ArrowException):
                raise ConcertError(f"{path} is damaged: delete it and attack again") from None
            self.rows |= {int(row["index"]): row for row in table.to_pylist()}
        if self.file.exists():
            self.description["result"] = before.get("result")
            shutil.rmtree(self.folder / "parts", ignore_errors=True)

    @property
    def finished(self) -> bool:
        """Whether the data set is complete."""
        return self.file.exists()

    def append(
        self,
        clean: Tensor,
        result: AttackResult,
        labels: Sequence[int],
        indices: Sequence[int],
        before: tuple[Sequence[int], Sequence[int]],
        seconds: float,
    ) -> None:
        """Write a batch of attacked images.

        `before`: the classes that the attacked and the smoothed classifier gave the clean images.
        `seconds` is what each of them took.
        """
        if not (self.folder / ATTACK_FILE).exists():
            self._describe()
        numbers: dict[str, list[Any]] = {
            "index": list(indices),
            "clean_predict": list(before[0]),
            "clean_vote": list(before[1]),
            "target": result.targets.tolist(),
            "success": result.success.tolist(),
            "success_8bit": result.success_8bit.tolist(),
            "l2": result.l2.tolist(),
            "linf": result.linf.tolist(),
            "steps": result.steps.tolist(),
            "seconds": [seconds] * len(labels),
        }
        columns = {
            "image": nested(result.images),
            CLEAN: nested(clean.cpu()),
            **({} if result.start is None else {START: nested(result.start)}),
            "label": pyarrow.array(list(labels), pyarrow.int64()),
        }
        columns |= {name: pyarrow.array(numbers[name], kind) for name, kind in NUMBERS.items()}
        self._write(self.folder / "parts" / f"{indices[0]:09d}.parquet", pyarrow.table(columns))
        for row in range(len(labels)):
            values = {name: numbers[name][row] for name in NUMBERS}
            self.rows[int(values["index"])] = values

    def finish(
        self, class_names: Sequence[str], attack: Mapping[str, Any], result: Mapping[str, Any]
    ) -> None:
        """Join the parts into the data set, in the order of the indices, and describe it."""
        table = pyarrow.concat_tables([pyarrow.parquet.read_table(part) for part in self._parts()])
        label = {"names": list(class_names), "_type": "ClassLabel"}
        metadata = {
            b"huggingface": json.dumps({"info": {"features": {"label": label}}}).encode(),
            ATTACK_KEY: json.dumps(dict(attack), allow_nan=False).encode(),
        }
        table = table.sort_by("index").replace_schema_metadata(metadata)
        self.description["result"] = dict(result)
        self._describe()
        self._write(self.file, table)
        shutil.rmtree(self.folder / "parts")

    def _parts(self) -> list[Path]:
        return sorted((self.folder / "parts").glob("*.parquet"))

    def _describe(self) -> None:
        text = json.dumps(self.description, indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(self.folder / ATTACK_FILE, text + "\n")

    def _write(self, path: Path, table: Any) -> None:
        content = io.BytesIO()
        pyarrow.parquet.write_table(table, content, compression="zstd")
        write_atomically(path, content.getvalue())


def nested(images: Tensor) -> Any:
    """Images (B, C, H, W) as an Arrow array of float32 lists (C, H, W)."""
    values = np.ascontiguousarray(images.detach().float().numpy()).reshape(-1)
    array = pyarrow.array(values, pyarrow.float32())
    for size in reversed(images.shape[1:]):
        array = pyarrow.FixedSizeListArray.from_arrays(array, int(size))
    return array
