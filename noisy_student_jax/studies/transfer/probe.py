"""Few-shot probes: ridge regression on frozen features of a few images of each class.

Features are those that the model's head reads, without noise and of one view. All
models are fitted to the same draws and judged by the same test images, so that their
differences are paired.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from noisy_student_jax.core.console import printable
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.protocols import Source
from noisy_student_jax.features.store import FeatureStore
from noisy_student_jax.generation import trainable
from noisy_student_jax.studies.transfer import ridge
from noisy_student_jax.studies.transfer.checkpoints import Checkpoint
from noisy_student_jax.studies.transfer.target import Target

DRAWS = 10
"""Draws of so many shots."""


@dataclasses.dataclass(frozen=True)
class Probed:
    """The probes of one model with so many shots.

    Attributes:
      right: bool ``[draws, test images]``, whether each image's class was found.
      penalties: the penalty of each draw.
    """

    right: np.ndarray
    penalties: list[float]


def check_shots(target: Target, shots: Sequence[int]) -> None:
    """Checks that each class has images enough.

    Raises:
      UserError: a class has fewer images to learn from than shots are asked for.
    """
    sizes = np.bincount(target.labels, minlength=len(target.classes))
    if sizes.min() < max(shots):
        least = int(sizes.argmin())
        raise UserError(
            f"--shots has {max(shots)}, but class '{printable(target.classes[least])}'"
            f" of '{target.name}' has {sizes[least]} images to learn from: give at most"
            " as many"
        )


def draws(labels: np.ndarray, shots: int) -> list[np.ndarray]:
    """Draws so many records of each class, several times.

    A draw of more shots holds the draw of fewer.

    Args:
      labels: int ``[records]``.
      shots: number of records of each class.

    Returns:
      Sorted records of each draw, int64 ``[classes · shots]``.
    """
    found = []
    for number in range(DRAWS):
        order = np.random.Generator(np.random.Philox(number)).permutation(len(labels))
        drawn = labels[order]
        rows = [order[drawn == label][:shots] for label in np.unique(labels)]
        found.append(np.sort(np.concatenate(rows)))
    return found


def features(
    store: FeatureStore, one: Checkpoint, source: Source, name: str
) -> np.ndarray:
    """Returns the features of all records, float32 ``[records, channels]``.

    Args:
      store: keeps them.
      one: the model.
      source: the images.
      name: of the images, for progress.
    """
    networks = trainable.backbones(one.model, one.bundle.variables, head=one.head)
    everything = np.arange(len(source))
    return np.concatenate(
        [store.source(net, source, name).rows(everything) for net in networks], axis=1
    )


def probe(
    train: np.ndarray,
    test: np.ndarray,
    target: Target,
    truth: np.ndarray,
    shots: Sequence[int],
    *,
    check: Callable[[], None] = lambda: None,
) -> dict[int, Probed]:
    """Probes one model.

    Args:
      train: features of the images to learn from, ``[train images, channels]``.
      test: features of the test images, ``[test images, channels]``.
      target: the target.
      truth: classes of the test images, int ``[test images]``.
      shots: numbers of images of each class.
      check: called before each fit; may raise.
    """
    found = {}
    for count in shots:
        right, penalties = [], []
        for rows in draws(target.labels, count):
            check()
            labels = target.labels[rows]
            fitted = ridge.fit(train[rows], labels, classes=len(target.classes))
            right.append(fitted.classes(test) == truth)
            penalties.append(fitted.penalty)
        found[count] = Probed(np.stack(right), penalties)
    return found
