"""Placeholders for data that are not on this machine.

Planning a run on 300 million images needs their number, not the images: `counted` is
sized by ``data.expected``. Looking at a run whose images are on another drive needs
what the run has recorded of them: `recorded`.
"""

import glob
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from noisy_student_jax.core.console import printable
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data.labels import FIELDS
from noisy_student_jax.data.open import BOXES, STREAMED
from noisy_student_jax.data.sources import (
    NOT_PREPARED,
    Counted,
    CountedRecords,
    Dataset,
)
from noisy_student_jax.data.splits import leaves_out_in_turn

PARTS = ("labeled", "pool", "validation", "test")
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


def recorded(data: ConfigDict, record: dict[str, Any]) -> Dataset:
    """Returns a placeholder for the dataset that a run has recorded.

    Args:
      data: the config's ``data`` section.
      record: the contents of the run's ``data/dataset.json``.

    Raises:
      UserError: the record is damaged.
    """
    try:
        return _placeholder(
            data,
            name=record["name"],
            classes=record["classes"],
            sizes={part: int(size) for part, size in record["splits"].items()},
            facts=dict(record["facts"]),
            fingerprints={
                part: record["fingerprints"][part] for part in record["splits"]
            },
        )
    except (KeyError, TypeError, ValueError):
        raise UserError(
            "what the run has recorded of its images in data/dataset.json is damaged:"
            " restore it, or the images"
        ) from None


def counted(data: ConfigDict, *, name: str, absent: Sequence[str]) -> Dataset:
    """Returns a placeholder dataset of the sizes that a config expects.

    Args:
      data: the config's ``data`` section.
      name: name of the dataset.
      absent: the missing sources, recorded in the dataset's facts.
    """
    sizes = {part: data.expected[part] for part in PARTS}
    if leaves_out_in_turn(data):
        del sizes["validation"]
    return _placeholder(
        data,
        name=name,
        classes=[str(number) for number in range(data.expected.classes)],
        sizes=sizes,
        facts={ASSUMED: f"as config.data.expected says; not here: {', '.join(absent)}"},
    )


def _placeholder(
    data: ConfigDict,
    *,
    name: str,
    classes: Sequence[str],
    sizes: Mapping[str, int],
    facts: dict[str, Any],
    fingerprints: Mapping[str, str] | None = None,
) -> Dataset:
    streamed = data.pipeline == "streamed" or any(
        place and place.startswith(STREAMED) for place in data.sources.values()
    )
    kind = CountedRecords if streamed else Counted
    # A broadcast scalar takes no memory.
    labels = np.broadcast_to(np.int64(0), (sizes["labeled"],))
    if data.name == BOXES:
        labels = np.broadcast_to(np.float32(0), (sizes["labeled"], 1, FIELDS))
    known = fingerprints or {}

    def part(name: str, labels: np.ndarray | None = None) -> Counted:
        return kind(sizes[name], labels, fingerprint=known.get(name, NOT_PREPARED))

    labeled = part("labeled", labels)
    return Dataset(
        name=name,
        classes=tuple(classes),
        labeled=labeled,
        pool=part("pool"),
        validation=part("validation") if "validation" in sizes else labeled,
        test=part("test"),
        facts=facts,
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
