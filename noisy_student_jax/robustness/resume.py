"""The parts of a suite, one after the other: stopped after any, gone on with later."""

import pathlib
from collections.abc import Callable
from typing import Any

from noisy_student_jax.core import console, files
from noisy_student_jax.core.preemption import Interruption

Before = Callable[[int], None]


class Parts:
    """What the parts of a suite found, kept as they come.

    With a place to keep them, the same suite on the same model goes on where it was
    stopped.
    """

    def __init__(
        self,
        suite: str,
        identity: dict[str, str],
        *,
        output: pathlib.Path | None,
        interruption: Interruption,
    ):
        """Reads what an earlier, stopped command has left.

        Args:
          suite: its name.
          identity: what the results depend on; what was kept of another is not used.
          output: the file that the whole result will be written to; None keeps nothing.
          interruption: asked before each batch.
        """
        self.suite, self.interruption = suite, interruption
        self._identity = {"suite": suite, **identity}
        self._path = output and output.with_name(f".{output.name}.parts.json")
        self._found: dict[str, Any] = {}
        self._progress = console.Progress()
        if self._path and files.is_file(self._path):
            kept = files.read_json(self._path)
            if kept["identity"] == self._identity:
                self._found = kept["parts"]
                console.say(f"{suite}: goes on after {len(self._found)} parts")

    def expect(self, names: list[str]) -> None:
        """Says which parts there will be, so that the time left can be told."""
        self._progress.total_work = float(
            len([n for n in names if n not in self._found])
        )

    def perform(
        self,
        name: str,
        size: int,
        work: Callable[[Before], dict[str, Any]],
        *,
        unit: str = "images",
    ) -> dict[str, Any]:
        """Does one part, unless it is done.

        Args:
          name: of the part.
          size: how much there is to do.
          work: does it; given a function to call before each batch with what is done.
          unit: of `size`.

        Raises:
          Interrupted: somebody asked to stop; the parts done so far are kept.
        """
        if name in self._found:
            return self._found[name]
        self._progress.begin(f"{self.suite} {name}".strip(), work=1.0)
        self._progress.start(size, unit)

        def before(done: int) -> None:
            self.interruption.check()
            self._progress.update(done)

        self._found[name] = work(before)
        self._progress.update(size)
        self._progress.finish()
        if self._path:
            files.write_json(
                self._path, {"identity": self._identity, "parts": self._found}
            )
        return self._found[name]

    def forget(self) -> None:
        """Removes what was kept, once the whole result is written."""
        if self._path:
            files.remove(self._path)
