"""Trains a model on its streams, or fine-tunes it (paper §2, steps 1 and 3)."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from noisy_student_jax import models
from noisy_student_jax.core import console, sharding
from noisy_student_jax.core.protocols import LossOptions
from noisy_student_jax.core.types import PyTree
from noisy_student_jax.evaluation.predictor import predict_source
from noisy_student_jax.generation import abstract_inputs, streams
from noisy_student_jax.generation.result import write_bundles
from noisy_student_jax.generation.solve_head import solve_head
from noisy_student_jax.generation.trainable import Part, part, predictor
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.models import overview
from noisy_student_jax.runs.run import Generation
from noisy_student_jax.training import loop
from noisy_student_jax.training import optimizer as optimizers
from noisy_student_jax.training.compiled_step import StepProgram
from noisy_student_jax.training.optimizer import OptimizerOptions
from noisy_student_jax.training.state import TrainState
from noisy_student_jax.training.step import StepOptions, Teacher, TrainStep


def train(student: Generation) -> dict[str, Any]:
    """Trains or fine-tunes a student on its streams, and writes EMA and raw bundles.

    Returns:
      Counts for the ledger.
    """
    run, spec = student.run, student.spec
    if spec.solves:
        return solve_head(student)
    mesh = sharding.make_mesh()
    layout, options = spec.layout, spec.config.train
    layout.check(devices=mesh.size, microbatches=options.microbatches)
    trained = part(student)
    console.say(overview.table(overview.rows(student.cost.shapes["params"])))
    learned = streams.make(student).read_by(trained)
    validate = _validation(trained)
    teacher, taught_by = teacher_of(student)
    step, optimizer = step_and_optimizer(trained, teacher=teacher)
    program = StepProgram(
        step,
        mesh,
        state=abstract_inputs.of_state(trained, optimizer),
        batch=abstract_inputs.of_batch(trained, streams=learned.both),
        taught_by=taught_by,
        shard_state=options.shard_state,
    )
    state = jax.device_put(fresh_state(trained, optimizer), program.held)
    pipeline = streams.open_pipeline(student, learned, mesh, trained.preprocessing)
    run.progress.start(1, "")
    try:
        state = loop.train(
            program,
            state,
            pipeline,
            _loop_options(student),
            folder=student.paths.training,
            batch_size=layout.total,
            validate=validate,
            records=pipeline.records,
            interruption=run.interruption,
            progress=run.progress,
            made_for=run.ledger.made_for(f"{spec.name}/{spec.stage}"),
        )
    finally:
        pipeline.close()
    sha256 = write_bundles(
        trained,
        averaged=jax.device_get(state.ema_variables),
        raw=jax.device_get(state.raw_variables),
        trained_on=learned.trained_on,
    )
    pseudo = learned.second if spec.teacher else None
    return {
        "steps": spec.schedule.steps,
        "images_drawn": spec.schedule.steps * layout.total,
        "labeled": len(learned.labeled.source),
        "pseudo_labeled": len(np.unique(pseudo.picks[:, 0])) if pseudo else 0,
        "quarantined": pipeline.quarantined,
        "parameters": student.cost.parameters,
        "sha256": sha256,
    }


def teacher_of(student: Generation) -> tuple[Teacher | None, PyTree | None]:
    """Returns the teacher that labels within a student's steps, and its variables.

    Both are None where all labels are stored.
    """
    generation = student.teacher
    if generation is None or not student.spec.taught_by:
        return None, None
    task, bundle = student.run.task, bundles.read(generation.paths.model)
    teacher = Teacher(
        models.create(bundle.architecture, **bundle.arguments),
        lambda outputs: task.taught_targets(task.predict(outputs)),
        mean=bundle.preprocessing.mean,
        std=bundle.preprocessing.std,
    )
    return teacher, bundle.variables


def step_and_state(
    trained: Part, *, teacher: Teacher | None = None
) -> tuple[TrainStep, TrainState]:
    """Builds a student's training step and its initial state.

    Args:
      trained: the part of the model that is trained.
      teacher: the teacher that labels within the step, if any.
    """
    step, optimizer = step_and_optimizer(trained, teacher=teacher)
    return step, fresh_state(trained, optimizer)


def fresh_state(trained: Part, optimizer: optax.GradientTransformation) -> TrainState:
    """Returns the initial state of a student's training.

    Args:
      trained: the part of the model that is trained.
      optimizer: the optimizer from `step_and_optimizer`.
    """
    student = trained.student
    numbers = {"seed": student.run.config.seed, "generation": student.spec.number}
    if student.spec.fine_tunes:
        variables = bundles.read(student.trained.paths.averaged).variables
    else:
        variables = trained.initial()
    return TrainState.create(variables, optimizer, **numbers)


def step_and_optimizer(
    trained: Part, *, teacher: Teacher | None = None
) -> tuple[TrainStep, optax.GradientTransformation]:
    """Builds a student's training step and its optimizer.

    Args:
      trained: the part of the model that is trained.
      teacher: the teacher that labels within the step, if any.
    """
    student = trained.student
    run, spec = student.run, student.spec
    config, length = spec.config, spec.schedule
    options = OptimizerOptions.from_config(config.train)
    schedule = optimizers.make_schedule(
        options,
        batch=config.train.batch,
        steps=length.start + length.steps,
        steps_per_epoch=length.steps_per_epoch,
        start=length.start,
    )
    module = trained.module if spec.frozen_blocks is None else spec.trainee
    frozen = getattr(module, "frozen", ())
    optimizer = optimizers.make_optimizer(options, schedule, frozen=frozen)
    step = TrainStep(
        module,
        functools.partial(run.task.loss, options=loss_options(student)),
        optimizer,
        schedule,
        StepOptions(
            # Without a second stream there is no ratio.
            ratio=config.train.ratio if spec.layout.pseudo else 0.0,
            loss_normalization=config.train.loss_normalization,
            weight_decay=options.weight_decay if options.decay_in_loss else 0.0,
            ema_decay=config.train.ema_decay,
            microbatches=config.train.microbatches,
            group=_companions(student),
            frozen=frozen,
        ),
        mean=trained.preprocessing.mean,
        std=trained.preprocessing.std,
        teacher=teacher,
    )
    return step, optimizer


def _companions(student: Generation) -> int:
    """Returns the number of consecutive examples that stay together in a microbatch.

    It is a multiple of the groups of the layout and of batch norm: an example then
    shares its batch statistics with the same examples, with and without microbatches.
    """
    layout = student.spec.layout
    group = student.spec.config.model.batch_norm_group
    return math.lcm(layout.total // layout.groups, group or 1)


def loss_options(student: Generation) -> LossOptions:
    """Returns the loss options of a student."""
    options = LossOptions.from_config(student.spec.config.train)
    if student.spec.role.labels_only:
        # The second stream holds true labels: smoothed, never softened.
        return dataclasses.replace(options, targets="hard")
    return options


def _loop_options(student: Generation) -> loop.LoopOptions:
    log, checkpoint = student.run.config.log, student.run.config.checkpoint
    return loop.LoopOptions(
        steps=student.spec.schedule.steps,
        checkpoint_every=checkpoint.every_steps,
        checkpoints_kept=checkpoint.keep,
        prefetch=student.run.config.data.prefetch,
        log_every=log.every_steps,
        validate_every=log.validate_every_steps,
        profile_steps=log.profile_steps,
    )


def _validation(trained: Part) -> Callable[[TrainState], dict[str, float]]:
    """Returns a function from a state to its validation metrics, raw and EMA."""
    run = trained.student.run
    made = predictor(trained, batch=run.config.evaluation.batch)
    source = trained.source(run.dataset.validation, "validation")

    def validate(state: TrainState) -> dict[str, float]:
        weights = {"raw": state.raw_variables, "ema": state.ema_variables}
        if jax.process_count() > 1:
            # Predictors use this host's devices only.
            weights = jax.device_get(weights)
        found = predict_source(made, weights, source)
        return {
            f"validation/{name}/{key}": value
            for name, predictions in found.predictions.items()
            for key, value in run.task.metrics(predictions, found.labels).items()
            if not math.isnan(value)  # the images have nothing to measure it by
        }

    return validate
