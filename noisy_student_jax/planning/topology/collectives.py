"""Counts a program's collectives in its compiled HLO text."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_OP = re.compile(
    rf"= (?P<result>.*?) (?P<kind>{'|'.join(KINDS)}|ragged-all-to-all)"
    r"(?P<start>-start)?\("
)
_HEADER = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) \(.*\) -> .* \{$")
_CALLED = re.compile(
    r"\b(?P<how>calls|to_apply|body|condition|true_computation|false_computation)"
    r"=%?(?P<name>[\w.-]+)"
)
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_CONDITION = re.compile(r"\bcondition=%?([\w.-]+)")
_CONSTANT = re.compile(r"= s(?:32|64)\[\]\S* constant\((\d+)\)")
_ARRAY = re.compile(r"\b([a-z]\w*?\d*)\[([\d,]*)\]")
_GROUPS = re.compile(
    r"replica_groups=(?:\[\d+,(?P<each>\d+)\]|\{\{(?P<first>[\d,]+)\}"
    r"|mesh\[(?P<mesh>[^\]]*)\] ?\{(?P<axes>[^}]*)\})"
)
_BITS = re.compile(r"\d+")


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of a kind in one execution of a program.

    Attributes:
      kind: XLA's name of the operation.
      count: number of collectives that each device takes part in.
      bytes: total bytes of their operands or results on a device, whichever is larger.
    """

    kind: str
    count: int
    bytes: int


def collectives(text: str) -> list[Collective]:
    """Counts the collectives of a program, once per iteration in loops.

    A loop whose trip count the compiler does not know is counted once.

    Args:
      text: HLO text from `jax.stages.Compiled.as_text`.

    Returns:
      One entry for each kind in the program, in descending order of bytes.
    """
    computations = dict(_computations(text))
    entry = next((n for n, (first, _) in computations.items() if first), None)
    times: collections.Counter[str] = collections.Counter()
    if entry is not None:
        _walk(entry, 1, computations, times)
    # An asynchronous collective appears in several computations.
    each: dict[str, tuple[str, int, int]] = {}
    for name, (_, lines) in computations.items():
        for number, line in enumerate(lines if times[name] else ()):
            if found := _OP.search(line):
                kind = found["kind"]
                if name.startswith("all-reduce-scatter"):
                    # The TPU compiler writes it as an all-reduce and a slice of it.
                    kind = "reduce-scatter"
                channel = _CHANNEL.search(line)
                key = channel[1] if channel else f"{name} {number}"
                turns = max(times[name], each.get(key, ("", 0, 0))[1])
                each[key] = kind, turns, _bytes(found, line)
    counts: collections.Counter[str] = collections.Counter()
    sizes: collections.Counter[str] = collections.Counter()
    for kind, turns, size in each.values():
        counts[kind] += turns
        sizes[kind] += turns * size
    told = [Collective(kind, counts[kind], sizes[kind]) for kind in counts]
    return sorted(told, key=lambda one: -one.bytes)


def _computations(text: str) -> Iterator[tuple[str, tuple[bool, list[str]]]]:
    """Yields each computation's name, whether it is the entry, and its lines."""
    name, entry = None, False
    lines: list[str] = []
    for line in text.splitlines():
        if name is None:
            if header := _HEADER.match(line):
                name, entry, lines = header["name"], bool(header["entry"]), []
        elif line.startswith("}"):
            yield name, (entry, lines)
            name = None
        else:
            lines.append(line)


def _walk(
    name: str,
    times: int,
    computations: dict[str, tuple[bool, list[str]]],
    counted: collections.Counter[str],
) -> None:
    """Counts the executions of each computation; HLO has no recursion."""
    counted[name] += times
    for line in computations.get(name, (False, []))[1]:
        for called in _CALLED.finditer(line):
            turns = _turns(line, computations) if called["how"] == "body" else 1
            _walk(called["name"], times * turns, computations, counted)
        for branches in _BRANCHES.finditer(line):
            for one in filter(None, re.split(r"[ ,%]+", branches[1])):
                _walk(one, times, computations, counted)


def _turns(loop: str, computations: dict[str, tuple[bool, list[str]]]) -> int:
    """Returns a loop's trip count if it counts up to a constant, otherwise 1.

    Args:
      loop: the line of the instruction.
      computations: the program's computations by name.
    """
    if known := _TRIPS.search(loop):
        return int(known[1])
    condition = _CONDITION.search(loop)
    lines = computations.get(condition[1], (False, []))[1] if condition else []
    # A scan counts from 0 in steps of 1, while below the only constant.
    bounds = [int(found[1]) for line in lines if (found := _CONSTANT.search(line))]
    counts = any("direction=LT" in line for line in lines)
    return bounds[0] if counts and len(bounds) == 1 else 1


def _bytes(found: re.Match[str], line: str) -> int:
    """Returns the bytes of a collective's result or operand, whichever is larger."""
    sizes = [_array_bytes(*array) for array in _ARRAY.findall(found["result"])]
    kind = found["kind"]
    if found["start"] and kind in ("all-gather", "collective-permute"):
        # The result is a tuple of operands and results; a permutation appends its
        # counters. For all-gather, the second half holds the results.
        sizes = sizes[1:2] if kind == "collective-permute" else sizes[len(sizes) // 2 :]
    if kind == "reduce-scatter":
        return sum(sizes) * _members(line)
    return sum(sizes)


def _members(line: str) -> int:
    """Returns the number of devices in each group of a collective."""
    groups = _GROUPS.search(line)
    if not groups:
        return 1
    if groups["each"]:
        return int(groups["each"])
    if groups["first"]:
        return groups["first"].count(",") + 1
    lengths = dict(re.findall(r"'(\w+)'=(\d+)", groups["mesh"]))
    return math.prod(int(lengths[axis]) for axis in re.findall(r"\w+", groups["axes"]))


def _array_bytes(dtype: str, shape: str) -> int:
    width = _BITS.search(dtype)
    # A token has no width.
    bits = 8 if dtype == "pred" else int(width[0]) if width else 0
    elements = math.prod(int(length) for length in filter(None, shape.split(",")))
    return -(-elements * bits // 8)
