"""Which part of a dataset a record belongs to, and what becomes of all the others.

No image is in two parts: the first part that claims an image, or a copy of it, has it.
An account for each source holds that every entry is used, or left out for one reason.
"""

import collections
from collections.abc import Mapping
from typing import Any

import numpy as np

from noisy_student_jax.core import console
from noisy_student_jax.core.console import printable
from noisy_student_jax.data.labels import are_boxes, contents, present, told
from noisy_student_jax.data.near_duplicates import SHOWN
from noisy_student_jax.data.open import Opened
from noisy_student_jax.data.sources import Alike
from noisy_student_jax.data.splits import LABELED, TEST, VALIDATION

NAMED = 5
"""Number of records or classes that a sentence names."""
_TO_KEEP = (TEST, VALIDATION, LABELED, None)
"""Of copies that were dealt to different parts, the first of these stays."""
_UNUSABLE = "files that cannot be used"


class Account:
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
            for classes in present(records.labels):
                for label in classes:
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


class Claims:
    """Assigns each content to the first part that claims it.

    Attributes:
      same: content of each left-out copy with other bytes and equal pixels, and the
        content that was kept.
      alike: images that were found with two labels, in pairs.
    """

    def __init__(self, accounts: dict[str, Account]):
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
    """Returns two records with labels as a pair of one image with two labels."""
    (first, i), (second, j) = records
    return Alike(
        _why(first),
        (first.key(i), second.key(j)),
        (
            told(first.known_labels, i, first.classes),
            told(second.known_labels, j, second.classes),
        ),
        (first.alone(i), second.alone(j)),
    )


def _why(opened: Opened) -> str:
    """Says why copies whose labels disagree are left out."""
    boxes = are_boxes(opened.known_labels)
    return "one image with other boxes" if boxes else "one image in two classes"


def of_one_class(labeled: Opened, claims: Claims) -> Opened:
    """Leaves out labeled images that have a copy with another label."""
    labels = contents(labeled.known_labels, len(labeled.classes))
    seen: dict[str, dict[tuple[int, ...], int]] = collections.defaultdict(dict)
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
    why = _why(labeled)
    claims.leave_out(labeled, found, why)
    claims.ban(out, f"contradictory {labeled.name}")
    pairs = {tuple(of.values())[:2] for of in seen.values() if len(of) > 1}
    claims.alike += [
        _two_classes((labeled, first), (labeled, second))
        for first, second in sorted(pairs)[:SHOWN]
    ]
    named = ", ".join(f"'{printable(labeled.key(i))}'" for i in found[:NAMED])
    boxes = are_boxes(labeled.known_labels)
    what = "have other boxes" if boxes else "lie in other classes too"
    console.warn(
        f"{len(found)} {labeled.name} images are left out, because copies of them"
        f" {what}: {named}" + (" and more" if len(found) > NAMED else "")
    )
    return labeled.subset(np.setdiff1d(np.arange(len(labeled)), found))
