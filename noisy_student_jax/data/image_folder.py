"""A user's folders, lists or record files, split without leaks.

The dataset ``own`` has a class for each image, ``boxes`` has boxes in any format that
`annotations.formats` reads; its folder may bring splits, which are used, and images
without boxes, which join the pool.

``labeled`` and ``unlabeled`` name sources that `open.Opener` can open; ``test`` and
``validation`` are optional. A missing one is split off the labeled images by content,
class by class; with a ``validation_fraction`` of 0 no validation images are, and each
labeled image is left out of trainings in turn. No image is in two parts: an image found
twice belongs to the test or validation set first, then to the labeled images, then to
the pool.
"""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from noisy_student_jax.core import console
from noisy_student_jax.core.console import Progress, printable
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.data import expected
from noisy_student_jax.data.annotations.listing import UNLABELED
from noisy_student_jax.data.box_facts import facts_of_boxes
from noisy_student_jax.data.claims import NAMED, Account, Claims, of_one_class
from noisy_student_jax.data.dealing import HELD_OUT, Splits, deal
from noisy_student_jax.data.encoded import is_encoded
from noisy_student_jax.data.group_splits import some_with_each_class
from noisy_student_jax.data.joined import JoinedSource
from noisy_student_jax.data.labels import are_boxes, class_counts, records_with
from noisy_student_jax.data.near_duplicates import SHOWN, NearDuplicates
from noisy_student_jax.data.open import Opened, Opener
from noisy_student_jax.data.places import check_places, name_of, no_pool
from noisy_student_jax.data.sources import Dataset
from noisy_student_jax.data.splits import (
    LABELED,
    TEST,
    VALIDATION,
    leaves_out_in_turn,
    some_of_each_class,
)


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
        return expected.counted(data, name=name_of(data.sources.labeled), absent=absent)
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
    facts |= {
        f"labels of {one.name}: {what}": count
        for one in opened
        for what, count in one.facts.items()
    }
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
    labeled, held_out, more = _by_part(labeled, held_out, claims)
    parts = {
        name: claims.take(of_one_class(held_out[name], claims), part=name)
        for name in (TEST, VALIDATION)
        if name in held_out
    }
    labeled = of_one_class(labeled, claims)
    splits = Splits(data, held_out)
    labeled = claims.take(labeled, part=LABELED, known=splits.known)
    account = accounts[labeled.name]
    dealt = deal(labeled, splits, account, claims, facts, look_only=look_only)
    for name in (TEST,) if leaves_out_in_turn(data) else (VALIDATION, TEST):
        if name not in held_out:
            parts[name] = labeled.subset(np.flatnonzero(dealt == name))
            account.use(parts[name])
        else:
            accounts[parts[name].name].use(parts[name])
    claims.deal(labeled.content, dealt)
    near = NearDuplicates(parts, exclude=data.near_duplicates == "exclude")
    labeled = _apart(
        labeled.subset(np.flatnonzero(dealt == LABELED)), near, claims, facts
    )
    pools: list[Opened] = []
    if data.labels_per_class is not None:
        labeled, rest = _few_labels(labeled, data.labels_per_class, seed, facts)
        if pool is None:
            pools.append(rest)
            account.use(rest)
        elif rest:
            account.leave_out(rest, "beyond what was asked")
    account.use(labeled)
    for one in (more, pool):
        if one is not None and len(one):
            one = _apart(claims.take(one, part="pool"), near, claims, facts)
            accounts[one.name].use(one)
            pools.append(one)
    if not pools:
        raise no_pool()
    if not look_only:
        claims.tell()
        near.tell()
    for account in accounts.values():
        facts |= account.closed()
    for name, count in facts.items():
        if name.startswith("left out") and not look_only:
            console.say(f"  {name}: {count:,}")
    learned = labeled.source()
    pooled = [one.source(labeled=False) for one in pools if len(one)]
    for name, one in {LABELED: labeled, **parts}.items():
        facts |= facts_of_boxes(one.known_labels, labeled.classes, name)
    validation = learned
    if VALIDATION in parts:
        validation = parts[VALIDATION].source()
    else:
        facts["validation"] = "each labeled image, left out of trainings in turn"
    return Dataset(
        name=name_of(data.sources.labeled),
        classes=labeled.classes,
        labeled=learned,
        pool=pooled[0] if len(pooled) == 1 else JoinedSource(pooled),
        validation=validation,
        test=parts[TEST].source(),
        facts=facts,
        quarantined=tuple(quarantined),
        alike=(*claims.alike[:SHOWN], *near.shown()),
    )


def boxes(
    data: ConfigDict,
    *,
    seed: int,
    interruption: Interruption,
    progress: Progress,
    look_only: bool = False,
    believe: bool = False,
) -> Dataset:
    """Opens a user's images with boxes; as `own`.

    Raises:
      UserError: as `own`; or the settings are for images of one class each.
    """
    if data.pipeline == "streamed":
        raise UserError(
            "config.data.pipeline is 'streamed', but images with boxes are prepared"
            " beforehand: set it to 'prepared'"
        )
    if data.validation_fraction == 0 and data.sources.validation is None:
        raise UserError(
            "config.data.validation_fraction is 0, but images with boxes are not left"
            f" out in turn: set it to {HELD_OUT}, or give --config.validation=DIR"
        )
    return own(
        data,
        seed=seed,
        interruption=interruption,
        progress=progress,
        look_only=look_only,
        believe=believe,
    )


def _by_part(
    labeled: Opened, held_out: dict[str, Opened], claims: Claims
) -> tuple[Opened, dict[str, Opened], Opened | None]:
    """Separates the parts that the labeled source comes with.

    Args:
      labeled: all of the source.
      held_out: validation and test images of sources of their own, which count.
      claims: receives what is left out.

    Returns:
      Labeled images, held-out images by part, and images without labels.
    """
    found = labeled.by_part()
    more = found.pop(UNLABELED, None)
    held_out = {
        name: _with_labels(one, claims, why="no boxes are known of them")
        for name, one in held_out.items()
    }
    for name, one in found.items():
        if name in held_out:
            everything = list(range(len(one)))
            claims.leave_out(one, everything, f"{name} images, which are given apart")
        elif name != LABELED:
            held_out[name] = one
    return found[LABELED], held_out, more and more.without_labels()


def _with_labels(opened: Opened, claims: Claims, *, why: str) -> Opened:
    """Leaves out records of a held-out source that have no labels."""
    if opened.parts is None:
        return opened
    bare = opened.parts == UNLABELED
    claims.leave_out(opened, np.flatnonzero(bare).tolist(), why)
    return opened.subset(np.flatnonzero(~bare))


def _few_labels(
    labeled: Opened, count: int, seed: int, facts: dict[str, Any]
) -> tuple[Opened, Opened]:
    """Splits the labeled images into `count` per class and the rest."""
    labels = labeled.known_labels
    if are_boxes(labels):
        counts = class_counts(labels, len(labeled.classes))
        chosen = some_with_each_class(labeled.dealt_by, counts, count, seed=seed)
    else:
        chosen = some_of_each_class(labeled.dealt_by, labels, count, seed=seed)
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
    before, after = (
        records_with(one.known_labels, len(one.classes)) for one in (opened, kept)
    )
    if len(gone := np.flatnonzero((before > 0) & (after == 0))):
        named = ", ".join(f"'{printable(opened.classes[i])}'" for i in gone[:NAMED])
        raise UserError(
            f"all training images of {len(gone)} classes ({named}) are near-duplicates"
            f" of {near.of} images: add others, or keep them with"
            " --config.data.near_duplicates=keep"
        )
    return kept
