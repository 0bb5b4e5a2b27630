"""Sources: records with stable keys, read by index."""

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from noisy_student_jax.core import unusable
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.protocols import Examples, Preprocessor, Source
from noisy_student_jax.data.cache.read import pixel_hash

READ_AT_ONCE = 256
NOT_PREPARED = "not prepared"
"""The fingerprint of records that are only counted."""


class ArraySource:
    """Records in memory."""

    def __init__(
        self,
        keys: Sequence[str],
        images: np.ndarray | Sequence[np.ndarray],
        labels: np.ndarray | None = None,
    ):
        """Holds the records.

        Args:
          keys: one per record.
          images: uint8 ``[height, width, 3]``, one per record.
          labels: ``[records, …]``; None for unlabeled records.
        """
        self.keys = list(keys)
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, index: int) -> str:
        """See `Source`."""
        return self.keys[index]

    @property
    def pixel_hashes(self) -> list[str]:
        """The `pixel_hash` of each image."""
        return [pixel_hash(np.asarray(image)) for image in self.images]

    def read(self, indices: Sequence[int]) -> Examples:
        """See `Source`."""
        labels = None if self.labels is None else self.labels[np.asarray(indices, int)]
        images: list[np.ndarray | None] = [self.images[index] for index in indices]
        return Examples(images, ["ok"] * len(images), labels)

    def subset(self, indices: np.ndarray, *, labeled: bool = True) -> "ArraySource":
        """Returns a subset of the records, without labels unless `labeled`."""
        indices = np.asarray(indices, int)
        return ArraySource(
            [self.keys[index] for index in indices],
            [self.images[index] for index in indices],
            self.labels[indices] if labeled and self.labels is not None else None,
        )


class Counted:
    """A source whose records are only counted: they have no keys and no images."""

    def __init__(
        self,
        count: int,
        labels: np.ndarray | None,
        *,
        fingerprint: str = NOT_PREPARED,
    ):
        """Stands for `count` records."""
        self._count, self.labels, self.fingerprint = count, labels, fingerprint

    def __len__(self) -> int:
        return self._count

    def key(self, index: int) -> str:
        """Raises a `UserError`: see `has_keys`."""
        raise _only_counted()

    def read(self, indices: Sequence[int]) -> NoReturn:
        """Raises a `UserError`."""
        raise _only_counted()

    def subset(self, indices: np.ndarray, *, labeled: bool = True) -> "Counted":
        """Returns as many records as there are indices."""
        labels = self.labels if labeled else None
        return Counted(len(indices), None if labels is None else labels[indices])


class Listed(Counted):
    """A source of files that are known by name: they have keys, and no images."""

    def __init__(self, keys: Sequence[str], labels: np.ndarray | None):
        """Stands for the files of these keys."""
        super().__init__(len(keys), labels)
        self._keys = list(keys)

    def key(self, index: int) -> str:
        """See `Source`."""
        return self._keys[index]

    def subset(self, indices: np.ndarray, *, labeled: bool = True) -> "Listed":
        """Returns a subset of the files, without labels unless `labeled`."""
        labels = self.labels if labeled else None
        return Listed(
            [self._keys[index] for index in indices],
            None if labels is None else labels[indices],
        )


class CountedRecords(Counted):
    """Encoded records that are only counted."""

    def read_encoded(self, indices: Sequence[int]) -> NoReturn:
        """Raises a `UserError`."""
        raise _only_counted()


def _only_counted() -> UserError:
    return UserError("these records are only counted, and cannot be read")


@dataclasses.dataclass(frozen=True)
class Alike:
    """Two records that look alike, to be shown in the report.

    Attributes:
      what: what they are to each other.
      keys: the key of each.
      captions: the part or class of each.
      images: a source of each record alone.
      distance: number of bits in which their perceptual hashes differ; None for equal
        pixels.
    """

    what: str
    keys: tuple[str, str]
    captions: tuple[str, str]
    images: tuple[Source, Source]
    distance: int | None = None


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset in four disjoint parts, or three where it is cross-fitted.

    Attributes:
      name: the name used in configs.
      classes: class names in index order.
      labeled: labeled training records.
      pool: unlabeled training records.
      validation: labeled records that generations are compared on; the very source
        of the labeled records where each of these is left out in turn.
      test: labeled records used for the final evaluation alone.
      facts: notes for the report: how the data were split, what was left out.
      quarantined: name of each unusable file, and why it cannot be used.
      alike: some pairs of records that should not be alike.
    """

    name: str
    classes: tuple[str, ...]
    labeled: Source
    pool: Source
    validation: Source
    test: Source
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    quarantined: tuple[tuple[str, str], ...] = ()
    alike: tuple[Alike, ...] = ()

    @property
    def cross_fitted(self) -> bool:
        """Whether the labeled records, each left out in turn, are for validation."""
        return self.validation is self.labeled

    def parts(self) -> dict[str, Source]:
        """Returns the disjoint sources by name."""
        validation = {} if self.cross_fitted else {"validation": self.validation}
        return {
            "labeled": self.labeled,
            "pool": self.pool,
            **validation,
            "test": self.test,
        }

    def predicted(self) -> dict[str, Source]:
        """Returns the sources that a trained model predicts to be evaluated."""
        parts = self.parts()
        return {name: parts[name] for name in ("validation", "test") if name in parts}


def fingerprint(source: Source) -> str:
    """Returns the SHA-256 over a source's keys and its labels, if it holds any.

    Keys identify content, so pixels are not read. A source whose keys do not identify
    content has a ``fingerprint`` of its own, which is returned instead.
    """
    if own := getattr(source, "fingerprint", None):
        return own
    digest = hashlib.sha256()
    for index in range(len(source)):
        digest.update(source.key(index).encode() + b"\0")
    labels = known_labels(source)
    if labels is not None:
        digest.update(np.ascontiguousarray(labels).tobytes())
    return digest.hexdigest()


def known_labels(source: Source) -> np.ndarray | None:
    """Returns the labels that a source holds in memory; None if it holds none.

    The records may still have labels: `labels_of` reads them.
    """
    return getattr(source, "labels", None)


def first_label(source: Source) -> np.ndarray:
    """Returns the first record's label, ``[1, …]``.

    Reads the record only if the source does not hold its labels.

    Args:
      source: a source of labeled records.

    Raises:
      UserError: the record was read without a label.
    """
    labels = known_labels(source)
    return (_read_labels(source, [0]) if labels is None else labels)[:1]


def has_keys(source: Source) -> bool:
    """Whether a source knows its records, rather than only their number."""
    return not isinstance(source, Counted)


def record_bytes(source: Source) -> int | None:
    """Returns the bytes of one record in memory; None if its image is to be resized."""
    return getattr(source, "bytes_per_record", None)


def labels_of(source: Source) -> np.ndarray:
    """Returns the labels of all records, ``[records, …]``; images are discarded.

    Raises:
      UserError: records were read without labels.
    """
    labels = known_labels(source)
    if labels is not None:
        return labels
    parts = [
        _read_labels(source, range(start, min(start + READ_AT_ONCE, len(source))))
        for start in range(0, len(source), READ_AT_ONCE)
    ]
    return np.concatenate(parts)


def _read_labels(source: Source, indices: Sequence[int]) -> np.ndarray:
    labels = source.read(indices).labels
    if labels is None:
        raise UserError(
            "a source of labeled records was read and gave no labels: its `read` has to"
            " return them"
        )
    return labels


def key_hashes(source: Source, indices: Sequence[int] | None = None) -> np.ndarray:
    """Returns the first 8 bytes of each key's SHA-256 as uint64, sorted.

    Args:
      source: the source.
      indices: records to hash; None for all.
    """
    keys = (
        source.key(int(n)) for n in (range(len(source)) if indices is None else indices)
    )
    hashes = [
        int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") for key in keys
    ]
    return np.sort(np.array(hashes, np.uint64))


def read_all_good(
    source: Source,
    preprocessing: Preprocessor,
    indices: Sequence[int] | None = None,
    *,
    part: str,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads and preprocesses records for training, all of which must be usable.

    Args:
      source: the source.
      preprocessing: applied to each image.
      indices: records to read; None for all.
      part: name of the part, for the error message.

    Returns:
      Images ``[records, side, side, 3]`` and their labels, or None without labels.

    Raises:
      UserError: a record is unusable.
    """
    indices = range(len(source)) if indices is None else indices
    examples = source.read(indices)
    bad = [
        (source.key(int(index)), status)
        for index, status in zip(indices, examples.status, strict=True)
        if status != "ok"
    ]
    unusable.refuse(bad, len(indices), f"{part} images")
    images = [image for image in examples.images if image is not None]
    return preprocessing.apply_all_to_train_on(images), examples.labels


def shard_bounds(count: int, shards: int) -> list[tuple[int, int]]:
    """Splits `count` records into shards whose sizes differ by at most one.

    Returns:
      First record and end of each shard.
    """
    edges = [count * number // shards for number in range(shards + 1)]
    return list(itertools.pairwise(edges))
