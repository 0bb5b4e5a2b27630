"""Each config of the repository is built, and its training steps are traced."""

import functools
import re
import types

import jax
import jax.numpy as jnp
import pytest
from support import CONFIGS, planned

from noisy_student_jax.generation import init_weights, preconditions
from noisy_student_jax.generation import train as generation
from noisy_student_jax.generation.trainable import part
from noisy_student_jax.training.state import TrainState

STEMS = [path.stem for path in CONFIGS]


def with_plain_model(student):
    """Returns a student with the model of an accelerator with ample memory.

    The model computes the same. Alternatives for the CPU, and recomputed blocks, take
    as long again to trace, and have their own tests.
    """
    config = student.spec.config.copy_and_resolve_references()
    with config.unlocked():
        config.model.update(depthwise="grouped", remat=False)
    return student.changed(config)


def kind(student):
    """Returns a key of a student's step, which leaves out the sizes of the batch."""
    train = student.spec.config.train.to_dict()
    for size in ("batch", "ratio", "steps", "epochs", "decay_epochs"):
        del train[size]
    model = (student.spec.config.model.name, student.spec.model.resolution)
    return (
        model,
        repr(sorted(student.spec.model.arguments.items())),
        repr(sorted(train.items())),
    )


def abstract_batch(student):
    total, side = student.spec.layout.total, student.spec.model.resolution
    each = jax.ShapeDtypeStruct((total,), jnp.float32)
    return {
        "image": jax.ShapeDtypeStruct((total, side, side, 3), jnp.uint8),
        "target": jax.ShapeDtypeStruct((total, student.run.task.outputs), jnp.float32),
        "weight": each,
        "stream": jax.ShapeDtypeStruct((total,), jnp.int32),
        "noise": {"dropout": each, "stochastic_depth": each},
    }


def trace(student, monkeypatch):
    """Traces a step from a state of shapes: nothing is drawn or computed."""
    create = TrainState.create

    def create_abstractly(variables, optimizer, **numbers):
        known = functools.partial(create, optimizer=optimizer, **numbers)
        return jax.eval_shape(known, variables)

    with monkeypatch.context() as patch:
        patch.setattr(init_weights, "initial_variables", lambda one: one.cost.shapes)
        patch.setattr(TrainState, "create", create_abstractly)
        # The model that FixRes fine-tunes has not been trained.
        trained = types.SimpleNamespace(variables=student.cost.shapes)
        patch.setattr(generation.bundles, "read", lambda place: trained)
        step, state = generation.step_and_state(part(student))
    return state, *jax.eval_shape(step, state, abstract_batch(student))


@pytest.mark.parametrize("path", CONFIGS, ids=STEMS)
def test_a_config_can_be_trained(path, monkeypatch):
    run = planned(path)
    preconditions.check(run)
    students = {}
    every = run.students + [s.final for s in run.students if s.spec.refined]
    for student in map(with_plain_model, every):
        known = students.setdefault(kind(student), student)
        if student.spec.layout.total > known.spec.layout.total:
            students[kind(student)] = student
    for student in students.values():
        before, after, metrics = trace(student, monkeypatch)
        assert jax.tree.map(jnp.shape, before) == jax.tree.map(jnp.shape, after)
        assert {"loss", "labeled/loss", "pseudo/loss"} <= metrics.keys()


@pytest.mark.parametrize("path", CONFIGS, ids=STEMS)
def test_a_config_says_how_it_is_run_and_what_to_expect(path):
    docstring = path.read_text(encoding="utf-8").split('"""')[1]
    assert f"--config=configs/{path.name}" in docstring or "launch/" in docstring
    assert re.search(r"\bHardware\b|\bTime\b", docstring)
    assert "o expect" in docstring
