"""Checks of a prepared cache: its pixels against their sums, its tables for sense."""

import concurrent.futures
import functools
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisy_student_jax.core import console, files
from noisy_student_jax.core.console import Progress
from noisy_student_jax.core.preemption import Interruption

FALSE_SUM = "its pixels do not match their SHA-256"
_HEX = r"\A[0-9a-f]{64}\z"
_FACTS = {"bytes": int, "sha256": str, "decoder": str}
_LONG_SECONDS = 2.0
"""Checks that take longer are announced with their rate."""


def table_fault(table: pa.Table, facts: Any) -> str | None:
    """Returns what is wrong in a part's table, which may be one without a sum.

    Args:
      table: one row a file, with the columns of `read.SCHEMA` except added ones.
      facts: what its metadata say of the pixels, as JSON.

    Returns:
      A clause; None for a table that makes sense.
    """
    if not isinstance(facts, dict) or any(
        not isinstance(facts.get(name), kind) for name, kind in _FACTS.items()
    ):
        return "it does not describe its pixels"
    ok = table.filter(pc.equal(table["status"], "ok"))
    sides = ("height", "width", "original_height", "original_width")
    always = ("path", "size", "modified", "status", "sha256")
    if any(table[name].null_count for name in always) or any(
        ok[name].null_count
        for name in (*sides, "offset", "look")
        if name in ok.column_names
    ):
        return "it lacks values"
    hashes = [table["sha256"]]
    if "pixels" in ok.column_names:
        hashes.append(ok["pixels"])
    for column in hashes:
        right = pc.fill_null(pc.match_substring_regex(column, _HEX), False)
        if not pc.all(right, min_count=0).as_py():
            return "it has malformed hashes"
    measures = {name: ok[name].to_numpy().astype(np.int64) for name in sides}
    offset = ok["offset"].to_numpy()
    end = offset + 3 * measures["height"] * measures["width"]
    outside = (offset < 0) | (end > facts["bytes"])
    if any((side < 1).any() for side in measures.values()) or outside.any():
        return "it has images outside its pixels"
    return None


def is_whole(path: pathlib.Path, sha256: str) -> bool:
    """Returns whether a file of pixels matches its sum; hashes it once while unchanged.

    Args:
      path: the file.
      sha256: of its bytes, in hexadecimal.
    """
    try:
        return _sum(path, files.identity(path)) == sha256
    except OSError:
        return False


@functools.lru_cache(maxsize=1 << 16)
def _sum(path: pathlib.Path, unchanged: tuple[int, ...]) -> str:
    del unchanged
    return files.sha256(path)


def damaged(
    sums: Mapping[pathlib.Path, str], *, interruption: Interruption, progress: Progress
) -> list[pathlib.Path]:
    """Checks files of pixels against their sums, in threads.

    Args:
      sums: SHA-256 of each file.
      interruption: polled after each file.
      progress: updated after each file.

    Returns:
      The files that do not match, sorted.

    Raises:
      Interrupted: a stop was requested.
    """
    sizes = {path: files.size(path) for path in sums}
    begun, done, found = time.monotonic(), 0, []
    progress.start(max(1, sum(sizes.values()) // 10**6), "MB checked")
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        tasks = {
            pool.submit(is_whole, path, sha256): path for path, sha256 in sums.items()
        }
        try:
            for task in concurrent.futures.as_completed(tasks):
                path = tasks[task]
                if not task.result():
                    found.append(path)
                done += sizes[path]
                progress.update(done // 10**6)
                interruption.check()
        finally:
            pool.shutdown(cancel_futures=True)
    if (seconds := time.monotonic() - begun) > _LONG_SECONDS:
        console.say(
            f"checked {done / 1e9:.3g} GB of prepared images"
            f" ({done / 1e9 / seconds:.2g} GB/s)"
        )
    return sorted(found)
