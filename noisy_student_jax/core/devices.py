"""The machine: its devices, the compilation cache and the memory allocator."""

import ctypes
import functools
import hashlib
import os
import pathlib
import platform
import shutil

import jax

from noisy_student_jax.core import console
from noisy_student_jax.core.errors import UserError, one_line

TPU = (pathlib.Path("/dev/accel0"), pathlib.Path("/dev/vfio/0"))
"""Device files of TPU chips."""
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Parameters of glibc's `mallopt`."""


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
    """Enables the persistent compilation cache in the user's cache directory.

    A cache directory already set in JAX is left alone. Each kind of processor has its
    own directory, as a program that uses instructions this processor lacks would crash.
    """
    # JAX adds its settings to `Config` at import, where no checker sees them.
    if jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        return
    if folder := cache_folder():
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def cache_folder() -> pathlib.Path | None:
    """Returns the folder of the user's cache directory for this kind of processor.

    None if there is no home, or it is not writable: nothing is kept then.
    """
    try:
        home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        folder = pathlib.Path(home) / "noisy_student_jax" / processor()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    return folder


@functools.cache
def processor() -> str:
    """Returns a name for this processor's instruction set, which programs depend on."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = platform.processor()
    abilities = [line for line in text.splitlines() if line.startswith("flags")][:1]
    digest = hashlib.sha256("".join(abilities or [text]).encode()).hexdigest()
    return f"{platform.machine()}-{digest[:12]}"


def keep_freed_memory() -> bool:
    """Makes glibc keep freed memory for the next training step.

    XLA on CPU allocates a step's buffers anew in every step. glibc returns such large
    buffers to the system at once, which has to clear each page again: a third of
    EfficientNet-B0's step time. Memory then stays at its peak, and CPU dispatch becomes
    synchronous. Call from the main thread before JAX initializes.

    Does nothing if the machine has a GPU or TPU, with another C library, or if
    ``MALLOC_…`` or ``GLIBC_TUNABLES`` configure glibc already, for instance
    ``MALLOC_TRIM_THRESHOLD_=131072``, its default.

    Returns:
      Whether the setting took effect.
    """
    configured = any(
        name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ
    )
    if configured or platform.libc_ver()[0] != "glibc":
        return False
    if idle_gpu() or any(map(pathlib.Path.exists, TPU)):
        return False
    # One heap that grows and is never trimmed; no allocation is mapped separately.
    settings = [(M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 2**26)]
    mallopt = ctypes.CDLL(None).mallopt
    done = all([mallopt(*setting) == 1 for setting in settings])
    if done:
        # Only the main thread's heap grows without limit: large buffers of other
        # threads are mapped anew each time. One arena for all threads would work too,
        # but XLA's threads contend for it when compiling and in every layer.
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    return done


def line() -> str:
    """Returns a line with backend, devices, CPU cores and JAX version."""
    devices = jax.devices()
    kind = devices[0].device_kind
    cores = len(os.sched_getaffinity(0))
    return (
        f"device: {jax.default_backend()} ({len(devices)} × {kind}, {cores} CPU"
        f" cores), JAX {jax.__version__}"
    )


def idle_gpu(root: pathlib.Path = pathlib.Path("/")) -> str | None:
    """Returns the sign of a GPU on the system (a path or a tool), or None."""
    for place in ("dev/nvidia0", "proc/driver/nvidia/version", "dev/kfd"):
        if (root / place).exists():
            return f"/{place}"
    return "nvidia-smi" if shutil.which("nvidia-smi") else None
