"""Sources of encoded images, which are read and decoded on demand."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Protocol, TypeGuard

import numpy as np

from noisy_student_jax.core.protocols import Examples, Source
from noisy_student_jax.data.cache.listing import Listing
from noisy_student_jax.data.cache.walk import safe_text
from noisy_student_jax.data.index import (
    READ_AT_ONCE,
    Headers,
    announce_headers,
    count_others,
    in_threads,
    kept,
    packed_headers,
)
from noisy_student_jax.data.labels import bytes_of
from noisy_student_jax.images.decode import (
    DEFAULT,
    VERSION,
    Decoding,
    UndecodableImageError,
    decode,
    read,
)
from noisy_student_jax.images.preprocessing import Preprocessing


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
    """A source of encoded images. Reading is thread-safe.

    An optional attribute ``decoding`` tells how they are decoded.
    """

    def read_encoded(self, indices: Sequence[int]) -> Encoded:
        """Reads records in the given order, without decoding them."""

    def place(self, index: int) -> str:
        """Returns a record's location, which does not depend on the source's name."""


class IndexedSource(EncodedSource, Protocol):
    """A source of encoded images whose headers are known without reading them.

    Attributes:
      feature: name of the feature of the stored `tf.train.Example` that holds the
        image; None if `read_stored` returns paths of image files.
    """

    feature: str | None

    def headers(self) -> Headers:
        """Returns all headers; the first call may have to read every image."""

    def read_stored(self, indices: Sequence[int]) -> Encoded:
        """Reads records in the given order, in the form that `feature` describes."""


class Reader(Protocol):
    """Images of a source in the order of their records, preprocessed for evaluation."""

    def take(self, count: int) -> tuple[dict[str, np.ndarray], list[str]]:
        """Returns the next `count` images under ``image``, and the status of each.

        An unusable image is a placeholder; its status gives the reason.
        """

    def close(self) -> None:
        """Stops reading."""


class PreprocessingSource(Source, Protocol):
    """A source that preprocesses images itself, faster than `read` and `apply_all`.

    Attributes:
      labels: of all records, ``[records, …]``; None without labels.
    """

    labels: np.ndarray | None

    def reader(self, preprocessing: Preprocessing, batches: Sequence[range]) -> Reader:
        """Reads ranges of records, one after the other.

        Args:
          preprocessing: applied to each image, for evaluation.
          batches: ranges of records.
        """


def preprocesses(source: Source) -> TypeGuard[PreprocessingSource]:
    """Whether a source implements `PreprocessingSource`."""
    return hasattr(source, "reader")


def is_encoded(source: Source) -> TypeGuard[EncodedSource]:
    """Whether a source implements `EncodedSource`."""
    return hasattr(source, "read_encoded")


def headers_of(source: EncodedSource) -> Headers:
    """Returns the headers of a source; unknown ones if it has no index."""
    if is_indexed(source):
        return source.headers()
    return Headers.unpacked(np.zeros(len(source), np.int64))


def is_indexed(source: EncodedSource) -> TypeGuard[IndexedSource]:
    """Whether a source implements `IndexedSource`."""
    return hasattr(source, "headers")


class FolderSource:
    """Image files in a folder, read on demand."""

    feature = None

    def __init__(
        self,
        listing: Listing,
        name: str,
        index_folder: pathlib.Path | None = None,
        decoding: Decoding = DEFAULT,
    ):
        """Reads nothing yet.

        Args:
          listing: the files.
          name: prefix of all keys.
          index_folder: folder to keep headers in; None to keep none.
          decoding: how images are decoded.
        """
        self.decoding = decoding
        self._listing, self._name = listing, name
        self._index_folder = index_folder
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
        for column in (listing.sizes, listing.modified):
            digest.update(column.astype("<i8").tobytes())
        if self.labels is not None:
            digest.update(bytes_of(self.labels))
        if scales := self.decoding.scales:
            digest.update(json.dumps(dict(scales), sort_keys=True).encode())
        return digest.hexdigest()

    def read(self, indices: Sequence[int]) -> Examples:
        """See `Source`."""
        labels = None if self.labels is None else self.labels[np.asarray(indices, int)]
        return decoded(self.read_encoded(indices), labels, self.decoding)

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

    def read_stored(self, indices: Sequence[int]) -> Encoded:
        """See `IndexedSource`; returns paths."""
        root = self._listing.root
        paths = [os.fsencode(root / self._listing.paths[index]) for index in indices]
        return Encoded(list(paths), ["ok"] * len(paths))

    def headers(self) -> Headers:
        """See `IndexedSource`."""

        def read_some(start: int) -> np.ndarray:
            stop = min(start + READ_AT_ONCE, len(self))
            return packed_headers(self.read_encoded(range(start, stop)).data)

        def read_all() -> np.ndarray:
            announce_headers(self._name, len(self))
            starts = range(0, len(self), READ_AT_ONCE)
            parts = in_threads(read_some, starts)
            packed = np.concatenate([np.zeros(0, np.int64), *parts])
            count_others(Headers.unpacked(packed))
            return packed

        if self._index_folder is None:
            return Headers.unpacked(read_all())
        name = f"headers {VERSION} {self.fingerprint}"
        state = {"files": self.fingerprint}
        return Headers.unpacked(kept(self._index_folder, name, state, read_all))

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
        return FolderSource(listing, self._name, self._index_folder, self.decoding)


def decoded(
    encoded: Encoded, labels: np.ndarray | None, decoding: Decoding
) -> Examples:
    """Decodes records in threads; the status of an undecodable one is the reason.

    Args:
      encoded: the records.
      labels: ``[records, …]``; None without labels.
      decoding: how images are decoded.
    """

    def one(data: bytes | None, status: str) -> tuple[np.ndarray | None, str]:
        try:
            return (None if data is None else decode(data, decoding=decoding)), status
        except UndecodableImageError as error:
            return None, str(error)

    pairs = list(zip(encoded.data, encoded.status, strict=True))
    both = in_threads(lambda pair: one(*pair), pairs)
    return Examples([image for image, _ in both], [why for _, why in both], labels)
