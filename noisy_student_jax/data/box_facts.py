"""What the boxes of a part of a dataset are like, for the report."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from noisy_student_jax.core.console import printable
from noisy_student_jax.data.labels import IGNORE, OBJECT, are_boxes
from noisy_student_jax.data.labels import sides as sides_of

_QUANTILES = (0.05, 0.5, 0.95)


def facts_of_boxes(
    labels: np.ndarray, classes: Sequence[str], part: str
) -> dict[str, Any]:
    """Returns facts on boxes; none for labels of another kind.

    Args:
      labels: see `data.labels`.
      classes: class names in index order.
      part: name of the part.
    """
    if not are_boxes(labels):
        return {}
    label, kind = labels[..., 4], labels[..., 5]
    objects, sides = kind == OBJECT, sides_of(labels)
    each, sizes, bare = [], [], []
    for number, name in enumerate(classes):
        own = objects & (label == number)
        each.append(f"{printable(name)} {own.sum():,} in {own.any(1).sum():,} images")
        if own.any():
            low, middle, high = np.quantile(sides[own], _QUANTILES)
            sizes.append(f"{printable(name)} {low:.2g} / {middle:.2g} / {high:.2g}")
        else:
            bare.append(printable(name))
    facts: dict[str, Any] = {f"boxes of {part}": ", ".join(each)}
    if bare:
        facts[f"classes without a box in {part}"] = ", ".join(bare)
    if len(labels):
        count = objects.sum(axis=1)
        low, middle, high = np.quantile(count, (0, 0.5, 1))
        empty = f", {(count == 0).sum():,} without any"
        facts[f"boxes per image of {part}"] = f"{low:g} to {high:g}, median {middle:g}"
        facts[f"boxes per image of {part}"] += empty if (count == 0).any() else ""
    if sizes:
        facts[f"box sizes of {part}"] = (
            f"{', '.join(sizes)} (5, 50 and 95 %; square root of the area, in units of"
            " the image's longer side)"
        )
    if ignored := int((kind == IGNORE).sum()):
        facts[f"regions to be ignored in {part}"] = ignored
    return facts
