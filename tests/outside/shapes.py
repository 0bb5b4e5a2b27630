"""Discs and squares of varying size on noise, with their boxes."""

import numpy as np

from noisy_student_jax.data import Dataset
from noisy_student_jax.data.sources import ArraySource

CLASSES = ("disc", "square")
MOST = 3
POOL = 60


def shapes(data, *, seed):
    """Images of 64 × 48 pixels with none to three shapes that do not overlap."""
    rng = np.random.default_rng(seed)
    counts = {"test": data.test, "validation": data.validation, "pool": POOL}
    counts["labeled"] = len(CLASSES) * data.labels_per_class
    parts = {}
    for name, count in counts.items():
        images, labels = zip(*(drawn(rng) for _ in range(count)), strict=True)
        parts[name] = ArraySource(
            [f"{name}/{number}" for number in range(count)],
            np.stack(images),
            None if name == "pool" else np.stack(labels),
        )
    return Dataset(name="shapes", classes=CLASSES, **parts)


def drawn(rng, *, height=48, width=64):
    """Returns an image, and its boxes ``[MOST, 6]``."""
    image = rng.integers(0, 90, (height, width, 3)).astype(np.uint8)
    boxes = np.zeros((MOST, 6), np.float32)
    rows, columns = np.mgrid[:height, :width]
    free = np.ones((height, width), bool)
    for number in range(rng.integers(0, MOST + 1)):
        side = int(rng.integers(10, 25))
        left, top = rng.integers(0, width - side), rng.integers(0, height - side)
        kind = int(rng.integers(len(CLASSES)))
        inside = (columns >= left) & (columns < left + side)
        inside &= (rows >= top) & (rows < top + side)
        if not free[inside].all():
            continue
        free &= ~inside
        if kind == 0:
            x, y = left + (side - 1) / 2, top + (side - 1) / 2
            inside &= (columns - x) ** 2 + (rows - y) ** 2 <= (side / 2) ** 2
        image[inside] = 255 - image[inside] // 2
        box = np.array([left, top, left + side, top + side], np.float32)
        boxes[number] = (*(box / max(height, width)), kind, 1)
    return image, boxes
