"""Selects the pseudo-labels that a student is trained on."""

import functools
from typing import Any

from noisy_student_jax.core import console, files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data.sources import known_labels, labels_of
from noisy_student_jax.generation.left_out import expected_precision, told
from noisy_student_jax.pseudo_labels import selection
from noisy_student_jax.pseudo_labels.chosen import Choose, fact_text
from noisy_student_jax.pseudo_labels.plan import SelectionOptions
from noisy_student_jax.pseudo_labels.warnings import Expected
from noisy_student_jax.runs.run import Generation


def select_pseudo_labels(teacher: Generation, student: Generation) -> dict[str, Any]:
    """Selects the pseudo-labels of a teacher that its student is trained on.

    Returns:
      Counts for the ledger.

    Raises:
      UserError: the teacher has not been evaluated, so that its scores on the pool
        cannot be compared with those on validation images; or as `selection.select`.
    """
    run, folder = teacher.run, teacher.paths.selection
    earlier = student.spec.relabels
    kept = run.named(earlier).paths.selection if earlier else None
    options = SelectionOptions.from_config(student.spec.config.selection)
    if kept:
        options = selection.kept_options(kept)
    made_for = run.ledger.made_for(f"{teacher.spec.name}/select")
    # An earlier process may have been stopped between the selection and its manifest.
    summary = selection.finished(folder, made_for)
    if summary is None:
        if aside := run.ledger.set_aside([folder]):
            console.warn(
                f"'{folder}' was made for something else, or is damaged: it was moved"
                f" to '{aside}'"
            )
        summary = selection.select(
            teacher.paths.labels,
            folder,
            options,
            targets=run.task.stored_targets,
            choose=_choose(teacher, options),
            classes=run.dataset.classes,
            expected=_expected(teacher),
            kept=kept,
            made_for=made_for,
        )
    for fact, value in summary.get("facts", {}).items():
        console.say(f"  {fact}: {fact_text(value)}")
    for warning in summary["warnings"]:
        console.warn(warning)
    if expected := expected_precision(teacher, summary):
        console.say(f"  {told(expected, run.dataset.classes)}")
    return summary["counts"]


def _choose(teacher: Generation, options: SelectionOptions) -> Choose | None:
    """Returns the task's choice within records, if it makes one."""
    run = teacher.run
    if not hasattr(run.task, "chooser"):
        return None
    labels = labels_of(run.dataset.labeled)
    return functools.partial(run.task.chooser, labels=labels, options=options)


def _expected(teacher: Generation) -> Expected:
    """Returns the statistics expected of a pool distributed like the labeled images."""
    run = teacher.run
    if not files.is_file(teacher.paths.evaluation):
        raise UserError(
            f"{teacher.spec.name}/select needs {teacher.spec.name}/evaluate, which has"
            f" not finished in '{run.workdir}': run that stage first, or the whole loop"
            " with `noisy-student run`"
        )
    evaluation = files.read_json(teacher.paths.evaluation)
    return Expected.from_run(
        known_labels(run.dataset.labeled),
        classes=len(run.dataset.classes),
        scores=evaluation["splits"]["validation"].get("scores"),
    )
