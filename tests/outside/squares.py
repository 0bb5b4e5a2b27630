"""Data and a model for the second task, from outside the package as well."""

import flax.linen as nn
import numpy as np

from noisy_student_jax.data import Dataset
from noisy_student_jax.data.sources import ArraySource

SIDE = 12
POOL = 160


def squares(data, *, seed):
    """Noise with a square of 3 × 3 brighter pixels in it, each image its own."""
    labeled = 4 * data.labels_per_class
    counts = {"test": data.test, "validation": data.validation}
    counts |= {"labeled": labeled, "pool": POOL}
    rng = np.random.default_rng(seed)
    parts = {}
    for name, count in counts.items():
        images = rng.integers(0, 140, (count, SIDE, SIDE, 3))
        corners = rng.integers(0, SIDE - 2, (count, 2))
        for image, (top, left) in zip(images, corners, strict=True):
            image[top : top + 3, left : left + 3] += 100
        parts[name] = ArraySource(
            [f"{name}/{number}" for number in range(count)],
            images.astype(np.uint8),
            None if name == "pool" else (corners + 1.5) / SIDE,
        )
    classes = ("top left", "top right", "bottom left", "bottom right")
    return Dataset(name="squares", classes=classes, **parts)


class HeatMap(nn.Module):
    outputs: int

    @nn.compact
    def __call__(self, images, train=False, noise=None):
        features = nn.relu(nn.Conv(8, (3, 3), strides=2)(images))
        features = nn.relu(nn.Conv(16, (3, 3))(features))
        heat = nn.Conv(1, (1, 1))(features)
        return {"logits": heat.reshape(len(images), self.outputs)}


def heat_map(*, outputs):
    return HeatMap(outputs)


heat_map.default_resolution = SIDE
