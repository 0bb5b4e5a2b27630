"""Prefetching: steps are started ahead of use, so host and devices work in parallel.

The results equal those of sequential calls; only their timing differs. The prefetch
distance bounds the memory in use.
"""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Generic, TypeVar

One = TypeVar("One")


class Prefetcher(Generic[One]):
    """Calls a function of consecutive steps ahead of the requested step.

    `take` and `fill` are the two halves of a call, so the caller can dispatch work on
    a result before the next ones are started.
    """

    def __init__(
        self,
        function: Callable[[int], One],
        *,
        ahead: int,
        stop: int | None = None,
        executor: Executor | None = None,
    ):
        """Creates a prefetcher; no step is started yet.

        Args:
          function: computes the result of a step.
          ahead: the number of steps started beyond the requested one, at most.
          stop: the number of steps, beyond which none is started; None for no limit.
          executor: runs the function, and is shut down by `close`; None runs it in the
            calling thread, for functions that only dispatch work to devices.
        """
        self._function, self._ahead, self._stop = function, ahead, stop
        self._executor = executor or _Caller()
        self._begun: dict[int, Future[One]] = {}

    def __call__(self, step: int) -> One:
        """Returns the result of a step and starts the steps after it.

        An exception in a step is raised when that step is requested, not earlier.
        Non-consecutive steps are allowed, but slow.
        """
        self._begin(step, 1 + self._ahead)
        return self.take(step)

    def take(self, step: int) -> One:
        """Returns the result of a step; `fill` starts the steps after it."""
        if step not in self._begun:
            self._begin(step, 1)
        return self._begun.pop(step).result()

    def fill(self, step: int) -> None:
        """Starts `ahead` steps, beginning with the one requested next."""
        self._begin(step, self._ahead)

    def close(self) -> None:
        """Discards unused results and shuts the executor down."""
        self._begun.clear()
        self._executor.shutdown(cancel_futures=True)

    def _begin(self, first: int, count: int) -> None:
        """Starts these steps and discards all others."""
        end = first + count
        steps = range(first, end if self._stop is None else min(end, self._stop))
        for step in self._begun.keys() - set(steps):
            self._begun.pop(step).cancel()
        for step in steps:
            if step not in self._begun:
                self._begun[step] = self._executor.submit(self._function, step)
            if (begun := self._begun[step]).done() and begun.exception():
                return


class _Caller(Executor):
    """Runs calls synchronously, in the submitting thread."""

    def submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done
