"""Proposes settings for a student that does not fit.

Candidates are tried in order of speed: filtered by an estimate, then verified by the
compiler, which takes minutes for each.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator

from noisy_student_jax.planning.topology.compiling import Outcome
from noisy_student_jax.planning.topology.estimate import MemoryEstimator
from noisy_student_jax.planning.topology.programs import (
    Program,
    label_program,
    train_program,
)
from noisy_student_jax.planning.topology.slices import Slice
from noisy_student_jax.runs.run import Generation

TRIES = 3
"""Limit of programs of a kind that are compiled to verify a proposal."""
REMAT = 4 / 3
"""Relative time of a step whose forward pass is computed twice."""
GATHERING = 0.02
"""Relative time added each time that a sharded state is gathered."""
SPLITTING = 0.01
"""Relative time added by each further microbatch, which has fewer images at once."""

Compile = Callable[[Program], Outcome]


@dataclasses.dataclass(frozen=True)
class Setting:
    """Settings of a student that leave its global batch unchanged.

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
        """Returns a student's current setting."""
        train = student.spec.config.train
        return cls(
            student.spec.config.model.remat, train.microbatches, train.shard_state
        )

    @property
    def time(self) -> float:
        """Time of a step, relative to one without remat, microbatches or sharding."""
        more = SPLITTING * (self.microbatches - 1)
        more += GATHERING * self.microbatches * self.shard_state
        return (REMAT if self.remat else 1.0) * (1 + more)

    def applied(self, student: Generation) -> Generation:
        """Returns a student, or its fine-tuning by FixRes, with this setting."""
        config = student.spec.config.copy_and_resolve_references()
        config.model.remat = self.remat
        config.train.microbatches = self.microbatches
        config.train.shard_state = self.shard_state
        return student.changed(config)

    def overrides(self, student: Generation) -> list[str]:
        """Returns the command-line overrides that give a student this setting."""
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
    """A proposed setting for a student.

    Attributes:
      overrides: command-line overrides; empty if no setting was found.
      verified: the programs compiled with this setting, and their outcomes.
      fits: whether the compiler confirmed that they fit.
      tried: number of programs compiled during the search.
    """

    overrides: tuple[str, ...]
    verified: tuple[tuple[Program, Outcome], ...]
    fits: bool
    tried: int


def settings(student: Generation, *, devices: int) -> list[Setting]:
    """Returns a student's possible settings, fastest first.

    Args:
      student: the student.
      devices: number of devices of the slice.
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
    """Whether each part of a batch holds whole groups of batch norm."""
    group = student.spec.config.model.batch_norm_group or 1
    return student.spec.layout.total % (group * parts) == 0


def propose(
    student: Generation,
    where: Slice,
    compiled: dict[str, Outcome],
    compile_program: Compile,
    estimator: MemoryEstimator,
) -> Proposal:
    """Searches for the fastest setting with which a student's steps fit.

    Args:
      student: the student before any fine-tuning by FixRes.
      where: the slice.
      compiled: outcomes of its steps with the current setting, by `Program.what`.
      compile_program: compiles a program.
      estimator: estimates memory; `compile_program` updates it.
    """
    tried = 0
    # Training and fine-tuning share the setting.
    steps = [student, student.final] if student.spec.refined else [student]
    limit = min(outcome.limit for outcome in compiled.values())
    own = Setting.of(student)
    last: tuple[tuple[Program, Outcome], ...] = ()
    for setting in settings(student, devices=len(where.devices)):
        if setting == own or tried >= TRIES * len(compiled):
            continue
        with_it = dict(zip(compiled, map(setting.applied, steps), strict=False))
        if any(estimator.needed(one) > limit for one in with_it.values()):
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
    """Searches for the largest ``labels.batch`` of a host that fits.

    Candidates have powers of two as images per device.

    Args:
      student: the student with its final weights.
      where: the slice.
      outcome: outcome of its labeling program with the current batch.
      compile_program: compiles a program.
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
