"""Sources of encoded images, which are read and decoded on demand."""

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
    """Encoded records.

    Attributes:
      data: contents of an image file per record; None where `status` is not ``ok``.
      status: ``ok``, or why the record could not be read.
    """

    data: list[bytes | None]
    status: list[str]


class EncodedSource(Source, Protocol):
    """A source of encoded images. Reading is thread-safe."""

    def read_encoded(self, indices: Sequence[int]) -> Encoded:
        """Reads records in the given order, without decoding them."""

    def place(self, index: int) -> str:
        """Returns a record's location, which does not depend on the source's name."""


def is_encoded(source: Source) -> TypeGuard[EncodedSource]:
    """Whether a source implements `EncodedSource`."""
    return hasattr(source, "read_encoded")


class FolderSource:
    """Image files in a folder, read on demand."""

    def __init__(self, listing: Listing, name: str):
        """Reads nothing yet.

        Args:
          listing: the files.
          name: prefix of all keys.
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
        """SHA-256 over keys, file sizes, modification times and labels."""
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
        """Returns a subset of the records, without labels unless `labeled`."""
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
    """Decodes records in threads; the status of an undecodable one is the reason.

    Args:
      encoded: the records.
      labels: ``[records, …]``; None without labels.
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
