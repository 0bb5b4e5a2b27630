"""A detector learns what it is shown, by the step that all tasks share."""

import functools

import jax
import numpy as np
import pytest
from coco_reference import expected
from discs_and_squares import CLASSES, SIDE, images

from noisy_student_jax import models
from noisy_student_jax.core.protocols import LossOptions
from noisy_student_jax.core.types import LABELED, PSEUDO
from noisy_student_jax.data.labels import IGNORE, OBJECT
from noisy_student_jax.models.initialize import initialize
from noisy_student_jax.tasks.detection.average_precision import metrics, statistics
from noisy_student_jax.tasks.detection.decode import decode
from noisy_student_jax.tasks.detection.loss import loss
from noisy_student_jax.tasks.detection.matching import outcome
from noisy_student_jax.tasks.detection.targets import targets
from noisy_student_jax.training import optimizer as optimizers
from noisy_student_jax.training.optimizer import OptimizerOptions
from noisy_student_jax.training.state import TrainState
from noisy_student_jax.training.step import StepOptions, TrainStep, normalize

STEPS = 80
MEAN, STD = (0.5,) * 3, (0.25,) * 3
PIXELS, LABELS = images((1, 2, 3, 4))


def step_and_state(*, stream_ratio=0.0, microbatches=1, **arguments):
    """Returns a training step of a small detector, and its first state."""
    module = models.create("fcos_test", outputs=CLASSES, **arguments)
    options = OptimizerOptions(
        optimizer="adamw",
        learning_rate=0.64,
        schedule="cosine",
        decay_epochs=1.0,
        decay_factor=1.0,
        warmup_epochs=10.0,
        momentum=0.9,
        weight_decay=1e-5,
    )
    schedule = optimizers.make_schedule(
        options, batch=4, steps=STEPS, steps_per_epoch=1.0
    )
    optimizer = optimizers.make_optimizer(options, schedule)
    step = TrainStep(
        module,
        functools.partial(loss, options=LossOptions()),
        optimizer,
        schedule,
        StepOptions(ratio=stream_ratio, ema_decay=0.9, microbatches=microbatches),
        mean=MEAN,
        std=STD,
    )
    variables = initialize(module, resolution=SIDE, seed=0)
    return step, TrainState.create(variables, optimizer, seed=0, generation=0)


def batch(stream, labels=LABELS):
    return {
        "image": PIXELS,
        "target": targets(labels),
        "weight": np.ones(4, np.float32),
        "stream": np.asarray(stream, np.int32),
        "noise": {
            name: (np.asarray(stream) == PSEUDO).astype(np.float32)
            for name in ("dropout", "stochastic_depth")
        },
    }


@pytest.fixture(scope="module")
def trained():
    """Returns a function to predictions after training on four images, and losses."""
    step, state = step_and_state(batch_norm_momentum=0.9)
    run = jax.jit(step)
    losses = []
    for _ in range(STEPS):
        state, measured = run(state, batch([LABELED] * 4))
        losses.append(float(measured["loss"]))

    @jax.jit
    def predict(variables, pixels):
        return decode(step.module.apply(variables, normalize(pixels, MEAN, STD)))

    return lambda pixels: jax.device_get(predict(state.ema_variables, pixels)), losses


def test_a_detector_finds_all_objects_of_four_images(trained):
    predicted, losses = trained
    found = predicted(PIXELS)

    assert losses[-1] < 0.1 * losses[0]
    for number, labels in enumerate(LABELS):
        one = {name: part[number] for name, part in found.items()}
        sure = one["scores"] > 0.5
        sure = {name: part[sure] for name, part in one.items()}
        judged = outcome(sure, labels, threshold=0.7)
        assert len(judged.hits) == (labels[:, 5] == 1).sum()
        assert not len(judged.misses) and not len(judged.false_alarms)


def test_its_average_precision_is_that_of_pycocotools(trained):
    predicted, _ = trained
    pixels, labels = images([1, 2, 3, 4] * 6, seed=1)
    parts = [predicted(pixels[start : start + 4]) for start in range(0, 24, 4)]
    found = {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}
    # One region that does not count, as a detector meets it.
    labels[3, 0, 5] = IGNORE
    names = ("disc", "square")

    ours = metrics(statistics(found, labels, classes=CLASSES), names)

    theirs = expected(found, labels, names)
    assert {name: value[0] for name, value in ours.items()} == pytest.approx(
        theirs, abs=1e-6
    )
    assert 0 < theirs["AP"] < theirs["AP50"] < 1
    assert (found["scores"] > 0).sum(axis=1).max() > 10


def test_a_step_of_both_streams_in_parts_is_repeatable_and_one_program():
    step, state = step_and_state(stream_ratio=1.0, microbatches=2, batch_norm_group=2)
    run = jax.jit(step)
    stream = [LABELED, PSEUDO, LABELED, PSEUDO]

    (one, measured), (other, _) = (run(state, batch(stream)) for _ in range(2))
    run(state, batch(stream, np.zeros_like(LABELS)))

    same = jax.tree.map(np.array_equal, one.params, other.params)
    assert all(jax.tree.leaves(same))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(one.params))
    for name in ("loss", "classification", "boxes", "positives"):
        assert measured[f"labeled/{name}"] > 0 and measured[f"pseudo/{name}"] > 0
    assert run._cache_size() == 1


def test_batches_with_none_one_and_many_boxes_are_one_program():
    step, state = step_and_state()
    run = jax.jit(step)
    places = 60
    rng = np.random.default_rng(0)
    corner, side = rng.uniform(0, 0.5, (2, 4, places, 2))
    kind = np.full((4, places, 1), OBJECT)
    every = np.concatenate([corner, corner + side, 0 * kind, kind], -1)
    every = every.astype(np.float32)
    positives = []

    for boxes in (0, 1, 20, places):
        labels = np.where(np.arange(places)[None, :, None] < boxes, every, 0)
        _, measured = run(state, batch([LABELED] * 4, labels))
        assert np.isfinite(measured["loss"])
        positives.append(float(measured["labeled/positives"]))

    assert run._cache_size() == 1
    assert positives[0] == 0 and positives == sorted(set(positives))
