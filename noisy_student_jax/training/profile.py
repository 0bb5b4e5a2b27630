"""A trace of some training steps, for TensorBoard or Perfetto."""

import pathlib

import jax
from clu import profiler

from noisy_student_jax.core import console
from noisy_student_jax.core.types import PyTree

WARM_UP = 2
"""Steps before the trace, if there are as many: the first compiles."""


class Profile:
    """Records the trace of the first steps of a process, after `WARM_UP`."""

    def __init__(self, folder: pathlib.Path, steps: range, *, wanted: int | None):
        """Records nothing yet.

        Args:
          folder: for the trace, in ``plugins/profile``.
          steps: numbers of the steps that this process trains.
          wanted: how many of them are recorded; None for none.
        """
        wanted = min(wanted or 0, len(steps))
        skipped = min(WARM_UP, len(steps) - wanted)
        self._folder, self._traced = folder, steps[skipped : skipped + wanted]
        self._running = False

    def before(self, number: int) -> None:
        """Starts at the first of the steps."""
        if self._traced and number == self._traced[0]:
            profiler.start(str(self._folder))
            self._running = True

    def after(self, number: int, state: PyTree) -> None:
        """Stops once the last of the steps has computed its state."""
        if self._running and number == self._traced[-1]:
            jax.block_until_ready(state)
            self.close()
            console.say(
                f"  traced steps {self._traced[0] + 1:,} to {number + 1:,}: see them by"
                f" tensorboard --logdir='{self._folder}' (pip install tensorboard"
                " xprof), or open plugins/profile/*/*.trace.json.gz in that folder at"
                " https://ui.perfetto.dev"
            )

    def close(self) -> None:
        """Writes the trace, if one is being recorded."""
        if self._running:
            self._running = False
            profiler.stop()
