"""Several images under way at once, so that batches are full and no worker waits.

What an image needs is a generator that yields requests and gets their votes
(`concert.sampling.work.Steps`). Batches are packed from blocks of draws of the images under way,
the oldest first; a new image is started when theirs would leave a batch unfilled, and images that
stop early make room at once. Their number is bounded, and so is everything that is kept, whatever
the number of images and draws.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from typing import Any, Final, Generic, TypeVar

from concert.sampling.batches import Batches
from concert.sampling.counting import Count, Part, Segment
from concert.sampling.crew import Crew
from concert.sampling.work import Case, Work
from concert.streams import DRAWS_PER_BLOCK

T = TypeVar("T")

# Bytes of sigma maps kept between the two passes over them, of all images together.
KEPT: Final = 32 * 2**20


def drive(
    batches: Batches, crew: Crew, cases: Iterable[Case[T]], mixed: bool
) -> Iterator[tuple[T, float]]:
    """The results of the cases and their seconds, in the order of the cases.

    `mixed`: whether a batch may hold draws of several images. Cases are taken from their iterator
    when there is room for them; an error of one is raised when those before it are done.
    """
    mixer = _Mixer(batches, crew, iter(cases), mixed)
    try:
        while mixer.go_on():
            while mixer.active and mixer.active[0].finished:
                work = mixer.active.popleft()
                if work.error is not None:
                    raise work.error
                yield work.result, work.seconds  # type: ignore[misc]
                mixer.resume_clock()
    finally:
        mixer.abandon()


class _Mixer(Generic[T]):
    """The images under way, in order, and the batches that the workers have."""

    def __init__(self, batches: Batches, crew: Crew, cases: Iterator[Case[T]], mixed: bool) -> None:
        self.batches, self.crew, self.mixed = batches, crew, mixed
        self.cases: Iterator[Case[T]] | None = cases
        self.active: deque[Work[T]] = deque()
        self.flying: dict[Future[list[Part]], list[tuple[Work[T], Segment]]] = {}
        # As many as fill two batches a worker with one block each.
        blocks = batches.batch_size // DRAWS_PER_BLOCK if mixed else 1
        self.limit = 2 * crew.count * blocks
        self.resume_clock()

    def resume_clock(self) -> None:
        self.clock = time.perf_counter()

    def go_on(self) -> bool:
        """Keep the workers busy until a batch comes back; False when all is done."""
        while len(self.flying) < 2 * self.crew.count:
            batch = self._next_batch()
            if batch is None:
                break
            self._submit(batch)
        if self.flying:
            done, _ = wait(self.flying, return_when=FIRST_COMPLETED)
            for future in done:
                batch = self.flying.pop(future)
                try:
                    parts = future.result()
                except Exception as error:
                    self._lose(batch, error)
                else:
                    self._absorb(batch, parts)
        return bool(self.flying or self.active or self.cases is not None)

    def abandon(self) -> None:
        """Leave nothing running."""
        for future in self.flying:
            future.cancel()
        wait(self.flying)
        for work in self.active:
            if work.steps is not None:
                work.steps.close()

    def _next_batch(self) -> list[tuple[Work[T], Segment]] | None:
        """Draws for the oldest image that has some to make, and others beside them; or None.

        A batch with votes that is not full is made only if a worker would have to wait. One of
        sigma maps alone is cheap, and is not waited with.
        """
        chosen: list[tuple[Work[T], int]] = []
        kind, room = (True, False), self.batches.batch_size
        for work in self._with_draws():
            assert work.count is not None
            request = work.count.request
            if chosen and (request.classify, request.deployed) != kind:
                continue
            kind = request.classify, request.deployed
            rows = min(room, -(-work.left // DRAWS_PER_BLOCK) * DRAWS_PER_BLOCK)
            chosen.append((work, rows))
            room -= rows
            if not room or not self.mixed:
                break
        if not chosen:
            return None
        if self.mixed and kind[0] and room and len(self.flying) >= self.crew.count:
            return None
        # The rest is filled with draws that nobody asked for.
        work, rows = chosen[-1]
        chosen[-1] = work, rows + room
        return [(work, self._take(work, rows)) for work, rows in chosen]

    def _take(self, work: Work[T], rows: int) -> Segment:
        assert work.count is not None
        keep = work.count.maps is not None
        segment = Segment(work.subject, work.count.request, work.next, rows, keep)
        work.next += rows
        work.flying += 1
        return segment

    def _with_draws(self) -> Iterator[Work[T]]:
        """The images under way that have draws to make, then new ones while there is room."""
        waiting = [work for work in self.active if work.left]
        yield from waiting
        if waiting and not waiting[0].count.request.classify:  # type: ignore[union-attr]
            return
        while self.cases is not None and len(self.active) < self.limit:
            work = self._start()
            if work is not None and work.left:
                yield work

    def _start(self) -> Work[T] | None:
        assert self.cases is not None
        work: Work[T]
        try:
            case = next(self.cases)
            work = Work(self.batches.subject(case.image), case.steps)
        except StopIteration:
            self.cases = None
            return None
        except Exception as error:
            work = Work(None, None)
            self._fail(work, error)
            self.active.append(work)
            return work
        self.active.append(work)
        self._advance(work)
        return work

    def _absorb(self, batch: list[tuple[Work[T], Segment]], parts: list[Part]) -> None:
        for (work, segment), part in zip(batch, parts, strict=True):
            work.flying -= 1
            if work.count is None:
                continue  # it has failed
            work.count.add(segment, part)
            if not work.flying and not work.left:
                self._advance(work)
        now = time.perf_counter()
        draws = sum(segment.valid for _, segment in batch)
        for work, segment in batch:
            work.seconds += (now - self.clock) * segment.valid / draws
        self.clock = now

    def _submit(self, batch: list[tuple[Work[T], Segment]]) -> None:
        segments = [segment for _, segment in batch]
        self.flying[self.crew.submit(self.batches.count, segments, self.crew)] = batch

    def _lose(self, batch: list[tuple[Work[T], Segment]], error: Exception) -> None:
        """A batch has raised: the image fails; of several, those that raise again when alone."""
        for work, segment in batch:
            work.flying -= 1
            if work.error is not None:
                continue
            if all(other is work for other, _ in batch):
                self._fail(work, error)
                continue
            # Filled up with draws that nobody asked for, from behind the last.
            last = -(-segment.request.n // DRAWS_PER_BLOCK) * DRAWS_PER_BLOCK
            rows = self.batches.batch_size - segment.rows
            work.flying += 2
            self._submit([(work, segment), (work, replace(segment, first=last, rows=rows))])

    def _fail(self, work: Work[T], error: Exception) -> None:
        """Those before a failed image are finished; those behind it are not begun."""
        work.fail(error)
        self.cases = None

    def _advance(self, work: Work[T]) -> None:
        """Give the steps their votes, until they ask for draws again or are done."""
        assert work.steps is not None
        try:
            while not work.left:
                # The first request is asked for with None.
                votes: Any = None if work.count is None else work.count.votes()
                work.count = None
                request = work.steps.send(votes)
                del votes
                if request.start % self.batches.batch_size:
                    # Another start would draw the beginning of its batch a second time.
                    raise ValueError(
                        f"a request must start at a multiple of {self.batches.batch_size} draws"
                    )
                room = KEPT - sum(w.count.bytes for w in self.active if w.count is not None)
                b = self.batches
                work.count = Count(request, b.num_classes, b.shape, b.device, room)
                work.next = request.start
        except StopIteration as stop:
            work.result, work.finished, work.count = stop.value, True, None
        except Exception as error:
            self._fail(work, error)
