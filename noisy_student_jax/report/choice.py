"""Chooses the model to use among all rows of a run's table, without test images.

Models are compared on images that they have not learned from: validation images and,
where a training has left labeled images out in turn, these. A rule of thumb prefers one
model beforehand; another takes its place only if it is ahead by more than one standard
error. So few images change nothing, and a model that does harm is not kept for long.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from noisy_student_jax.evaluation import resampling, statistics
from noisy_student_jax.evaluation.resampling import Primary
from noisy_student_jax.evaluation.statistics import Lead
from noisy_student_jax.runs.spec import Role

VALIDATION, LEFT_OUT = "validation", "left out"

Key = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Row:
    """A model in the table, and what it does on images that it has not learned from.

    Attributes:
      name: number of a generation, or name of a baseline.
      role: its purpose.
      parameters: number of parameters.
      mean: the primary metric on validation images.
      images: number of validation images.
      keys: of each image, `VALIDATION` or `LEFT_OUT` and its key; empty where an older
        version evaluated it.
      statistics: the task's statistics of these images, ``[images]``, if there are any.
      given: whether it is a first teacher that the run was given.
    """

    name: int | str
    role: Role
    parameters: int
    mean: float
    images: int
    keys: Sequence[Key] = ()
    statistics: pa.Array | None = None
    given: bool = False

    @property
    def title(self) -> str:
        """Its name in a sentence."""
        if isinstance(self.name, int):
            return f"generation {self.name}"
        title = Role(self.name).display_name
        return title if self.role is Role.FINE_TUNING else f"the {title}"


Compare = Callable[[Row, Row], Lead]


@dataclasses.dataclass(frozen=True)
class Choice:
    """The models that a run's result is about.

    Attributes:
      best: name of the model to use.
      student: name of the best student; None if there is none.
      rival: name of the best model that has learned from labels only, or, without one,
        of the teacher that the run was given; None if there is none.
      says: what to use and why, as a sentence.
      notes: what else to know of the students, a sentence each.
      leads: how far models are ahead of those that the rule of thumb prefers to them.
    """

    best: int | str
    student: int | None
    rival: int | str | None
    says: str
    notes: list[str]
    leads: list[dict[str, Any]]


def choose(rows: Sequence[Row], primary: Primary) -> Choice:
    """Chooses the best student, its rival, and the model to use.

    The rule of thumb prefers the largest model, and the latest among equals: students
    in their order; of the models that learn from labels only, the first teacher, the
    probe, fine-tuning, and the control. It prefers a student to all of these, and to a
    teacher that the run was given.

    Args:
      rows: all models; generations in their order.
      primary: the task's function of the statistics.
    """
    compare = _once(primary)
    order = (Role.TEACHER, Role.PROBE, Role.FINE_TUNING, Role.CONTROL)
    students = [row for row in rows if row.role is Role.STUDENT]
    given = [row for row in rows if row.given]
    others = sorted(
        (row for row in rows if row.role in order and not row.given),
        key=lambda row: order.index(row.role),
    )
    leads: list[dict[str, Any]] = []
    student = _best(students, leads, compare)
    rival = _best(others or given, leads, compare)
    best = student or rival
    assert best is not None, "a run has a model"
    # Not the rival alone: another may be surely ahead of the student, not of the rival.
    challengers = [*given, *others] if student else given
    ahead = _ahead([c for c in challengers if c is not best], best, leads, compare)
    winner = ahead[0] if ahead else best
    notes = []
    if student:
        notes += _among_students(student, _preferred(students), compare)
        notes += _smaller(winner, students, compare)
    return Choice(
        best=winner.name,
        student=int(student.name) if student else None,
        rival=rival.name if rival else None,
        says=_says(winner, student, rival, compare),
        notes=notes,
        leads=leads,
    )


def _once(primary: Primary) -> Compare:
    """Returns `_compare`, computed once for each pair of models."""
    found: dict[tuple[int | str, int | str], Lead] = {}

    def compare(ours: Row, theirs: Row) -> Lead:
        pair = ours.name, theirs.name
        if pair not in found:
            found[pair] = _compare(ours, theirs, primary)
        return found[pair]

    return compare


def _compare(ours: Row, theirs: Row, primary: Primary) -> Lead:
    """Compares two models on the images that both have results for."""
    both = sorted(set(ours.keys) & set(theirs.keys))
    if not both:
        images = min(ours.images, theirs.images)
        return statistics.lead_of_means(ours.mean, theirs.mean, images)
    return resampling.lead(
        resampling.of_images(ours.keys, ours.statistics, both),
        resampling.of_images(theirs.keys, theirs.statistics, both),
        primary,
    )


def _preferred(rows: Sequence[Row]) -> Row:
    most = max(row.parameters for row in rows)
    return [row for row in rows if row.parameters == most][-1]


def _best(
    rows: Sequence[Row], leads: list[dict[str, Any]], compare: Compare
) -> Row | None:
    """Returns the preferred row, or that which is most ahead of it.

    Among equals it is the largest, and the latest of these.
    """
    if not rows:
        return None
    first = _preferred(rows)
    others = [row for row in rows[::-1] if row is not first]
    ahead = _ahead(others, first, leads, compare)
    return ahead[0] if ahead else first


def _ahead(
    rows: Sequence[Row], first: Row, leads: list[dict[str, Any]], compare: Compare
) -> list[Row]:
    """Returns the rows that are surely ahead of another, the most ahead first."""
    found = [(row, compare(row, first)) for row in rows]
    leads += [
        {"name": row.name, "than": first.name, **dataclasses.asdict(lead)}
        for row, lead in found
    ]
    sure = [(row, lead) for row, lead in found if lead.is_sure]
    sure.sort(key=lambda one: (-one[1].value, -one[0].parameters))
    return [row for row, _ in sure]


def _says(best: Row, student: Row | None, rival: Row | None, compare: Compare) -> str:
    use = f"use {best.title} (best/)"
    if student is None:
        return f"{use}: there is no student"
    if best is not student:
        lead = compare(best, student)
        what = f"use {best.title} (best/), not a student"
        return f"{what}: {_on(best, student)} put it {_by(lead)} {student.title}"
    if rival is None:
        return f"{use}: there is no model on labels alone to compare it with"
    lead, images = compare(student, rival), _on(student, rival)
    whose = "the teacher that was given" if rival.given else rival.title
    if lead.is_sure:
        most = "" if rival.given else ", the strongest model on labels alone"
        return f"{use}: {images} put it {_by(lead)} {whose}{most}"
    if math.isnan(lead.value):
        nothing = f"{images} hold nothing by which to compare it with {whose}"
        return f"{use}: {nothing}, and then a student is preferred"
    return (
        f"{use}: {images} cannot tell it from {whose} ({statistics.points(lead)}"
        " points, one standard error), and then a student is preferred"
    )


def _among_students(student: Row, preferred: Row, compare: Compare) -> list[str]:
    if student is preferred:
        return []
    lead, images = compare(student, preferred), _on(student, preferred)
    return [
        f"of the students, {images} put {student.title} {_by(lead)} {preferred.title},"
        " the last of the largest"
    ]


def _smaller(best: Row, students: Sequence[Row], compare: Compare) -> list[str]:
    """Returns what a last student that is smaller than the best model loses."""
    last = students[-1]
    if last is best or last.parameters >= best.parameters:
        return []
    share, lead = last.parameters / best.parameters, compare(last, best)
    if math.isnan(lead.value):
        return []
    return [
        f"{last.title} has {share:.0%} of the parameters of {best.title} and differs by"
        f" {statistics.points(lead)} points"
    ]


def _by(lead: Lead) -> str:
    """Returns by how much a model is ahead."""
    value = statistics.points(lead).removeprefix("+")
    return f"{value} points (one standard error) ahead of"


def _on(ours: Row, theirs: Row) -> str:
    """Returns the images of a comparison in words."""
    both = set(ours.keys) & set(theirs.keys)
    counts = collections.Counter(part for part, _ in both)
    held = counts[VALIDATION] if both else min(ours.images, theirs.images)
    left_out = counts[LEFT_OUT]
    parts = [f"{held:,} validation image{'s' * (held != 1)}"] if held else []
    if left_out:
        parts.append(f"{left_out:,} labeled images left out in turn")
    return " and ".join(parts)
