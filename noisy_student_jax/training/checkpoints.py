"""Checkpoints of a training run, written by Orbax and verified by hashes.

Orbax does not detect flipped bits, and treats any stray folder as its newest step. So
every step has a manifest of SHA-256 sums, written last, and only steps whose files
match their manifest count. It also says what the step was made for, so that another
training's is not taken.

Writing and hashing run in the background: a save returns once the state has been
copied off the devices, so the next step can reuse its buffers.
"""

import concurrent.futures
import contextlib
import logging
import os
import pathlib
import re
import sys
from typing import Any

import jax
import orbax.checkpoint as ocp

from noisy_student_jax.core import console, files
from noisy_student_jax.core.errors import NotSavedError, UserError, cause, one_line
from noisy_student_jax.training.state import TrainState


def _is_news(record: logging.LogRecord) -> bool:
    """Returns False for tracebacks that Orbax logs of exceptions it also raises.

    Nothing else here uses asyncio, which logs those of its parallel writes.
    """
    ours = record.name == "asyncio" or "orbax" in record.pathname
    return not (record.exc_info and ours)


for _name in ("absl", "asyncio"):
    logging.getLogger(_name).addFilter(_is_news)


def _quiet_about_closed_loops(caught: Any) -> None:
    """Drops the errors of Orbax's writes that end after one of them has failed."""
    if str(caught.exc_value) != "Event loop is closed":
        _said_otherwise(caught)


_said_otherwise, sys.unraisablehook = sys.unraisablehook, _quiet_about_closed_loops
FULL = [os.strerror(number) for number in files.FULL]
UNFINISHED = "*.orbax-checkpoint-tmp"
"""Pattern of the folders in which Orbax writes."""


class Checkpoints:
    """The checkpoints in one folder: ``step_N/`` with ``step_N.json`` beside it."""

    def __init__(
        self, folder: pathlib.Path, *, keep: int = 2, made_for: str | None = None
    ):
        """Opens a folder.

        Args:
          folder: created by the first save.
          keep: number of newest steps to keep.
          made_for: digest of what the training depends on; None if it is not known.
        """
        self.folder = folder.absolute()
        self.keep, self.made_for = keep, made_for
        self._orbax = ocp.StandardCheckpointer()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._writing: tuple[int, concurrent.futures.Future] | None = None

    def steps(self) -> list[int]:
        """Returns the steps that have a manifest, in order."""
        names = (p.name for p in files.list_folder(self.folder, pattern="step_*.json"))
        found = (re.fullmatch(r"step_(\d+)\.json", name) for name in names)
        return sorted(int(match[1]) for match in found if match)

    def save(self, state: TrainState) -> None:
        """Saves a state under its step, then removes the oldest checkpoints.

        The step appears in `steps` once it is complete; errors are raised by the next
        save, `wait` or `close`.

        Raises:
          NotSavedError: this state, or the one before it, could not be written.
        """
        self.wait()
        step = int(state.step)
        if step in self.steps():
            if self._fault(step) is None:
                return
            files.remove(self._manifest(step))
        target = self._path(step)
        files.remove(target)  # damaged, or an interrupted save
        self._remove_unfinished()
        try:
            # Returns once the state has been copied. On CPU the copy may alias the
            # buffers, which JAX does not donate while they are referenced.
            self._orbax.save(target, state)
        except Exception as error:
            raise self._not_saved(step, error) from error
        self._writing = step, self._thread.submit(self._finish, step)

    def wait(self) -> None:
        """Waits for the save in progress.

        Raises:
          NotSavedError: it failed.
        """
        if self._writing is None:
            return
        (step, writing), self._writing = self._writing, None
        try:
            writing.result()
        except Exception as error:
            raise self._not_saved(step, error) from error

    def restore_latest(self, like: TrainState) -> TrainState | None:
        """Returns the newest intact state of this training, or None.

        Args:
          like: a state with the target shapes, dtypes and shardings.
        """
        self.wait()
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        for step in reversed(self.steps()):
            fault = self._fault(step)
            if fault is None:
                try:
                    return self._orbax.restore(self._path(step), abstract)
                except (ValueError, KeyError, TypeError, OSError) as error:
                    fault = f"holds no state of this training ({cause(error)[:200]})"
            console.warn(
                f"checkpoint '{self._path(step)}' {fault}; going back to the one before"
            )
        return None

    def close(self) -> None:
        """Waits for the save in progress and stops the threads.

        Raises:
          NotSavedError: see `wait`.
        """
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            # It raises again what `wait` has raised, in other words.
            with contextlib.suppress(Exception):
                self._orbax.close()

    def _finish(self, step: int) -> None:
        """Waits for Orbax, writes the manifest and removes the oldest checkpoints."""
        self._orbax.wait_until_finished()
        if jax.process_index() == 0:
            files.write_json(self._manifest(step), self._record(step))
            # Later steps are unusable, and written anew when training comes to them.
            ours = [one for one in self.steps() if one <= step]
            for old in ours[: -self.keep]:
                files.remove(self._manifest(old))
                with contextlib.suppress(OSError):
                    files.remove(self._path(old))

    def _remove_unfinished(self) -> None:
        for path in files.list_folder(self.folder, pattern=UNFINISHED):
            files.remove(path)

    def _not_saved(self, step: int, error: Exception) -> NotSavedError:
        with contextlib.suppress(OSError):
            self._remove_unfinished()
        text = one_line(error)
        why = next((full for full in FULL if full in text), text)
        return NotSavedError(
            f"the checkpoint of step {step:,} could not be written to"
            f" '{self._path(step)}' ({why}): make room there, or make it writable; the"
            " same command continues from the last checkpoint"
        )

    def _fault(self, step: int) -> str | None:
        """Returns why a step cannot be used, as a phrase, or None."""
        damaged = "is damaged (its files do not match their SHA-256 sums)"
        try:
            manifest = files.read_json(self._manifest(step))
        except UserError:
            return damaged
        if not (files.is_folder(self._path(step)) and isinstance(manifest, dict)):
            return damaged
        record = self._record(step)
        made_for = manifest.get("made_for")
        if manifest != {**record, "made_for": made_for} and manifest != record:
            return damaged
        if made_for != self.made_for:
            return "was made by another training, or with other settings"
        return None

    def _record(self, step: int) -> dict[str, Any]:
        """Returns the manifest of a step's files as they are now."""
        found = files.tree_hashes(self._path(step), ["."])
        made_for = {"made_for": self.made_for} if self.made_for else {}
        return {"step": step, "files": found, **made_for}

    def _path(self, step: int) -> pathlib.Path:
        return self.folder / f"step_{step:08d}"

    def _manifest(self, step: int) -> pathlib.Path:
        return self.folder / f"step_{step:08d}.json"
