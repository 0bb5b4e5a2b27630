"""Compiled programs in the user's cache, found by what they are made of.

JAX keeps compiled programs too, and finds them by their text: so a step is traced and
lowered before it can be looked for, which takes longer than to load it. Here its name
is a digest of all that goes into it: code, options, shapes, devices, compiler. What
cannot be named that way (`describing`) is left to JAX. Both lie in the folder of JAX's
compilation cache, and whoever turns that off has neither. Loading a program runs what
lies there, as it does with JAX's own: nobody else should be able to write to it.
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
"""Bytes that are kept; those not used for longest go first."""
_SUFFIX = ".program"
_CACHE_HIT = "/jax/compilation_cache/cache_hits"
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "PJRT_NPROC", "NPROC")
# Where and what JAX keeps, or tells, is nothing that a program is made of.
_ELSEWHERE = ("jax_compilation_cache", "jax_persistent_cache", "jax_log", "jax_dump")


def folder() -> pathlib.Path | None:
    """Returns where programs are kept; None where JAX keeps none on this machine."""
    # JAX adds its settings to `Config` at import, where no checker sees them.
    place = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    enabled = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    if not place or not enabled or jax.process_count() > 1 or "://" in place:
        return None
    return pathlib.Path(place) / "noisy_student_jax"


def name(function: Any, shapes: PyTree, devices: list[jax.Device]) -> str | None:
    """Names the program that a function becomes for given arguments.

    Args:
      function: as it is traced, with all that it holds.
      shapes: of the arguments: a tree of `jax.ShapeDtypeStruct` with shardings.
      devices: that it runs on.

    Returns:
      A digest; None if the function holds code that has no version (somebody's own
      model or task), so that nothing may be found under a name.
    """
    try:
        made_of = describe(function)
    except Exception:  # it may be made of anything
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
        # A program's loops are split for so many threads when it is compiled.
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
    """Whether there is a program of that name."""
    place = folder()
    with contextlib.suppress(OSError):
        return place is not None and (place / (name + _SUFFIX)).is_file()
    return False  # not ours to look at


def find(
    name: str, devices: list[jax.Device], inputs: Any, outputs: Any
) -> jax.stages.Compiled | None:
    """Loads a kept program.

    Args:
      name: of `name`.
      devices: that it runs on.
      inputs: tree structure of its arguments, ``((…), {})``.
      outputs: takes the note that it was kept with; returns the structure of what it
        gives.

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
            raise ValueError("it is not what was written")
        with contextlib.suppress(OSError):
            os.utime(path)  # so that it stays
        return serialize_executable.deserialize_and_load(
            program,
            inputs,
            outputs(json.loads(note)),
            backend=devices[0].client,
            execution_devices=devices,
        )
    except FileNotFoundError:
        return None
    except Exception:  # the compiler's own errors, too: it is only compiled again
        forget(name)
        return None


def compiled(lowered: jax.stages.Lowered) -> tuple[jax.stages.Compiled, bool]:
    """Compiles a program that is to be kept, here and not by JAX as well.

    Returns:
      The program, and whether it may be kept: what JAX found in its own cache may not,
      since an executable that was loaded is written without its code (JAX 0.10, CPU).
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


# Once for all threads: JAX tells events in the thread that they happen in.
jax.monitoring.register_event_listener(_note_what_jax_loads)


@contextlib.contextmanager
def _too_short_for_jax() -> Iterator[None]:
    """Has JAX keep nothing of what this thread compiles.

    It has no public setting for one thread, and others compile meanwhile what it is to
    keep.
    """
    try:
        from jax._src.config import persistent_cache_min_compile_time_secs as least
    except ImportError:
        yield
        return
    with least(float("inf")):
        yield


def forget(name: str) -> None:
    """Throws a kept program away, if there is one."""
    if place := folder():
        with contextlib.suppress(OSError):
            (place / (name + _SUFFIX)).unlink()


def keep(name: str, program: jax.stages.Compiled, note: Any) -> None:
    """Keeps a program, with what has to be known to load it; or not, if it cannot be.

    Args:
      name: of `name`.
      program: of `compiled`, if it may be kept.
      note: any JSON.
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
    except Exception:  # no room, not ours to write, nothing that can be written down
        return  # the next process compiles it again


def _make_room(place: pathlib.Path) -> None:
    for path in place.glob(f".*{_SUFFIX}.*.tmp"):
        # A writer was killed; or is at it, if it is young.
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


# Of what was imported: the files may be others when a program is compiled.
_PACKAGE = _digest_of(pathlib.Path(__file__).parents[1])


def _versions() -> list[str | None]:
    return [getattr(sys.modules.get(one), "__version__", None) for one in LIBRARIES]


@functools.cache
def processor() -> str:
    """Names this processor by what it can do: another may not run its programs."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = platform.processor()
    abilities = [line for line in text.splitlines() if line.startswith("flags")][:1]
    digest = hashlib.sha256("".join(abilities or [text]).encode()).hexdigest()
    return f"{platform.machine()}-{digest[:12]}"
