"""The machine: which device a command uses, and what a process keeps for later."""

import ctypes
import os
import pathlib
import platform
import shutil

import jax

from noisy_student_jax.core import console
from noisy_student_jax.core.errors import UserError, one_line
from noisy_student_jax.core.kept_programs import processor

TPU = (pathlib.Path("/dev/accel0"), pathlib.Path("/dev/vfio/0"))
"""How TPU chips show themselves to the system."""
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Of glibc's `mallopt`."""


def announce() -> None:
    """Prints the device line, and a warning if a GPU is present but unused."""
    try:
        console.say(line())
    except Exception as error:  # JAX raises many kinds, assertions among them
        wanted = os.environ.get("JAX_PLATFORMS")
        if not wanted:
            raise
        raise UserError(
            f"JAX has no device of JAX_PLATFORMS={wanted} here"
            f" ({one_line(error)}): unset it, or install JAX for that device"
        ) from error
    if jax.default_backend() == "cpu" and (gpu := idle_gpu()):
        console.warn(
            f"this machine has a GPU ({gpu}) but JAX does not use it: install the gpu"
            " extra (pip install 'noisy-student-jax[gpu]') and unset JAX_PLATFORMS, or"
            " expect to wait many times longer"
        )


def keep_compiled_programs() -> None:
    """Keeps compiled programs in the user's cache, for the next process to find.

    Both JAX's, and whole ones (`kept_programs`). Leaves JAX's own setting alone if
    there is one. Programs for another processor are kept apart: one compiled for more
    than this one has would crash.
    """
    # JAX adds its settings to `Config` at import, where no checker sees them.
    if jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        return
    try:
        home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        folder = pathlib.Path(home) / "noisy_student_jax" / processor()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return  # nobody's home, or not ours to write: it only takes longer
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def keep_freed_memory() -> bool:
    """Has the C library keep what a step frees, for the next step to use.

    XLA on CPU allocates a step's buffers anew in every step; glibc returns such large
    ones to the system at once, which then has to clear each page again: a third of
    EfficientNet-B0's step. With this, memory stays at its peak until the process ends,
    and who calls a program runs it: to be called by the main thread, before JAX starts.
    Does nothing where a GPU or TPU does the work, with another C library, or if glibc
    has been told something already (``MALLOC_…`` or ``GLIBC_TUNABLES`` are set, such
    as ``MALLOC_TRIM_THRESHOLD_=131072``, its default).

    Returns:
      Whether it was done.
    """
    told = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if told or platform.libc_ver()[0] != "glibc":
        return False
    if idle_gpu() or any(map(pathlib.Path.exists, TPU)):
        return False
    # A heap that is grown in one piece and never trimmed; nothing mapped by itself.
    settings = [(M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 2**26)]
    mallopt = ctypes.CDLL(None).mallopt
    done = all([mallopt(*setting) == 1 for setting in settings])
    if done:
        # Only the main thread's heap grows without end: other threads' large buffers
        # are mapped anew each time. One heap for all threads would do as well, but they
        # wait for it, XLA's when they compile and in every layer.
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    return done


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
