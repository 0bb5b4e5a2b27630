"""The dataset ``own``: a user's folders, lists or record files, split without leaks.

``labeled`` and ``unlabeled`` name sources that `open.Opener` can open; ``test`` and
``validation`` are optional. A missing one is split off the labeled images by content,
class by class. No image is in two parts: an image found twice belongs to the test or
validation set first, then to the labeled images, then to the pool.
"""

import collections
import itertools
import pathlib
from collections.abc import Mapping
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
from noisy_student_jax.data.near_duplicates import SHOWN, NearDuplicates
from noisy_student_jax.data.open import STREAMED, Opened, Opener
from noisy_student_jax.data.sources import Alike, Dataset
from noisy_student_jax.data.splits import (
    LABELED,
    TEST,
    VALIDATION,
    by_content,
    lacking,
    some_of_each_class,
    wanted_parts,
)

LACKING = "classes without images in a part"
"""Key in `Dataset.facts` that names classes of which a part has no image."""
NAMED = 5
_TWO_CLASSES = "one image in two classes"
_TO_KEEP = (TEST, VALIDATION, LABELED, None)
"""Of copies that were dealt to different parts, the first of these stays."""
_UNUSABLE = "files that cannot be used"


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
    quarantined = [entry for one in opened for entry in one.quarantined]
    accounts = {one.name: _Account(one) for one in opened}
    claims = _Claims(accounts)
    parts = {
        name: claims.take(_of_one_class(held_out[name], claims), part=name)
        for name in (TEST, VALIDATION)
        if name in held_out
    }
    labeled = _of_one_class(labeled, claims)
    splits = _Splits(data, held_out)
    labeled = claims.take(labeled, part=LABELED, known=splits.known)
    account = accounts[labeled.name]
    dealt = _deal(labeled, splits, account, claims, facts, look_only=look_only)
    for name in (VALIDATION, TEST):
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
    return Dataset(
        name=_name(data.sources.labeled),
        classes=labeled.classes,
        labeled=labeled.source(),
        pool=pool.source(labeled=False),
        validation=parts[VALIDATION].source(),
        test=parts[TEST].source(),
        facts=facts,
        quarantined=tuple(quarantined),
        alike=(*claims.alike[:SHOWN], *near.shown()),
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


class _Account:
    """What becomes of a source's entries: each is used, or left out for one reason.

    Attributes:
      lost: number of records left out by reason, for each class that lost some.
    """

    def __init__(self, opened: Opened):
        """Opens the account with the entries that are no usable images."""
        self._name = opened.name
        self._used = 0
        self._left_out = collections.Counter(opened.left_out)
        unusable = len(opened.quarantined)
        self._read = len(opened) + unusable + self._left_out.total()
        self._left_out[_UNUSABLE] += unusable
        self.lost: dict[int, collections.Counter[str]] = collections.defaultdict(
            collections.Counter
        )
        for label, count in opened.unusable.items():
            self.lost[label][_UNUSABLE] += count

    def use(self, records: Opened) -> None:
        """Enters records that a part of the dataset consists of."""
        self._used += len(records)

    def leave_out(self, records: Opened, why: str) -> None:
        """Enters records that no part of the dataset has."""
        self._left_out[why] += len(records)
        if records.labels is not None:
            for label in records.labels.tolist():
                self.lost[label][why] += 1

    def closed(self) -> dict[str, Any]:
        """Returns the account as facts; checks that it adds up."""
        left_out = self._left_out.total()
        assert self._read == self._used + left_out, (
            f"of {self._read} entries of {self._name}, {self._used} are used and"
            f" {left_out} left out"
        )
        facts: dict[str, Any] = {
            f"left out of {self._name}: {why}": count
            for why, count in self._left_out.items()
            if count and why != _UNUSABLE  # they are listed by name
        }
        told = f"{self._read:,} entries = {self._used:,} used + {left_out:,} left out"
        return {f"read from {self._name}": told, **facts}


class _Claims:
    """Assigns each content to the first part that claims it.

    Attributes:
      same: content of each left-out copy with other bytes and equal pixels, and the
        content that was kept.
      alike: images that were found with two labels, in pairs.
    """

    def __init__(self, accounts: dict[str, _Account]):
        self._accounts = accounts
        self._taken: dict[str, str] = {}
        self._drawn: dict[str, str] = {}  # the first content of each pixels
        self._held_out: dict[str, tuple[Opened, int]] = {}
        self._other_labels: list[str] = []
        self.same: dict[str, str] = {}
        self.alike: list[Alike] = []

    def take(
        self, opened: Opened, *, part: str, known: Mapping[str, str] | None = None
    ) -> Opened:
        """Claims contents that no part has yet; returns their records.

        Args:
          opened: the records.
          part: the part that claims them.
          known: part of each content that was dealt before. Of images with equal
            pixels, the one in the test set stays, then the one in the validation set.
        """
        known = known or {}
        hashes = _pixels(opened)
        kept: list[int] = []
        copies: dict[tuple[str, str], list[int]] = collections.defaultdict(list)
        for index in sorted(
            range(len(opened)),
            key=lambda i: _TO_KEEP.index(known.get(opened.dealt_by[i])),
        ):
            content, pixels = opened.content[index], hashes[index]
            same = content if content in self._taken else self._drawn.get(pixels)
            if same is None:
                self._taken[content], self._drawn[pixels] = part, content
                kept.append(index)
                if part in (TEST, VALIDATION):
                    self._held_out[content] = opened, index
                continue
            self._compare(opened, index, same)
            kind = "byte" if same == content else "pixel"
            if kind == "pixel":
                self.same[content] = same
            copies[kind, self._taken[same]].append(index)
        for (kind, owner), found in copies.items():
            of = "each other" if owner == part else f"{owner} images"
            self.leave_out(opened, found, f"{kind}-identical copies of {of}")
        return opened.subset(np.array(sorted(kept), int))

    def _compare(self, opened: Opened, index: int, same: str) -> None:
        """Notes a copy of a held-out image that has another label."""
        if opened.labels is None or same not in self._held_out:
            return
        pair = _two_classes((opened, index), self._held_out[same])
        if pair.captions[0] != pair.captions[1]:
            first, second = map(printable, pair.keys)
            self._other_labels.append(f"'{first}' of '{second}'")
            self.alike.append(pair)

    def tell(self) -> None:
        """Warns of copies of held-out images that have another label."""
        if found := self._other_labels:
            console.warn(
                f"{len(found)} images are copies of test or validation images with"
                f" another label, and are left out: {', '.join(found[:NAMED])}"
                + (" and more" if len(found) > NAMED else "")
                + "; correct the label that is wrong"
            )

    def leave_out(self, opened: Opened, rows: list[int], why: str) -> None:
        """Enters records into their source's account as left out."""
        records = opened.subset(np.array(rows, int))
        self._accounts[opened.name].leave_out(records, why)

    def ban(self, opened: Opened, owner: str) -> None:
        """Keeps contents that no part has from every part."""
        for content, pixels in zip(opened.content, _pixels(opened), strict=True):
            self._taken.setdefault(content, owner)
            self._drawn.setdefault(pixels, content)

    def deal(self, contents: list[str], parts: np.ndarray) -> None:
        """Reassigns claimed contents to the parts that they were dealt to."""
        self._taken.update(zip(contents, parts.tolist(), strict=True))


def _pixels(opened: Opened) -> list[str]:
    """Returns a hash that equal images share, as far as their pixels are known."""
    return opened.content if opened.pixels is None else opened.pixels


def _two_classes(*records: tuple[Opened, int]) -> Alike:
    """Returns two records with labels as a pair of one image in two classes."""
    (first, i), (second, j) = records
    return Alike(
        _TWO_CLASSES,
        (first.key(i), second.key(j)),
        (first.classes[_labels(first)[i]], second.classes[_labels(second)[j]]),
        (first.alone(i), second.alone(j)),
    )


def _of_one_class(labeled: Opened, claims: _Claims) -> Opened:
    """Leaves out labeled images that have a copy with another label."""
    labels = _labels(labeled).tolist()
    seen: dict[str, dict[int, int]] = collections.defaultdict(dict)
    for hashes in {id(of): of for of in (labeled.content, _pixels(labeled))}.values():
        for index, (content, label) in enumerate(zip(hashes, labels, strict=True)):
            seen[content].setdefault(label, index)
    found = [
        index
        for index, same in enumerate(
            zip(labeled.content, _pixels(labeled), strict=True)
        )
        if any(len(seen[content]) > 1 for content in same)
    ]
    if not found:
        return labeled
    out = labeled.subset(np.array(found, int))
    claims.leave_out(labeled, found, _TWO_CLASSES)
    claims.ban(out, f"contradictory {labeled.name}")
    pairs = {tuple(of.values())[:2] for of in seen.values() if len(of) > 1}
    claims.alike += [
        _two_classes((labeled, first), (labeled, second))
        for first, second in sorted(pairs)[:SHOWN]
    ]
    named = ", ".join(f"'{printable(labeled.key(i))}'" for i in found[:NAMED])
    console.warn(
        f"{len(found)} {labeled.name} images are left out, because copies of them lie"
        f" in other classes too: {named}" + (" and more" if len(found) > NAMED else "")
    )
    return labeled.subset(np.setdiff1d(np.arange(len(labeled)), found))


def _apart(
    opened: Opened, near: NearDuplicates, claims: _Claims, facts: dict[str, Any]
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
    if len(gone := np.setdiff1d(opened.labels, _labels(kept))):
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
    account: _Account,
    claims: _Claims,
    facts: dict[str, Any],
    *,
    look_only: bool,
) -> np.ndarray:
    """Splits the labeled images, and stores the assignment in the cache."""
    fractions = splits.fractions
    parts = by_content(
        labeled.dealt_by,
        _labels(labeled),
        **fractions,
        known=splits.known,
        classes=labeled.classes,
        lost=account.lost,
    )
    bare = lacking(parts, _labels(labeled), labeled.classes, wanted_parts(**fractions))
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
    fractions = data.validation_fraction, data.test_fraction
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
