"""The folder that an audit writes: a row per image, broken images, and what it all means.

    audit.tsv  audit.json  broken.safetensors  IDX-clean.png  IDX-perturbed.png

Rows are appended one by one, so that an interrupted audit goes on where it stopped.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from concert.auditing.audit import Finding
from concert.errors import ConcertError
from concert.files import write_atomically

COLUMNS: Final = (
    "idx",
    "label",
    "predict",
    "certificate",
    "guarantee",
    "radius",
    "part",
    "box",
    "l2_norm",
    "region_norm",
    "margin",
    "rival",
    "predict_votes",
    "rival_votes",
    "n",
    "p_value",
    "broken",
    "time",
)
HEADER: Final = "\t".join(COLUMNS) + "\n"
BROKEN: Final = "broken.safetensors"


class AuditRecord:
    """An audit's folder, new or resumed. `rows` maps an image's number to its row's cells.

    A new one is not written before there is something to write.
    """

    def __init__(self, folder: Path, description: dict[str, Any]) -> None:
        self.folder, self.description = folder, description
        self.rows: dict[int, dict[str, str]] = {}

    @classmethod
    def open(
        cls, folder: Path, identity: Mapping[str, Any], info: Mapping[str, Any]
    ) -> AuditRecord:
        """Begin an audit, or go on with one of the same identity; ConcertError for another one."""
        description = {"identity": dict(identity), "info": dict(info), "result": None}
        record = cls(folder, json.loads(json.dumps(description, allow_nan=False)))
        table = folder / "audit.tsv"
        if not table.exists():
            return record
        try:
            before = json.loads((folder / "audit.json").read_text())["identity"]
        except (OSError, ValueError, KeyError, TypeError):
            before = None
        if before != record.description["identity"]:
            raise ConcertError(
                f"{folder} holds an audit of another log or with other settings: give another "
                "--out, or delete it"
            )
        header, *lines = table.read_text().splitlines(keepends=True) or [""]
        # A killed run may leave a torn last line.
        whole = [line for line in lines if line.endswith("\n")]
        cells = [line.rstrip("\n").split("\t") for line in whole]
        if header != HEADER or any(
            len(row) != len(COLUMNS) or not row[0].isdecimal() for row in cells
        ):
            raise ConcertError(f"{table} is damaged: delete {folder} and audit again")
        if len(whole) < len(lines):
            write_atomically(table, "".join([HEADER, *whole]))
        record.rows = {int(row[0]): dict(zip(COLUMNS, row, strict=True)) for row in cells}
        return record

    def append(self, finding: Finding, clean: Tensor, true_label: int, seconds: float) -> None:
        """Write an image's row; if it is broken, first the clean and the perturbed image."""
        table = self.folder / "audit.tsv"
        if not table.exists():
            self._describe()
            write_atomically(table, HEADER)
        if finding.broken:
            self._write_images(finding, clean)
        row = format_row(finding, true_label, seconds)
        with table.open("a") as file:
            file.write("\t".join(row[name] for name in COLUMNS) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.rows[finding.index] = row

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write what the audit says into audit.json."""
        self.description["result"] = dict(result)
        self._describe()

    def _describe(self) -> None:
        text = json.dumps(self.description, indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(self.folder / "audit.json", text + "\n")

    def _write_images(self, finding: Finding, clean: Tensor) -> None:
        path = self.folder / BROKEN
        tensors = load_tensors(path.read_bytes()) if path.exists() else {}
        for name, image in (("clean", clean.cpu()), ("perturbed", finding.image)):
            tensors[f"{finding.index}.{name}"] = image.float().contiguous()
            picture = _png(image)
            if picture is not None:
                write_atomically(self.folder / f"{finding.index}-{name}.png", picture)
        write_atomically(path, save_tensors(tensors))


def format_row(finding: Finding, true_label: int, seconds: float) -> dict[str, str]:
    """The cells of a row; numbers are written with the digits that give back the same double."""
    f = finding
    cells: dict[str, Any] = {
        "idx": f.index,
        "label": true_label,
        "predict": f.label,
        "certificate": f.certificate,
        "guarantee": f.guarantee.value,
        "radius": f.radius,
        "part": f.part,
        "box": "[0, 1]" if f.boxed else "free",
        "l2_norm": f.l2_norm,
        "region_norm": f.region_norm,
        "margin": f.margin,
        "rival": f.rival,
        "predict_votes": f.label_votes,
        "rival_votes": f.rival_votes,
        "n": f.n,
        "p_value": f.p_value,
        "broken": int(f.broken),
        "time": seconds,
    }
    return {name: str(cell) for name, cell in cells.items()}


def _png(image: Tensor) -> bytes | None:
    """An image (C, H, W) with 8 bits a channel, clipped to [0, 1]; None unless it has 1 or 3."""
    if image.shape[0] not in (1, 3):
        return None
    pixels = (image.detach().cpu().clamp(0.0, 1.0) * 255.0).round().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(np.squeeze(pixels.astype(np.uint8), axis=2 if len(image) == 1 else ())).save(
        file, "PNG"
    )
    return file.getvalue()
