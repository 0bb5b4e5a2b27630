"""``noisy-student plan --topology``: compiles a config's programs and reports them."""

import argparse
from collections.abc import Hashable
from typing import Any

from noisy_student_jax.core import console
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.planning.topology import compiling, proposals, report, slices
from noisy_student_jax.planning.topology.compiling import Outcome
from noisy_student_jax.planning.topology.estimate import Reckoning
from noisy_student_jax.planning.topology.programs import LABEL, Program, programs
from noisy_student_jax.planning.topology.proposals import Compile, Proposal
from noisy_student_jax.planning.topology.report import text
from noisy_student_jax.planning.topology.slices import Slice
from noisy_student_jax.runs.run import Generation, Run

__all__ = ["asked_for", "facts", "text"]


def asked_for(options: argparse.Namespace) -> Slice | None:
    """Returns the slice that `plan` is to compile for, if for one.

    Raises:
      UserError: there is no such slice, or other flags do not go with it.
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


def facts(
    run: Run,
    where: Slice,
    *,
    generation: str | None = None,
    compile_program: Compile | None = None,
) -> dict[str, Any]:
    """Compiles what a run would compile on a slice, and proposes what would fit.

    Programs that cost the same are compiled once. Nothing is allocated: neither weights
    nor images.

    Args:
      run: opened to look at.
      where: what it would run on.
      generation: of one alone, or one of `fields.LABELS_ONLY`; None for all.
      compile_program: asks the compiler; given by tests.

    Returns:
      ``name``, ``devices``, ``device``, ``memory`` (of a device, bytes, 0 if not
      known), ``programs`` and ``proposals``.

    Raises:
      UserError: there is no such generation, or its batch does not divide.
    """
    known: dict[Hashable, Outcome] = {}
    reckoning = Reckoning(where)
    ask = compile_program or (lambda one: compiling.compiled(one, where))

    def once(program: Program) -> Outcome:
        if program.key not in known:
            known[program.key] = _compiled(program, where, ask, reckoning)
        return known[program.key]

    students = _students(run, generation)
    # What cannot be is told before any minute is spent.
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
        found = _proposals(student, where, results, once, reckoning)
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
    program: Program, where: Slice, ask: Compile, reckoning: Reckoning
) -> Outcome:
    """Compiles a program unless that would be vain, and says so."""
    steps = program.what != LABEL
    outcome = reckoning.hopeless(program.student) if steps else None
    if not outcome:
        console.say(f"compiling {report.title(program)} for {where.name} …")
        outcome = ask(program)
        if steps:
            reckoning.learn(program.student, outcome)
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
    reckoning: Reckoning,
) -> list[Proposal]:
    steps = {p.what: outcome for p, outcome in results if p.what != LABEL}
    found = []
    broken = any(outcome.broken for outcome in steps.values())
    if not broken and not all(outcome.fits for outcome in steps.values()):
        found.append(
            proposals.propose(student, where, steps, compile_program, reckoning)
        )
    program, outcome = results[-1]
    if not outcome.fits and not outcome.broken:
        found.append(
            proposals.propose_labels(program.student, where, outcome, compile_program)
        )
    return found
