"""Alternating timing of ours and a peer in one process, and the ratios.

Every script here that claims a speed uses this module, so all claims are measured in
the same way: the works take turns (so a slow minute of the machine affects all of
them), a turn is at least `seconds` long, and the result is the median over the turns.
Nothing else should run meanwhile.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

Case = TypeVar("Case")

Work = Callable[[], int]
"""A function that does some work, waits for its end, and returns its item count."""


def parser(doc: str) -> argparse.ArgumentParser:
    """Makes a command line with ``--repeats``, ``--seconds`` and ``--json``."""
    made = argparse.ArgumentParser(description=doc.split("\n")[0])
    made.add_argument("--repeats", type=int, default=5, help="turns of each")
    made.add_argument("--seconds", type=float, default=2.0, help="of a turn, at least")
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def add_only(command_line: argparse.ArgumentParser) -> None:
    """Adds ``--only``, the words for `chosen`."""
    command_line.add_argument(
        "--only", nargs="+", metavar="WORD", help="cases whose name has one of these"
    )


def chosen(named: Mapping[str, Case], words: Sequence[str] | None) -> dict[str, Case]:
    """Returns the cases that ``--only`` selects, by their names.

    A word selects the names that contain it as a word ("b0", but not "b0_small at 32
    px"); if there are none, the names that contain it anywhere ("small").

    Args:
      named: all cases, by the names that the table prints.
      words: the given words; None selects all cases.

    Raises:
      SystemExit: no name contains one of the words.
    """
    if words is None:
        return dict(named)
    found = set()
    for word in words:
        whole = {n for n in named if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", n)}
        having = whole or {name for name in named if word in name}
        if not having:
            raise SystemExit(
                f"--only={word} is in no case's name: there are {'; '.join(named)}"
            )
        found |= having
    return {name: case for name, case in named.items() if name in found}


def rates(
    works: Mapping[str, Work], *, repeats: int = 5, seconds: float = 2.0
) -> dict[str, float]:
    """Returns items per second of each work: the median over alternating turns.

    Each work is done once before anything is timed, so that it may compile.
    """
    for work in works.values():
        work()
    measured: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            items, started = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - started) < seconds or not items:
                items += work()
            measured[name].append(items / elapsed)
    return {name: statistics.median(turns) for name, turns in measured.items()}


def case(name: str, ours: float, peer: float, **more: Any) -> dict[str, Any]:
    """Makes the record of one comparison of rates; a ratio above 1 means ours leads."""
    return {"name": name, "ours": ours, "peer": peer, "ratio": ours / peer, **more}


def show(
    cases: list[dict[str, Any]],
    *,
    unit: str,
    peers: tuple[str, ...] = (),
    as_json: bool = False,
) -> None:
    """Prints the machine, the versions and a line for each case, or one JSON object.

    Args:
      cases: records of `case`; further fields are shown after its four.
      unit: unit of ``ours`` and ``peer``.
      peers: distributions whose versions are printed, beside our own.
      as_json: whether to print ``{"machine", "versions", "unit", "cases"}``.
    """
    versions = {
        name: importlib.metadata.version(name) for name in ("jax", "jaxlib", *peers)
    }
    machine = f"{_processor()}, {len(os.sched_getaffinity(0))} cores"
    if as_json:
        told = {"machine": machine, "versions": versions, "unit": unit}
        print(json.dumps({**told, "cases": cases}))
        return
    print(f"{machine}; {', '.join(f'{k} {v}' for k, v in versions.items())}")
    width = max(len(one["name"]) for one in cases)
    print(f"{'':{width}}{'ours':>12}{'peer':>12}{'ratio':>9}   {unit}")
    for one in cases:
        more = [f"{k} {v}" for k, v in one.items() if k not in case("", 1, 1)]
        print(
            f"{one['name']:{width}}{one['ours']:>12.4g}{one['peer']:>12.4g}"
            f"{one['ratio']:>8.2f}×   {', '.join(more)}"
        )


def forget_peak() -> int:
    """Resets the peak memory of this process; returns the bytes that it holds."""
    # Where this file may not be written, the peak is that of the whole process.
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def peak() -> int:
    """Returns the most bytes that this process has held since `forget_peak`."""
    return _status("VmHWM")


def _status(field: str) -> int:
    text = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in text.splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def _processor() -> str:
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
        named = [line for line in text.splitlines() if line.startswith("model name")]
        return named[0].partition(":")[2].strip()
    except (OSError, IndexError):
        return platform.processor() or platform.machine()
