"""Placeholders for data that are not on this machine, sized by ``data.expected``.

Planning a run on 300 million images needs their number, not the images.
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
"""Key in `Dataset.facts` that tells where assumed sizes come from."""


def absent(data: ConfigDict) -> list[str]:
    """Returns the sources that are not on this machine, each as a phrase.

    Args:
      data: the config's ``data`` section. Without expected sizes the result is empty:
        missing sources are reported when they are opened.
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
    """Returns a placeholder dataset of the sizes that a config expects.

    Args:
      data: the config's ``data`` section.
      name: name of the dataset.
      absent: the missing sources, recorded in the dataset's facts.
    """
    expected = data.expected
    streamed = data.pipeline == "streamed" or any(
        place and place.startswith(STREAMED) for place in data.sources.values()
    )
    kind = CountedRecords if streamed else Counted
    # A broadcast scalar takes no memory.
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
    """Whether a source exists; it is not opened."""
    kind, _, rest = place.partition(":")
    if kind == "tfrecord":
        pattern = str(pathlib.Path(rest).expanduser())
        return bool(glob.glob(pattern))  # noqa: PTH207 - may be absolute
    if kind == "tfds":
        name = rest.split(":")[0]
        usual = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
        folders = pathlib.Path(name), pathlib.Path(usual) / name
        return any(folder.expanduser().is_dir() for folder in folders)
    return pathlib.Path(place).expanduser().exists()
