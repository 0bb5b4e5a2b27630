"""Lowers a student's programs for given devices from abstract inputs."""

import dataclasses
from collections.abc import Callable, Hashable

import jax

from noisy_student_jax.core import sharding
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.types import PyTree
from noisy_student_jax.evaluation.predictor import Predictor
from noisy_student_jax.generation import abstract_inputs
from noisy_student_jax.generation.train import step_and_optimizer
from noisy_student_jax.generation.trainable import part
from noisy_student_jax.planning.topology.slices import Slice
from noisy_student_jax.runs.run import Generation
from noisy_student_jax.training.step import Teacher, jit_train_step

TRAIN, FIXRES, LABEL = "train", "fixres", "label"


@dataclasses.dataclass(frozen=True)
class Program:
    """A program of a student.

    Attributes:
      student: the student, or its fine-tuning by FixRes.
      what: ``train``, ``fixres`` or ``label``.
      lower: traces and lowers the program from abstract inputs.
      images: images per device in one execution.
      key: key shared by programs with the same cost.
    """

    student: Generation
    what: str
    lower: Callable[[], jax.stages.Lowered]
    images: int
    key: Hashable


def programs(student: Generation, where: Slice) -> list[Program]:
    """Returns a student's programs: training step, FixRes step and labeling.

    Args:
      student: the student before any fine-tuning by FixRes.
      where: the slice.

    Raises:
      UserError: the batch does not divide over the devices, or initial weights that
        the student needs are missing.
    """
    made = [] if student.spec.adopted else [train_program(student, where)]
    if student.spec.refined:
        made.append(train_program(student.final, where))
    return [*made, label_program(student.final, where)]


def train_program(student: Generation, where: Slice) -> Program:
    """Returns the training step of a student, as `training.loop` runs it."""
    train, devices = student.spec.config.train, len(where.devices)
    try:
        student.spec.layout.check(devices=devices, microbatches=train.microbatches)
    except UserError as error:
        raise UserError(f"{student.spec.name} on {where.name}: {error}") from None
    return Program(
        student,
        FIXRES if student.spec.fine_tunes else TRAIN,
        lambda: _lowered_step(student, where),
        student.spec.layout.total // devices,
        student.spec.step_key,
    )


def label_program(student: Generation, where: Slice) -> Program:
    """Returns the labeling program, which each host runs on its own devices."""
    batch = student.spec.config.labels.batch
    images = -(-batch // len(where.host))
    return Program(
        student,
        LABEL,
        lambda: _lowered_labeling(student, where),
        images,
        (student.spec.model.key, LABEL, images),
    )


def _lowered_step(student: Generation, where: Slice) -> jax.stages.Lowered:
    trained, mesh = part(student), sharding.make_mesh(where.devices)
    teacher, taught_by = _teacher(student)
    step, optimizer = step_and_optimizer(trained, teacher=teacher)
    state = abstract_inputs.of_state(trained, optimizer)
    held = sharding.state_sharding(
        state, mesh, sharded=student.spec.config.train.shard_state
    )
    placed = jit_train_step(step, mesh, taught=teacher is not None, state_sharding=held)
    given = () if teacher is None else (taught_by,)
    return placed.lower(state, abstract_inputs.of_batch(trained), *given)


def _lowered_labeling(student: Generation, where: Slice) -> jax.stages.Lowered:
    trained = part(student)
    predictor = Predictor(
        student.run.task,
        trained.module,
        trained.preprocessing,
        batch=student.spec.config.labels.batch,
        devices=list(where.host),
    )
    seen = trained.preprocessing.dtype
    images = abstract_inputs.many(
        trained.preprocessing.blank(), predictor.batch, dtype=seen
    )
    return predictor.apply.lower(trained.of(student.cost.shapes), images)


def _teacher(student: Generation) -> tuple[Teacher | None, PyTree | None]:
    """Returns the same as `train.teacher_of`, with shapes in place of weights."""
    shown, task = student.spec.taught_by, student.run.task
    if shown is None:
        return None, None
    teacher = Teacher(
        shown.module,
        lambda outputs: task.taught_targets(task.predict(outputs)),
        mean=shown.preprocessing.mean,
        std=shown.preprocessing.std,
    )
    return teacher, student.run.costs.of(shown).shapes
