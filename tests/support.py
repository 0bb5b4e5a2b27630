"""What tests of the commands share."""

import contextlib
import functools
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent
# What people's own images are is not known here.
CONFIGS = [p for p in sorted((ROOT / "configs").glob("*.py")) if p.stem != "folder"]
TINY = ROOT / "tests" / "configs" / "tiny.py"
EIGHT_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
"""The environment in which a CPU is eight devices."""


@functools.cache
def planned(path: pathlib.Path):
    """Opens a run of a config, to look at; its data need not be here. One for all."""
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


def command(*arguments: str, cwd=None, env=None, **options) -> subprocess.Popen:
    """Starts ``noisy-student`` in a process of its own, as its users have it.

    It keeps the memory that its steps free; the commands called here do not.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "noisy_student_jax", *map(str, arguments)],
        cwd=cwd or ROOT,
        env={**untold_environment(), "PYTHONPATH": search_path(), **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def untold_environment() -> dict[str, str]:
    """Returns the environment without what would change how glibc allocates."""
    told = ("MALLOC_", "GLIBC_TUNABLES")
    return {k: v for k, v in os.environ.items() if not k.startswith(told)}


def on_eight_devices(work: str, *arguments: Any, beside: str | None = None) -> Any:
    """Does work with eight devices; returns what it printed last, which is JSON.

    In a process of its own, as the number of CPU devices is fixed when JAX starts.

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
    """Gives JAX's compilation cache other settings for a while; it keeps everything."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    settings = {"jax_persistent_cache_min_compile_time_secs": 0} | settings
    before = {name: getattr(jax.config, name) for name in settings}

    def use(settings: dict[str, Any]) -> None:
        for name, value in settings.items():
            jax.config.update(name, value)
        # It looks at them once.
        compilation_cache.reset_cache()

    use(settings)
    try:
        yield
    finally:
        use(before)


def search_path(*more: pathlib.Path) -> str:
    """Where a process finds the package, and what tests share."""
    return os.pathsep.join(map(str, [ROOT, ROOT / "tests", *more]))


def mistake(capsys, *arguments) -> str:
    """Runs a command that must be refused; returns its one sentence."""
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
