"""How fast this machine is with a student, and how long the student will take."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from noisy_student_jax.augment.noise import split_positions
from noisy_student_jax.augment.sharded import augment_spread
from noisy_student_jax.core import sharding, types
from noisy_student_jax.core.types import Batch, PyTree
from noisy_student_jax.data.pipelines.draws import stream_keys
from noisy_student_jax.data.sources import first_label
from noisy_student_jax.evaluation.predictor import Predictor
from noisy_student_jax.generation import init_weights, streams
from noisy_student_jax.generation.train import step_and_state
from noisy_student_jax.generation.trainable import Part, made_up_images, part
from noisy_student_jax.planning import flops, memory
from noisy_student_jax.planning.memory import StepMemory
from noisy_student_jax.runs.run import Generation
from noisy_student_jax.runs.spec import CostKey
from noisy_student_jax.training.step import jit_train_step

SMALL_BATCH = 64
"""Batches of up to so many images are measured as they are."""
IMAGES_PER_DEVICE = {"cpu": 32}
"""Of the smaller batch that is measured instead of a large one."""
IMAGES_PER_ACCELERATOR = 256
BATCHES = 4
"""That are labeled at a time, so that they overlap as in a run."""
ACTIVATION_BYTES = 4e9
"""What the activations of that smaller batch may take, per device."""


@dataclasses.dataclass(frozen=True)
class Speed:
    """How fast this machine is with a student's model.

    Attributes:
      train_images_per_second: noised and trained on, by all devices together.
      label_images_per_second: labeled, or evaluated.
      memory: that the training step takes, of the compiler; None if it was not asked.
    """

    train_images_per_second: float
    label_images_per_second: float
    memory: StepMemory | None = dataclasses.field(default=None, compare=False)

    def scaled(self, factor: float) -> "Speed":
        """Returns both, `factor` times as fast."""
        return Speed(
            self.train_images_per_second * factor,
            self.label_images_per_second * factor,
            self.memory,
        )


Speeds = Callable[[Generation], Speed]


def measure(student: Generation, *, seconds: float = 1.5) -> Speed:
    """Trains and labels with a student's model for a moment, on made-up images.

    What runs is the real training step, with the student's noise in front of it, and
    the real labeling program, at its resolution. (The step is one program here, whose
    memory the compiler tells; on a CPU a run makes it of two, which are as fast.) A
    batch of more than `SMALL_BATCH` images is stood in for by a smaller one of the same
    mix, in one microbatch: the time an image takes is taken to be independent of the
    batch. Reading images is not counted, nor compiling. Nothing is written.

    Args:
      student: to be measured.
      seconds: how long the timing goes on, for training and for labeling each; at
        least one whole step is timed.
    """
    small = _with_small_batch(_startable(student))
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
    predictor = Predictor(
        small.run.task,
        small.spec.model.module,
        small.spec.model.preprocessing,
        # Whether images fit is no question of how many a CPU likes to train on.
        batch=min(
            small.spec.config.labels.batch, jax.local_device_count() * _fit(small)
        ),
        in_pieces=small.run.config.evaluation.in_pieces,
    )
    learned = trained.whole(jax.device_get(state.ema_variables))
    variables = predictor.place(learned)
    images = made_up_images(BATCHES * predictor.batch, small.spec.model.resolution)
    labeling = _steps_per_second(
        lambda number: predictor(variables, images), student, seconds
    )
    held = memory.of_step(compiled, small, devices=mesh.size)
    return Speed(training, labeling * len(images), held)


def remembered(speeds: Speeds = measure) -> Speeds:
    """Returns a function that measures students that cost the same only once."""
    known: dict[CostKey, Speed] = {}

    def speed(student: Generation) -> Speed:
        key = _with_small_batch(student).spec.cost_key
        if key not in known:
            known[key] = speeds(student)
        return known[key]

    return speed


def hours(student: Generation, speed: Speed) -> dict[str, float]:
    """Tells how long a student takes, from training it to the last of its labels.

    Returns:
      Hours: ``train``, ``label`` and ``evaluate``, of what `spending.images` counts;
      and their ``total``.
    """
    spec, images = student.spec, flops.images(student)
    seconds = {"train": images.pop("train") / speed.train_images_per_second}
    if spec.config.train.part == "head":
        images = flops.passed_once(student)
    for what, count in images.items():
        more = count / speed.label_images_per_second
        seconds[what] = seconds.get(what, 0) + more
    if spec.taught_by:
        # A forward pass of the teacher for each of these images.
        share = student.run.costs.of(spec.taught_by).flops / student.cost.flops
        taught = spec.schedule.steps * spec.layout.pseudo * share
        seconds["train"] += taught / speed.label_images_per_second
    found = {what: one / 3600 for what, one in seconds.items()}
    if spec.refined:
        # At another resolution; an image is taken to cost as its area.
        final = student.final
        scale = spec.model.resolution / final.spec.model.resolution
        finer = hours(final, speed.scaled(scale**2))
        found = {what: one + finer[what] for what, one in found.items()}
    return {**found, "total": sum(found.values())}


class _Batches:
    """Batches of made-up images, noised anew at every step."""

    def __init__(self, trained: Part, mesh: Mesh):
        """Puts images, and what does not change, on the devices."""
        student = trained.student
        self._mesh, self._layout = mesh, student.spec.layout
        self._sizes = [self._layout.labeled, self._layout.pseudo]
        if not self._layout.pseudo:
            self._sizes.pop()
        self._images = sharding.put_batch(
            [trained.made_up(size) for size in self._sizes], mesh
        )
        self._rest = sharding.put_batch(all_but_images(student), mesh)
        noises = [streams.input_noise(student, name) for name in types.STREAMS]
        self._keys = stream_keys(len(self._sizes), seed=0, generation=0, mesh=mesh)
        self._noised = jax.jit(
            lambda keys, positions, images: self._interleaved(
                [
                    augment_spread(mesh, key, drawn, own, noise)
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
    """Returns the rest of a batch; every target is the first labeled record's."""
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
    # The first step waits for the compiler.
    jax.block_until_ready(work(0))
    done, started, elapsed = 0, time.perf_counter(), 0.0
    while not done or elapsed < seconds:
        student.run.interruption.check()
        done += 1
        jax.block_until_ready(work(done))
        elapsed = time.perf_counter() - started
    return done / elapsed


def _startable(student: Generation) -> Generation:
    """Returns the student as it can be trained before its teacher has been."""
    if student.spec.config.model.init != init_weights.TEACHER:
        return student
    config = student.spec.config.copy_and_resolve_references()
    config.model.init = init_weights.RANDOM
    return student.changed(config)


def _with_small_batch(student: Generation) -> Generation:
    """Returns the student with as few whole groups in its batch as are measured."""
    layout, devices = student.spec.layout, jax.device_count()
    if layout.total <= SMALL_BATCH:
        return student
    group = layout.total // layout.groups
    groups = devices * max(1, min(layout.groups // devices, _most(student) // group))
    config = student.spec.config.copy_and_resolve_references()
    config.train.batch = groups * (layout.labeled // layout.groups)
    config.train.microbatches = 1
    # The smaller batch may not divide into groups, which cost next to nothing.
    config.model.batch_norm_group = None
    return student.changed(config)


def _most(student: Generation) -> int:
    """Returns how many images a device is given at most, where it has a choice."""
    images = IMAGES_PER_DEVICE.get(jax.default_backend(), IMAGES_PER_ACCELERATOR)
    return min(images, _fit(student))


def _fit(student: Generation) -> int:
    return max(1, int(ACTIVATION_BYTES // student.cost.activation_bytes))
