"""Where a run keeps what its robustness suites found, and how it is read again."""

import pathlib
from typing import Any

from noisy_student_jax.core import files
from noisy_student_jax.runs.run import Run

FOLDER = "robustness"
"""In the folder of a generation, or the control: one file a suite."""
RUN_SUITES = ("corruptions", "fgsm")
"""What can be made of a run's own test images."""


def path_of(folder: pathlib.Path, suite: str) -> pathlib.Path:
    """Returns the file of a suite in the folder of a generation."""
    return folder / FOLDER / f"{suite}.json"


def digests(run: Run) -> dict[str, str]:
    """Returns the SHA-256 of each file that there is, by its path in the run."""
    paths = [
        path_of(s.paths.folder, suite) for s in run.students for suite in RUN_SUITES
    ]
    return {
        str(path.relative_to(run.workdir)): files.sha256(path)
        for path in paths
        if files.is_file(path)
    }


def read(folder: pathlib.Path, suite: str) -> dict[str, Any] | None:
    """Reads what a suite found of a generation's model.

    Args:
      folder: of the generation, or the control.
      suite: one of `RUN_SUITES`.

    Returns:
      None if there is nothing, or it is of other weights than those that are there.
    """
    path, card = path_of(folder, suite), folder / "model" / "model.json"
    if not (files.is_file(path) and files.is_file(card)):
        return None
    found = files.read_json(path)
    return found if found["sha256"] == files.read_json(card)["sha256"] else None
