"""Measures accuracy batch by batch, in constant memory."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from noisy_student_jax import models
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.protocols import Source, Task
from noisy_student_jax.core.types import PyTree
from noisy_student_jax.core.unusable import refuse
from noisy_student_jax.evaluation.predictor import Predictor
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.models import initialize
from noisy_student_jax.models.bundle import Bundle
from noisy_student_jax.robustness.metrics import restricted_hits

TOP = 5


@dataclasses.dataclass(frozen=True)
class Subject:
    """The model under evaluation.

    Attributes:
      bundle: the model's bundle.
      task: its task.
      predictor: a predictor of its architecture.
      variables: its variables, on the devices.
    """

    bundle: Bundle
    task: Task
    predictor: Predictor
    variables: PyTree

    @classmethod
    def of(cls, bundle: Bundle, task: Task, *, batch: int) -> "Subject":
        """Builds the model and moves its variables to the devices.

        Raises:
          UserError: the model does not tell one class of an image.
        """
        logits = _shapes(bundle, task).get("logits")
        if logits is None or logits.shape[1:] != (len(bundle.classes),):
            raise UserError(
                "robustness suites judge models that tell one class of an image, and"
                f" this one's task '{bundle.task}' predicts otherwise: evaluate it"
                " without --suite"
            )
        predictor = Predictor.from_bundle(bundle, task, batch=batch)
        return cls(bundle, task, predictor, predictor.place(bundle.variables))

    @property
    def all_classes(self) -> np.ndarray:
        """Indices of all classes."""
        return np.arange(len(self.bundle.classes))


def _shapes(bundle: Bundle, task: Task) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of what a model predicts of one image."""
    module = models.create(bundle.architecture, **bundle.arguments)
    module = initialize.with_grouped_convolutions(module)
    side = bundle.preprocessing.resolution

    def predict(variables, image):
        return task.predict(module.apply(variables, image, train=False))

    image = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
    return jax.eval_shape(predict, bundle.variables, image)


@dataclasses.dataclass
class Batches:
    """Preprocessed batches of the usable images of a source.

    Attributes:
      source: source of labeled images.
      preprocessing: preprocessing of each image.
      size: images per batch.
      before: called before each batch with the number of records done.
      unusable: reasons of unusable records, by key; complete after iteration.
    """

    source: Source
    preprocessing: Preprocessing
    size: int
    before: Callable[[int], None] = lambda done: None
    unusable: dict[str, str] = dataclasses.field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields uint8 ``[images, side, side, 3]`` and labels ``[images]``.

        Raises:
          UserError: no image is usable.
        """
        used = 0
        for start in range(0, len(self.source), self.size):
            self.before(start)
            indices = range(start, min(start + self.size, len(self.source)))
            examples = self.source.read(indices)
            good = np.array([reason == "ok" for reason in examples.status])
            for index, reason in zip(indices, examples.status, strict=True):
                if reason != "ok":
                    self.unusable[self.source.key(index)] = reason
            if good.any():
                used += int(good.sum())
                images = self.preprocessing.apply_all(
                    image for image in examples.images if image is not None
                )
                yield images, np.asarray(examples.labels)[good]
        if not used:
            refuse(self.unusable.items(), len(self.source), "images")


def count(
    subject: Subject,
    source: Source,
    *,
    preprocessing: Preprocessing | None = None,
    classes: np.ndarray | None = None,
    before: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Computes a model's accuracy on a source.

    Args:
      subject: the model.
      source: source of labeled images.
      preprocessing: preprocessing of each image; None for the model's own.
      classes: indices of the classes that may be predicted; None for all.
      before: called before each batch with the number of records done.

    Returns:
      ``images``, ``top1``, ``top5`` (for more than five classes) and ``unusable``, the
      reasons by key.
    """
    classes = subject.all_classes if classes is None else classes
    batches = Batches(
        source,
        preprocessing or subject.bundle.preprocessing,
        subject.predictor.batch,
        before,
    )
    images, right = 0, {1: 0, TOP: 0}
    for pixels, labels in batches:
        logits = subject.predictor(subject.variables, pixels)["logits"]
        images += len(labels)
        for k in right:
            right[k] += int(restricted_hits(logits, labels, classes, k=k).sum())
    found = {"images": images, "top1": right[1] / images}
    if len(classes) > TOP:
        found["top5"] = right[TOP] / images
    return {**found, "unusable": batches.unusable}
