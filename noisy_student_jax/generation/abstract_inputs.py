"""Abstract inputs of a training step: shapes and dtypes of state and batch."""

import jax
import numpy as np
import optax
from jax.typing import DTypeLike

from noisy_student_jax.core.types import Batch
from noisy_student_jax.data.sources import first_label
from noisy_student_jax.generation.trainable import Part
from noisy_student_jax.training.state import TrainState


def of_state(trained: Part, optimizer: optax.GradientTransformation) -> TrainState:
    """Returns the shapes and dtypes of the initial training state."""
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
    """Returns the shapes and dtypes of a batch, as the input pipelines make it."""
    student = trained.student
    layout, run = student.spec.layout, student.run
    number = np.float32(0)
    batch = {
        "image": many(trained.preprocessing.blank(), layout.total),
        "target": jax.tree.map(
            lambda one: many(one[0], layout.total),
            run.task.targets(first_label(run.dataset.labeled)),
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


def many(
    one: jax.Array | np.ndarray | np.generic,
    count: int,
    *,
    dtype: DTypeLike | None = None,
) -> jax.ShapeDtypeStruct:
    """Returns the shape and dtype of `count` stacked examples like `one`."""
    return jax.ShapeDtypeStruct((count, *np.shape(one)), dtype or one.dtype)
