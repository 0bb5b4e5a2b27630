"""Compiles a program for a slice and reads its memory and FLOPs."""

import contextlib
import dataclasses
import re
import time
from collections.abc import Iterator
from typing import Any

import jax

from noisy_student_jax.planning.topology.programs import Program
from noisy_student_jax.planning.topology.slices import Slice

_EXHAUSTED = "RESOURCE_EXHAUSTED"
_FIGURE = r"([\d.]+)([KMGT]?)"
# The total of a program; or its temporaries, if they alone exceed the memory.
_USED = re.compile(
    rf"Used {_FIGURE} of {_FIGURE} hbm"
    rf"|HLO temporaries \({_FIGURE}\) exceeds available HBM \({_FIGURE}\)"
)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Result of compiling a program, per device.

    Attributes:
      needed: peak memory in bytes: arguments, outputs not aliased to arguments,
        temporaries and the program itself; the compiler's demand where it refused.
      limit: available bytes; the compiler's figure where it refused; 0 if unknown.
      seconds: seconds of tracing and compiling.
      refused: why it was not compiled: the compiler's message, or a hopeless estimate.
      broken: whether it was refused for a reason other than memory, so that no setting
        will help.
      memory: bytes of ``arguments``, ``outputs``, ``aliased`` (outputs in the place of
        donated arguments), ``temporaries`` and ``program``.
      operations: ``flops`` and ``bytes`` of memory traffic, where the compiler reports
        them. A loop counts once.
    """

    needed: float
    limit: float
    seconds: float
    refused: str | None = None
    broken: bool = False
    memory: dict[str, int] = dataclasses.field(default_factory=dict)
    operations: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def fits(self) -> bool:
        """Whether the program fits; True where the limit is unknown."""
        return not self.refused and (not self.limit or self.needed <= self.limit)


def compiled(program: Program, where: Slice) -> Outcome:
    """Compiles a program for a slice, which need not be attached.

    Args:
      program: a program from `programs`.
      where: the slice.
    """
    started = time.monotonic()
    with _nothing_kept():
        lowered = program.lower()
        try:
            executable = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            return refusal(
                str(error), limit=where.memory, seconds=time.monotonic() - started
            )
    seconds = time.monotonic() - started
    memory = _memory(executable.memory_analysis())
    return Outcome(
        needed=sum(memory.values()) - 2 * memory["aliased"],
        limit=where.memory,
        seconds=seconds,
        memory=memory,
        operations=_operations(executable.cost_analysis()),
    )


def refusal(message: str, *, limit: float, seconds: float) -> Outcome:
    """Parses the compiler's message about a program that does not fit.

    Args:
      message: message of the exception.
      limit: available bytes, used where the message gives none.
      seconds: seconds until the refusal.
    """
    told = " ".join(message.split())
    needed = 0.0
    if used := _USED.search(told):
        first = 1 if used[1] else 5
        needed, limit = (
            float(used[at]) * _UNITS[used[at + 1]] for at in (first, first + 2)
        )
        told = used[0]
    elif len(told) > 200:
        told = f"{told[:200]}…"
    return Outcome(
        needed,
        limit,
        seconds,
        refused=f"the compiler says '{told}'",
        broken=_EXHAUSTED not in message,
    )


@contextlib.contextmanager
def _nothing_kept() -> Iterator[None]:
    """Keeps programs for other machines out of this machine's compilation cache."""
    # JAX adds its options to the class at import time, where no checker sees them.
    before = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def _memory(told: Any) -> dict[str, int]:
    return {
        "arguments": told.argument_size_in_bytes,
        "outputs": told.output_size_in_bytes,
        "aliased": told.alias_size_in_bytes,
        "temporaries": told.temp_size_in_bytes,
        "program": told.generated_code_size_in_bytes,
    }


def _operations(told: Any) -> dict[str, float]:
    names = {"flops": "flops", "bytes": "bytes accessed"}
    # The compiler reports unknown values as -1.
    found = {name: (told or {}).get(key, -1) for name, key in names.items()}
    return {name: value for name, value in found.items() if value >= 0}
