"""Saying which device a command uses, and when a better one lies idle."""

import os
import pathlib
import shutil

import jax

from noisy_student_jax import console


def announce() -> None:
    """Prints the device line, and a warning if a GPU is present but unused."""
    console.say(line())
    if jax.default_backend() == "cpu" and (gpu := idle_gpu()):
        console.warn(
            f"this machine has a GPU ({gpu}) but JAX does not use it: install the gpu"
            " extra (pip install 'noisy-student-jax[gpu]') and unset JAX_PLATFORMS, or"
            " expect to wait many times longer"
        )


def line() -> str:
    """Names backend, devices, cores and JAX's version."""
    devices = jax.devices()
    kind = devices[0].device_kind
    cores = len(os.sched_getaffinity(0))
    return (
        f"device: {jax.default_backend()} ({len(devices)} × {kind}, {cores} CPU"
        f" cores), JAX {jax.__version__}"
    )


def idle_gpu(root: pathlib.Path = pathlib.Path("/")) -> str | None:
    """Says by what a GPU shows itself to the system, or None."""
    for place in ("dev/nvidia0", "proc/driver/nvidia/version", "dev/kfd"):
        if (root / place).exists():
            return f"/{place}"
    return "nvidia-smi" if shutil.which("nvidia-smi") else None
