"""One generation: train a student, evaluate it, have it label the pool, select."""

import dataclasses
import functools
import math
import pathlib
from typing import Any

import jax
import numpy as np
import optax
import pyarrow as pa

from noisy_student_jax import (
    console,
    files,
    fixres,
    models,
    shapes,
    starting,
    streams,
    train_loop,
)
from noisy_student_jax.checkpoints import bundle as bundles
from noisy_student_jax.checkpoints.bundle import Bundle
from noisy_student_jax.data.sources import Source, key_hashes, shard_bounds
from noisy_student_jax.errors import UserError
from noisy_student_jax.evaluation.predictor import (
    Predicted,
    Predictor,
    predict_source,
)
from noisy_student_jax.evaluation.statistics import wilson
from noisy_student_jax.part import Part, part
from noisy_student_jax.pseudo_labels import label, plan, selection
from noisy_student_jax.pseudo_labels.plan import SelectionOptions
from noisy_student_jax.pseudo_labels.warnings import Expected
from noisy_student_jax.run import Run, Student
from noisy_student_jax.tasks.base import LossOptions
from noisy_student_jax.training import optimizer as optimizers
from noisy_student_jax.training import partitioning
from noisy_student_jax.training.optimizer import OptimizerOptions
from noisy_student_jax.training.program import StepProgram
from noisy_student_jax.training.state import TrainState
from noisy_student_jax.training.step import (
    StepOptions,
    Teacher,
    TrainStep,
)
from noisy_student_jax.types import PyTree

MODEL = "model"
RAW_MODEL = "raw_model"
EVALUATION = "evaluation.json"
PREDICTIONS = "predictions.parquet"


def train(student: Student) -> dict[str, Any]:
    """Trains a student on its streams; writes its bundle (EMA), and the raw one.

    Or fine-tunes it, if it is one of `fixres.fine_tuned`.
    """
    run = student.run
    mesh = partitioning.make_mesh()
    layout = student.layout
    layout.check(devices=mesh.size, microbatches=student.config.train.microbatches)
    trained = part(student)
    learnt = streams.make(student).read_by(trained)
    validate = _validation(trained)
    teacher, taught_by = teacher_of(student)
    step, optimizer = step_and_optimizer(trained, teacher=teacher)
    program = StepProgram(
        step,
        mesh,
        state=shapes.of_state(trained, optimizer),
        batch=shapes.of_batch(trained),
        taught_by=taught_by,
        shard_state=student.config.train.shard_state,
        reuse=student.config.train.reuse_program,
    )
    state = jax.device_put(fresh_state(trained, optimizer), program.held)
    pipeline = streams.open_pipeline(student, learnt, mesh, trained.preprocessing)
    run.progress.start(1, "")
    try:
        state = train_loop.train(
            program,
            state,
            pipeline,
            _loop_options(student),
            folder=student.folder / student.stage,
            batch_size=layout.total,
            validate=validate,
            records=pipeline.records,
            interruption=run.interruption,
            progress=run.progress,
        )
    finally:
        pipeline.close()
    sha256 = _write_bundles(trained, state, learnt.trained_on)
    pseudo = learnt.second if student.teacher else None
    return {
        "steps": student.steps,
        "images_drawn": student.steps * layout.total,
        "labelled": len(learnt.labelled.source),
        "pseudo_labelled": len(np.unique(pseudo.picks[:, 0])) if pseudo else 0,
        "quarantined": pipeline.quarantined,
        "parameters": student.parameters,
        "sha256": sha256,
    }


def teacher_of(student: Student) -> tuple[Teacher | None, PyTree | None]:
    """Returns what labels in a student's steps, and its variables; None if nothing."""
    if not student.taught_on_the_fly:
        return None, None
    task, bundle = student.run.task, bundles.read(student.teacher.folder / MODEL)
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
    """Builds a student's training step and the state that it starts from.

    Args:
      trained: the part of it that is trained.
      teacher: what labels in the step, if anything does.
    """
    step, optimizer = step_and_optimizer(trained, teacher=teacher)
    return step, fresh_state(trained, optimizer)


def fresh_state(trained: Part, optimizer: optax.GradientTransformation) -> TrainState:
    """Makes the state that a student's training starts from.

    Args:
      trained: the part of it that is trained.
      optimizer: of `step_and_optimizer`.
    """
    student = trained.student
    numbers = {"seed": student.run.config.seed, "generation": student.number}
    if student.trained:
        variables = bundles.read(student.trained.bundle).variables
    else:
        variables = trained.initial()
    return TrainState.create(variables, optimizer, **numbers)


def step_and_optimizer(
    trained: Part, *, teacher: Teacher | None = None
) -> tuple[TrainStep, optax.GradientTransformation]:
    """Builds a student's training step, and the optimizer in it.

    Args:
      trained: the part of it that is trained.
      teacher: what labels in the step, if anything does.
    """
    student = trained.student
    run, config = student.run, student.config
    options = OptimizerOptions.from_config(config.train)
    schedule = optimizers.make_schedule(
        options,
        batch=config.train.batch,
        steps=student.schedule_start + student.steps,
        steps_per_epoch=student.steps_per_epoch,
        start=student.schedule_start,
    )
    layout, module = student.layout, trained.module
    if student.trained:
        module = student.trainee
    frozen = getattr(module, "frozen", ())
    optimizer = optimizers.make_optimizer(options, schedule, frozen=frozen)
    step = TrainStep(
        module,
        functools.partial(run.task.loss, options=loss_options(student)),
        optimizer,
        schedule,
        StepOptions(
            # Without a second stream there is nothing to weigh against.
            ratio=config.train.ratio if layout.pseudo else 0.0,
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


def _companions(student: Student) -> int:
    """Returns how many consecutive examples stay together in a microbatch.

    Whole groups of the layout, and of batch norm: an example then has the same
    companions in its batch statistics with and without microbatches.
    """
    of_layout = student.layout.total // student.layout.groups
    return math.lcm(of_layout, student.config.model.batch_norm_group or 1)


def loss_options(student: Student) -> LossOptions:
    """Says how a student's targets are softened, hardened and smoothed."""
    options = LossOptions.from_config(student.config.train)
    if student.labels_only:
        # Its second stream holds true labels: smoothed as such, never softened.
        return dataclasses.replace(options, targets="hard")
    return options


def evaluate(student: Student) -> dict[str, Any]:
    """Evaluates a student's weights, EMA and raw, on validation and test images.

    Raises:
      UserError: a test image is among those that it or its teachers learnt from.
    """
    run, batch = student.run, student.run.config.evaluation.batch
    ema = bundles.read(student.folder / MODEL)
    # Of a given teacher there is one set of weights.
    made_in = student.folder / student.final.stage
    raw = ema if student.adopted else bundles.read(made_in / RAW_MODEL)
    refuse_overlap(ema, run.dataset.test)
    trained = part(student.final)
    predictor = _predictor(trained, batch=batch)
    splits, judged = {}, ("validation", "test")
    sources = run.dataset.parts()
    sources = {name: trained.source(sources[name], name) for name in judged}
    run.progress.start(sum(map(len, sources.values())), "images")

    def before_batch(done: int) -> None:
        run.interruption.check()
        earlier = sum(split["images"] for split in splits.values())
        run.progress.update(earlier + done)

    for name, source in sources.items():
        found = predict_source(
            predictor,
            {"ema": trained.of(ema.variables), "raw": trained.of(raw.variables)},
            source,
            before_batch=before_batch,
        )
        _tell_unusable(found, name, most=run.config.data.max_quarantined)
        splits[name] = _measured(run, found)
    # The last part was the test set.
    _write_predictions(student, found)
    files.write_json(
        student.folder / EVALUATION,
        {
            "schema": 1,
            "generation": student.generation,
            "model": ema.architecture,
            "sha256": ema.sha256,
            "splits": splits,
        },
    )
    metric = run.task.primary_metric
    return {f"{name}_{metric}": split["ema"][metric] for name, split in splits.items()}


def label_pool(teacher: Student) -> dict[str, Any]:
    """Has a teacher's bundle label the pool, un-noised (paper §2, step 2)."""
    run, config = teacher.run, teacher.config
    bundle = bundles.read(teacher.folder / MODEL)
    trained = part(teacher.final)
    pool = trained.source(run.dataset.pool, "pool")
    bounds = shard_bounds(len(pool), min(run.config.data.pool_shards, len(pool)))
    return label.label_pool(
        _predictor(trained, batch=config.labels.batch),
        trained.of(bundle.variables),
        run.task,
        pool,
        [label.Shard(number, *ends) for number, ends in enumerate(bounds)],
        teacher.folder / "labels",
        top_k=config.labels.top_k,
        metadata={
            "task": run.config.task,
            "model": bundle.architecture,
            "model_sha256": bundle.sha256,
            "classes": str(len(run.dataset.classes)),
        },
        interruption=run.interruption,
        progress=run.progress,
    )


def select_pseudo_labels(teacher: Student, student: Student) -> dict[str, Any]:
    """Selects, of a teacher's labels, what its student will see.

    Raises:
      UserError: the teacher has not been evaluated, so that the pool cannot be
        compared with its validation images; or as `selection.select`.
    """
    run, folder = teacher.run, teacher.folder / "selection"
    kept = student.kept_selection
    options = SelectionOptions.from_config(student.config.selection)
    if kept:
        options = selection.kept_options(kept)
    if (folder / selection.SUMMARY).is_file():
        # Written whole by a run that was stopped before it could say so.
        summary = files.read_json(folder / selection.SUMMARY)
    else:
        summary = selection.select(
            teacher.folder / "labels",
            folder,
            options,
            targets=run.task.stored_targets,
            classes=run.dataset.classes,
            expected=_expected(teacher),
            kept=kept,
        )
    for warning in summary["warnings"]:
        console.warn(warning)
    return summary["counts"]


def _expected(teacher: Student) -> Expected:
    """Says what a teacher's labels would be like on a pool like the labelled images."""
    run = teacher.run
    if not (teacher.folder / EVALUATION).is_file():
        raise UserError(
            f"{teacher.name}/select needs {teacher.name}/evaluate, which has not"
            f" finished in '{run.workdir}': run that stage first, or the whole loop"
            " with `noisy-student run`"
        )
    evaluation = files.read_json(teacher.folder / EVALUATION)
    return Expected.from_run(
        getattr(run.dataset.labelled, "labels", None),
        classes=len(run.dataset.classes),
        scores=evaluation["splits"]["validation"].get("scores"),
    )


def _loop_options(student: Student) -> train_loop.LoopOptions:
    log, checkpoint = student.run.config.log, student.run.config.checkpoint
    return train_loop.LoopOptions(
        steps=student.steps,
        checkpoint_every=checkpoint.every_steps,
        checkpoints_kept=checkpoint.keep,
        asynchronous=checkpoint.asynchronous,
        prefetch=student.run.config.data.prefetch,
        log_every=log.every_steps,
        validate_every=log.validate_every_steps,
    )


def _predictor(trained: Part, *, batch: int) -> Predictor:
    run = trained.student.run
    return Predictor(
        run.task,
        trained.module,
        trained.preprocessing,
        batch=batch,
        ahead=run.config.data.prefetch,
        in_pieces=run.config.evaluation.in_pieces,
    )


def _validation(trained: Part):
    """Returns a function that measures a state, raw and EMA, on validation images."""
    run = trained.student.run
    predictor = _predictor(trained, batch=run.config.evaluation.batch)
    source = trained.source(run.dataset.validation, "validation")

    def validate(state: TrainState) -> dict[str, float]:
        weights = {"raw": state.raw_variables, "ema": state.ema_variables}
        if jax.process_count() > 1:
            # They are on other hosts' devices as well.
            weights = jax.device_get(weights)
        found = predict_source(predictor, weights, source)
        return {
            f"validation/{name}/{key}": value
            for name, predictions in found.predictions.items()
            for key, value in run.task.metrics(predictions, found.labels).items()
        }

    return validate


def _write_bundles(trained: Part, state: TrainState, trained_on: np.ndarray) -> str:
    """Writes the EMA and the raw weights; returns the SHA-256 of the former."""
    student = trained.student
    run, teacher, start = student.run, student.teacher, starting.given(student)
    taught_by = bundles.read(teacher.folder / MODEL).sha256 if teacher else None
    refined = {}
    if student.trained:
        before = bundles.read(student.trained.bundle).sha256
        refined = {"fixres": fixres.origin(student, before)}

    def write(variables: PyTree, weights: str, folder: pathlib.Path) -> str:
        bundle = Bundle(
            architecture=student.config.model.name,
            arguments=student.arguments,
            preprocessing=student.preprocessing,
            task=run.config.task,
            classes=run.dataset.classes,
            variables=trained.whole(jax.device_get(variables)),
            origin={
                "generation": student.generation,
                "dataset": run.dataset.name,
                "steps": (student.trained or student).steps,
                "seed": run.config.seed,
                "weights": weights,
                "teacher": taught_by,
                "started_from": start.sha256 if start else None,
                "part_trained": student.config.train.part,
                **refined,
            },
            trained_on=trained_on,
        )
        return bundles.write(bundle, folder).sha256

    write(state.raw_variables, "raw", student.folder / student.stage / RAW_MODEL)
    return write(state.ema_variables, "ema", student.bundle)


def refuse_overlap(bundle: Bundle, test: Source) -> None:
    """Raises UserError if a test image is among those that a model learnt from."""
    shared = int(np.isin(key_hashes(test), bundle.trained_on).sum())
    if shared:
        raise UserError(
            f"{shared} of {len(test)} test images are among those that this model or"
            " its teachers learnt from, so the result would mean nothing: give a test"
            " set of other images"
        )


def _tell_unusable(found: Predicted, part: str, *, most: float) -> None:
    """Warns of images that cannot be used, or gives up if they are too many."""
    if not found.unusable:
        return
    key, reason = next(iter(found.unusable.items()))
    read = len(found.records) + len(found.unusable)
    what = (
        f"{len(found.unusable)} of {read} {part} images cannot be used, the first being"
        f" '{console.printable(key)}' ({reason})"
    )
    if len(found.unusable) > most * read:
        raise UserError(
            f"{what}: repair or replace them, or allow more than"
            f" config.data.max_quarantined={most:g}"
        )
    console.warn(f"{what}; they are left out")


def _measured(run: Run, found: Predicted) -> dict[str, Any]:
    """Returns what the evaluation says of one part of the data."""
    task, labels, predictions = run.task, found.labels, found.predictions["ema"]
    right = float(task.primary(predictions, labels).sum())
    scores = task.score(predictions)
    return {
        "images": len(labels),
        "unusable": found.unusable,
        "ema": task.metrics(predictions, labels),
        "raw": task.metrics(found.predictions["raw"], labels),
        "interval": wilson(right, len(labels), run.config.evaluation.confidence),
        "scores": {
            "mean": plan.mean(plan.fixed_point(scores, 1), len(scores)),
            "histogram": plan.histogram(scores).tolist(),
        },
    }


def _write_predictions(student: Student, found: Predicted) -> None:
    """Keeps what was predicted for each test image, for paired comparison."""
    task, test = student.run.task, student.run.dataset.test
    predictions = found.predictions["ema"]
    columns = {
        "key": pa.array([test.key(index) for index in found.records.tolist()]),
        "truth": pa.array(found.labels.tolist()),
        "label": pa.array(task.bucket(predictions)),
        "score": pa.array(task.score(predictions)),
        "primary": pa.array(task.primary(predictions, found.labels)),
        **task.columns(predictions, top_k=student.config.labels.top_k),
    }
    files.write_parquet(student.folder / PREDICTIONS, pa.table(columns))
