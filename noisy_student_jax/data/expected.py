"""Data that are not here, counted as a config expects them: a plan needs no more.

A plan for 300 million images is made where they are not. What it needs of them is how
many there are, and ``data.expected`` says it.
"""

import glob
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from noisy_student_jax.core.console import printable
from noisy_student_jax.data.open import STREAMED
from noisy_student_jax.data.sources import Counted, CountedRecords, Dataset

ASSUMED = "sizes"
"""The fact of a data set that says on whose word it is so large."""


def absent(data: ConfigDict) -> list[str]:
    """Returns which places are not on this machine, each as a phrase.

    Args:
      data: the config's ``data`` section. Nothing is said of one that expects no
        sizes: what is wrong with its places is told when they are opened.
    """
    if data.expected.labeled is None:
        return []
    places = dict(data.sources)
    missing = [
        f"{name} '{printable(place)}'"
        for name, place in places.items()
        if place and not _is_here(place)
    ]
    if places["labeled"] is None:
        missing.append("labeled (not given)")
    if not (places["unlabeled"] or data.labels_per_class):
        missing.append("unlabeled (not given)")
    return missing


def counted(data: ConfigDict, *, name: str, absent: Sequence[str]) -> Dataset:
    """Returns a data set of the sizes that a config expects.

    Args:
      data: the config's ``data`` section.
      name: of the data set.
      absent: which places are not here; kept as the reason.
    """
    expected = data.expected
    streamed = data.pipeline == "streamed" or any(
        place and place.startswith(STREAMED) for place in data.sources.values()
    )
    kind = CountedRecords if streamed else Counted
    # One label stands for all, and takes no room.
    labels = np.broadcast_to(np.int64(0), (expected.labeled,))
    return Dataset(
        name=name,
        classes=tuple(str(number) for number in range(expected.classes)),
        labeled=kind(expected.labeled, labels),
        pool=kind(expected.pool, None),
        validation=kind(expected.validation, None),
        test=kind(expected.test, None),
        facts={ASSUMED: f"as config.data.expected says; not here: {', '.join(absent)}"},
    )


def _is_here(place: str) -> bool:
    """Whether there is something at a place; it is not opened."""
    kind, _, rest = place.partition(":")
    if kind == "tfrecord":
        pattern = str(pathlib.Path(rest).expanduser())
        return bool(glob.glob(pattern))  # noqa: PTH207 - it may be absolute
    if kind == "tfds":
        name = rest.split(":")[0]
        usual = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
        folders = pathlib.Path(name), pathlib.Path(usual) / name
        return any(folder.expanduser().is_dir() for folder in folders)
    return pathlib.Path(place).expanduser().exists()
