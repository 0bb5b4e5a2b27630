"""Exports to SavedModel, from encoded images to probabilities."""

import io
import pathlib

import numpy as np
from PIL import Image

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.protocols import Task
from noisy_student_jax.interop.export import agreement
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.models.bundle import Bundle

EXTRA = "assets.extra"
"""TensorFlow's directory for files that are not part of the program."""


def export(bundle: Bundle, output: pathlib.Path, *, task: Task) -> str:
    """Writes a bundle as a SavedModel, after verification with TensorFlow.

    Args:
      bundle: the bundle to export.
      output: the directory to create.
      task: the bundle's task.

    Returns:
      A description of the verification, for the console.

    Raises:
      UserError: TensorFlow is not installed, its predictions differ, or the framing
        is not its.
    """
    from noisy_student_jax.interop.tensorflow import savedmodel

    bundle.preprocessing.refuse_letterbox("a SavedModel", instead="use --format=onnx")
    module = agreement.make_module(bundle)

    def predict(variables, images):
        return task.predict(module.apply(variables, images, train=False))

    with files.atomic_directory(output) as folder:
        savedmodel.write(
            folder, predict, bundle.variables, bundle.preprocessing, bundle.classes
        )
        files.write_json(folder / EXTRA / bundles.CARD, bundles.card(bundle))
        signatures, classes = savedmodel.read(folder)
        if classes != bundle.classes:
            raise UserError("the SavedModel did not keep the class names as written")
        reference = agreement.Reference(bundle, task)
        images = agreement.random_normalized(bundle)
        got = signatures[savedmodel.NORMALIZED](images)
        pairs = [(got, reference.of_normalized(images))]
        for batch in agreement.random_pixels(bundle):
            pixels = np.stack(
                [
                    savedmodel.crop_and_resize(image, bundle.preprocessing)
                    for image in batch
                ]
            )
            reference.check_pixels("the SavedModel", pixels, batch)
            got = signatures[savedmodel.ENCODED]([_png(image) for image in batch])
            pairs.append((got, reference.of_pixels(pixels)))
        worst = max(agreement.check("the SavedModel", *pair) for pair in pairs)
    return f"TensorFlow's predictions are the bundle's to {worst:.0e}"


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()
