"""Record files of ``tf.train.Example``, each with an encoded image."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf

# Protocol Buffers ships no type information.
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from noisy_student_jax.core.console import printable
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.protocols import Examples
from noisy_student_jax.data.cache.walk import safe_text
from noisy_student_jax.data.encoded import Encoded, Reader, decoded
from noisy_student_jax.data.index import (
    READ_AT_ONCE,
    Headers,
    announce_headers,
    count_others,
    in_threads,
    kept,
    packed_headers,
)
from noisy_student_jax.data.streaming.decoding import View
from noisy_student_jax.data.streaming.images import ImageStream, Wanted
from noisy_student_jax.images.decode import DEFAULT, VERSION, Decoding
from noisy_student_jax.images.preprocessing import Preprocessing

UNKNOWN = -1
"""Label of a damaged record."""

# Stored label of a damaged record; -1 may be a genuine one there.
_NOT_READ = np.iinfo(np.int64).min


@dataclasses.dataclass(frozen=True)
class Features:
    """Feature names of a record; the defaults are ImageNet's usual layout.

    Attributes:
      image: feature with the image file's bytes.
      label: feature with the class number.
      first_label: number of the first class.
    """

    image: str = "image/encoded"
    label: str = "image/class/label"
    first_label: int = 1


class RecordFile(Protocol):
    """A file of records.

    Attributes:
      path: location of the file.
      found: status of the file when it was opened.
    """

    path: pathlib.Path
    found: os.stat_result

    def __len__(self) -> int:
        """Number of records."""

    def read(self, numbers: Sequence[int]) -> Encoded:
        """Reads serialized records in the given order.

        Raises:
          OSError: the file cannot be read.
        """


class RecordSource:
    """The concatenated records of several files."""

    def __init__(
        self,
        record_files: Sequence[RecordFile],
        *,
        name: str,
        features: Features,
        index_folder: pathlib.Path,
        labels: np.ndarray | None,
        classes: Sequence[str] = (),
        rows: np.ndarray | None = None,
        decoder: str = "auto",
        decoding: Decoding = DEFAULT,
    ):
        """Reads nothing yet.

        Args:
          record_files: the files, whose names differ.
          name: prefix of all keys.
          features: feature names.
          index_folder: folder to keep headers in.
          labels: int64 ``[records]``, `UNKNOWN` for damaged records; None without
            labels.
          classes: class names in index order.
          rows: indices into the concatenated records; None for all.
          decoder: of evaluation images, see `ImageStream`.
          decoding: how images are decoded.
        """
        self.decoding = decoding
        self._files, self._name, self._features = record_files, name, features
        self._index_folder = index_folder
        counts = np.array([len(file) for file in record_files], np.int64)
        self._ends = np.cumsum(counts)
        self._starts = self._ends - counts
        self._rows, self._decoder = rows, decoder
        self.labels, self.classes = labels, tuple(classes)

    def __len__(self) -> int:
        if self._rows is not None:
            return len(self._rows)
        return int(self._ends[-1]) if len(self._ends) else 0

    def key(self, index: int) -> str:
        """See `Source`."""
        file, number = self._at(index)
        path = safe_text(self._files[file].path.name)
        return f"{self._name}/{path}/{number:08d}"

    def place(self, index: int) -> str:
        """See `EncodedSource`."""
        file, number = self._at(index)
        return f"{safe_text(str(self._files[file].path.resolve()))}/{number}"

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the files' names, sizes, times and counts, rows and labels."""
        digest = hashlib.sha256()
        for file in self._files:
            size, modified = file.found.st_size, file.found.st_mtime_ns
            told = [self._name, file.path.name, size, modified, len(file)]
            digest.update(json.dumps(told).encode())
        for column in (self._rows, self.labels):
            if column is not None:
                digest.update(b"\0" + column.astype("<i8").tobytes())
        if scales := self.decoding.scales:
            digest.update(json.dumps(dict(scales), sort_keys=True).encode())
        return digest.hexdigest()

    def read(self, indices: Sequence[int]) -> Examples:
        """See `Source`."""
        labels = None if self.labels is None else self.labels[np.asarray(indices, int)]
        return decoded(self.read_encoded(indices), labels, self.decoding)

    @property
    def feature(self) -> str:
        """See `IndexedSource`."""
        return self._features.image

    def read_encoded(self, indices: Sequence[int]) -> Encoded:
        """See `EncodedSource`; each file is read once, in ascending order."""
        found = self.read_stored(indices)
        pairs = [
            _image(record, why, self._features)
            for record, why in zip(found.data, found.status, strict=True)
        ]
        return Encoded([data for data, _ in pairs], [why for _, why in pairs])

    def read_stored(self, indices: Sequence[int]) -> Encoded:
        """See `IndexedSource`; returns serialized examples."""
        file_of, number = self._places(np.asarray(indices, np.int64))
        data: list[bytes | None] = [None] * len(file_of)
        status = [""] * len(file_of)
        in_order = np.lexsort((number, file_of))
        firsts = np.flatnonzero(np.diff(file_of[in_order], prepend=-1))
        for rows in np.split(in_order, firsts[1:]) if len(firsts) else []:
            found = _read(self._files[file_of[rows[0]]], number[rows].tolist())
            for row, record, why in zip(
                rows.tolist(), found.data, found.status, strict=True
            ):
                data[row], status[row] = record, why
        return Encoded(data, status)

    def reader(self, preprocessing: Preprocessing, batches: Sequence[range]) -> Reader:
        """See `PreprocessingSource`."""
        starts = np.array([batch.start for batch in batches], np.int64)
        counts = np.array([len(batch) for batch in batches], np.int64)
        ends = np.cumsum(counts)

        def wanted(numbers: np.ndarray) -> Wanted:
            batch = np.searchsorted(ends, numbers, side="right")
            return Wanted(starts[batch] + numbers - (ends - counts)[batch])

        return ImageStream(
            self,
            {"image": View(preprocessing, trained_on=False)},
            wanted,
            batch=int(counts.max(initial=1)),
            end=int(counts.sum()),
            decoder=self._decoder,
        )

    def headers(self) -> Headers:
        """See `IndexedSource`."""
        name = f"header {VERSION} {self._features.image}"
        announced = False

        def of_file(file: RecordFile) -> np.ndarray:
            def make() -> np.ndarray:
                nonlocal announced
                if not announced:
                    announced = True
                    announce_headers(self._name, int(self._ends[-1]))
                return packed_headers(_images(file, self._features))

            return kept_column(file.path, self._index_folder, name, make)

        parts = in_threads(of_file, self._files)
        headers = Headers.unpacked(np.concatenate([np.zeros(0, np.int64), *parts]))
        if announced:
            count_others(headers)
        return headers if self._rows is None else headers.of(self._rows)

    def subset(self, indices: np.ndarray, *, labeled: bool = True) -> "RecordSource":
        """Returns a subset of the records, without labels unless `labeled`."""
        indices = np.asarray(indices, np.int64)
        labels = self.labels[indices] if labeled and self.labels is not None else None
        return RecordSource(
            self._files,
            name=self._name,
            features=self._features,
            index_folder=self._index_folder,
            labels=labels,
            classes=self.classes,
            rows=indices if self._rows is None else self._rows[indices],
            decoder=self._decoder,
            decoding=self.decoding,
        )

    def _at(self, index: int) -> tuple[int, int]:
        """Returns the file of a record, and the record's number in it."""
        file_of, number = self._places(np.array([index], np.int64))
        return int(file_of[0]), int(number[0])

    def _places(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the files of records, and their numbers in them; int64 each."""
        rows = indices if self._rows is None else self._rows[indices]
        file_of = np.searchsorted(self._ends, rows, side="right")
        return file_of, rows - self._starts[file_of]


def check_names(paths: Sequence[pathlib.Path]) -> None:
    """Checks that file names are unique, as keys contain them.

    Raises:
      UserError: two files have the same name.
    """
    seen: dict[str, pathlib.Path] = {}
    for path in paths:
        other = seen.setdefault(path.name, path)
        if other is not path:
            raise UserError(
                f"record files need different names, but '{printable(str(other))}' and"
                f" '{printable(str(path))}' have the same: rename one"
            )


def check_features(
    record_files: Sequence[RecordFile], features: Features, *, labeled: bool
) -> None:
    """Checks the first readable record for the required features.

    Raises:
      UserError: there are no records, or the first one lacks a feature.
    """
    file = next((file for file in record_files if len(file)), None)
    if file is None:
        raise UserError(
            f"'{printable(str(record_files[0].path))}' and its sibling files hold no"
            " records: give others"
        )
    first = next((data for data in file.read([0]).data if data is not None), None)
    example = None if first is None else _parsed(first)
    if example is None:
        return  # damaged: its status gives the reason
    wanted = [features.image, *([features.label] if labeled else [])]
    for feature in wanted:
        if feature not in example.features.feature:
            known = ", ".join(sorted(example.features.feature)) or "none"
            raise UserError(
                f"the records of '{printable(str(file.path))}' have no feature"
                f" '{feature}' (their features: {printable(known)}): give the names"
                " that they use with --config.data.image_feature and .label_feature"
            )


def read_labels(
    record_files: Sequence[RecordFile],
    features: Features,
    index_folder: pathlib.Path,
    *,
    classes: int | None,
) -> np.ndarray:
    """Reads the labels of all records, and stores them for later calls.

    Args:
      record_files: the files.
      features: feature names.
      index_folder: folder to store the labels in.
      classes: number of classes; None if unknown.

    Returns:
      int64 ``[records]``, counted from 0; `UNKNOWN` for damaged records.

    Raises:
      UserError: a record has no label, or one out of range.
    """

    def of_file(file: RecordFile) -> np.ndarray:
        labels = kept_column(
            file.path,
            index_folder,
            f"label {features.label}",
            lambda: _labels(file, features),
        )
        read = labels != _NOT_READ
        wrong = labels < features.first_label
        if classes is not None:
            wrong |= labels >= features.first_label + classes
        if (read & wrong).any():
            number = int(np.flatnonzero(read & wrong)[0])
            _refuse_label(file, number, int(labels[number]), features, classes)
        return np.where(read, labels - features.first_label, UNKNOWN)

    return np.concatenate(in_threads(of_file, record_files))


def kept_column(
    path: pathlib.Path,
    folder: pathlib.Path,
    what: str,
    make: Callable[[], np.ndarray],
) -> np.ndarray:
    """Returns numbers computed from a file, cached until the file changes.

    Args:
      path: the file.
      folder: folder of the cache.
      what: name of the numbers, part of the cache key.
      make: computes the numbers, int64 ``[count]``.

    Raises:
      UserError: the file cannot be read, or the cache cannot be written.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    state = {"what": what, "size": found.st_size, "modified": found.st_mtime_ns}
    try:
        return kept(folder, f"{path.resolve()}\0{what}", state, make)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: pathlib.Path, error: OSError) -> UserError:
    return UserError(
        f"'{printable(str(path))}' cannot be read ({error.strerror}): repair it, or"
        " give another"
    )


def _labels(file: RecordFile, features: Features) -> np.ndarray:
    """Reads the stored labels of a file's records."""
    labels = np.full(len(file), _NOT_READ, np.int64)
    for number, data in enumerate(_records(file)):
        example = None if data is None else _parsed(data)
        if example is None:
            continue
        values = _values(example, features.label, "int64_list")
        if not values:
            raise UserError(
                f"record {number} of '{printable(str(file.path))}' has no feature"
                f" '{features.label}' with a whole number in it: label it, or give"
                " the files as unlabeled ones"
            )
        labels[number] = values[0]
    return labels


def _records(file: RecordFile) -> Iterator[bytes | None]:
    for start in range(0, len(file), READ_AT_ONCE):
        yield from file.read(range(start, min(start + READ_AT_ONCE, len(file)))).data


def _images(file: RecordFile, features: Features) -> Iterator[bytes | None]:
    for record in _records(file):
        yield _image(record, "", features)[0]


def _refuse_label(
    file: RecordFile,
    number: int,
    label: int,
    features: Features,
    classes: int | None,
) -> None:
    first = features.first_label
    fits = f"{first} or more" if classes is None else f"{first}–{first + classes - 1}"
    raise UserError(
        f"record {number} of '{printable(str(file.path))}' has the label {label}, but"
        f" labels have to be {fits}: correct it, or say with"
        " --config.data.first_label=0 that they are counted from 0"
    )


def _read(file: RecordFile, numbers: list[int]) -> Encoded:
    try:
        return file.read(numbers)
    except OSError as error:
        why = error.strerror or "cannot be read"
        return Encoded([None] * len(numbers), [why] * len(numbers))


def _image(
    record: bytes | None, status: str, features: Features
) -> tuple[bytes | None, str]:
    """Returns the image's bytes and ``ok``, or None and the reason."""
    if record is None:
        return None, status
    example = _parsed(record)
    if example is None:
        return None, "not a tf.train.Example"
    values = _values(example, features.image, "bytes_list")
    if not values:
        return None, f"no feature {features.image} with an image in it"
    return values[0], "ok"


def _parsed(record: bytes) -> "tf.train.Example | None":
    try:
        return tf.train.Example.FromString(record)
    except DecodeError:
        return None


def _values(example: "tf.train.Example", feature: str, kind: str) -> Sequence:
    # Indexing a protobuf map inserts missing keys.
    if feature not in example.features.feature:
        return ()
    return getattr(example.features.feature[feature], kind).value
