"""Steps begun before they are asked for, so that host and devices do not wait in turn.

The results are those of one step after the other; only when they are made differs. How
much is held at once is bounded by how far it goes ahead.
"""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Generic, TypeVar

One = TypeVar("One")


class Prefetcher(Generic[One]):
    """A function of consecutive steps that is called ahead of the step asked for.

    `take` and `fill` do the two halves of a call, so that the devices can be given
    work on a result before the next ones are made.
    """

    def __init__(
        self,
        function: Callable[[int], One],
        *,
        ahead: int,
        stop: int | None = None,
        executor: Executor | None = None,
    ):
        """Begins nothing yet.

        Args:
          function: gives the result of a step.
          ahead: how many steps are begun beyond the one asked for, at most.
          stop: the number of steps, beyond which none is begun; None for no end.
          executor: calls the function, and is shut down in the end; None for the
            thread that asks, as where that begins what devices then work on.
        """
        self._function, self._ahead, self._stop = function, ahead, stop
        self._executor = executor or _Caller()
        self._begun: dict[int, Future[One]] = {}

    def __call__(self, step: int) -> One:
        """Returns the result of a step, with those after it begun.

        What went wrong in a step is raised here, and not before: the steps before it
        are fine. Steps that do not follow one another are allowed, and slow.
        """
        self._begin(step, 1 + self._ahead)
        return self.take(step)

    def take(self, step: int) -> One:
        """Returns the result of a step; those after it are left to `fill`."""
        if step not in self._begun:
            self._begin(step, 1)
        return self._begun.pop(step).result()

    def fill(self, step: int) -> None:
        """Begins the step that is asked for next and those after it, `ahead` in all."""
        self._begin(step, self._ahead)

    def close(self) -> None:
        """Gives up what nobody has asked for."""
        self._begun.clear()
        self._executor.shutdown(cancel_futures=True)

    def _begin(self, first: int, count: int) -> None:
        """Has these steps begun, and gives up all others."""
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
    """Calls at once, in the thread that submits."""

    def submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done
