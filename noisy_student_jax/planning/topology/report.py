"""Reports the compiled programs of a run as JSON and as text."""

from typing import Any

from noisy_student_jax.core import console
from noisy_student_jax.planning.topology.compiling import Outcome
from noisy_student_jax.planning.topology.programs import FIXRES, LABEL, Program
from noisy_student_jax.planning.topology.proposals import Proposal
from noisy_student_jax.runs.run import Generation

WHAT = {"train": "training step", FIXRES: "FixRes step", LABEL: "labeling"}


def title(program: Program) -> str:
    """Returns a program's name in console output."""
    student = program.student
    return (
        f"{student.spec.name}'s {WHAT[program.what]}, {student.spec.model.name}"
        f" at {student.spec.model.resolution} px"
    )


def program_facts(
    program: Program, outcome: Outcome, *, as_in: Program | None = None
) -> dict[str, Any]:
    """Returns the entry of a program in ``plan --json``.

    Args:
      program: the program.
      outcome: its outcome.
      as_in: the program with the same key that was compiled in its place.
    """
    student = program.student
    microbatches = (
        1 if program.what == LABEL else student.spec.config.train.microbatches
    )
    return {
        "student": student.spec.name,
        "program": program.what,
        "model": student.spec.model.name,
        "resolution": student.spec.model.resolution,
        "images_per_device": program.images,
        "microbatches": microbatches,
        "remat": student.spec.config.model.remat,
        "shard_state": student.spec.config.train.shard_state,
        "same_as": as_in.student.spec.name if as_in and as_in is not program else None,
        "fits": outcome.fits,
        "needed": outcome.needed,
        "limit": outcome.limit,
        "refused": outcome.refused,
        "broken": outcome.broken,
        "memory": outcome.memory,
        "operations": outcome.operations,
        "compile_seconds": outcome.seconds,
        "analytic_flops": _analytic_flops(program),
    }


def proposal_facts(student: Generation, proposal: Proposal) -> dict[str, Any]:
    """Returns the entry of a proposal in ``plan --json``."""
    return {
        "student": student.spec.name,
        "fits": proposal.fits,
        "overrides": list(proposal.overrides),
        "compiled": proposal.tried,
        "verified": [program_facts(*one) for one in proposal.verified],
    }


def text(facts: dict[str, Any]) -> str:
    """Formats `command.facts` as text."""
    memory = _bytes(facts["memory"]) if facts["memory"] else "unknown memory"
    lines = [
        f"{facts['name']}: {facts['devices']:,} × {facts['device']}, {memory} each;"
        " compiled ahead of time, of one device:"
    ]
    for program in facts["programs"]:
        lines += _program_lines(program)
    for proposal in facts["proposals"]:
        lines += _proposal_lines(proposal)
    return "\n".join(lines)


def _program_lines(program: dict[str, Any]) -> list[str]:
    name = f"{program['student']}, {WHAT[program['program']]}"
    head = (
        f"{name}: {program['model']} at {program['resolution']} px, {_share(program)}"
    )
    if program["same_as"]:
        return [f"{head}: as of {program['same_as']}"]
    lines = [f"{head}: {verdict(program)}"]
    if told := program["memory"]:
        lines.append(
            f"  memory: {_bytes(program['needed'])} at the peak (arguments"
            f" {_bytes(told['arguments'])}, outputs {_bytes(told['outputs'])} of which"
            f" {_bytes(told['aliased'])} in their place, temporaries"
            f" {_bytes(told['temporaries'])}, program {_bytes(told['program'])})"
        )
    if operations := program["operations"]:
        lines.append(f"  {_operations(program, operations)}")
    if program["compile_seconds"]:
        took = console.duration(program["compile_seconds"])
        lines.append(f"  compiling took {took} here")
    return lines


def _proposal_lines(proposal: dict[str, Any]) -> list[str]:
    if not proposal["fits"]:
        return [
            f"{proposal['student']}: no setting was found to fit"
            f" ({proposal['compiled']} programs were compiled): use more chips, or a"
            " lower config.train.ratio or resolution"
        ]
    lines = [
        f"{proposal['student']} fits with {' '.join(proposal['overrides'])}, the"
        " fastest setting by estimate; compiled:"
    ]
    for program in proposal["verified"]:
        lines += [f"  {line}" for line in _program_lines(program)]
    return lines


def verdict(program: dict[str, Any]) -> str:
    """Returns a phrase on whether a program fits; see `program_facts`."""
    if program["refused"]:
        verdict = "cannot be compiled" if program["broken"] else "does not fit"
        return f"{verdict}: {program['refused']}"
    if not program["limit"]:
        return "compiles; the available memory is unknown"
    verdict = "fits" if program["fits"] else "does not fit"
    share = 100 * program["needed"] / program["limit"]
    return f"{verdict}: {share:.0f} % of {_bytes(program['limit'])}"


def _share(program: dict[str, Any]) -> str:
    share = f"{program['images_per_device']} images a device"
    if program["program"] == LABEL:
        return share
    more = []
    if program["microbatches"] > 1:
        share += f" in {program['microbatches']} microbatches"
    if program["remat"]:
        more.append("remat")
    if program["shard_state"]:
        more.append("sharded state")
    return ", ".join([share, *more])


def _operations(program: dict[str, Any], operations: dict[str, float]) -> str:
    told = []
    if "flops" in operations:
        told.append(f"{operations['flops']:.3g} FLOPs")
    if "bytes" in operations:
        told.append(f"{_bytes(operations['bytes'])} through memory")
    line = ", ".join(told)
    if program["microbatches"] > 1:
        line += (
            f", with one of {program['microbatches']} microbatches: it counts a loop"
            " once"
        )
    return f"{line} (analytic: {program['analytic_flops']:.3g} FLOPs in all)"


def _analytic_flops(program: Program) -> float:
    """Returns 2 × multiply–adds, forward and, for training steps, backward."""
    flops = float(program.student.cost.flops * program.images)
    if program.what == LABEL:
        return flops
    return flops * (4 if program.student.spec.config.model.remat else 3)


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"
