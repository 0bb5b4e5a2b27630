"""Performs a suite in parts, so that a stopped suite can be resumed."""

import pathlib
from collections.abc import Callable
from typing import Any

from noisy_student_jax.core import console, files
from noisy_student_jax.core.errors import DamagedFileError
from noisy_student_jax.core.preemption import Interruption

Before = Callable[[int], None]


class Parts:
    """Results of the parts of a suite.

    If the suite has an output path, they are stored as they are computed, and the same
    suite on the same model resumes after them.
    """

    def __init__(
        self,
        suite: str,
        identity: dict[str, str],
        *,
        output: pathlib.Path | None,
        interruption: Interruption,
    ):
        """Reads the stored results of an earlier command that was stopped.

        Args:
          suite: name of the suite.
          identity: everything that the results depend on; stored results with another
            identity are ignored.
          output: path of the complete result; None stores no partial results.
          interruption: checked before each batch.
        """
        self.suite, self.interruption = suite, interruption
        self._identity = {"suite": suite, **identity}
        self._path = output and output.with_name(f".{output.name}.parts.json")
        self._found: dict[str, Any] = {}
        self._progress = console.Progress()
        if self._path and files.is_file(self._path):
            self._found = self._kept()
            if self._found:
                console.say(f"{suite}: resuming after {len(self._found)} parts")

    def _kept(self) -> dict[str, Any]:
        """Returns the stored results by part; none if they are of something else."""
        assert self._path
        try:
            kept = files.read_json(self._path)
            ours = kept["identity"] == self._identity
            return dict(kept["parts"]) if ours else {}
        except (DamagedFileError, KeyError, TypeError, ValueError):
            console.warn(f"'{self._path}' is damaged: its parts are made again")
            return {}

    def expect(self, names: list[str]) -> None:
        """Announces the parts, so that the remaining time can be estimated."""
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
        """Performs a part, unless its result is stored.

        Args:
          name: name of the part.
          size: amount of work, in `unit`.
          work: performs the part. Its argument is a function to call before each batch
            with the amount of work done.
          unit: unit of `size`.

        Raises:
          Interrupted: a stop was requested; the results so far are stored.
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
                self._path,
                {"identity": self._identity, "parts": self._found},
                with_sum=True,
            )
        return self._found[name]

    def forget(self) -> None:
        """Removes the stored parts, once the complete result is written."""
        if self._path:
            files.remove(self._path)
