"""What to set where a student does not fit.

Candidates are tried from the fastest on: sieved by reckoning, then verified by the
compiler, which takes minutes for each.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator

from noisy_student_jax.planning.topology.compiling import Outcome
from noisy_student_jax.planning.topology.estimate import Reckoning
from noisy_student_jax.planning.topology.programs import (
    Program,
    label_program,
    train_program,
)
from noisy_student_jax.planning.topology.slices import Slice
from noisy_student_jax.runs.run import Generation

TRIES = 3
"""Programs of a kind that are compiled to verify a proposal: it takes minutes."""
REMAT = 4 / 3
"""Of the time of a step, with its forward pass done twice."""
GATHERING = 0.02
"""Of the time of a step, for each time that a sharded state is gathered."""
SPLITTING = 0.01
"""Of the time of a step, for each further microbatch: fewer images at once."""

Compile = Callable[[Program], Outcome]


@dataclasses.dataclass(frozen=True)
class Setting:
    """What can be changed about a student without changing its global batch.

    Attributes:
      remat: ``model.remat``.
      microbatches: ``train.microbatches``.
      shard_state: ``train.shard_state``.
    """

    remat: bool
    microbatches: int
    shard_state: bool

    @classmethod
    def of(cls, student: Generation) -> "Setting":
        """Returns what a student has."""
        train = student.spec.config.train
        return cls(
            student.spec.config.model.remat, train.microbatches, train.shard_state
        )

    @property
    def time(self) -> float:
        """Of a step, next to one with nothing of all this."""
        more = SPLITTING * (self.microbatches - 1)
        more += GATHERING * self.microbatches * self.shard_state
        return (REMAT if self.remat else 1.0) * (1 + more)

    def applied(self, student: Generation) -> Generation:
        """Returns the student with it; also one that is fine-tuned by FixRes."""
        config = student.spec.config.copy_and_resolve_references()
        config.model.remat = self.remat
        config.train.microbatches = self.microbatches
        config.train.shard_state = self.shard_state
        return student.changed(config)

    def overrides(self, student: Generation) -> list[str]:
        """Returns the arguments that make a student's setting this one."""
        fields = {
            "model.remat": self.remat,
            "train.microbatches": self.microbatches,
            "train.shard_state": self.shard_state,
        }
        return [
            _override(student, field, value)
            for field, value in fields.items()
            if student.spec.config[field.split(".")[0]][field.split(".")[1]] != value
        ]


@dataclasses.dataclass(frozen=True)
class Proposal:
    """What to set for a student.

    Attributes:
      overrides: arguments; empty if nothing was found.
      verified: the programs as they were compiled with them, and what that told.
      fits: whether the compiler says so.
      tried: programs that were compiled in search of it.
    """

    overrides: tuple[str, ...]
    verified: tuple[tuple[Program, Outcome], ...]
    fits: bool
    tried: int


def settings(student: Generation, *, devices: int) -> list[Setting]:
    """Returns the settings that a student may have on so many devices, fastest first.

    Args:
      student: that does not fit.
      devices: of the slice.
    """
    accepts = "remat" in student.spec.model.arguments
    both = (one.spec.layout.groups for one in (student, student.final))
    most = math.gcd(*both) // devices
    found = {
        Setting(remat, microbatches, shard_state)
        for remat in ((False, True) if accepts else (student.spec.config.model.remat,))
        for microbatches in range(1, most + 1)
        if most % microbatches == 0
        for shard_state in (False, True)
        if all(
            _divides(one, devices * microbatches) for one in (student, student.final)
        )
    }
    return sorted(found, key=lambda one: (one.time, one.microbatches))


def _divides(student: Generation, parts: int) -> bool:
    """Whether each of the parts of a batch has whole groups of batch norm."""
    group = student.spec.config.model.batch_norm_group or 1
    return student.spec.layout.total % (group * parts) == 0


def propose(
    student: Generation,
    where: Slice,
    compiled: dict[str, Outcome],
    compile_program: Compile,
    reckoning: Reckoning,
) -> Proposal:
    """Looks for the fastest setting with which a student's steps fit.

    Args:
      student: not yet fine-tuned by FixRes.
      where: the slice.
      compiled: what was told of its steps as they are, by `Program.what`.
      compile_program: asks the compiler.
      reckoning: of memory; told by `compile_program` what it learns.
    """
    tried = 0
    # Its training and its FixRes share the setting.
    steps = [student, student.final] if student.spec.refined else [student]
    limit = min(outcome.limit for outcome in compiled.values())
    own = Setting.of(student)
    last: tuple[tuple[Program, Outcome], ...] = ()
    for setting in settings(student, devices=len(where.devices)):
        if setting == own or tried >= TRIES * len(compiled):
            continue
        with_it = dict(zip(compiled, map(setting.applied, steps), strict=False))
        if any(reckoning.needed(one) > limit for one in with_it.values()):
            continue
        verified = []
        for one in with_it.values():
            program = train_program(one, where)
            outcome, tried = compile_program(program), tried + 1
            verified.append((program, outcome))
            if not outcome.fits:
                break
        else:
            return Proposal(
                tuple(setting.overrides(student)), tuple(verified), True, tried
            )
        last = tuple(verified)
    return Proposal((), last, False, tried)


def propose_labels(
    student: Generation, where: Slice, outcome: Outcome, compile_program: Compile
) -> Proposal:
    """Looks for the largest ``labels.batch`` of a host that fits, in powers of two.

    Args:
      student: as it labels.
      where: the slice.
      outcome: what was told of its labeling program as it is.
      compile_program: asks the compiler.
    """
    verified: tuple[tuple[Program, Outcome], ...] = ()
    for tried, batch in enumerate(_smaller_batches(student, where, outcome), 1):
        config = student.spec.config.copy_and_resolve_references()
        config.labels.batch = batch
        program = label_program(student.changed(config), where)
        outcome = compile_program(program)
        verified = ((program, outcome),)
        if outcome.fits:
            override = _override(student, "labels.batch", batch)
            return Proposal((override,), verified, True, tried)
        if tried == TRIES:
            break
    return Proposal((), verified, False, TRIES)


def _smaller_batches(
    student: Generation, where: Slice, outcome: Outcome
) -> Iterator[int]:
    devices = len(where.host)
    images = -(-student.spec.config.labels.batch // devices)
    if outcome.needed > outcome.limit > 0:
        images = math.ceil(images * outcome.limit / outcome.needed)
    images = 2 ** max(0, math.ceil(math.log2(images)) - 1)
    while images >= 1:
        yield images * devices
        images //= 2


def _override(student: Generation, field: str, value: object) -> str:
    return f"--config.{student.spec.owner}.{field}={value}"
