"""What a study will take: the stages that differ between its variants."""

from typing import Any

from noisy_student_jax.core import console, files
from noisy_student_jax.planning import throughput
from noisy_student_jax.planning.throughput import Speeds
from noisy_student_jax.runs.run import Run
from noisy_student_jax.runs.scheduler import Stage
from noisy_student_jax.self_training import noisy_student
from noisy_student_jax.studies.perform import Performed


def facts(performed: Performed, *, speeds: Speeds | None = None) -> dict[str, Any]:
    """Returns the predicted cost of one seed of a study.

    Args:
      performed: the study; its runs are only looked at.
      speeds: measures this machine's speed with a model; None for no hours.

    Returns:
      ``study``, ``variants``, ``stages`` (of all runs), ``made`` (those that differ),
      ``trainings`` among these, ``images_drawn`` by them, and ``hours`` of a seed, with
      `speeds`.
    """
    measured = throughput.remembered(speeds) if speeds else None
    known: set[str] = set()
    found = {"stages": 0, "made": 0, "trainings": 0, "images_drawn": 0}
    hours = 0.0
    for variant in performed.study.variants:
        run = performed.run(variant, seed=0, look_only=True)
        for stage, identity in _identities(noisy_student(run)):
            found["stages"] += 1
            if stage.derived or identity in known:
                found["made"] += stage.derived
                continue
            known.add(identity)
            found["made"] += 1
            name, _, kind = stage.name.partition("/")
            if kind == "train":
                spec = run.named(name).spec
                found["trainings"] += 1
                found["images_drawn"] += spec.schedule.steps * spec.layout.total
            if measured and kind:
                hours += _hours(run, name, kind, measured)
    return {
        "study": performed.study.name,
        "variants": len(performed.study.variants),
        **found,
        **({"hours": hours} if measured else {}),
    }


def text(planned: dict[str, Any], *, seeds: int) -> str:
    """Formats `facts` for a number of seeds."""
    lines = [
        f"{planned['study']}: {planned['variants']} variants; a seed has"
        f" {planned['trainings']} trainings, {planned['images_drawn']:,} image draws,"
        f" {planned['made']} stages to make of {planned['stages']} (others are shared)"
    ]
    if "hours" in planned:
        one = console.duration(3600 * planned["hours"])
        every = console.duration(3600 * planned["hours"] * seeds)
        lines.append(f"on this machine a seed takes {one}, {seeds} seeds {every}")
    else:
        lines.append("add --measure for the hours on this machine")
    return "\n".join(lines)


def _identities(stages: list[Stage]) -> list[tuple[Stage, str]]:
    """Returns each stage with a digest of all that its result will depend on."""
    found: dict[str, str] = {}
    for stage in stages:
        needs = [found[name] for name in stage.needs if name in found]
        asked = [stage.name, stage.config, stage.inputs, needs]
        found[stage.name] = files.digest(asked)
    return [(stage, found[stage.name]) for stage in stages]


def _hours(run: Run, name: str, kind: str, speeds: Speeds) -> float:
    student = run.named(name)
    return throughput.hours(student, speeds(student)).get(kind, 0.0)
