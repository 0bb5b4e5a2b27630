"""What training would stumble over, looked for before any time is spent."""

import dataclasses

import jax

from noisy_student_jax.core import types
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.generation import init_weights, streams
from noisy_student_jax.generation.trainable import head
from noisy_student_jax.pseudo_labels.plan import SelectionOptions
from noisy_student_jax.runs import fixres
from noisy_student_jax.runs.run import Run, Student


def check(run: Run, *, devices: int | None = None) -> None:
    """Looks for what training would stumble over, before any time is spent.

    Args:
      run: in question.
      devices: that it is to run on; those that are here if not given.

    Raises:
      UserError: names the generation, what is wrong with it, and what to do.
    """
    devices = devices or jax.device_count()
    for look in (_check_config, _check_model, _check_fixres):
        for student in run.students:
            try:
                look(student, devices)
            except UserError as error:
                raise UserError(f"{student.name}: {error}") from None


def _check_config(student: Student, devices: int) -> None:
    """Checks what can be told before any image is read."""
    config = student.config
    student.layout.check(devices=devices, microbatches=config.train.microbatches)
    _check_batch_norm_group(student, devices)
    if lanes := streams.make_lanes(student.run.config.data):
        for size in filter(None, (student.layout.labeled, student.layout.pseudo)):
            lanes.check(size=lanes.count, batch=size)
    for stream in types.STREAMS:
        noise = streams.input_noise(student, stream)
        noise.check(height=student.resolution, width=student.resolution)
    if student.teacher:
        SelectionOptions.from_config(config.selection)
    _check_kept_selection(student)
    if student.config.train.part == "head":
        head(student)
    student.preprocessing  # noqa: B018 - checks itself


def _check_kept_selection(student: Student) -> None:
    """Refuses options of a selection that is not made."""
    if not student.kept_selection:
        return
    ours, theirs = (
        SelectionOptions.from_config(one.config.selection)
        for one in (student, student.teacher)
    )
    for field in dataclasses.fields(SelectionOptions):
        own, earlier = (getattr(one, field.name) for one in (ours, theirs))
        if own != earlier:
            raise UserError(
                f"config.selection.{field.name} is {own} and {student.teacher.name}'s"
                f" {earlier}, but with selection.relabel it keeps the selection of"
                f" {student.teacher.name}: give both the same, or set"
                f" generations[{student.generation}].selection.relabel to false"
            )


def _check_batch_norm_group(student: Student, devices: int) -> None:
    group, layout = student.config.model.batch_norm_group, student.layout
    if not group:
        return
    mix = layout.total // layout.groups
    if group % mix:
        raise UserError(
            f"config.model.batch_norm_group is {group}, but must be a multiple of"
            f" {mix}, so that every group of batch norm holds both streams in their"
            " ratio"
        )
    parts = devices * student.config.train.microbatches
    if layout.total % (group * parts):
        raise UserError(
            f"config.model.batch_norm_group={group} does not divide the"
            f" {layout.total / parts:g} images of each device and microbatch: make"
            f" config.train.batch larger, or the group smaller (0 for none)"
        )


def _check_model(student: Student, devices: int) -> None:
    """Builds the model, and the shapes that pass through it."""
    del devices
    student.parameters  # noqa: B018
    init_weights.check(student)
    _check_on_the_fly(student)


def _check_on_the_fly(student: Student) -> None:
    if not student.taught_on_the_fly:
        return
    if student.config.train.part == "head":
        raise UserError(
            "config.labels.mode is 'on_the_fly', but config.train.part is 'head', which"
            " sees features and no images: use 'stored'"
        )
    task = student.run.task
    if not hasattr(task, "taught_targets"):
        raise UserError(
            f"config.labels.mode is 'on_the_fly', but task '{task.name}' has no"
            " taught_targets(predictions): write it, or use 'stored'"
        )


def _check_fixres(student: Student, devices: int) -> None:
    if student.final is not student:
        _check_config(student.final, devices)
        fixres.check(student.final)
