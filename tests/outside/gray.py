"""A model, a data source and a task that a user might bring."""

import flax.linen as nn
import numpy as np

from noisy_student_jax.core.protocols import Examples
from noisy_student_jax.data import Dataset
from noisy_student_jax.data.sources import ArraySource
from noisy_student_jax.tasks.classification import Classification

CLASSES = ("dark", "bright")


class Images:
    """A source of its own, which makes each image when it is asked for."""

    def __init__(self, part: str, count: int, *, labeled: bool = True):
        self.part, self.count, self.labeled = part, count, labeled

    def __len__(self):
        return self.count

    def key(self, index):
        return f"{self.part}-{index:04d}.png"

    def read(self, indices):
        images = [self.image(int(index)) for index in indices]
        labels = np.array([int(index) % 2 for index in indices])
        return Examples(images, ["ok"] * len(images), labels if self.labeled else None)

    def image(self, index):
        salt = {"labeled": 1, "pool": 2, "validation": 3, "test": 4}[self.part]
        rng = np.random.default_rng([salt, index])
        level = 60 + 120 * (index % 2)
        return rng.integers(level - 50, level + 50, (9, 11, 3)).astype(np.uint8)


def gray(data, *, seed):
    """Dark and bright images; some of the options are its own."""
    sizes = {"labeled": 2 * data.labels_per_class, "pool": data.options.pool}
    sizes |= {"validation": data.validation, "test": data.test}
    parts = {n: Images(n, size, labeled=n != "pool") for n, size in sizes.items()}
    return Dataset(name="gray", classes=CLASSES, **parts)


def listed(data, *, seed):
    """Reads its labels from a file, so that a test can change it."""
    whole = gray(data, seed=seed)
    labels = np.loadtxt(data.options.labels, dtype=np.int64, ndmin=1)
    source = whole.labeled
    known = ArraySource(
        [source.key(index) for index in range(len(source))],
        source.read(range(len(source))).images,
        labels,
    )
    parts = {**whole.parts(), "labeled": known}
    return Dataset(name="listed", classes=CLASSES, **parts)


class Averages(nn.Module):
    """No batch norm, no noise: a model is not asked to have them."""

    outputs: int
    width: int = 4

    @nn.compact
    def __call__(self, images, train=False, noise=None):
        hidden = nn.relu(nn.Dense(self.width)(images.mean((1, 2))))
        return {"logits": nn.Dense(self.outputs)(hidden)}


def averages(*, outputs):
    return Averages(outputs)


averages.default_resolution = 8


class Errors(Classification):
    """Classification that is judged by another metric."""

    name = "outside.gray:Errors"
    primary_metric = "right"

    def metrics(self, predictions, labels):
        right = self.primary(self.statistics(predictions, labels))
        return {"right": float(right[0])}
