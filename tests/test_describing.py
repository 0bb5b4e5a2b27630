"""What does the same has the same text; what may not, another or none."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from noisy_student_jax import models
from noisy_student_jax.describing import IndescribableError, describe
from noisy_student_jax.tasks.base import LossOptions
from noisy_student_jax.tasks.classification import Classification
from noisy_student_jax.training import optimizer as optimizers
from noisy_student_jax.training.optimizer import OptimizerOptions
from noisy_student_jax.training.step import StepOptions, TrainStep

OPTIONS = {
    "optimizer": "rmsprop",
    "learning_rate": 0.016,
    "schedule": "exponential",
    "decay_epochs": 2.4,
    "decay_factor": 0.97,
    "warmup_epochs": 5.0,
    "momentum": 0.9,
    "weight_decay": 1e-5,
}


def step(
    *,
    model="efficientnet_test",
    classes="abc",
    smoothing=0.1,
    batch=8,
    frozen=(),
    ema_decay=0.9,
    mean=(0.5,),
    options=None,
    **arguments,
):
    """A step as a run makes it, anew each time."""
    options = OptimizerOptions(**OPTIONS | (options or {}))
    schedule = optimizers.make_schedule(
        options, batch=batch, steps=20, steps_per_epoch=4.0
    )
    loss = functools.partial(
        Classification(tuple(classes)).loss,
        options=LossOptions(label_smoothing=smoothing),
    )
    return TrainStep(
        models.create(model, outputs=len(classes), **arguments),
        loss,
        optimizers.make_optimizer(options, schedule, frozen=frozen),
        schedule,
        StepOptions(ratio=1.0, ema_decay=ema_decay, frozen=frozen),
        mean=mean,
        std=(0.3,),
    )


def test_a_step_made_again_has_the_same_text():
    assert step() is not step()
    assert describe(step()) == describe(step())


@pytest.mark.parametrize(
    "change",
    [
        {"model": "efficientnet_tiny_s"},
        {"classes": "abcd"},
        {"smoothing": 0.2},
        {"batch": 9},
        {"frozen": ("stem_conv",)},
        {"ema_decay": 0.99},
        {"mean": (0.4,)},
        {"dropout_rate": 0.3},
        {"stochastic_depth": 0.3},
        {"dtype": "bfloat16"},
        {"remat": True},
        {"depthwise": "grouped"},
        {"layers": "flax"},
        {"batch_norm_momentum": 0.9},
        *(
            {"options": {name: value}}
            for name, value in (
                ("optimizer", "sgd"),
                ("learning_rate", 0.017),
                ("schedule", "cosine"),
                ("decay_epochs", 2.5),
                ("decay_factor", 0.98),
                ("warmup_epochs", 4.0),
                ("momentum", 0.8),
            )
        ),
    ],
    ids=str,
)
def test_whatever_changes_a_step_changes_its_text(change):
    assert describe(step(**change)) != describe(step())


def test_the_halves_of_a_step_are_not_each_other_nor_the_whole():
    one = step()
    assert len({describe(one), describe(one.gradients), describe(one.update)}) == 3


def test_what_a_function_holds_is_told():
    adam = optax.adam(0.1)
    assert describe(adam) == describe(optax.adam(0.1))
    assert describe(adam) != describe(optax.adam(0.2))
    assert describe(adam) != describe(optax.adam(0.1, b1=0.8))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (0.0, -0.0),
        ("1", 1),
        ((1, 2), [1, 2]),
        ({"a": 1}, {"a": 2}),
        (np.float32(1), 1.0),
        (np.arange(3), np.arange(3.0)),
        (np.arange(6), np.arange(6).reshape(2, 3)),
        (jnp.float32, jnp.bfloat16),
        (jax.nn.relu, jax.nn.silu),
        (functools.partial(jnp.sum, axis=0), functools.partial(jnp.sum, axis=1)),
        (StepOptions(1.0), StepOptions(2.0)),
    ],
    ids=str,
)
def test_what_differs_is_told_apart(one, other):
    assert describe(one) == describe(one)
    assert describe(one) != describe(other)


def test_the_order_of_a_dictionary_says_nothing():
    assert describe({"a": 1, "b": 2}) == describe({"b": 2, "a": 1})


def test_a_function_that_calls_itself_has_a_text():
    def countdown(number):
        return number and countdown(number - 1)

    countdown.__module__ = "optax.countdown"
    assert "0 out" in describe(countdown)


class Linear(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Dense(2)(images)


@dataclasses.dataclass
class Own:
    """Of nobody whose version is known."""

    value: int = 1


@pytest.mark.parametrize(
    "value",
    [
        lambda x: x,
        Own(),
        Own,
        functools.partial(describe, Own()),
        dataclasses.replace(step(), module=Linear()),
        dataclasses.replace(step(), loss=lambda outputs, batch: {}),
        jnp.ones(2),
        iter(()),
        object(),
    ],
    ids=[
        "function",
        "object",
        "class",
        "partial",
        "model",
        "loss",
        "array",
        "iterator",
        "slots",
    ],
)
def test_somebodys_own_code_has_no_text(value):
    with pytest.raises(IndescribableError):
        describe(value)
