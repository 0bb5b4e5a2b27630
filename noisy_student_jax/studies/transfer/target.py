"""Images that models are transferred to, in a part to learn from and one for tests."""

import dataclasses
import pathlib
from typing import cast

import numpy as np
from ml_collections import ConfigDict

from noisy_student_jax.config import base_config
from noisy_student_jax.core import console, files
from noisy_student_jax.core.console import Progress
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.core.protocols import DivisibleSource, Source
from noisy_student_jax.data.digits import digits
from noisy_student_jax.data.open import STREAMED, Opener, absolute
from noisy_student_jax.data.places import name_of
from noisy_student_jax.data.sources import Dataset, labels_of
from noisy_student_jax.data.splits import LABELED, TEST, by_content
from noisy_student_jax.runs.paths import PREPARED

DIGITS = "digits"
DATASET = f"{__name__}:dataset"
"""The dataset of a run that fine-tunes on a target."""
MOST = 1000
"""Images that a model is fine-tuned on, at most."""
_TRAIN = "train"


@dataclasses.dataclass(frozen=True)
class Target:
    """Images of other classes.

    Attributes:
      name: for people.
      classes: class names in index order.
      train: images to learn from.
      labels: their classes, int ``[train images]``.
      test: images that models are compared on.
    """

    name: str
    classes: tuple[str, ...]
    train: DivisibleSource
    labels: np.ndarray
    test: Source


def section(place: str, workdir: pathlib.Path, *, side: int) -> ConfigDict:
    """Returns the ``data`` section of a config that names a target.

    Args:
      place: a folder of class folders, or of two such folders ``train`` and ``test``; a
        CSV file with the columns path and label; or ``digits``.
      workdir: the folder of the study, which holds prepared images.
      side: shorter side of prepared images, in pixels.

    Raises:
      UserError: the place is a dataset that is streamed.
    """
    data = base_config().data
    data.name, data.cache, data.side = DATASET, str(workdir / PREPARED), side
    if place == DIGITS:
        # Of each class 50 test images and 100 others, of the least 174.
        data.update(test=500, validation=10, labels_per_class=MOST // 10)
        return data
    if place.startswith(STREAMED):
        raise UserError(
            f"--target='{place}' is read as a stream, which is not probed: give a"
            " folder with one sub-folder per class"
        )
    folder = pathlib.Path(absolute(place))
    data.sources.labeled = str(folder)
    if all(files.is_folder(folder / part) for part in (_TRAIN, TEST)):
        data.sources.labeled = str(folder / _TRAIN)
        data.sources.test = str(folder / TEST)
    return data


def opened(
    data: ConfigDict, *, interruption: Interruption, progress: Progress
) -> Target:
    """Opens a target; images in folders are prepared first.

    Test images that a folder does not bring are dealt by content, a fifth of them. An
    image to learn from that is a test image as well is left out, which is said.

    Args:
      data: `section`, with the fields of `runs.run.with_places`.
      interruption: polled while images are prepared.
      progress: updated while images are prepared.

    Raises:
      UserError: a folder is missing or no folder of classes, or a class has too few
        images.
    """
    if data.sources.labeled is None:
        whole = digits(data, seed=0)
        return Target(
            DIGITS,
            whole.classes,
            cast(DivisibleSource, whole.labeled),
            labels_of(whole.labeled),
            whole.test,
        )
    opener = Opener(data, interruption, progress, look_only=False, announce=True)
    train = opener.open(LABELED)
    if data.sources.test is not None:
        test = opener.open(TEST, classes=train.classes)
    else:
        parts = by_content(
            train.content,
            train.known_labels,
            validation=0.0,
            test=data.test_fraction,
            known={},
            classes=train.classes,
        )
        test = train.subset(np.flatnonzero(parts == TEST))
        train = train.subset(np.flatnonzero(parts == LABELED))
    assert train.pixels and test.pixels, "images in folders are read beforehand"
    both = np.isin(train.pixels, test.pixels)
    if both.any():
        console.say(f"  left out: {both.sum():,} copies of test images")
        train = train.subset(np.flatnonzero(~both))
    return Target(
        name_of(data.sources.labeled),
        train.classes,
        cast(DivisibleSource, train.source()),
        train.known_labels,
        test.source(),
    )


def dataset(
    data: ConfigDict, *, seed: int, interruption: Interruption, progress: Progress
) -> Dataset:
    """Returns a target as the dataset of a run that fine-tunes on it.

    Of at most `MOST` images to learn from, as many of each class as there are, the
    share ``data.options.held_out`` is for validation. A run has a pool and validation
    images, so two images are left out at least, one of them as the pool, which nothing
    reads.

    Args:
      data: `section`, with the fields of `runs.run.with_places`.
      seed: seed of the draw.
      interruption: see `opened`.
      progress: see `opened`.

    Raises:
      UserError: as `opened`.
    """
    target = opened(data, interruption=interruption, progress=progress)
    rng = np.random.Generator(np.random.Philox(seed))
    taken = rng.permutation(in_turn(target.labels, rng)[:MOST])
    aside = len(taken) - learned_from(len(taken), data.options.held_out)
    return Dataset(
        name=target.name,
        classes=target.classes,
        labeled=target.train.subset(taken[aside:]),
        pool=target.train.subset(taken[:1], labeled=False),
        validation=target.train.subset(taken[1:aside]),
        test=target.test,
    )


def learned_from(images: int, held_out: float) -> int:
    """Returns how many images are learned from where a share of them is held out.

    Args:
      images: number of images to learn from.
      held_out: the share.
    """
    taken = min(images, MOST)
    return taken - max(2, round(held_out * taken))


def in_turn(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns records in an order that takes one of each class in turn.

    Args:
      labels: int ``[records]``.
      rng: draws the order within each class.

    Returns:
      int64 ``[records]``.
    """
    drawn = rng.permutation(len(labels))
    place = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        own = drawn[labels[drawn] == label]
        place[own] = np.arange(len(own))
    return np.lexsort((labels, place))
