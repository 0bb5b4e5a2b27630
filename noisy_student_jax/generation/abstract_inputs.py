"""Shapes of what a training step takes, before there is any of it."""

from typing import Any

import jax
import numpy as np
import optax

from noisy_student_jax.core.types import Batch
from noisy_student_jax.generation.trainable import Part
from noisy_student_jax.training.state import TrainState


def of_state(trained: Part, optimizer: optax.GradientTransformation) -> TrainState:
    """Returns the shapes of the state that training starts from."""
    student = trained.student
    return jax.eval_shape(
        lambda variables: TrainState.create(
            variables,
            optimizer,
            seed=student.run.config.seed,
            generation=student.spec.number,
        ),
        trained.of(student.cost.shapes),
    )


def of_batch(trained: Part) -> Batch:
    """Returns the shapes of a batch of both streams, as the pipelines make it."""
    student = trained.student
    layout, run = student.spec.layout, student.run
    source = run.dataset.labeled
    labels = getattr(source, "labels", None)
    if labels is None:
        labels = source.read([0]).labels
    number = np.float32(0)
    batch = {
        "image": many(trained.preprocessing.blank(), layout.total),
        "target": jax.tree.map(
            lambda one: many(one[0], layout.total), run.task.targets(labels[:1])
        ),
        "weight": many(number, layout.total),
        "stream": many(np.int32(0), layout.total),
        "noise": {
            name: many(number, layout.total) for name in ("dropout", "stochastic_depth")
        },
    }
    if teacher := student.spec.taught_by:
        batch["teacher_image"] = many(teacher.preprocessing.blank(), layout.pseudo)
    return batch


def many(one: Any, count: int, *, dtype: Any = None) -> jax.ShapeDtypeStruct:
    """Returns the shape of `count` examples like one, an array or a number."""
    return jax.ShapeDtypeStruct((count, *np.shape(one)), dtype or one.dtype)
