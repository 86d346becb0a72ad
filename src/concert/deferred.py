"""Checks of tensors' values for which the host need not wait at once.

Looking at a value on a GPU stops the host until all work before it is done. Inside
`deferred_checks` a check is noted instead, and whoever opened the block looks at all of them
together, when it waits for results anyway.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from concert.errors import ConcertError


@dataclass(frozen=True)
class Check:
    """`failed` (bool) of a batch, or of each of its images (B,), and the error to raise there."""

    failed: Tensor
    error: Callable[[], ConcertError]

    def of(self, rows: slice, batch_size: int) -> Check:
        """What the check says of some images of a batch; of all, where it does not tell apart."""
        apart = self.failed.dim() > 0 and len(self.failed) == batch_size
        return Check((self.failed[rows] if apart else self.failed).any(), self.error)


_noting = threading.local()


@contextmanager
def deferred_checks() -> Iterator[list[Check]]:
    """The checks that this thread asks for within the block, for the caller to look at."""
    before = getattr(_noting, "checks", None)
    checks: list[Check] = []
    _noting.checks = checks
    try:
        yield checks
    finally:
        _noting.checks = before


def refuse(failed: Tensor, error: Callable[[], ConcertError]) -> None:
    """Raise `error()` if `failed` (bool, one or (B,)) is true anywhere, at once or deferred."""
    checks: list[Check] | None = getattr(_noting, "checks", None)
    if checks is not None:
        checks.append(Check(failed, error))
    elif bool(failed.any()):
        raise error()
