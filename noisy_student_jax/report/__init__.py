"""The report of a run: one self-contained HTML file."""

from typing import Any

from noisy_student_jax import files
from noisy_student_jax.run import Run


def write(run: Run, summary: dict[str, Any]) -> None:
    """Writes ``report.html``."""
    files.write_atomically(run.workdir / "report.html", "<html></html>")
