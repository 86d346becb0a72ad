"""What an image needs of the hot loop: steps that ask for votes, and how far they have come."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from torch import Tensor

from concert.sampling.counting import Count, Subject
from concert.sampling.votes import Request, Votes

T = TypeVar("T")
# What an image needs: yields requests, gets their votes, and returns the result.
Steps: TypeAlias = Generator[Request, Votes, T]


class Work(Generic[T]):
    """An image under way: the request that its steps wait for, and what is known of that.

    `seconds`: the time between two batches that came back is shared among the images whose draws
    were in the second, in proportion to their number, so that the seconds of all images add up to
    the time that passed.
    """

    def __init__(self, subject: Subject | None, steps: Steps[T] | None) -> None:
        self.steps, self.seconds = steps, 0.0
        self.count: Count | None = None
        self.next = self.flying = 0
        self.finished, self.result, self.error = False, None, None
        self._subject = subject

    result: T | None
    error: Exception | None

    @property
    def subject(self) -> Subject:
        assert self._subject is not None
        return self._subject

    @property
    def left(self) -> int:
        """Draws that are not in a batch yet."""
        return 0 if self.count is None else max(0, self.count.request.n - self.next)

    def fail(self, error: Exception) -> None:
        self.error, self.finished, self.count = error, True, None


@dataclass(frozen=True)
class Case(Generic[T]):
    """An image (C, H, W) and what it needs."""

    image: Tensor
    steps: Steps[T]


def answer(request: Request) -> Steps[Votes]:
    """The steps of one request."""
    votes: Votes = yield request
    return votes


def answers(requests: Iterable[Request]) -> Steps[list[Votes]]:
    """The steps of several requests, one after the other."""
    found = []
    for request in requests:
        found.append((yield request))
    return found
