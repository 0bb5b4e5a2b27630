"""Sources of encoded images, which are read, and decoded, whenever they are needed."""

import concurrent.futures
import dataclasses
import hashlib
import os
from collections.abc import Sequence
from typing import Protocol, TypeGuard

import numpy as np

from noisy_student_jax.core.protocols import Examples, Source
from noisy_student_jax.data.cache.listing import Listing, safe_text
from noisy_student_jax.images.decode import UndecodableImageError, decode, read


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Records as stored.

    Attributes:
      data: of each, an image file's bytes; None where `status` is not ``ok``.
      status: ``ok``, or why the record could not be read.
    """

    data: list[bytes | None]
    status: list[str]


class EncodedSource(Source, Protocol):
    """A source that can give its records undecoded; safe to read from many threads."""

    def read_encoded(self, indices: Sequence[int]) -> Encoded:
        """Reads records in the order asked for."""

    def place(self, index: int) -> str:
        """Says where a record lies, the same whatever the source is called."""


def is_encoded(source: Source) -> TypeGuard[EncodedSource]:
    """Whether a source can give its records undecoded."""
    return hasattr(source, "read_encoded")


class FolderSource:
    """Image files, read when they are asked for."""

    def __init__(self, listing: Listing, name: str):
        """Reads nothing yet.

        Args:
          listing: of the files.
          name: that all keys begin with.
        """
        self._listing, self._name = listing, name
        self._root = listing.root.resolve()
        self.labels = listing.labels

    def __len__(self) -> int:
        return len(self._listing)

    def key(self, index: int) -> str:
        """See `Source`."""
        return f"{self._name}/{safe_text(self._listing.paths[index])}"

    @property
    def fingerprint(self) -> str:
        """SHA-256 over names, sizes, times of last change, and labels."""
        listing = self._listing
        digest = hashlib.sha256()
        for index in range(len(self)):
            digest.update(self.key(index).encode() + b"\0")
        numbers = [listing.sizes, listing.modified]
        for column in [*numbers, *([] if self.labels is None else [self.labels])]:
            digest.update(column.astype("<i8").tobytes())
        return digest.hexdigest()

    def read(self, indices: Sequence[int]) -> Examples:
        """See `Source`."""
        labels = None if self.labels is None else self.labels[np.asarray(indices, int)]
        return decoded(self.read_encoded(indices), labels)

    def place(self, index: int) -> str:
        """See `EncodedSource`."""
        return safe_text(str(self._root / self._listing.paths[index]))

    def read_encoded(self, indices: Sequence[int]) -> Encoded:
        """See `EncodedSource`."""
        data: list[bytes | None] = []
        status = []
        for index in indices:
            try:
                found = read(self._listing.root / self._listing.paths[index])
                data.append(found)
                status.append("ok")
            except UndecodableImageError as error:
                data.append(None)
                status.append(str(error))
        return Encoded(data, status)

    def subset(self, indices: np.ndarray, *, labeled: bool = True) -> "FolderSource":
        """Returns some of the records; without their labels if they may not be seen."""
        indices, whole = np.asarray(indices, int), self._listing
        labels = self.labels[indices] if labeled and self.labels is not None else None
        listing = dataclasses.replace(
            whole,
            paths=tuple(whole.paths[index] for index in indices),
            sizes=whole.sizes[indices],
            modified=whole.modified[indices],
            labels=labels,
        )
        return FolderSource(listing, self._name)


def decoded(encoded: Encoded, labels: np.ndarray | None) -> Examples:
    """Decodes records, some at a time; what cannot be decoded is told by its status.

    Args:
      encoded: the records.
      labels: of them; None without.
    """

    def one(data: bytes | None, status: str) -> tuple[np.ndarray | None, str]:
        try:
            return (None if data is None else decode(data)), status
        except UndecodableImageError as error:
            return None, str(error)

    cores = len(os.sched_getaffinity(0))
    with concurrent.futures.ThreadPoolExecutor(cores) as threads:
        both = list(threads.map(one, encoded.data, encoded.status))
    return Examples([image for image, _ in both], [why for _, why in both], labels)
