"""What tests of the commands share."""

import functools
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
# What people's own images are is not known here.
CONFIGS = [p for p in sorted((ROOT / "configs").glob("*.py")) if p.stem != "folder"]
TINY = ROOT / "tests" / "configs" / "tiny.py"


@functools.cache
def planned(path: pathlib.Path):
    """Opens a run of a config, to look at; its data need not be here. One for all."""
    from noisy_student_jax import config
    from noisy_student_jax.interruption import Interruption
    from noisy_student_jax.run import Run

    return Run(
        config.load(path),
        ROOT / "runs" / "plan",
        interruption=Interruption(),
        look_only=True,
        believe=True,
    )


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
