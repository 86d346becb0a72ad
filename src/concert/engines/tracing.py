"""Tracing a network patches `torch.nn.Module` for all threads, so no other may use one then."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final


class Gate:
    """Lets many forward passes in at a time, or one tracing alone.

    A thread inside must not ask again: it would wait for itself.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._passing = 0
        self._tracing = False

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Around a forward pass; waits while a network is traced."""
        with self._changed:
            self._changed.wait_for(lambda: not self._tracing)
            self._passing += 1
        try:
            yield
        finally:
            with self._changed:
                self._passing -= 1
                self._changed.notify_all()

    @contextmanager
    def tracing(self) -> Iterator[None]:
        """Around the tracing of a network; waits for passes under way, and holds up new ones."""
        with self._changed:
            self._changed.wait_for(lambda: not self._tracing)
            self._tracing = True
            self._changed.wait_for(lambda: not self._passing)
        try:
            yield
        finally:
            with self._changed:
                self._tracing = False
                self._changed.notify_all()


# Of this process, as the patch is.
GATE: Final = Gate()
