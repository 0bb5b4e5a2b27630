"""Measures this machine's speed with a student, and predicts the student's hours."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from noisy_student_jax.augment.noise import split_positions
from noisy_student_jax.augment.sharded import augment_moved_spread, augment_spread
from noisy_student_jax.core import sharding, types
from noisy_student_jax.core.types import Batch, PyTree
from noisy_student_jax.data.pipelines.draws import stream_keys
from noisy_student_jax.data.sources import first_label
from noisy_student_jax.evaluation.predictor import Predictor
from noisy_student_jax.features import heads
from noisy_student_jax.generation import init_weights, streams
from noisy_student_jax.generation.train import step_and_state
from noisy_student_jax.generation.trainable import Part, part, synthetic_images, width
from noisy_student_jax.planning import flops, memory
from noisy_student_jax.planning.memory import StepMemory
from noisy_student_jax.runs.run import Generation
from noisy_student_jax.runs.spec import FROM_TEACHER, CostKey
from noisy_student_jax.training.step import jit_train_step

SMALL_BATCH = 64
"""Batches of up to this many images are measured unchanged."""
IMAGES_PER_DEVICE = {"cpu": 32}
"""Images per device of the smaller batch that stands in for a large one."""
IMAGES_PER_ACCELERATOR = 256
BATCHES = 4
"""Batches that are labeled in one call, so that they overlap as in a run."""
ACTIVATION_BYTES = 4e9
"""Limit of the activations of the smaller batch, in bytes per device."""


@dataclasses.dataclass(frozen=True)
class Speed:
    """Speed of this machine with a student's model.

    Attributes:
      train_images_per_second: images noised and trained on, by all devices together.
      label_images_per_second: images labeled or evaluated, in one view each.
      memory: the compiler's figure for the training step; None if unknown.
    """

    train_images_per_second: float
    label_images_per_second: float
    memory: StepMemory | None = dataclasses.field(default=None, compare=False)

    def scaled(self, factor: float) -> "Speed":
        """Returns a speed that is `factor` times as fast."""
        return Speed(
            self.train_images_per_second * factor,
            self.label_images_per_second * factor,
            self.memory,
        )


Speeds = Callable[[Generation], Speed]


def measure(student: Generation, *, seconds: float = 1.5) -> Speed:
    """Measures training and labeling with a student's model, on synthetic images.

    Runs the real training step, preceded by the student's noise, and the real labeling
    program, at the student's resolution. (Here the step is a single program, whose
    memory the compiler reports; on a CPU, runs use two programs of the same speed.) A
    batch of more than `SMALL_BATCH` images is replaced by a smaller one with the same
    ratio, in one microbatch: the time per image is assumed to be independent of the
    batch. Reading and compiling are not counted. Nothing is written.

    Args:
      student: the student.
      seconds: duration of the timing, for training and for labeling each; at least one
        whole step is timed.
    """
    small = _with_small_batch(_startable(student))
    if student.spec.solves:
        # Its training is inference, and the solution of a problem: see `hours`.
        labeling = _labeling(small, init_weights.initial_variables(small), seconds)
        return Speed(labeling, labeling)
    mesh = sharding.make_mesh()
    trained = part(small)
    step, state = step_and_state(trained)
    held = sharding.state_sharding(
        state, mesh, sharded=student.spec.config.train.shard_state
    )
    state = jax.device_put(state, held)
    batches = _Batches(trained, mesh)
    program = jit_train_step(step, mesh, state_sharding=held)
    compiled = program.lower(state, batches(0)).compile()

    def train(number: int) -> PyTree:
        nonlocal state
        state, metrics = compiled(state, batches(number))
        return metrics

    training = _steps_per_second(train, student, seconds) * small.spec.layout.total
    learned = trained.whole(jax.device_get(state.ema_variables))
    labeling = _labeling(small, learned, seconds)
    held = memory.of_step(compiled, small, devices=mesh.size)
    return Speed(training, labeling, held)


def _labeling(small: Generation, variables: PyTree, seconds: float) -> float:
    """Returns the images that a student's model labels in a second, in one view."""
    predictor = Predictor(
        small.run.task,
        small.spec.model.in_views(1).module,
        small.spec.model.preprocessing,
        # Labeling is limited by activation memory only, not by `IMAGES_PER_DEVICE`.
        batch=min(
            small.spec.config.labels.batch, jax.local_device_count() * _fit(small)
        ),
    )
    placed = predictor.place(variables)
    images = synthetic_images(BATCHES * predictor.batch, small.spec.model.resolution)
    each = _steps_per_second(lambda number: predictor(placed, images), small, seconds)
    return each * len(images)


def remembered(speeds: Speeds = measure) -> Speeds:
    """Returns a function that measures students of the same cost only once."""
    known: dict[CostKey, Speed] = {}

    def speed(student: Generation) -> Speed:
        key = _with_small_batch(student).spec.cost_key
        if key not in known:
            known[key] = speeds(student)
        return known[key]

    return speed


def hours(student: Generation, speed: Speed) -> dict[str, float]:
    """Predicts the hours of a student's training, labeling and evaluation.

    Returns:
      Hours of ``train``, ``label`` and ``evaluate``, for the counts of `flops.images`,
      and their ``total``.
    """
    spec, images = student.spec, flops.images(student)
    seconds = {"train": images.pop("train") / speed.train_images_per_second}
    if spec.config.train.part == "head":
        images = flops.feature_images(student)
    if spec.solves:
        rows = flops.solved_rows(student)
        labeled = len(student.run.dataset.labeled)
        seconds["train"] += heads.seconds(rows, width(student), labeled=labeled)
    for what, count in images.items():
        more = count / speed.label_images_per_second
        seconds[what] = seconds.get(what, 0) + more
    if spec.taught_by:
        # The teacher runs a forward pass for each pseudo-labeled image.
        shown = spec.taught_by
        share = student.run.costs.of(shown).flops / student.cost.flops
        taught = spec.schedule.steps * spec.layout.pseudo * shown.views * share
        seconds["train"] += taught / speed.label_images_per_second
    found = {what: one / 3600 for what, one in seconds.items()}
    if spec.refined:
        # The cost of an image is assumed to be proportional to its area.
        final = student.final
        scale = spec.model.resolution / final.spec.model.resolution
        finer = hours(final, speed.scaled(scale**2))
        found = {what: one + finer[what] for what, one in found.items()}
    return {**found, "total": sum(found.values())}


class _Batches:
    """Batches of synthetic images, with fresh noise at every step."""

    def __init__(self, trained: Part, mesh: Mesh):
        """Moves the images and the constant parts of a batch to the devices."""
        student = trained.student
        self._mesh, self._layout = mesh, student.spec.layout
        self._sizes = [self._layout.labeled, self._layout.pseudo]
        if not self._layout.pseudo:
            self._sizes.pop()
        self._images = sharding.put_batch(
            [trained.synthetic(size) for size in self._sizes], mesh
        )
        self._rest = sharding.put_batch(all_but_images(student), mesh)
        moved = hasattr(student.run.task, "moved")
        noises = [streams.input_noise(student, name) for name in types.STREAMS]
        self._keys = stream_keys(len(self._sizes), seed=0, generation=0, mesh=mesh)
        self._noised = jax.jit(
            lambda keys, positions, images: self._interleaved(
                [
                    augment_moved_spread(mesh, key, drawn, own, noise)[0]
                    if moved
                    else augment_spread(mesh, key, drawn, own, noise)
                    for noise, key, drawn, own in zip(
                        noises, keys, positions, images, strict=False
                    )
                ]
            ),
            out_shardings=sharding.along_batch(mesh),
        )

    def __call__(self, step: int) -> Batch:
        """Returns the batch of a step."""
        positions = [
            split_positions(np.arange(step * size, (step + 1) * size))
            for size in self._sizes
        ]
        placed = sharding.put_batch(positions, self._mesh)
        return {**self._rest, "image": self._noised(self._keys, placed, self._images)}

    def _interleaved(self, images: list[jax.Array]) -> jax.Array:
        if len(images) == 1:
            return images[0]
        return self._layout.interleave(*images)


def all_but_images(student: Generation) -> Batch:
    """Returns a batch without images; all targets are the first labeled record's."""
    layout, run = student.spec.layout, student.run
    label = first_label(run.dataset.labeled)
    ones = np.ones(layout.total, np.float32)
    return {
        "target": run.task.targets(np.repeat(label, layout.total, axis=0)),
        "weight": ones,
        "stream": layout.stream(),
        "noise": {"dropout": ones, "stochastic_depth": ones},
    }


def _steps_per_second(
    work: Callable[[int], Any], student: Generation, seconds: float
) -> float:
    # The first step compiles.
    jax.block_until_ready(work(0))
    done, started, elapsed = 0, time.perf_counter(), 0.0
    while not done or elapsed < seconds:
        student.run.interruption.check()
        done += 1
        jax.block_until_ready(work(done))
        elapsed = time.perf_counter() - started
    return done / elapsed


def _startable(student: Generation) -> Generation:
    """Returns the student with random weights in place of its teacher's."""
    if student.spec.config.model.init != FROM_TEACHER:
        return student
    config = student.spec.config.copy_and_resolve_references()
    config.model.init = init_weights.RANDOM
    return student.changed(config)


def _with_small_batch(student: Generation) -> Generation:
    """Returns the student with the smaller batch, of whole groups, that is measured."""
    layout, devices = student.spec.layout, jax.device_count()
    if layout.total <= SMALL_BATCH:
        return student
    group = layout.total // layout.groups
    groups = devices * max(1, min(layout.groups // devices, _most(student) // group))
    config = student.spec.config.copy_and_resolve_references()
    config.train.batch = groups * (layout.labeled // layout.groups)
    config.train.microbatches = 1
    # The smaller batch may not divide into groups, whose cost is negligible.
    config.model.batch_norm_group = None
    return student.changed(config)


def _most(student: Generation) -> int:
    """Returns the maximum number of images per device in the smaller batch."""
    images = IMAGES_PER_DEVICE.get(jax.default_backend(), IMAGES_PER_ACCELERATOR)
    return min(images, _fit(student))


def _fit(student: Generation) -> int:
    return max(1, int(ACTIVATION_BYTES // student.cost.activation_bytes))
