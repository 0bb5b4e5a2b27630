"""The dataset ``own``: a user's folders, lists or record files, split without leaks.

``labeled`` and ``unlabeled`` name sources that `open.Opener` can open; ``test`` and
``validation`` are optional. A missing one is split off the labeled images by content,
class by class. No image is in two parts: an image found twice belongs to the test or
validation set first, then to the labeled images, then to the pool.
"""

import collections
import itertools
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
from ml_collections import ConfigDict

from noisy_student_jax.config import renamed
from noisy_student_jax.core import console, files
from noisy_student_jax.core.console import Progress, printable
from noisy_student_jax.core.errors import DamagedFileError, UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.data import expected
from noisy_student_jax.data.encoded import is_encoded
from noisy_student_jax.data.open import Opened, Opener
from noisy_student_jax.data.sources import Dataset
from noisy_student_jax.data.splits import (
    LABELED,
    TEST,
    VALIDATION,
    by_content,
    some_of_each_class,
)

NAMED = 5


def own(
    data: ConfigDict,
    *,
    seed: int,
    interruption: Interruption,
    progress: Progress,
    look_only: bool = False,
    believe: bool = False,
) -> Dataset:
    """Opens a user's images and splits them; images in folders are prepared first.

    Args:
      data: the config's ``data`` section, with ``cache`` and ``side`` filled in.
      seed: seed for drawing ``labels_per_class`` labels.
      interruption: polled while images are prepared.
      progress: updated while images are prepared.
      look_only: whether to count unprepared images without reading them.
      believe: whether to assume the sizes in ``data.expected`` if a source is missing.

    Raises:
      UserError: a source is missing or unsuitable, too many images are unusable, or a
        part would be empty.
    """
    if believe and (absent := expected.absent(data)):
        return expected.counted(data, name=_name(data.sources.labeled), absent=absent)
    check_places(data)
    opener = Opener(data, interruption, progress, look_only=look_only)
    labeled = opener.open("labeled")
    held_out = {
        name: opener.open(name, classes=labeled.classes)
        for name in (VALIDATION, TEST)
        if data.sources[name] is not None
    }
    pool = opener.open("unlabeled") if data.sources.unlabeled is not None else None
    facts: dict[str, Any] = {}
    if is_encoded(labeled.whole) and not look_only:
        console.say(
            "images are streamed, not read beforehand: a record that is given twice is"
            " detected, but a copy of an image under another name is not"
        )
    quarantined = []
    for opened in filter(None, (labeled, *held_out.values(), pool)):
        quarantined += opened.quarantined
        for why, count in opened.left_out.items():
            facts[f"left out of {opened.name}: {why}"] = count
    claims = _Claims(facts)
    parts = {
        name: held_out[name].subset(claims.new(held_out[name], name))
        for name in (TEST, VALIDATION)
        if name in held_out
    }
    one_class = np.setdiff1d(np.arange(len(labeled)), _contradictory(labeled, facts))
    labeled = labeled.subset(np.intersect1d(one_class, claims.new(labeled)))
    dealt = _deal(labeled, data, held_out, facts, look_only=look_only)
    for name in (VALIDATION, TEST):
        if name not in held_out:
            parts[name] = labeled.subset(np.flatnonzero(dealt == name))
    claims.deal(labeled.content, dealt)
    labeled = labeled.subset(np.flatnonzero(dealt == LABELED))
    rest = None
    if data.labels_per_class is not None:
        labeled, rest = _few_labels(labeled, data.labels_per_class, seed, facts)
    if pool is None:
        pool = rest
        assert pool is not None, "check_places wants a pool or labels_per_class"
    else:
        pool = pool.subset(claims.new(pool, "pool"))
        if rest:
            facts[f"left out of {labeled.name}: beyond what was asked"] = len(rest)
    for name, count in facts.items():
        if name.startswith("left out") and not look_only:
            console.say(f"  {name}: {count:,}")
    return Dataset(
        name=_name(data.sources.labeled),
        classes=labeled.classes,
        labeled=labeled.source(),
        pool=pool.source(labeled=False),
        validation=parts[VALIDATION].source(),
        test=parts[TEST].source(),
        facts=facts,
        quarantined=tuple(quarantined),
    )


def _few_labels(
    labeled: Opened, count: int, seed: int, facts: dict[str, Any]
) -> tuple[Opened, Opened]:
    """Splits the labeled images into `count` per class and the rest."""
    chosen = some_of_each_class(labeled.dealt_by, _labels(labeled), count, seed=seed)
    facts["labels"] = f"{count} a class, by seed {seed}"
    rest = np.setdiff1d(np.arange(len(labeled)), chosen)
    return labeled.subset(chosen), labeled.subset(rest)


def _labels(labeled: Opened) -> np.ndarray:
    assert labeled.labels is not None, "labeled images are opened with their labels"
    return labeled.labels


class _Claims:
    """Assigns each content to the first part that claims it."""

    def __init__(self, facts: dict[str, Any]):
        self._taken: dict[str, str] = {}
        self._facts = facts

    def new(self, opened: Opened, part: str = LABELED) -> np.ndarray:
        """Claims contents that no part has yet; returns the records' indices."""
        kept: list[int] = []
        copies: collections.Counter[str] = collections.Counter()
        for index, content in enumerate(opened.content):
            if owner := self._taken.get(content):
                copies[owner] += 1
            else:
                self._taken[content] = part
                kept.append(index)
        for owner, count in copies.items():
            of = "each other" if owner == part else f"{owner} images"
            self._facts[f"left out of {opened.name}: byte-identical copies of {of}"] = (
                count
            )
        return np.array(kept, int)

    def deal(self, contents: list[str], parts: np.ndarray) -> None:
        """Reassigns claimed contents to the parts that they were dealt to."""
        self._taken.update(zip(contents, parts.tolist(), strict=True))


def _contradictory(labeled: Opened, facts: dict[str, Any]) -> np.ndarray:
    """Returns the indices of images that have a copy with another label."""
    seen: dict[str, set[int]] = collections.defaultdict(set)
    for content, label in zip(labeled.content, _labels(labeled).tolist(), strict=True):
        seen[content].add(label)
    found = [i for i, c in enumerate(labeled.content) if len(seen[c]) > 1]
    if found:
        facts[f"left out of {labeled.name}: one image in two classes"] = len(found)
        named = ", ".join(f"'{printable(labeled.key(i))}'" for i in found[:NAMED])
        console.warn(
            f"{len(found)} labeled images are left out, because byte-identical copies"
            f" of them lie in other classes too: {named}"
            + (" and more" if len(found) > NAMED else "")
        )
    return np.array(found, int)


def _deal(
    labeled: Opened,
    data: ConfigDict,
    held_out: dict[str, Opened],
    facts: dict[str, Any],
    *,
    look_only: bool,
) -> np.ndarray:
    """Splits the labeled images, and stores the assignment in the cache."""
    fractions = {
        name: 0.0 if name in held_out else data[f"{name}_fraction"]
        for name in (VALIDATION, TEST)
    }
    asked = "_".join(f"{name}_{value:g}" for name, value in fractions.items())
    # Runs with other fractions may share the cache.
    path = pathlib.Path(data.cache) / f"splits_{asked}.parquet"
    known = _known(path)
    parts = by_content(
        labeled.dealt_by,
        _labels(labeled),
        **fractions,
        known=known,
        classes=labeled.classes,
    )
    if split_off := [name for name, fraction in fractions.items() if fraction]:
        told = ", ".join(
            f"{np.sum(parts == name):,} {name}" for name in (LABELED, *split_off)
        )
        by = "name" if is_encoded(labeled.whole) else "content"
        facts["split"] = f"by a hash of their {by}, some of each class: {told}"
        if not look_only:
            flags = " and ".join(f"--config.{name}=DIR" for name in split_off)
            console.say(
                f"without {flags}, the {labeled.name} images are split by a hash of"
                f" their {by}, some of each class: {told}"
            )
    dealt = dict(zip(labeled.dealt_by, parts.tolist(), strict=True))
    if not look_only and dealt.items() - known.items():
        everything = known | dealt
        table = pa.table(
            {"sha256": list(everything), "part": list(everything.values())}
        )
        files.write_parquet(path, table)
    return parts


def _known(path: pathlib.Path) -> dict[str, str]:
    """Reads the stored assignment of contents to parts."""
    if not files.is_file(path):
        return {}
    try:
        table = files.read_parquet(path)
    except (DamagedFileError, OSError) as error:
        raise UserError(
            f"'{path}' records which images are for testing, and cannot be read"
            f" ({files.reason(error)}): restore it, or remove it and start a new run"
        ) from error
    columns = table.to_pydict()
    parts = map(renamed.word, columns["part"])
    return dict(zip(columns["sha256"], parts, strict=True))


def check_places(data: ConfigDict) -> None:
    """Validates the sources named in the config.

    Raises:
      UserError: a required source is missing, or two of them overlap.
    """
    places = data.sources
    if places.labeled is None:
        raise UserError(
            "no labeled images are given: say where they are with"
            " --config.labeled=DIR, a folder with one sub-folder per class"
        )
    if places.unlabeled is None and data.labels_per_class is None:
        raise UserError(
            "no unlabeled images are given: say where they are with"
            " --config.unlabeled=DIR, a folder of images (or keep N labels per class"
            " with --config.data.labels_per_class=N, and use the rest as the pool)"
        )
    fractions = data.validation_fraction, data.test_fraction
    if not (places.validation or places.test) and sum(fractions) >= 1:
        raise UserError(
            "config.data.validation_fraction and .test_fraction are"
            f" {fractions[0]:g} and {fractions[1]:g}, which leaves nothing to learn"
            " from: make them smaller"
        )
    folders = {
        name: pathlib.Path(place).resolve()
        for name, place in places.items()
        if place and pathlib.Path(place).is_dir()
    }
    meant = {name: folders.get(name, place) for name, place in places.items() if place}
    for name, other in itertools.combinations(meant, 2):
        if meant[name] == meant[other]:
            raise UserError(
                f"config.{name} and config.{other} are the same, '{meant[name]}':"
                " choose another place for one of them"
            )
    for name, folder in folders.items():
        for other, inside in folders.items():
            if name == "labeled" and folder in inside.parents:
                raise UserError(
                    f"config.{other} '{inside}' lies in config.labeled '{folder}',"
                    " where each sub-folder is a class: move it out"
                )


def _name(place: str) -> str:
    """Names a dataset by the last two parts of its path, such as ``flowers/train``."""
    path = pathlib.Path(place)
    return "/".join(path.resolve().parts[-2:]) if path.exists() else place
