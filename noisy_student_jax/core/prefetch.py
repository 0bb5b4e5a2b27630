"""Work begun before it is asked for, so that host and devices do not wait in turn.

All of it is in order and gives what doing one thing after the other would give; only
when it is done differs. How much is held at once is bounded by how far it goes ahead.
"""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from noisy_student_jax.core.types import Batch

One = TypeVar("One")


class Prefetched:
    """A function of the step whose next results are made before they are asked for.

    Making a batch sends its images and starts the program that noises them; that goes
    on while the devices are at work on the steps before.
    """

    def __init__(self, batches: Callable[[int], Batch], *, stop: int, ahead: int):
        """Makes nothing yet.

        Args:
          batches: the batch of each step.
          stop: the number of steps: no batch is made beyond.
          ahead: how many batches `fill` makes.
        """
        self._batches, self._stop, self._ahead = batches, stop, ahead
        self._made: dict[int, Batch | Exception] = {}

    def __call__(self, step: int) -> Batch:
        """Returns the batch of a step; what kept it from being made is raised here."""
        batch = self._made.pop(step) if step in self._made else self._batches(step)
        if isinstance(batch, Exception):
            raise batch
        return batch

    def fill(self, step: int) -> None:
        """Makes the batches of a step and of those after it, as many as are wanted."""
        for number in range(step, min(step + self._ahead, self._stop)):
            if isinstance(self._made.get(number), Exception):
                return
            if number in self._made:
                continue
            try:
                self._made[number] = self._batches(number)
            except Exception as error:
                # Not before its turn: the steps before it are fine.
                self._made[number] = error
                return


def read_ahead(
    read: Callable[[Any], One], items: Iterable[Any], *, ahead: int
) -> Iterator[One]:
    """Yields what is read of each item, in order.

    Args:
      read: takes an item; called by one thread, or where `ahead` is 0 by the caller's.
      items: what to read.
      ahead: how many results the thread has ready, or is at work on, at most.
    """
    if not ahead:
        yield from map(read, items)
        return
    left = iter(items)
    thread = concurrent.futures.ThreadPoolExecutor(1, "read_ahead")
    try:
        waiting: collections.deque[concurrent.futures.Future] = collections.deque()
        while True:
            while len(waiting) <= ahead and (more := list(_first(left))):
                waiting.append(thread.submit(read, *more))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        thread.shutdown(cancel_futures=True)


def late(items: Iterable[One], *, by: int) -> Iterator[One]:
    """Yields items in order, each when `by` more have been taken or there are no more.

    Where taking an item begins work on a device, that work goes on while the caller is
    occupied with the items before.
    """
    waiting: collections.deque[One] = collections.deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > by:
            yield waiting.popleft()
    yield from waiting


def _first(items: Iterator[Any]) -> Iterator[Any]:
    for item in items:
        yield item
        return
