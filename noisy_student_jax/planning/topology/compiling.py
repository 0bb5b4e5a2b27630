"""What the compiler says of a program: memory, operations, collectives; or no."""

import contextlib
import dataclasses
import re
import time
from collections.abc import Iterator
from typing import Any

import jax

from noisy_student_jax.planning.topology.collectives import Collective, collectives
from noisy_student_jax.planning.topology.programs import Program
from noisy_student_jax.planning.topology.slices import Slice

_EXHAUSTED = "RESOURCE_EXHAUSTED"
_FIGURE = r"([\d.]+)([KMGT]?)"
# Of all that a program needs; or of its temporaries, if they alone are too much.
_USED = re.compile(
    rf"Used {_FIGURE} of {_FIGURE} hbm"
    rf"|HLO temporaries \({_FIGURE}\) exceeds available HBM \({_FIGURE}\)"
)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What compiling a program told, of one device.

    Attributes:
      needed: bytes of memory at the peak: arguments, outputs that take no argument's
        place, temporaries and the program itself; what the compiler asked for, where
        it refused.
      limit: bytes that there are; the compiler's own where it refused; 0 if unknown.
      seconds: that compiling took, tracing included.
      refused: why it was not compiled: what the compiler said, or that by reckoning
        it is hopeless.
      broken: whether it was refused for another reason than memory, so that no
        setting will help.
      memory: ``arguments``, ``outputs``, ``aliased`` (outputs in an argument's
        place), ``temporaries`` and ``program``, bytes.
      operations: ``flops`` and ``bytes`` that pass through memory, where the compiler
        tells them. A loop counts once.
      collectives: of `collectives`.
    """

    needed: float
    limit: float
    seconds: float
    refused: str | None = None
    broken: bool = False
    memory: dict[str, int] = dataclasses.field(default_factory=dict)
    operations: dict[str, float] = dataclasses.field(default_factory=dict)
    collectives: tuple[Collective, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether it can run, as far as can be told."""
        return not self.refused and (not self.limit or self.needed <= self.limit)


def compiled(program: Program, where: Slice) -> Outcome:
    """Compiles a program for devices that need not be here, and tells what it takes.

    Args:
      program: of `programs`.
      where: what it would run on.
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
        collectives=tuple(collectives(executable.as_text() or "")),
    )


def refusal(message: str, *, limit: float, seconds: float) -> Outcome:
    """Reads what the compiler says of a program that does not fit.

    Args:
      message: of the exception.
      limit: bytes of memory, where it does not say.
      seconds: until then.
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
    """Keeps programs for other machines out of the cache of this one's."""
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
    # Where the compiler does not know it says -1.
    found = {name: (told or {}).get(key, -1) for name, key in names.items()}
    return {name: value for name, value in found.items() if value >= 0}
