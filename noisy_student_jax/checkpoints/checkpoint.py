"""Checkpoints of a training run, written by Orbax, verified by hashes.

Orbax does not notice a flipped bit, and takes any stray folder for its newest
step. So every step has a manifest of SHA-256 sums, written last, and only steps
whose files match their manifest exist for us.
"""

import pathlib
import re
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp

from noisy_student_jax import console, files
from noisy_student_jax.errors import UserError
from noisy_student_jax.training.state import TrainState


class Checkpoints:
    """The checkpoints in one folder: ``step_N/`` with ``step_N.json`` beside it."""

    def __init__(self, folder: pathlib.Path, *, keep: int = 2):
        """Opens a folder.

        Args:
          folder: made when something is saved.
          keep: how many of the newest steps to keep.
        """
        self.folder = folder.absolute()
        self.keep = keep
        self._orbax = ocp.StandardCheckpointer()

    def steps(self) -> list[int]:
        """Returns the steps that have a manifest, in order."""
        names = (path.name for path in self.folder.glob("step_*.json"))
        found = (re.fullmatch(r"step_(\d+)\.json", name) for name in names)
        return sorted(int(match[1]) for match in found if match)

    def save(self, state: TrainState) -> None:
        """Saves a state under its step, then lets go of the oldest ones."""
        step = int(state.step)
        if step in self.steps():
            if self._intact(step):
                return
            self._manifest(step).unlink()
        target = self._path(step)
        if target.exists():
            # Damaged, or a save that was cut short.
            shutil.rmtree(target)
        self._orbax.save(target, state)
        self._orbax.wait_until_finished()
        if jax.process_index() == 0:
            files.write_json(self._manifest(step), self._record(step))
            for old in self.steps()[: -self.keep]:
                self._manifest(old).unlink()
                shutil.rmtree(self._path(old), ignore_errors=True)

    def restore_latest(self, like: TrainState) -> TrainState | None:
        """Returns the newest state whose files are what was written, or None.

        Args:
          like: a state of the wanted shapes, dtypes and shardings.
        """
        for step in reversed(self.steps()):
            if not self._intact(step):
                console.warn(
                    f"checkpoint '{self._path(step)}' is damaged (its files do not"
                    " match their SHA-256 sums); going back to the one before"
                )
                continue
            abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
            return self._orbax.restore(self._path(step), abstract)
        return None

    def close(self) -> None:
        """Lets go of Orbax's threads."""
        self._orbax.close()

    def _intact(self, step: int) -> bool:
        try:
            manifest = files.read_json(self._manifest(step))
        except UserError:
            return False
        path = self._path(step)
        return path.is_dir() and manifest == self._record(step)

    def _record(self, step: int) -> dict[str, Any]:
        """Returns what the manifest of a step says."""
        return {"step": step, "files": files.tree_hashes(self._path(step), ["."])}

    def _path(self, step: int) -> pathlib.Path:
        return self.folder / f"step_{step:08d}"

    def _manifest(self, step: int) -> pathlib.Path:
        return self.folder / f"step_{step:08d}.json"
