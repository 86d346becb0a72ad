"""SHA-256 fingerprints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from concert.fingerprints import sha256_file, sha256_tensors


def test_a_file_has_the_published_digest_of_its_bytes(tmp_path: Path) -> None:
    # FIPS 180-2, the message "abc".
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_file(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_tensors_are_hashed_whatever_their_order_and_layout() -> None:
    weight = torch.arange(24.0).reshape(1, 2, 3, 4)
    plain = {"a": weight, "b": torch.tensor(3)}
    turned = {"b": torch.tensor(3), "a": weight.contiguous(memory_format=torch.channels_last)}
    assert sha256_tensors(plain) == sha256_tensors(turned)
    assert sha256_tensors(plain) == sha256_tensors({"a": weight.requires_grad_(), "b": plain["b"]})


@pytest.mark.parametrize(
    "other",
    [
        {"b": torch.zeros(2, 3)},
        {"a": torch.zeros(3, 2)},
        {"a": torch.zeros(2, 3, dtype=torch.int32)},
        {"a": torch.tensor([[0.0, 0, 0], [0, 0, 1e-30]])},
        {"a": torch.zeros(2, 3), "b": torch.zeros(0)},
        {"a": torch.zeros(2, 3, dtype=torch.bfloat16)},
    ],
)
def test_names_shapes_types_and_values_matter(other: dict[str, Tensor]) -> None:
    assert sha256_tensors(other) != sha256_tensors({"a": torch.zeros(2, 3)})
