"""Fixtures that the tests share."""

import functools
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from support import TINY, TINY_BOXES

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session", autouse=True)
def others_may_promote():
    """Lets two functions of other libraries promote, as models that we train need.

    Flax computes float32 statistics of bfloat16 values; Optax raises a decay, a Python
    number, to the power of an int32.
    """
    import optax
    from flax.linen import normalization

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (normalization, "_compute_stats"),
            (normalization, "_normalize"),
            (optax.tree, "bias_correction"),
        ):
            patch.setattr(owner, name, promoting(getattr(owner, name)))
        yield


def promoting(function):
    """Lets one function promote as JAX does by default."""

    @functools.wraps(function)
    def call(*arguments, **options):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return function(*arguments, **options)

    return call


@pytest.fixture(autouse=True)
def console_speaks_to_people():
    """Undoes the effect of a command with ``--json`` on the process."""
    yield
    from noisy_student_jax.core import console

    console.leave_stdout_to_machines(False)


@pytest.fixture(scope="session", autouse=True)
def memory_is_given_back():
    """Keeps commands called in this process from changing its C library's settings.

    Commands that run in a separate process (`support.command`) do change them.
    """
    from noisy_student_jax.core import devices

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "keep_freed_memory", lambda: False)
        yield


@pytest.fixture(autouse=True)
def speeds_are_measured_anew(monkeypatch):
    """Keeps speeds that other tests measured from being taken."""
    from noisy_student_jax.planning import speeds

    monkeypatch.setattr(speeds, "place", lambda: None)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> pathlib.Path:
    """Returns the directory of a finished run of ``tests/configs/tiny.py``.

    Do not change it: copy it first.
    """
    from noisy_student_jax.cli.main import main

    workdir = tmp_path_factory.mktemp("tiny") / "run"
    assert main(["run", f"--config={TINY}", f"--workdir={workdir}"]) == 0
    return workdir


@pytest.fixture(scope="session")
def tiny_boxes_run(tmp_path_factory) -> pathlib.Path:
    """Returns the directory of a finished run of ``tests/configs/tiny_boxes.py``.

    Do not change it: copy it first.
    """
    from noisy_student_jax.cli.main import main

    workdir = tmp_path_factory.mktemp("boxes") / "run"
    assert main(["run", f"--config={TINY_BOXES}", f"--workdir={workdir}"]) == 0
    return workdir


@pytest.fixture
def tiny_student(tiny_run):
    """Returns a function that makes students of the finished run.

    It takes a student's number, then overrides.
    """
    from noisy_student_jax import config
    from noisy_student_jax.core.preemption import Interruption
    from noisy_student_jax.runs.run import Run

    def student(number, *overrides: str):
        return Run(
            config.load(TINY, overrides), tiny_run, interruption=Interruption()
        ).student(number)

    return student


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> pathlib.Path:
    """Makes folders ``labeled`` and ``unlabeled`` of images; do not change them."""
    from people import make_folders

    return make_folders(tmp_path_factory.mktemp("people"))
