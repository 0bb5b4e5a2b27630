"""Splits of images with several classes each, in groups that stay together.

Images that look alike (frames of one scene, shifted photographs of one field) are on
one side of a split, and each class is spread over the parts as evenly as its images
allow: the iterative stratification of K. Sechidis, G. Tsoumakas and I. Vlahavas, "On
the Stratification of Multi-label Data" (2011), over groups instead of images, with
hashes instead of chance.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from noisy_student_jax.data.splits import LABELED, TEST, VALIDATION, salted

_PARTS = (LABELED, TEST, VALIDATION)
"""Of parts that lack an image alike, the first gets it."""


def by_presence(
    content: Sequence[str],
    counts: np.ndarray,
    groups: np.ndarray,
    *,
    validation: float,
    test: float,
    known: Mapping[str, str],
) -> np.ndarray:
    """Splits records into labeled, validation and test.

    A record whose part is known keeps it, and new ones of its group follow it. Of a
    class, the first group goes to the labeled records, the second to the test records
    and the third to the validation records; then each goes where most are missing.

    Args:
      content: SHA-256 of each record's file, in hexadecimal.
      counts: int64 ``[records, classes]``, objects of each class.
      groups: int64 ``[records]``, number of each record's group.
      validation: fraction of the records; 0 for no validation set.
      test: fraction of the records; 0 for no test set.
      known: part of each content that was assigned before.

    Returns:
      The part of each record, ``[records]``.
    """
    fractions = np.array([1 - validation - test, test, validation])
    # Records without objects are a class of their own, and all records another.
    bare = counts.sum(axis=1, keepdims=True) == 0
    has = np.hstack([counts > 0, bare, np.ones_like(bare)]).astype(np.int64)
    _, group = np.unique(groups, return_inverse=True)
    in_group = np.zeros((group.max(initial=-1) + 1, has.shape[1]), np.int64)
    np.add.at(in_group, group, has)
    dealt = np.full(len(in_group), -1)
    first = [""] * len(in_group)
    for record, key in enumerate(content):
        own = int(group[record])
        if key in known and dealt[own] != _PARTS.index(TEST):
            dealt[own] = _PARTS.index(known[key])
        if not first[own] or key < first[own]:
            first[own] = key
    there = np.zeros((len(_PARTS), has.shape[1]), np.int64)
    for number in np.flatnonzero(dealt >= 0):
        there[dealt[number]] += in_group[number]
    wanted = fractions[:, None] * has.sum(axis=0)
    used = fractions > 0
    order = sorted(np.flatnonzero(dealt < 0).tolist(), key=lambda own: first[own])
    while order:
        left = in_group[order].sum(axis=0)
        rarest = int(np.where(left > 0, left, np.iinfo(np.int64).max).argmin())
        for own in [own for own in order if in_group[own, rarest]]:
            part = min(
                np.flatnonzero(used).tolist(),
                key=lambda part: (
                    there[part, rarest] > 0,
                    there[part, -1] > 0,
                    -(wanted[part, rarest] - there[part, rarest]),
                    -(wanted[part, -1] - there[part, -1]),
                    part,
                ),
            )
            dealt[own] = part
            there[part] += in_group[own]
        order = [own for own in order if not in_group[own, rarest]]
    parts = np.array(_PARTS, object)[dealt[group]]
    return np.array(
        [known.get(c, p) for c, p in zip(content, parts, strict=True)], object
    )


def some_with_each_class(
    content: Sequence[str], counts: np.ndarray, count: int, *, seed: int
) -> np.ndarray:
    """Draws records by content and seed until each class is in `count` of them.

    Args:
      content: SHA-256 of each record's file, in hexadecimal.
      counts: int64 ``[records, classes]``, objects of each class.
      count: number of records of each class, as far as there are so many.
      seed: of the draw.

    Returns:
      Sorted indices. A record counts for each of its classes.
    """
    order = np.array(
        sorted(range(len(content)), key=lambda index: salted(content[index], seed)), int
    )
    has = counts[order] > 0
    chosen = np.zeros(len(order), bool)
    for label in np.argsort(has.sum(axis=0), kind="stable"):
        missing = count - int((chosen & has[:, label]).sum())
        more = np.flatnonzero(has[:, label] & ~chosen)
        chosen[more[: max(missing, 0)]] = True
    return np.sort(order[chosen])
