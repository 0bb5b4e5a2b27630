"""Splits labeled images by content, and keeps the assignment with the prepared ones."""

import itertools
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
from ml_collections import ConfigDict

from noisy_student_jax.config import renamed
from noisy_student_jax.core import console, files
from noisy_student_jax.core.console import printable
from noisy_student_jax.core.errors import DamagedFileError, UserError
from noisy_student_jax.data.claims import NAMED, Account, Claims
from noisy_student_jax.data.encoded import is_encoded
from noisy_student_jax.data.group_splits import by_presence
from noisy_student_jax.data.labels import are_boxes, class_counts
from noisy_student_jax.data.near_duplicates import groups
from noisy_student_jax.data.open import Opened
from noisy_student_jax.data.splits import (
    LABELED,
    TEST,
    VALIDATION,
    by_content,
    lacking,
    wanted_parts,
)

HELD_OUT = 0.2
"""Fraction of the images split off for validation where none is given."""
LACKING = "classes without images in a part"
"""Key in `Dataset.facts` that names classes of which a part has no image."""


class Splits:
    """The stored assignment of contents to parts.

    Attributes:
      fractions: fraction of the labeled images to split off, by part.
      path: the file.
      known: part of each content that was dealt before.
    """

    def __init__(self, data: ConfigDict, held_out: dict[str, Opened]):
        fractions = {VALIDATION: data.validation_fraction, TEST: data.test_fraction}
        if fractions[VALIDATION] is None:
            fractions[VALIDATION] = HELD_OUT
        self.fractions = {
            name: 0.0 if name in held_out else fraction
            for name, fraction in fractions.items()
        }
        asked = "_".join(f"{name}_{value:g}" for name, value in self.fractions.items())
        # Runs with other fractions may share the cache.
        self.path = pathlib.Path(data.cache) / f"splits_{asked}.parquet"
        self.known = _known(self.path)

    def keep(self, labeled: Opened, parts: np.ndarray, claims: Claims) -> None:
        """Adds the parts of records to the file; what is known stays."""
        dealt = dict(zip(labeled.dealt_by, parts.tolist(), strict=True))
        # A copy belongs to the part of its image also if that is removed one day.
        dealt |= {
            copy: dealt[kept] for copy, kept in claims.same.items() if kept in dealt
        }
        if dealt.keys() - self.known.keys():
            everything = self.known | {
                content: part
                for content, part in dealt.items()
                if content not in self.known
            }
            table = pa.table(
                {"sha256": list(everything), "part": list(everything.values())}
            )
            files.write_parquet(self.path, table)


def deal(
    labeled: Opened,
    splits: Splits,
    account: Account,
    claims: Claims,
    facts: dict[str, Any],
    *,
    look_only: bool,
) -> np.ndarray:
    """Splits the labeled images, and stores the assignment in the cache."""
    fractions = splits.fractions
    if are_boxes(labeled.known_labels):
        return _deal_groups(labeled, splits, claims, facts, look_only=look_only)
    parts = by_content(
        labeled.dealt_by,
        labeled.known_labels,
        **fractions,
        known=splits.known,
        classes=labeled.classes,
        lost=account.lost,
    )
    bare = lacking(
        parts, labeled.known_labels, labeled.classes, wanted_parts(**fractions)
    )
    if bare:
        facts[LACKING] = _told_lacking(bare, splits.path)
    if split_off := [name for name, fraction in fractions.items() if fraction]:
        told = ", ".join(
            f"{np.sum(parts == name):,} {name}" for name in (LABELED, *split_off)
        )
        each = "" if bare else ", some of each class"
        by = "name" if is_encoded(labeled.whole) else "content"
        facts["split"] = f"by a hash of their {by}{each}: {told}"
        if not look_only:
            flags = " and ".join(f"--config.{name}=DIR" for name in split_off)
            console.say(
                f"without {flags}, the {labeled.name} images are split by a hash of"
                f" their {by}{each}: {told}"
            )
    if not look_only:
        splits.keep(labeled, parts, claims)
    return parts


def _deal_groups(
    labeled: Opened,
    splits: Splits,
    claims: Claims,
    facts: dict[str, Any],
    *,
    look_only: bool,
) -> np.ndarray:
    """Splits images with boxes, those that look alike to one side."""
    fractions = splits.fractions
    split_off = [name for name, fraction in fractions.items() if fraction]
    alone = np.arange(len(labeled))
    group = alone if labeled.looks is None else groups(labeled.looks)
    counts = class_counts(labeled.known_labels, len(labeled.classes))
    parts = by_presence(
        labeled.dealt_by, counts, group, **fractions, known=splits.known
    )
    if not split_off:
        return parts
    told = ", ".join(
        f"{np.sum(parts == name):,} {name}" for name in (LABELED, *split_off)
    )
    facts["split"] = (
        f"by content, images that look alike to one side, classes spread evenly: {told}"
    )
    sizes = np.unique(group, return_counts=True)[1]
    if (sizes > 1).any():
        facts["labeled images that look alike"] = (
            f"{sizes[sizes > 1].sum():,} in {(sizes > 1).sum():,} groups, of at most"
            f" {sizes.max():,}"
        )
    if not look_only:
        flags = " and ".join(f"--config.{name}=DIR" for name in split_off)
        console.say(
            f"without {flags} or splits of the folder's own, the {labeled.name} images"
            f" are split {facts['split']}"
        )
        splits.keep(labeled, parts, claims)
    return parts


def _told_lacking(bare: dict[str, list[str]], path: pathlib.Path) -> str:
    told = [
        f"'{printable(name)}' (no {' and no '.join(missing)} images)"
        for name, missing in itertools.islice(bare.items(), NAMED)
    ]
    more = f" and {len(bare) - NAMED} more" if len(bare) > NAMED else ""
    return (
        f"an earlier start dealt all images of {', '.join(told)}{more} to other parts,"
        f" which '{path}' records, and no image changes its part: add new images to"
        " these classes, merge them with others, or have everything dealt anew with"
        " another --config.data.cache (do not go on from models that were trained"
        " before: they may have seen the new test images)"
    )


def _known(path: pathlib.Path) -> dict[str, str]:
    """Reads the stored assignment of contents to parts."""
    if not files.is_file(path):
        return {}
    try:
        table = files.read_parquet(path, columns=["sha256", "part"])
        contents, parts = (column.to_pylist() for column in table.columns)
        parts = [renamed.word(str(part)) for part in parts]
        if strange := set(parts) - {LABELED, VALIDATION, TEST}:
            raise DamagedFileError("", f"it names a part '{strange.pop()}'")
    except (DamagedFileError, OSError) as error:
        raise UserError(
            f"'{path}' records which images are for testing, and cannot be read"
            f" ({files.reason(error)}): restore it, or remove it and start a new run"
        ) from error
    return dict(zip(contents, parts, strict=True))
