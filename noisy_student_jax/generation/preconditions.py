"""Checks the preconditions of training, before any time is spent on it."""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax

from noisy_student_jax import models
from noisy_student_jax.core import console, types
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data.dealing import LACKING
from noisy_student_jax.data.encoded import is_encoded
from noisy_student_jax.data.splits import (
    LABELED,
    TEST,
    VALIDATION,
    leaves_out_in_turn,
)
from noisy_student_jax.generation import init_weights, left_out, streams
from noisy_student_jax.generation.solve_head import check_solvable
from noisy_student_jax.generation.trainable import head
from noisy_student_jax.models import onnx_backbone
from noisy_student_jax.pseudo_labels.plan import SelectionOptions
from noisy_student_jax.runs.run import Generation, Run
from noisy_student_jax.runs.spec import GenerationSpec


def check(run: Run, *, devices: int | None = None) -> None:
    """Checks the preconditions of training all models of a run.

    Reads the dataset, and so prepares a user's images, after the config is known to be
    right: `Run.dataset`.

    Args:
      run: the run.
      devices: number of devices to train on; by default, those of this machine.

    Raises:
      UserError: a precondition fails; the message names the generation.
    """
    devices = devices or jax.device_count()
    for student in run.drafts:
        with _named(student):
            _check_config(student, devices)
    if leaves_out_in_turn(run.config.data):
        left_out.refuse(run.config)
    # Read here, so that preparing has a place of its own.
    if lacking := run.dataset.facts.get(LACKING):
        if not (run.look_only or run.ledger.manifest("data")):
            raise UserError(lacking)
        console.warn(lacking)
    if run.dataset.cross_fitted:
        left_out.refuse(run.config, dataset=run.dataset)
    _check_labels(run)
    for student in run.students:
        with _named(student):
            _check_model(student)
            if student.spec.refined:
                _check_length(student.final.spec)


@contextlib.contextmanager
def _named(student: Generation) -> Iterator[None]:
    """Adds the generation's name to the messages of errors."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{student.spec.name}: {error}") from None


def _check_config(student: Generation, devices: int) -> None:
    """Checks everything that does not depend on images or weights."""
    spec = student.spec
    config, layout, side = spec.config, spec.layout, spec.model.resolution
    layout.check(devices=devices, microbatches=config.train.microbatches)
    _check_batch_norm_group(student, devices)
    if lanes := streams.make_lanes(student.run.config.data):
        for size in filter(None, (layout.labeled, layout.pseudo)):
            lanes.check(size=lanes.count, batch=size)
    for stream in types.STREAMS:
        noise = streams.input_noise(student, stream)
        noise.check(height=side, width=side)
    if spec.teacher:
        SelectionOptions.from_config(config.selection)
    _check_kept_selection(student)
    if spec.fine_tunes:
        _check_fine_tuning(spec)
    elif spec.frozen_blocks is not None and not spec.adopted:
        _check_frozen(student)
    if config.train.part == "head":
        head(student)
    if config.model.views != spec.model.views and not spec.adopted:
        raise UserError(
            f"config.model.views is {config.model.views}, but model"
            f" '{spec.model.name}' takes no argument 'views': set it to 1"
        )
    for member in models.outside(models.members(spec.model.name, config.model.members)):
        onnx_backbone.opened(member).check_side(side)
        if config.train.part == "all" and not spec.adopted:
            raise UserError(
                f"config.train.part is 'all', but of '{member}' there is a program for"
                " onnxruntime alone: set train.part to head"
            )


def _check_kept_selection(student: Generation) -> None:
    """Raises UserError if selection options differ from those of a kept selection."""
    spec = student.spec
    if not spec.relabels or not isinstance(spec.generation, int):
        return
    earlier_sections = student.run.config.generations[spec.generation - 1]
    ours, theirs = (
        SelectionOptions.from_config(one.selection)
        for one in (spec.config, earlier_sections)
    )
    for field in dataclasses.fields(SelectionOptions):
        own, earlier = (getattr(one, field.name) for one in (ours, theirs))
        if own != earlier:
            raise UserError(
                f"config.selection.{field.name} is {own} and {spec.teacher}'s"
                f" {earlier}, but with selection.relabel it keeps the selection of"
                f" {spec.teacher}:"
                f" give both the same, or set {spec.owner}.selection.relabel to false"
            )


def _check_batch_norm_group(student: Generation, devices: int) -> None:
    config, layout = student.spec.config, student.spec.layout
    group = config.model.batch_norm_group
    if not group:
        return
    mix = layout.total // layout.groups
    if group % mix:
        raise UserError(
            f"config.model.batch_norm_group is {group}, but must be a multiple of"
            f" {mix}, so that every group of batch norm holds both streams in their"
            " ratio"
        )
    parts = devices * config.train.microbatches
    if layout.total % (group * parts):
        raise UserError(
            f"config.model.batch_norm_group={group} does not divide the"
            f" {layout.total / parts:g} images of each device and microbatch: make"
            f" config.train.batch larger, or the group smaller (none for no groups)"
        )


def _check_model(student: Generation) -> None:
    """Checks the model by tracing it, and its initial weights."""
    student.cost.parameters  # noqa: B018
    student.spec.model.module  # noqa: B018 - with its number of views
    _check_for_task(student)
    if student.spec.config.train.optimizer == "lbfgs" and not student.spec.adopted:
        check_solvable(student)
    init_weights.check(student)
    _check_on_the_fly(student)
    _check_moved(student)


def _check_labels(run: Run) -> None:
    """Checks that the task can learn from the labels, and measure by them."""
    task, data = run.task, run.dataset
    if not hasattr(task, "check_labels"):
        return
    parts = {LABELED: data.labeled, VALIDATION: data.validation, TEST: data.test}
    for part, source in parts.items():
        if (labels := getattr(source, "labels", None)) is not None:
            task.check_labels(labels, part)


def _check_for_task(student: Generation) -> None:
    """Checks that the task can use the model, and what the student learns from.

    An adopted model has to be of the same task, as `init_weights.check` checks.
    """
    task, spec = student.run.task, student.spec
    if hasattr(task, "check_model") and not spec.adopted:
        task.check_model(spec.config.model, student.cost.outputs)
    if spec.teacher and hasattr(task, "check_selection"):
        task.check_selection(SelectionOptions.from_config(spec.config.selection))


def _check_on_the_fly(student: Generation) -> None:
    if not student.spec.taught_by:
        return
    if student.spec.config.train.part == "head":
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


def _check_moved(student: Generation) -> None:
    """Checks that a student's noise moves its targets wherever it moves its images."""
    task, data, spec = student.run.task, student.run.dataset, student.spec
    moves = hasattr(task, "moved")
    streamed = is_encoded(data.labeled) or is_encoded(data.pool)
    for stream in types.STREAMS:
        noise, path = streams.input_noise(student, stream), f"config.noise.{stream}"
        if not moves and noise.needs_moved_targets:
            raise UserError(
                f"{path} has zoom or turns, but targets of task '{task.name}' do not"
                " move: set zoom to 0 and turns to false"
            )
        if moves and noise.crop_area:
            raise UserError(
                f"{path}.crop_area is {noise.crop_area:g}, but targets of task"
                f" '{task.name}' do not move with random crops: set crop_area to 0, and"
                " use zoom"
            )
        if not moves or noise.is_off:
            continue
        if streamed and student.run.config.data.augment == "host":
            raise UserError(
                f"images of task '{task.name}' are noised with their targets, on the"
                " device, and streamed images are noised on the host: set"
                " config.data.augment to device, or config.data.pipeline to prepared"
            )
    pseudo = streams.input_noise(student, types.STREAMS[types.PSEUDO])
    if moves and spec.taught_by and not pseudo.is_off:
        raise UserError(
            "config.labels.mode is 'on_the_fly', which labels images without noise, but"
            f" targets of task '{task.name}' move with the noise: use 'stored'"
        )


def _check_fine_tuning(spec: GenerationSpec) -> None:
    """Checks the preconditions of a fine-tuning by FixRes."""
    if spec.config.train.part == "head":
        raise UserError(
            "config.fixres.resolution is given, but config.train.part is 'head', whose"
            " features are computed once: set fixres.resolution to none"
        )
    if spec.config.train.steps is None and spec.config.train.epochs is None:
        raise UserError(
            "config.fixres.resolution is given, so fixres.steps or fixres.epochs has to"
            " be given too"
        )
    _check_blocks(spec, "config.fixres.frozen_blocks")


def _check_frozen(student: Generation) -> None:
    """Checks the preconditions of training behind frozen blocks."""
    spec = student.spec
    _check_blocks(spec, "config.train.frozen_blocks")
    if not init_weights.is_given(student):
        raise UserError(
            f"config.train.frozen_blocks is {spec.frozen_blocks}, but"
            f" config.model.init='{spec.config.model.init}' gives {spec.name} no"
            " weights to start from, and random ones would stay as they are: give a"
            " bundle, or 'pretrained', or set train.frozen_blocks to none"
        )


def _check_blocks(spec: GenerationSpec, field: str) -> None:
    """Checks a number of frozen blocks."""
    try:
        spec.trainee  # noqa: B018 - the module checks its arguments
    except UserError as error:
        raise UserError(f"{field}={spec.frozen_blocks} is invalid: {error}") from None


def _check_length(spec: GenerationSpec) -> None:
    """Raises UserError if a fine-tuning is longer than the training before it."""
    if spec.schedule.start < 0:
        raise UserError(
            f"config.fixres asks for {spec.schedule.steps} steps, more than the"
            " training itself has: they repeat the last of its schedule; give fewer"
        )
