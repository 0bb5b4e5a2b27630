"""Splits of images by content rather than by order.

`stratified` splits a fixed set at ranks of the content hashes, so sizes are exact.
`by_content` splits a set that may grow at thresholds on the hash.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from noisy_student_jax.core.console import printable
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data.labels import records_with


def content_hashes(images: np.ndarray) -> list[str]:
    """Returns the SHA-256 of each image's pixels."""
    return [
        hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
        for image in images
    ]


def stratified(
    hashes: list[str],
    labels: np.ndarray,
    *,
    test: int,
    validation: int,
    labels_per_class: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Splits records into test, validation, labeled and pool, class by class.

    Test and validation sets depend on content alone and are the same for every seed;
    the labeled draw depends on content and seed. Of records with equal content, only
    the first is used.

    Args:
      hashes: content hash of each record.
      labels: int ``[records]``, class indices.
      test: number of test records.
      validation: number of validation records.
      labels_per_class: number of labeled records per class.
      seed: seed of the labeled draw.

    Returns:
      Sorted indices by part, and those of the unused copies under ``"copies"``.

    Raises:
      UserError: a class has too few records.
    """
    classes = int(labels.max()) + 1
    first: dict[str, int] = {}
    for index, content in enumerate(hashes):
        first.setdefault(content, index)
    kept = np.array(sorted(first.values()))
    parts: dict[str, list[int]] = {"test": [], "validation": [], "labeled": []}
    parts["pool"] = []
    dealt = 0
    for label in range(classes):
        members = [i for i in kept if labels[i] == label]
        members.sort(key=lambda i: hashes[i])
        # Rounding the running total makes the classes add up to the requested sizes.
        before, dealt = dealt, dealt + len(members)
        heads = {
            name: round(count * dealt / len(kept)) - round(count * before / len(kept))
            for name, count in (("test", test), ("validation", validation))
        }
        need = sum(heads.values()) + labels_per_class + 1
        if len(members) < need:
            raise UserError(
                f"class {label} has {len(members)} images, too few for"
                f" {heads['test']} test + {heads['validation']} validation +"
                f" {labels_per_class} labeled and at least one in the pool: lower"
                " config.data.test, .validation or .labels_per_class"
            )
        for name, count in heads.items():
            parts[name] += members[:count]
            members = members[count:]
        members.sort(key=lambda i: salted(hashes[i], seed))
        parts["labeled"] += members[:labels_per_class]
        parts["pool"] += members[labels_per_class:]
    split = {name: np.sort(np.array(indices)) for name, indices in parts.items()}
    split["copies"] = np.setdiff1d(np.arange(len(hashes)), kept)
    return split


def salted(content: str, seed: int) -> str:
    """Returns a hash of content and seed, by which labeled records are drawn."""
    return hashlib.sha256(f"{seed}:{content}".encode()).hexdigest()


Lost = Mapping[int, Mapping[str, int]]
"""Number of images left out by reason, for each class index."""
_NAMED = 10
LABELED, VALIDATION, TEST = "labeled", "validation", "test"


def leaves_out_in_turn(data: ConfigDict) -> bool:
    """Whether labeled images, left out in turn, take the place of validation images.

    Args:
      data: the config's ``data`` section.
    """
    given = data.name != "own" or data.sources.validation is not None
    return not given and data.validation_fraction == 0


def by_content(
    content: Sequence[str],
    labels: np.ndarray,
    *,
    validation: float,
    test: float,
    known: Mapping[str, str],
    classes: Sequence[str],
    lost: Lost | None = None,
) -> np.ndarray:
    """Splits records of a set that may grow into labeled, validation and test.

    A record's part follows from its content and never changes once known, so adding
    images moves no training image into the test set. Parts are ranges of the hash, so
    their sizes match the fractions only approximately. A class that would be missing
    from a part contributes one image to it. Test records are dealt first: as far as a
    class has others, they do not depend on the validation records.

    Args:
      content: SHA-256 of each record's file, in hexadecimal.
      labels: int ``[records]``, class indices.
      validation: fraction of the records; 0 for no validation set.
      test: fraction of the records; 0 for no test set.
      known: part of each content that was assigned before.
      classes: class names in index order.
      lost: number of images left out before, for the error message.

    Returns:
      The part of each record, ``[records]``. A part may still lack a class whose
      records were all assigned before: see `lacking`.

    Raises:
      UserError: classes have fewer images than there are parts.
    """
    share = np.array([int(text[:16], 16) / 2**64 for text in content])
    drawn = np.where(share < test, TEST, LABELED).astype(object)
    parts = np.array(
        [known.get(c, p) for c, p in zip(content, drawn, strict=True)], object
    )
    new = np.array([c not in known for c in content])
    wanted = wanted_parts(validation=validation, test=test)
    _check_rare(labels, wanted, classes, lost or {})
    by_class = [np.flatnonzero(labels == label) for label in range(len(classes))]
    for part in (LABELED, TEST) if test else (LABELED,):
        for members in by_class:
            _give_one(part, members, parts, new, share)
    if validation:
        held_out = new & (share >= test) & (share < test + validation)
        parts[held_out & (parts == LABELED)] = VALIDATION
        for part in (LABELED, VALIDATION):
            for members in by_class:
                _give_one(part, members, parts, new, share)
    return parts


def wanted_parts(*, validation: float, test: float) -> list[str]:
    """Returns the parts that `by_content` assigns records to."""
    return [LABELED] + [VALIDATION] * (validation > 0) + [TEST] * (test > 0)


def lacking(
    parts: np.ndarray, labels: np.ndarray, classes: Sequence[str], wanted: Sequence[str]
) -> dict[str, list[str]]:
    """Returns the classes without a record in one of the parts.

    Args:
      parts: the part of each record, ``[records]``.
      labels: of the records, ``[records, …]``; see `data.labels`.
      classes: class names in index order.
      wanted: the parts that every class should be in.

    Returns:
      By class name, the parts that have no record of the class.
    """
    found: dict[str, list[str]] = {}
    for part in wanted:
        there = records_with(labels[parts == part], len(classes))
        for label in np.flatnonzero(there == 0).tolist():
            found.setdefault(classes[label], []).append(part)
    return found


def _check_rare(
    labels: np.ndarray,
    wanted: list[str],
    classes: Sequence[str],
    lost: Lost,
) -> None:
    """Checks that every class has a record for each part."""
    counts = np.bincount(labels, minlength=len(classes))
    rare = np.flatnonzero(counts < len(wanted)).tolist()
    if not rare:
        return
    told = [
        f"'{printable(classes[label])}' ({_few(int(counts[label]), lost.get(label))})"
        for label in rare[:_NAMED]
    ]
    more = f" and {len(rare) - _NAMED} more" if len(rare) > _NAMED else ""
    need = "no images"
    if len(wanted) > 1:
        need = f"fewer than {len(wanted)} images, one for each of {', '.join(wanted)}"
    flags = " and ".join(f"--config.{part}=DIR" for part in wanted[1:])
    instead = f", or give {flags}, so that nothing is split off" if flags else ""
    raise UserError(
        f"{len(rare)} of {len(classes)} classes have {need}:"
        f" {', '.join(told)}{more}; add images to them, leave them out{instead}"
    )


def _few(count: int, lost: Mapping[str, int] | None) -> str:
    """Says how many images a class has, and what became of its others."""
    if not lost:
        return f"{count}"
    reasons = ", ".join(f"{why}: {number}" for why, number in lost.items())
    return f"{count} of {count + sum(lost.values())}; {reasons}"


def _give_one(
    part: str,
    members: np.ndarray,
    parts: np.ndarray,
    new: np.ndarray,
    share: np.ndarray,
) -> None:
    """Moves the new record with the lowest hash into a part that the class lacks.

    Test records are the last to be moved.
    """
    if (parts[members] == part).any():
        return
    for index in members[np.lexsort((share[members], parts[members] == TEST))]:
        others = (parts[members] == parts[index]).sum()
        if new[index] and others > 1:
            parts[index] = part
            return


def some_of_each_class(
    content: Sequence[str], labels: np.ndarray, count: int, *, seed: int
) -> np.ndarray:
    """Draws up to `count` records per class by content and seed.

    Returns:
      Sorted indices.
    """
    chosen: list[int] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label).tolist()
        members.sort(key=lambda index: salted(content[index], seed))
        chosen += members[:count]
    return np.sort(np.array(chosen, int))
