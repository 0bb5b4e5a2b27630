"""A step's programs: the step itself, in halves or whole."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noisy_student_jax.core import sharding
from noisy_student_jax.core.protocols import LossOptions
from noisy_student_jax.models.head import Head
from noisy_student_jax.tasks.classification import Classification
from noisy_student_jax.training.compiled_step import StepProgram
from noisy_student_jax.training.optimizer import (
    OptimizerOptions,
    make_optimizer,
    make_schedule,
)
from noisy_student_jax.training.state import TrainState
from noisy_student_jax.training.step import (
    StepOptions,
    Teacher,
    TrainStep,
    jit_train_step,
)

TASK, BATCH, SIDE = Classification(tuple("abc")), 4, 4
OPTIONS = OptimizerOptions(
    optimizer="rmsprop",
    learning_rate=0.05,
    schedule="constant",
    decay_epochs=1.0,
    decay_factor=1.0,
    warmup_epochs=0.0,
    momentum=0.9,
    weight_decay=1e-4,
)
MEAN_AND_STD = {"mean": (0.5,) * 3, "std": (0.3,) * 3}


class Small(nn.Module):
    """Batch norm and dropout, on a few pixels."""

    @nn.compact
    def __call__(self, images, train=False, noise=None):
        hidden = images.reshape(len(images), -1)
        hidden = nn.BatchNorm(use_running_average=not train, momentum=0.9)(hidden)
        hidden = nn.Dropout(0.5, deterministic=not train)(hidden)
        return {"logits": nn.Dense(3)(hidden)}


HEAD, SMALL = Head(3, dropout_rate=0.5), Small()


@functools.cache
def made(module):
    """A step, and the variables that it starts from."""
    schedule = make_schedule(OPTIONS, batch=256, steps=9, steps_per_epoch=3.0)
    step = TrainStep(
        module,
        functools.partial(TASK.loss, options=LossOptions(label_smoothing=0.1)),
        make_optimizer(OPTIONS, schedule),
        schedule,
        StepOptions(ratio=1.0, weight_decay=1e-4, ema_decay=0.9),
        **MEAN_AND_STD,
    )
    variables = module.init(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))
    return step, jax.device_get(variables)


def fresh(module=HEAD):
    step, variables = made(module)
    state = TrainState.create(variables, step.optimizer, seed=0, generation=0)
    return jax.device_put(state, sharding.replicated(MESH))


MESH = sharding.make_mesh(jax.devices()[:1])


def batch(number=0, **changes):
    rng = np.random.default_rng(number)
    ones = np.ones(BATCH, np.float32)
    one = {
        "image": rng.integers(0, 256, (BATCH, SIDE, SIDE, 3)).astype(np.uint8),
        "target": np.eye(3, dtype=np.float32)[rng.integers(0, 3, BATCH)],
        "weight": ones,
        "stream": np.array([0, 0, 1, 1], np.int32),
        "noise": {"dropout": ones, "stochastic_depth": ones},
    }
    return sharding.put_batch(one | changes, MESH)


def program(step=None, *, module=HEAD):
    step = step or made(module)[0]
    return StepProgram(step, MESH, state=fresh(module), batch=batch())


def trained(step, steps=3, *, module=HEAD):
    """The state and metrics after some steps, on the host."""
    state = fresh(module)
    for number in range(steps):
        state, metrics = step(state, batch(number))
    return jax.device_get((state, metrics))


@pytest.mark.parametrize("module", [HEAD, SMALL], ids=["head", "batch norm"])
def test_halves_compute_what_the_whole_step_does(module):
    jitted = jit_train_step(made(module)[0], MESH)
    whole = trained(jitted, module=module)
    halves = trained(program(module=module), module=module)

    assert whole[1].keys() == halves[1].keys()
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-5),
        halves,
        whole,
    )


def test_the_state_is_given_away():
    state = fresh()
    moved, _ = program()(state, batch())

    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.opt_state))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    assert int(moved.step) == 1


def test_a_batch_of_another_kind_than_foreseen_is_taken_all_the_same():
    images = np.asarray(batch()["image"], np.float32)
    expected = program()(fresh(), batch())
    found = program()(fresh(), batch(image=images))

    np.testing.assert_allclose(found[1]["loss"], expected[1]["loss"], rtol=1e-5)


def test_a_teacher_in_the_step_is_given_to_every_step():
    step, variables = made(HEAD)
    teacher = Teacher(
        step.module,
        lambda outputs: TASK.taught_targets(TASK.predict(outputs)),
        **MEAN_AND_STD,
    )
    taught = dataclasses.replace(step, teacher=teacher)
    seen = batch()
    seen["teacher_image"] = seen["image"][2:]
    run = StepProgram(taught, MESH, state=fresh(), batch=seen, taught_by=variables)
    state, metrics = run(fresh(), seen)
    _, again = run(state, seen)

    _, expected = jax.jit(taught)(fresh(), seen, variables)
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-4)
    assert np.isfinite(again["loss"]) and again["loss"] != metrics["loss"]


def test_what_cannot_be_traced_is_told_at_once():
    def wrong(outputs, batch):
        raise ValueError("no such target")

    with pytest.raises(ValueError, match="no such target"):
        program(dataclasses.replace(made(HEAD)[0], loss=wrong))


def test_a_whole_step_is_called_so():
    lowered = jit_train_step(made(HEAD)[0], MESH).lower(fresh(), batch())
    assert "module @jit_step " in lowered.as_text()
