"""Checkpoints of training: tensors in safetensors, everything else in JSON, no pickle.

A checkpoint is a folder that appears under its final name only when it is complete. Its JSON
carries the hash of its tensors, so a damaged one is recognised, named in the log, and the one
before it used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any, Final

from safetensors.torch import load, save
from torch import Tensor

from concert.files import write_atomically
from concert.memory import own_memory

log = logging.getLogger(__name__)
KEPT: Final = 2
TENSORS: Final = "tensors.safetensors"
STATE: Final = "state.json"


def save_checkpoint(
    folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any]
) -> None:
    """Write checkpoint `step`, then remove all but the last `KEPT`."""
    final = folder / f"step-{step:010d}"
    partial = folder / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    content = save({name: own_memory(tensor) for name, tensor in tensors.items()})
    digest = hashlib.sha256(content).hexdigest()
    write_atomically(partial / TENSORS, content)
    write_atomically(partial / STATE, json.dumps({"sha256": digest, **state}, indent=1))
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
    for old in _checkpoints(folder)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def load_latest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest intact checkpoint's tensors and state, or None; damaged ones are logged."""
    for path in reversed(_checkpoints(folder)):
        try:
            content = (path / TENSORS).read_bytes()
            state: dict[str, Any] = json.loads((path / STATE).read_text())
            if hashlib.sha256(content).hexdigest() != state.pop("sha256"):
                raise ValueError("the hash of its tensors does not match")
            return load(content), state
        except (OSError, ValueError, KeyError) as error:
            log.warning("checkpoint %s is damaged (%s); trying the one before it", path, error)
    return None


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.is_dir() else []
