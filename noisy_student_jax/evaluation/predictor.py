"""A model applied to many images: un-noised, batch by batch, on local devices."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from noisy_student_jax import models
from noisy_student_jax.checkpoints.bundle import Bundle
from noisy_student_jax.errors import UserError
from noisy_student_jax.preprocessing import Preprocessing
from noisy_student_jax.tasks import Task
from noisy_student_jax.tasks.base import Arrays
from noisy_student_jax.training import partitioning
from noisy_student_jax.training.step import normalize
from noisy_student_jax.types import PyTree


class Predictor:
    """Applies a model in evaluation mode: no dropout, no stochastic depth.

    Examples are spread over this host's devices and never speak to each other:
    there is no collective in the program, so hosts need not keep step.
    """

    def __init__(
        self,
        task: Task,
        module: nn.Module,
        preprocessing: Preprocessing,
        *,
        batch: int = 256,
        devices: list[jax.Device] | None = None,
    ):
        """Compiles nothing yet; `batch` is rounded up to whole devices."""
        self.preprocessing = preprocessing
        self.mesh = partitioning.make_mesh(devices or jax.local_devices())
        self.batch = -(-batch // self.mesh.size) * self.mesh.size
        spread = partitioning.along_batch(self.mesh)

        def apply(variables, images):
            images = normalize(images, preprocessing.mean, preprocessing.std)
            return task.predict(module.apply(variables, images, train=False))

        self.apply = jax.jit(
            apply,
            in_shardings=(partitioning.replicated(self.mesh), spread),
            out_shardings=spread,
        )

    @classmethod
    def from_bundle(
        cls, bundle: Bundle, task: Task, *, batch: int = 256
    ) -> "Predictor":
        """Makes one for a bundle's model; call it with the bundle's variables."""
        module = models.create(bundle.architecture, **bundle.arguments)
        return cls(task, module, bundle.preprocessing, batch=batch)

    def place(self, variables: PyTree) -> PyTree:
        """Puts weights on the devices, once for many calls."""
        return jax.device_put(variables, partitioning.replicated(self.mesh))

    def __call__(
        self,
        variables: PyTree,
        images: np.ndarray,
        *,
        after_batch: Callable[[int], None] = lambda done: None,
    ) -> Arrays:
        """Predicts.

        Args:
          variables: ``{"params", "batch_stats"}``.
          images: uint8 or float32 ``[images, side, side, 3]``, preprocessed.
          after_batch: called with the number of images done.

        Returns:
          NumPy arrays ``[images, …]``, as the task predicts.
        """
        parts = []
        for start, batch in self._padded(images):
            predictions = jax.device_get(self.apply(variables, batch))
            size = min(self.batch, len(images) - start)
            parts.append({name: value[:size] for name, value in predictions.items()})
            after_batch(start + size)
        return {
            name: np.concatenate([part[name] for part in parts]) for name in parts[0]
        }

    def _padded(self, images: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yields batches of one size, the last one filled up with zeros."""
        for start in range(0, len(images), self.batch):
            part = images[start : start + self.batch]
            missing = self.batch - len(part)
            if missing:
                blank = np.zeros((missing, *part.shape[1:]), part.dtype)
                part = np.concatenate([part, blank])
            yield start, part


@dataclasses.dataclass(frozen=True)
class Predicted:
    """What models predict for the usable records of a source.

    Attributes:
      records: int64 ``[usable]``, their indices.
      labels: theirs, ``[usable, …]``.
      predictions: of each model, by its name.
      unusable: why a record is not among them, by its key.
    """

    records: np.ndarray
    labels: np.ndarray
    predictions: dict[str, Arrays]
    unusable: dict[str, str]


def predict_source(
    predictor: Predictor,
    models: dict[str, PyTree],
    source: Any,
    *,
    before_batch: Callable[[int], None] = lambda done: None,
) -> Predicted:
    """Has models of one architecture predict a labelled source, reading it once.

    A batch of images is held at a time, so that the source may be of any size.

    Args:
      predictor: of the architecture and its preprocessing.
      models: weights and statistics by name.
      source: of labelled records.
      before_batch: called with the number of records done.

    Raises:
      UserError: none of the records can be used.
    """
    placed = {name: predictor.place(variables) for name, variables in models.items()}
    parts: dict[str, list[Arrays]] = {name: [] for name in models}
    records, labels, unusable = [], [], {}
    for start in range(0, len(source), predictor.batch):
        before_batch(start)
        indices = range(start, min(start + predictor.batch, len(source)))
        examples = source.read(indices)
        good = np.array([reason == "ok" for reason in examples.status])
        for index, reason in zip(indices, examples.status, strict=True):
            if reason != "ok":
                unusable[source.key(index)] = reason
        if not good.any():
            continue
        images = predictor.preprocessing.apply_all(
            image for image, use in zip(examples.images, good, strict=True) if use
        )
        records.append(np.array(indices)[good])
        labels.append(np.asarray(examples.labels)[good])
        for name, variables in placed.items():
            parts[name].append(predictor(variables, images))
    if not records:
        raise UserError(
            f"none of the {len(source)} images to be judged on can be used, the first"
            f" being '{source.key(0)}' ({unusable[source.key(0)]}): repair or replace"
            " them"
        )
    return Predicted(
        np.concatenate(records),
        np.concatenate(labels),
        {
            name: {key: np.concatenate([part[key] for part in own]) for key in own[0]}
            for name, own in parts.items()
        },
        unusable,
    )
