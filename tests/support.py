"""Helpers of tests that run commands."""

import contextlib
import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).parent.parent
# The configs of a user's own images cannot be planned without them.
CONFIGS = [
    p
    for p in sorted((ROOT / "configs").glob("*.py"))
    if p.stem not in ("folder", "boxes")
]
TINY = ROOT / "tests" / "configs" / "tiny.py"
TINY_BOXES = ROOT / "tests" / "configs" / "tiny_boxes.py"
EIGHT_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
"""The environment that splits a CPU into eight devices."""


@functools.cache
def planned(path: pathlib.Path):
    """Opens a read-only run of a config, once; its data need not exist."""
    from noisy_student_jax import config
    from noisy_student_jax.core.preemption import Interruption
    from noisy_student_jax.runs.run import Run

    return Run(
        config.load(path),
        ROOT / "runs" / "plan",
        interruption=Interruption(),
        look_only=True,
        believe=True,
    )


def command(
    *arguments: str, cwd=None, env=None, before=(), **options
) -> subprocess.Popen:
    """Starts ``noisy-student`` in a separate process, as its users do.

    It keeps the memory that its steps free; commands called in this process do not.
    """
    return subprocess.Popen(
        [*before, sys.executable, "-m", "noisy_student_jax", *map(str, arguments)],
        cwd=cwd or ROOT,
        env={**untold_environment(), "PYTHONPATH": search_path(), **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def said_to_a_reader(*arguments: Any, of: pathlib.Path) -> str:
    """Runs a command that must succeed without the right to write to a folder.

    Args:
      *arguments: of the command.
      of: the folder.

    Returns:
      What it prints.
    """
    modes = {path: path.stat().st_mode for path in [of, *of.rglob("*")]}
    before: list[str] = []
    if os.getuid() == 0:
        # Root may write anywhere by a capability alone.
        if not shutil.which("setpriv"):
            pytest.skip("root may write anywhere")
        before = ["setpriv", "--bounding-set=-dac_override"]
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    process = command(*arguments, before=before)
    out, err = process.communicate(timeout=300)
    for path, mode in modes.items():
        path.chmod(mode)
    assert process.returncode == 0, out + err
    assert "Traceback" not in out + err
    return out


def untold_environment() -> dict[str, str]:
    """Returns the environment without variables that change how glibc allocates."""
    told = ("MALLOC_", "GLIBC_TUNABLES")
    return {k: v for k, v in os.environ.items() if not k.startswith(told)}


def on_eight_devices(work: str, *arguments: Any, beside: str | None = None) -> Any:
    """Runs a program with eight devices; returns its last line, parsed as JSON.

    The program runs in a separate process, as the number of CPU devices is fixed when
    JAX starts.

    Args:
      work: a program, in which ``jax.device_count()`` is 8.
      arguments: its ``sys.argv[1:]``.
      beside: a test's ``__file__``, if the program imports from it or its neighbors.
    """
    neighbors = [pathlib.Path(beside).parent] if beside else []
    done = subprocess.run(
        [sys.executable, "-c", work, *map(str, arguments)],
        env={
            **os.environ,
            **EIGHT_DEVICES,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": search_path(*neighbors),
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def jax_keeps(**settings: Any) -> Iterator[None]:
    """Changes settings of JAX's compilation cache for a while; it keeps everything."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    settings = {"jax_persistent_cache_min_compile_time_secs": 0} | settings
    before = {name: getattr(jax.config, name) for name in settings}

    def use(settings: dict[str, Any]) -> None:
        for name, value in settings.items():
            jax.config.update(name, value)
        # The cache reads its settings only once.
        compilation_cache.reset_cache()

    use(settings)
    try:
        yield
    finally:
        use(before)


def search_path(*more: pathlib.Path) -> str:
    """Returns the ``PYTHONPATH`` of the package and the tests' helpers."""
    return os.pathsep.join(map(str, [ROOT, ROOT / "tests", *more]))


def mistake(capsys, *arguments) -> str:
    """Runs a command that must be refused; returns its error, one sentence."""
    from noisy_student_jax.cli.main import main

    status = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return one_sentence(status, out, err)


def one_sentence(status: int, out: str, err: str) -> str:
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status == 2, out + err
    assert len(errors) == 1, out + err
    assert err.splitlines()[-1] == errors[0], err
    assert "Traceback" not in out + err
    return errors[0].removeprefix("error: ")
