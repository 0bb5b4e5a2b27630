"""The time of a step by part, from a profiler's trace.

The trace names an operation of the compiled program; the program's text names its
layer. This needs only JAX, and works on any backend.
"""

import collections
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.profiler import ProfileData, ProfileOptions

PARTS = ("convolution", "depthwise", "normalization", "augmentation", "update", "rest")
"""``convolution`` includes matrix products, ``update`` is optimizer, L2 and average,
``rest`` is activations, gates, dropout, loss and unnamed operations."""

_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = .*?\b([\w-]+)\(")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) .*\{$")
_NAME = re.compile(r'op_name="([^"]*)"')
_CALLS = re.compile(r"(?:calls|to_apply)=%?([\w.-]+)")
_HEAVY = ("convolution", "dot", "custom-call")


def part_of(name: str, opcode: str) -> str:
    """Returns the one of `PARTS` that an operation belongs to, by its origin."""
    if "augment" in name:
        return "augmentation"
    if "depthwise_conv" in name:
        return "depthwise"
    if "_bn/" in name or "BatchNorm" in name:
        return "normalization"
    if opcode in ("convolution", "dot") or re.search(
        r"conv_general_dilated|dot_general|_conv/", name
    ):
        return "convolution"
    # Operations that are neither differentiated nor gradients come after both.
    if name and "jvp(" not in name:
        return "update"
    return "rest"


def parts_of(program: str) -> dict[str, str]:
    """Returns the part that each operation of a compiled program belongs to.

    A fusion belongs to the part of the convolution in it, if it has one, else to that
    of most of its operations.

    Args:
      program: its text, as returned by ``compiled.as_text()``.
    """
    inside: dict[str, list[tuple[str, str, str]]] = collections.defaultdict(list)
    computation = ""
    for line in program.splitlines():
        if found := _COMPUTATION.match(line):
            computation = found[1]
        elif found := _INSTRUCTION.match(line):
            name, calls = _NAME.search(line), _CALLS.search(line)
            part = part_of(name[1] if name else "", found[2])
            inside[computation].append((found[1], found[2], part))
            if calls and found[2] == "fusion":
                inside[computation][-1] = (found[1], f"fusion:{calls[1]}", part)
    parts = {}
    for instructions in inside.values():
        for name, opcode, part in instructions:
            if opcode.startswith("fusion:"):
                part = _fused(inside[opcode.removeprefix("fusion:")], part)
            parts[name] = part
    return parts


def _fused(instructions: list[tuple[str, str, str]], own: str) -> str:
    heavy = [part for _, opcode, part in instructions if opcode in _HEAVY]
    if heavy:
        return heavy[0]
    if own != "rest":
        return own
    counts = collections.Counter(part for *_, part in instructions if part != "rest")
    return counts.most_common(1)[0][0] if counts else own


def seconds_by_part(
    work: Callable[[], Any], programs: dict[str, str]
) -> tuple[dict[str, float], float]:
    """Runs some work under the profiler and sums its time by part.

    Args:
      work: the work; it returns when everything is computed.
      programs: text of each compiled program that it runs, by the program's name
        (``jit_step`` for a function ``step``).

    Returns:
      Seconds by part, and the seconds of operations that no text names. They are
      seconds of the device's streams (of threads, on CPU), which may overlap.
    """
    parts = {name: parts_of(text) for name, text in programs.items()}
    seconds, unknown = dict.fromkeys(PARTS, 0.0), 0.0
    with tempfile.TemporaryDirectory() as folder:
        options = ProfileOptions()
        options.python_tracer_level = 0
        with jax.profiler.trace(folder, profiler_options=options):
            work()
        for path in pathlib.Path(folder).rglob("*.xplane.pb"):
            data = ProfileData.from_file(str(path))
            for program, operation, own in _operations(data):
                part = parts.get(program, {}).get(operation)
                if part is None:
                    unknown += own
                else:
                    seconds[part] += own
    return seconds, unknown


def _operations(data: ProfileData) -> Iterator[tuple[str, str, float]]:
    """Yields program, operation and seconds, without those of nested operations."""
    devices = [plane for plane in data.planes if plane.name.startswith("/device:")]
    for plane in devices or data.planes:
        for line in plane.lines:
            events = []
            for event in line.events:
                told = dict(event.stats)
                if "hlo_op" in told:
                    what = str(told.get("hlo_module", "")), str(told["hlo_op"])
                    events.append((event.start_ns, -event.duration_ns, what))
            yield from _own_times(sorted(events))


def _own_times(
    events: list[tuple[float, float, tuple[str, str]]],
) -> Iterator[tuple[str, str, float]]:
    """Yields each event's time without that of the events within it."""
    open_events: list[list[Any]] = []

    def close() -> tuple[str, str, float]:
        _, what, own = open_events.pop()
        return *what, own / 1e9

    for start, negative, what in events:
        while open_events and open_events[-1][0] <= start:
            yield close()
        if open_events:
            open_events[-1][2] += negative
        open_events.append([start - negative, what, -negative])
    while open_events:
        yield close()
