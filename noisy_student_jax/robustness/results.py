"""Paths and reading of a run's robustness results."""

import pathlib
from typing import Any

from noisy_student_jax.core import console, files
from noisy_student_jax.core.errors import DamagedFileError
from noisy_student_jax.runs.run import Run

FOLDER = "robustness"
"""Subfolder of a generation or baseline, with one file for each suite."""
RUN_SUITES = ("corruptions", "fgsm")
"""Suites that use a run's own test images."""


def path_of(folder: pathlib.Path, suite: str) -> pathlib.Path:
    """Returns the path of a suite's result in the folder of a generation."""
    return folder / FOLDER / f"{suite}.json"


def digests(run: Run) -> dict[str, str]:
    """Returns the SHA-256 of each existing result, by its path in the run directory."""
    paths = [
        path_of(s.paths.folder, suite) for s in run.students for suite in RUN_SUITES
    ]
    return {
        str(path.relative_to(run.workdir)): files.sha256(path)
        for path in paths
        if files.is_file(path)
    }


def read(folder: pathlib.Path, suite: str) -> dict[str, Any] | None:
    """Reads a suite's result for a generation's model.

    Args:
      folder: folder of the generation or baseline.
      suite: one of `RUN_SUITES`.

    Returns:
      The result; None if there is none, or it belongs to other weights, or is damaged,
      which is said.
    """
    path, card = path_of(folder, suite), folder / "model" / "model.json"
    if not (files.is_file(path) and files.is_file(card)):
        return None
    try:
        found, model = files.read_json(path), files.read_json(card)
    except DamagedFileError as error:
        console.warn(f"{error}; the report goes without it")
        return None
    if not isinstance(found, dict) or not isinstance(model, dict):
        return None
    return found if found.get("sha256") == model.get("sha256", "") else None
