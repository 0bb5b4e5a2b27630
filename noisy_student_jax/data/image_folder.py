"""The dataset ``own``: a user's folders, lists or record files, split without leaks.

``labeled`` and ``unlabeled`` name sources that `open.Opener` can open; ``test`` and
``validation`` are optional. A missing one is split off the labeled images by content,
class by class; with a ``validation_fraction`` of 0 no validation images are, and each
labeled image is left out of trainings in turn. No image is in two parts: an image found
twice belongs to the test or validation set first, then to the labeled images, then to
the pool.
"""

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
from noisy_student_jax.data.claims import NAMED, Account, Claims, of_one_class
from noisy_student_jax.data.encoded import is_encoded
from noisy_student_jax.data.near_duplicates import SHOWN, NearDuplicates
from noisy_student_jax.data.open import STREAMED, Opened, Opener
from noisy_student_jax.data.sources import Dataset
from noisy_student_jax.data.splits import (
    LABELED,
    TEST,
    VALIDATION,
    by_content,
    lacking,
    leaves_out_in_turn,
    some_of_each_class,
    wanted_parts,
)

LACKING = "classes without images in a part"
"""Key in `Dataset.facts` that names classes of which a part has no image."""


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
    opener = Opener(
        data, interruption, progress, look_only=look_only, announce=not look_only
    )
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
    opened = [one for one in (labeled, *held_out.values(), pool) if one is not None]
    sides = {one.name: one.side for one in opened if one.side is not None}
    if len(set(sides.values())) > 1:
        told = ", ".join(f"{name} {side}" for name, side in sides.items())
        facts["prepared at different sides"] = told
        if not look_only:
            console.say(
                f"images are prepared at different sides ({told} pixels): copies of"
                " other bytes are found as near-duplicates alone, unless another"
                " --config.data.cache has all prepared at one side"
            )
    # Where a source is estimated, sizes are.
    if how := max((one.counted for one in opened if one.counted), default=None):
        facts[expected.ASSUMED] = f"{how}; those that are of no use are left out later"
    quarantined = [entry for one in opened for entry in one.quarantined]
    accounts = {one.name: Account(one) for one in opened}
    claims = Claims(accounts)
    parts = {
        name: claims.take(of_one_class(held_out[name], claims), part=name)
        for name in (TEST, VALIDATION)
        if name in held_out
    }
    labeled = of_one_class(labeled, claims)
    splits = _Splits(data, held_out)
    labeled = claims.take(labeled, part=LABELED, known=splits.known)
    account = accounts[labeled.name]
    dealt = _deal(labeled, splits, account, claims, facts, look_only=look_only)
    for name in (TEST,) if leaves_out_in_turn(data) else (VALIDATION, TEST):
        if name not in held_out:
            parts[name] = labeled.subset(np.flatnonzero(dealt == name))
            account.use(parts[name])
        else:
            accounts[name].use(parts[name])
    claims.deal(labeled.content, dealt)
    near = NearDuplicates(parts, exclude=data.near_duplicates == "exclude")
    labeled = _apart(
        labeled.subset(np.flatnonzero(dealt == LABELED)), near, claims, facts
    )
    rest = None
    if data.labels_per_class is not None:
        labeled, rest = _few_labels(labeled, data.labels_per_class, seed, facts)
    account.use(labeled)
    if pool is None:
        pool = rest
        assert pool is not None, "check_places wants a pool or labels_per_class"
        account.use(pool)
    else:
        pool = _apart(claims.take(pool, part="pool"), near, claims, facts)
        accounts[pool.name].use(pool)
        if rest:
            account.leave_out(rest, "beyond what was asked")
    if not look_only:
        claims.tell()
        near.tell()
    for account in accounts.values():
        facts |= account.closed()
    for name, count in facts.items():
        if name.startswith("left out") and not look_only:
            console.say(f"  {name}: {count:,}")
    learned = labeled.source()
    validation = learned
    if VALIDATION in parts:
        validation = parts[VALIDATION].source()
    else:
        facts["validation"] = "each labeled image, left out of trainings in turn"
    return Dataset(
        name=_name(data.sources.labeled),
        classes=labeled.classes,
        labeled=learned,
        pool=pool.source(labeled=False),
        validation=validation,
        test=parts[TEST].source(),
        facts=facts,
        quarantined=tuple(quarantined),
        alike=(*claims.alike[:SHOWN], *near.shown()),
    )


def _few_labels(
    labeled: Opened, count: int, seed: int, facts: dict[str, Any]
) -> tuple[Opened, Opened]:
    """Splits the labeled images into `count` per class and the rest."""
    chosen = some_of_each_class(
        labeled.dealt_by, labeled.known_labels, count, seed=seed
    )
    facts["labels"] = f"{count} a class, by seed {seed}"
    rest = np.setdiff1d(np.arange(len(labeled)), chosen)
    return labeled.subset(chosen), labeled.subset(rest)


def _apart(
    opened: Opened, near: NearDuplicates, claims: Claims, facts: dict[str, Any]
) -> Opened:
    """Finds near-duplicates of held-out images; leaves them out if that is asked."""
    found = near.find(opened)
    if not len(found):
        return opened
    if not near.exclude:
        facts[f"near-duplicates of {near.of} images, kept in {opened.name}"] = len(
            found
        )
        return opened
    claims.leave_out(opened, found.tolist(), f"near-duplicates of {near.of} images")
    kept = opened.subset(np.setdiff1d(np.arange(len(opened)), found))
    if opened.labels is None:
        return kept
    if len(gone := np.setdiff1d(opened.labels, kept.known_labels)):
        named = ", ".join(f"'{printable(opened.classes[i])}'" for i in gone[:NAMED])
        raise UserError(
            f"all training images of {len(gone)} classes ({named}) are near-duplicates"
            f" of {near.of} images: add others, or keep them with"
            " --config.data.near_duplicates=keep"
        )
    return kept


class _Splits:
    """The stored assignment of contents to parts.

    Attributes:
      fractions: fraction of the labeled images to split off, by part.
      path: the file.
      known: part of each content that was dealt before.
    """

    def __init__(self, data: ConfigDict, held_out: dict[str, Opened]):
        self.fractions = {
            name: 0.0 if name in held_out else data[f"{name}_fraction"]
            for name in (VALIDATION, TEST)
        }
        asked = "_".join(f"{name}_{value:g}" for name, value in self.fractions.items())
        # Runs with other fractions may share the cache.
        self.path = pathlib.Path(data.cache) / f"splits_{asked}.parquet"
        self.known = _known(self.path)

    def keep(self, dealt: dict[str, str]) -> None:
        """Adds contents to the file; what is known stays."""
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


def _deal(
    labeled: Opened,
    splits: _Splits,
    account: Account,
    claims: Claims,
    facts: dict[str, Any],
    *,
    look_only: bool,
) -> np.ndarray:
    """Splits the labeled images, and stores the assignment in the cache."""
    fractions = splits.fractions
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
    dealt = dict(zip(labeled.dealt_by, parts.tolist(), strict=True))
    # A copy belongs to the part of its image also if the image is removed one day.
    same = {copy: dealt[kept] for copy, kept in claims.same.items() if kept in dealt}
    if not look_only:
        splits.keep(dealt | same)
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


def check_places(data: ConfigDict) -> None:
    """Validates the sources named in the config.

    Raises:
      UserError: a required source is missing, two of them overlap, or one is where the
        run writes. What a run writes below a source is left out of its listing.
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
    fractions = data.validation_fraction or 0.0, data.test_fraction
    if not (places.validation or places.test) and sum(fractions) >= 1:
        raise UserError(
            "config.data.validation_fraction and .test_fraction are"
            f" {fractions[0]:g} and {fractions[1]:g}, which leaves nothing to learn"
            " from: make them smaller"
        )
    meant: dict[str, pathlib.Path | str] = {
        name: place if place.startswith(STREAMED) else _resolved(place)
        for name, place in places.items()
        if place
    }
    written = {
        flag: _resolved(place)
        for flag, place in (
            ("--workdir", data.get("workdir")),
            ("config.data.cache", data.cache),
        )
        if place
    }
    both = {f"config.{name}": place for name, place in meant.items()} | written
    for name, other in itertools.combinations(both, 2):
        if both[name] == both[other]:
            raise UserError(
                f"{name} and {other} are the same, '{both[name]}': choose another place"
                " for one of them"
            )
    folders = {n: at for n, at in meant.items() if isinstance(at, pathlib.Path)}
    for name, folder in folders.items():
        for other, inside in folders.items():
            if name != "unlabeled" and folder in inside.parents:
                raise UserError(
                    f"config.{other} '{inside}' lies in config.{name} '{folder}',"
                    " where each sub-folder is a class: move it out"
                )


def _resolved(place: str) -> pathlib.Path:
    return pathlib.Path(place).expanduser().resolve()


def _name(place: str) -> str:
    """Names a dataset by the last two parts of its path, such as ``flowers/train``."""
    path = _resolved(place)
    return "/".join(path.parts[-2:]) if path.exists() else place
