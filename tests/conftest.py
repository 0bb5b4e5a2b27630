"""Fixtures that the tests share."""

import os
import pathlib
import subprocess
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pytest

ROOT = pathlib.Path(__file__).parent.parent
TINY = ROOT / "tests" / "configs" / "tiny.py"


def command(*arguments: str, cwd=None, env=None, **options) -> subprocess.Popen:
    """Starts ``noisy-student`` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "noisy_student_jax", *map(str, arguments)],
        cwd=cwd or ROOT,
        env=dict(os.environ, PYTHONPATH=str(ROOT), **(env or {})),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> pathlib.Path:
    """The directory of a finished run of ``tests/configs/tiny.py``. Do not change it:
    copy it first.
    """
    from noisy_student_jax.cli import main

    workdir = tmp_path_factory.mktemp("tiny") / "run"
    assert main(["run", f"--config={TINY}", f"--workdir={workdir}"]) == 0
    return workdir
