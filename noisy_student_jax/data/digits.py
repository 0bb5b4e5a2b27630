"""Scikit-learn's handwritten digits: 1,797 images that come with the package."""

import numpy as np
from ml_collections import ConfigDict
from sklearn.datasets import load_digits

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data.sources import ArraySource, Dataset
from noisy_student_jax.data.splits import content_hashes, stratified


def digits(data: ConfigDict, *, seed: int) -> Dataset:
    """Loads the digits, split by content.

    Images are uint8 ``[8, 8, 3]``: gray values repeated, bright strokes on black.

    Args:
      data: the config's ``data`` section; ``test``, ``validation`` and
        ``labels_per_class`` are used.
      seed: seed for drawing the labeled images.

    Raises:
      UserError: ``labels_per_class`` is None, or a class has too few images.
    """
    if data.labels_per_class is None:
        raise UserError(
            "config.data.labels_per_class is none, which leaves no digits for the pool:"
            " give the number of labels that each class keeps"
        )
    raw = load_digits()
    gray = np.round(raw.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(gray[..., None], 3, axis=-1)
    labels = raw.target.astype(np.int64)
    hashes = content_hashes(images)
    split = stratified(
        hashes,
        labels,
        test=data.test,
        validation=data.validation,
        labels_per_class=data.labels_per_class,
        seed=seed,
    )
    keys = [f"digits/{n:04d}-{content[:16]}" for n, content in enumerate(hashes)]
    everything = ArraySource(keys, images, labels)
    return Dataset(
        name="digits",
        classes=tuple(str(name) for name in raw.target_names),
        labeled=everything.subset(split["labeled"]),
        pool=everything.subset(split["pool"], labeled=False),
        validation=everything.subset(split["validation"]),
        test=everything.subset(split["test"]),
        facts={
            "split": "by content hash, stratified by class",
            "left out as byte-identical copies": len(split["copies"]),
        },
    )
