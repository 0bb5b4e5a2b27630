"""Abstract inputs of a training step: shapes and dtypes of state and batch."""

from collections.abc import Sequence

import jax
import numpy as np
import optax
from jax.typing import DTypeLike

from noisy_student_jax.core.types import Batch, PyTree
from noisy_student_jax.data.pipelines.draws import filled_up
from noisy_student_jax.data.pipelines.stream import Stream
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


def of_batch(trained: Part, *, streams: Sequence[Stream] = ()) -> Batch:
    """Returns the shapes and dtypes of a batch, as the input pipelines make it.

    Args:
      trained: the part of the model that is trained.
      streams: the streams. Without them, pseudo-labels are assumed to be as long as the
        labels are.
    """
    student = trained.student
    layout, run = student.spec.layout, student.run
    number = np.float32(0)
    batch = {
        "image": many(trained.preprocessing.blank(), layout.total),
        "target": jax.tree.map(
            lambda *parts: many(_longest(parts), layout.total),
            run.task.targets(first_label(run.dataset.labeled)),
            *map(_target, streams),
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


def _target(stream: Stream) -> PyTree:
    """Returns the shapes and dtypes of one example's target, ``[1, …]``."""
    first = jax.tree.map(
        lambda rows: jax.ShapeDtypeStruct((1, *rows.shape[1:]), rows.dtype),
        stream.targets,
    )
    return jax.eval_shape(stream.to_target, first)


def _longest(
    parts: Sequence[jax.Array | np.ndarray | jax.ShapeDtypeStruct],
) -> jax.ShapeDtypeStruct:
    """Returns an example of the streams' targets ``[1, …]``, when filled up."""
    return jax.eval_shape(lambda *given: filled_up(given)[0][0], *parts)


def many(
    one: jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct,
    count: int,
    *,
    dtype: DTypeLike | None = None,
) -> jax.ShapeDtypeStruct:
    """Returns the shape and dtype of `count` stacked examples like `one`."""
    return jax.ShapeDtypeStruct((count, *np.shape(one)), dtype or one.dtype)
