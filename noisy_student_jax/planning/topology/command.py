"""``noisy-student plan --topology``: compiles a config's programs and reports them."""

import argparse
from collections.abc import Hashable
from typing import Any

from noisy_student_jax.config import ConfigDict
from noisy_student_jax.config.schema import LABELS_ONLY
from noisy_student_jax.core import console
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.planning import memory
from noisy_student_jax.planning.topology import compiling, proposals, report, slices
from noisy_student_jax.planning.topology.compiling import Outcome
from noisy_student_jax.planning.topology.estimate import MemoryEstimator
from noisy_student_jax.planning.topology.programs import LABEL, Program, programs
from noisy_student_jax.planning.topology.proposals import Compile, Proposal
from noisy_student_jax.planning.topology.report import text
from noisy_student_jax.planning.topology.slices import Slice
from noisy_student_jax.runs.run import Generation, Run

__all__ = ["asked_for", "facts", "settle", "text"]


def asked_for(options: argparse.Namespace) -> Slice | None:
    """Returns the slice that ``plan --topology`` names, or None without the flag.

    Raises:
      UserError: there is no such slice, or another flag excludes it.
    """
    if not options.topology:
        if options.generation:
            raise UserError("--generation belongs to `plan --topology=SLICE`")
        return None
    if options.model or options.recipe or options.measure:
        raise UserError(
            "`noisy-student plan --topology` needs --config=FILE, and neither --recipe"
            " nor --measure"
        )
    return slices.find(options.topology)


def settle(config: ConfigDict, where: Slice) -> None:
    """Sets the fields of a complete config that follow from a slice."""
    config.plan.update(where.section)
    for owner in (*config.generations, *(config[name] for name in LABELS_ONLY)):
        memory.for_accelerator(owner)


def facts(
    run: Run,
    where: Slice,
    *,
    generation: str | None = None,
    compile_program: Compile | None = None,
) -> dict[str, Any]:
    """Compiles a run's programs for a slice, and proposes settings that fit.

    Programs with the same key are compiled once. Neither weights nor images are
    allocated.

    Args:
      run: the run, opened with ``look_only``.
      where: the slice.
      generation: a generation or baseline to compile alone; None for all.
      compile_program: compiles a program; replaced in tests.

    Returns:
      ``name``, ``devices``, ``device``, ``memory`` (bytes per device, 0 if unknown),
      ``programs`` and ``proposals``.

    Raises:
      UserError: there is no such generation, or its batch does not divide over the
        devices.
    """
    known: dict[Hashable, Outcome] = {}
    estimator = MemoryEstimator(where)
    ask = compile_program or (lambda one: compiling.compiled(one, where))

    def once(program: Program) -> Outcome:
        if program.key not in known:
            known[program.key] = _compiled(program, where, ask, estimator)
        return known[program.key]

    students = _students(run, generation)
    # Impossible layouts are refused before any program is compiled.
    planned = [(student, programs(student, where)) for student in students]
    told, proposed = [], []
    seen: dict[Hashable, Program] = {}
    for student, own in planned:
        results = [(program, once(program)) for program in own]
        told += [
            report.program_facts(
                program, outcome, as_in=seen.setdefault(program.key, program)
            )
            for program, outcome in results
        ]
        found = _proposals(student, where, results, once, estimator)
        proposed += [report.proposal_facts(student, one) for one in found]
    return {
        "name": where.name,
        "devices": len(where.devices),
        "device": where.kind,
        "memory": where.memory,
        "programs": told,
        "proposals": proposed,
    }


def _compiled(
    program: Program, where: Slice, ask: Compile, estimator: MemoryEstimator
) -> Outcome:
    """Compiles a program, unless its estimate is hopeless, and reports progress."""
    steps = program.what != LABEL
    outcome = estimator.hopeless(program.student) if steps else None
    if not outcome:
        console.say(f"compiling {report.title(program)} for {where.name} …")
        outcome = ask(program)
        if steps:
            estimator.learn(program.student, outcome)
    told = report.program_facts(program, outcome)
    console.say(f"  {report.title(program)}: {report.verdict(told)}")
    return outcome


def _students(run: Run, generation: str | None) -> list[Generation]:
    students = {str(student.spec.generation): student for student in run.students}
    if generation is None:
        return list(students.values())
    if generation not in students:
        raise UserError(
            f"--generation={generation}: this config has only {', '.join(students)}"
        )
    return [students[generation]]


def _proposals(
    student: Generation,
    where: Slice,
    results: list[tuple[Program, Outcome]],
    compile_program: Compile,
    estimator: MemoryEstimator,
) -> list[Proposal]:
    steps = {p.what: outcome for p, outcome in results if p.what != LABEL}
    found = []
    broken = any(outcome.broken for outcome in steps.values())
    if not broken and not all(outcome.fits for outcome in steps.values()):
        found.append(
            proposals.propose(student, where, steps, compile_program, estimator)
        )
    program, outcome = results[-1]
    if not outcome.fits and not outcome.broken:
        found.append(
            proposals.propose_labels(program.student, where, outcome, compile_program)
        )
    return found
