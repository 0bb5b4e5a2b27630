"""A persistent cache of compiled programs, keyed by their inputs rather than their HLO.

JAX's compilation cache is keyed by the lowered program, so a lookup has to trace and
lower a step first, which takes longer than loading it. Here the key is a digest of
everything that determines the program: code, options, shapes, devices, compiler.
Functions without such a key (`describing`) use only JAX's own cache. Both caches live
in the folder of JAX's compilation cache, and disabling that disables both. Loading a
program executes code from the cache, as with JAX's own: it must not be writable by
other users.
"""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import platform
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import serialize_executable

from noisy_student_jax.core import files
from noisy_student_jax.core.describing import LIBRARIES, describe
from noisy_student_jax.core.types import PyTree

LIMIT = 4 * 2**30
"""Size limit in bytes; the least recently used programs are evicted first."""
_SUFFIX = ".program"
_CACHE_HIT = "/jax/compilation_cache/cache_hits"
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "PJRT_NPROC", "NPROC")
# Settings of JAX that do not affect a program: caching, logging, dumps.
_ELSEWHERE = ("jax_compilation_cache", "jax_persistent_cache", "jax_log", "jax_dump")


def folder() -> pathlib.Path | None:
    """Returns the cache folder; None if JAX has no cache on this machine."""
    # JAX adds its settings to `Config` at import, where no checker sees them.
    place = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    enabled = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    if not place or not enabled or jax.process_count() > 1 or "://" in place:
        return None
    return pathlib.Path(place) / "noisy_student_jax"


def name(function: Any, shapes: PyTree, devices: list[jax.Device]) -> str | None:
    """Returns the cache key of a function compiled for given arguments.

    Args:
      function: the function to trace, including everything it holds.
      shapes: of the arguments: a tree of `jax.ShapeDtypeStruct` with shardings.
      devices: the devices that it runs on.

    Returns:
      A digest; None if the function holds unversioned code (a user-defined model or
      task), which must not be cached.
    """
    try:
        made_of = describe(function)
    except Exception:  # user-defined objects may raise anything
        return None
    leaves, tree = jax.tree.flatten(shapes)
    known = {
        "function": made_of,
        "arguments": [
            (leaf.shape, str(leaf.dtype), str(leaf.sharding)) for leaf in leaves
        ],
        "tree": str(tree),
        "devices": [(device.id, device.device_kind) for device in devices],
        "here": [device.id for device in jax.devices()],
        "compiler": devices[0].client.platform_version,
        "processor": processor(),
        # The compiler splits loops for this number of threads.
        "cores": len(os.sched_getaffinity(0)),
        "package": _PACKAGE,
        "versions": _versions(),
        "python": platform.python_version(),
        "settings": {
            key: str(value)
            for key, value in jax.config.values.items()
            if not key.startswith(_ELSEWHERE)
        },
        "flags": {flag: os.environ.get(flag) for flag in _FLAGS},
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def has(name: str) -> bool:
    """Returns whether the cache has a program of that name."""
    place = folder()
    with contextlib.suppress(OSError):
        return place is not None and (place / (name + _SUFFIX)).is_file()
    return False  # not readable


def find(
    name: str, devices: list[jax.Device], inputs: Any, outputs: Any
) -> jax.stages.Compiled | None:
    """Loads a program from the cache.

    Args:
      name: a key from `name`.
      devices: the devices that it runs on.
      inputs: tree structure of its arguments, ``((…), {})``.
      outputs: maps the note stored with the program to the tree structure of its
        outputs.

    Returns:
      The program, or None if there is none, or none that can be loaded here.
    """
    if not (place := folder()):
        return None
    path = place / (name + _SUFFIX)
    try:
        digest, note, program = path.read_bytes().split(b"\n", 2)
        found = hashlib.sha256(note)
        found.update(program)
        if found.hexdigest().encode() != digest:
            raise ValueError("its digest does not match")
        with contextlib.suppress(OSError):
            os.utime(path)  # recently used
        return serialize_executable.deserialize_and_load(
            program,
            inputs,
            outputs(json.loads(note)),
            backend=devices[0].client,
            execution_devices=devices,
        )
    except FileNotFoundError:
        return None
    except Exception:  # errors of the compiler included: it is compiled again
        forget(name)
        return None


def compiled(lowered: jax.stages.Lowered) -> tuple[jax.stages.Compiled, bool]:
    """Compiles a program for this cache, bypassing JAX's own.

    Returns:
      The program, and whether it may be cached: a program loaded from JAX's cache may
      not, since a loaded executable is serialized without its code (JAX 0.10, CPU).
    """
    if not folder():
        return lowered.compile(), False
    _loaded.here = False
    with _too_short_for_jax():
        program = lowered.compile()
    return program, not _loaded.here


_loaded = threading.local()


def _note_what_jax_loads(event: str, **_: Any) -> None:
    if event == _CACHE_HIT:
        _loaded.here = True


# One listener for all threads: JAX calls it in the thread of the event.
jax.monitoring.register_event_listener(_note_what_jax_loads)


@contextlib.contextmanager
def _too_short_for_jax() -> Iterator[None]:
    """Keeps this thread's compilations out of JAX's persistent cache.

    JAX has no public per-thread setting, and other threads compile programs that it
    should cache.
    """
    try:
        from jax._src.config import persistent_cache_min_compile_time_secs as least
    except ImportError:
        yield
        return
    with least(float("inf")):
        yield


def forget(name: str) -> None:
    """Removes a program from the cache, if present."""
    if place := folder():
        with contextlib.suppress(OSError):
            (place / (name + _SUFFIX)).unlink()


def keep(name: str, program: jax.stages.Compiled, note: Any) -> None:
    """Adds a program to the cache; failures are ignored.

    Args:
      name: a key from `name`.
      program: a program from `compiled` that may be cached.
      note: any JSON, passed to `outputs` by `find`.
    """
    if not (place := folder()):
        return
    try:
        data, _, _ = serialize_executable.serialize(program)
        note = json.dumps(note).encode()
        if len(data) > LIMIT:
            return
        digest = hashlib.sha256(note)
        digest.update(data)
        with files.atomic_file(place / (name + _SUFFIX)) as file:
            for part in (digest.hexdigest().encode(), b"\n", note, b"\n", data):
                file.write(part)
        _make_room(place)
    except Exception:  # disk full, not writable, not serializable
        return  # the next process compiles it again


def _make_room(place: pathlib.Path) -> None:
    for path in place.glob(f".*{_SUFFIX}.*.tmp"):
        # An old file is from a killed writer; a young one may still be written.
        if time.time() - path.stat().st_mtime > 24 * 3600:
            path.unlink(missing_ok=True)
    kept = [(path.stat(), path) for path in place.glob("*" + _SUFFIX)]
    total = 0
    for state, path in sorted(kept, key=lambda one: -one[0].st_mtime):
        total += state.st_size
        if total > LIMIT:
            path.unlink(missing_ok=True)


def _digest_of(package: pathlib.Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)} {path.stat().st_size} ".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


# Taken at import: the files may have changed by the time a program is compiled.
_PACKAGE = _digest_of(pathlib.Path(__file__).parents[1])


def _versions() -> list[str | None]:
    return [getattr(sys.modules.get(one), "__version__", None) for one in LIBRARIES]


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
