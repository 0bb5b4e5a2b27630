"""What tests of the commands share."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
TINY = ROOT / "tests" / "configs" / "tiny.py"


def command(*arguments: str, cwd=None, env=None, **options) -> subprocess.Popen:
    """Starts ``noisy-student`` in a process of its own."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return subprocess.Popen(
        [sys.executable, "-m", "noisy_student_jax", *map(str, arguments)],
        cwd=cwd or ROOT,
        env={**os.environ, "PYTHONPATH": path, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
