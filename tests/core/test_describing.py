"""What does the same has the same text; what may not, another or none."""

import dataclasses
import enum
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from noisy_student_jax import models
from noisy_student_jax.core.describing import IndescribableError, describe
from noisy_student_jax.core.protocols import LossOptions
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
    ids=lambda change: "-".join(map(str, [*change, *change.values()])),
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


DIFFERENT = {
    "int and float": (1, 1.0),
    "int and bool": (1, True),
    "signs of zero": (0.0, -0.0),
    "text and number": ("1", 1),
    "tuple and list": ((1, 2), [1, 2]),
    "values": ({"a": 1}, {"a": 2}),
    "kinds of keys": ({1: 0}, {"1": 0}),
    "orders of keys": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "precisions": (np.float32(1), np.float64(1)),
    "dtypes": (np.dtype("float32"), np.dtype("float64")),
    "dtypes of arrays": (np.arange(3), np.arange(3.0)),
    "shapes": (np.arange(6), np.arange(6).reshape(2, 3)),
    "types": (jnp.float32, jnp.bfloat16),
    "functions": (jax.nn.relu, jax.nn.silu),
    "arguments": (
        functools.partial(jnp.sum, axis=0),
        functools.partial(jnp.sum, axis=1),
    ),
    "fields": (StepOptions(1.0), StepOptions(2.0)),
    "modules": (nn.Dense(2), nn.Dense(3)),
    "methods": (nn.Dense(2).__call__, nn.Dense(2).setup),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_differs_is_told_apart(what):
    one, other = DIFFERENT[what]
    assert describe(one) == describe(one)
    assert describe(one) != describe(other)


def of_a_library(source, name="optax._src.made"):
    """Returns what a line of a library's file would make."""
    known = {"__name__": name}
    exec(source, known)
    return known["made"]


@pytest.mark.parametrize(
    "source",
    [
        "made = (lambda x: x + 1), (lambda x: x - 1)",
        "made = [(lambda y: lambda x: x + y)(y) for y in (1, 2)]",
        "made = [(lambda x, y=y: x + y) for y in (1, 2)]",
    ],
    ids=["one line", "closures", "defaults"],
)
def test_functions_of_one_name_are_told_apart(source):
    one, other = of_a_library(source)
    assert describe(one) == describe(one)
    assert describe(one) != describe(other)


def test_a_function_that_calls_itself_has_a_text():
    source = "def made():\n def inner(n):\n  return n and inner(n - 1)\n return inner"
    assert "0 out" in describe(of_a_library(source)())


class Linear(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Dense(2)(images)


@dataclasses.dataclass
class Own:
    """Of nobody whose version is known."""

    value: int = 1


class OwnText(str):
    pass


class OwnDense(nn.Dense):
    pass


class Choice(enum.Enum):
    ONE = 1


@functools.wraps(Classification.loss)
def wrapped(*_):
    return {}


OWN = {
    "function": lambda x: x,
    "object": Own(),
    "class": Own,
    "in a partial": functools.partial(describe, Own()),
    "in a step's model": dataclasses.replace(step(), module=Linear()),
    "in a step's loss": dataclasses.replace(step(), loss=lambda outputs, batch: {}),
    "called as a library's": wrapped,
    "in a library's class": nn.remat(Linear)(),
    "in a library's subclass": OwnDense(2),
    "a library's class made of options": nn.remat(nn.Dense, policy=None)(2),
    "text": OwnText("a"),
    "choice": Choice.ONE,
    "key": {Own: 1},
    "array on a device": jnp.ones(2),
    "array of objects": np.array([Own()]),
    "masked array": np.ma.array([1, 2], mask=[0, 1]),
    "numpy function": np.frompyfunc(lambda x: x, 1, 1),
    "set": {1, 2},
    "iterator": iter(()),
    "nothing at all": object(),
}


@pytest.mark.parametrize("what", OWN)
def test_somebodys_own_code_and_what_cannot_be_seen_has_no_text(what):
    with pytest.raises(IndescribableError):
        describe(OWN[what])
