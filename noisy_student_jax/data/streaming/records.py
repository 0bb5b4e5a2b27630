"""Record files whose records are ``tf.train.Example`` with an encoded image each."""

import bisect
import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
import tensorflow as tf

# Protocol Buffers ships no type information.
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from noisy_student_jax.core import files
from noisy_student_jax.core.console import printable
from noisy_student_jax.core.errors import DamagedFileError, UserError
from noisy_student_jax.core.protocols import Examples
from noisy_student_jax.data.cache.listing import safe_text
from noisy_student_jax.data.encoded import Encoded, decoded

UNKNOWN = -1
"""The label of a record that is damaged."""

# Of a damaged record in what is kept, where -1 is a label as it is stored.
_NOT_READ = np.iinfo(np.int64).min
_READ_AT_ONCE = 64


@dataclasses.dataclass(frozen=True)
class Features:
    """What is called how in a record; by default as in ImageNet's usual layout.

    Attributes:
      image: the image file's bytes.
      label: the number of its class.
      first_label: the number of the first class.
    """

    image: str = "image/encoded"
    label: str = "image/class/label"
    first_label: int = 1


class RecordFile(Protocol):
    """A file of records.

    Attributes:
      path: where it is.
      found: what the system said of it when it was opened.
    """

    path: pathlib.Path
    found: os.stat_result

    def __len__(self) -> int:
        """Number of records."""

    def read(self, numbers: Sequence[int]) -> Encoded:
        """Reads serialized records, in the order asked for.

        Raises:
          OSError: the file cannot be read at all.
        """


class RecordSource:
    """The records of some files, in the order of the files."""

    def __init__(
        self,
        record_files: Sequence[RecordFile],
        *,
        name: str,
        features: Features,
        labels: np.ndarray | None,
        classes: Sequence[str] = (),
        rows: np.ndarray | None = None,
    ):
        """Reads nothing.

        Args:
          record_files: the files, each called otherwise.
          name: that all keys begin with.
          features: what is called how.
          labels: int64 ``[records]``, `UNKNOWN` where a record is damaged; None
            without.
          classes: their names.
          rows: which records, counted over all files; None for all.
        """
        self._files, self._name, self._features = record_files, name, features
        self._ends = list(itertools.accumulate(map(len, record_files)))
        self._rows = rows
        self.labels, self.classes = labels, tuple(classes)

    def __len__(self) -> int:
        return (self._ends or [0])[-1] if self._rows is None else len(self._rows)

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
        """SHA-256 over files by name, size, time and count; which records; labels."""
        digest = hashlib.sha256()
        for file in self._files:
            size, modified = file.found.st_size, file.found.st_mtime_ns
            told = [self._name, file.path.name, size, modified, len(file)]
            digest.update(json.dumps(told).encode())
        for column in (self._rows, self.labels):
            if column is not None:
                digest.update(b"\0" + column.astype("<i8").tobytes())
        return digest.hexdigest()

    def read(self, indices: Sequence[int]) -> Examples:
        """See `Source`."""
        labels = None if self.labels is None else self.labels[np.asarray(indices, int)]
        return decoded(self.read_encoded(indices), labels)

    def read_encoded(self, indices: Sequence[int]) -> Encoded:
        """See `EncodedSource`; each file is gone through once, from front to back."""
        places = [self._at(index) for index in indices]
        sorted_rows = sorted(range(len(places)), key=places.__getitem__)
        data: list[bytes | None] = [None] * len(places)
        status = [""] * len(places)
        for file, group in itertools.groupby(sorted_rows, lambda row: places[row][0]):
            rows = list(group)
            found = _read(self._files[file], [places[row][1] for row in rows])
            for row, record, why in zip(rows, found.data, found.status, strict=True):
                data[row], status[row] = _image(record, why, self._features)
        return Encoded(data, status)

    def subset(self, indices: np.ndarray, *, labeled: bool = True) -> "RecordSource":
        """Returns some of the records; without their labels if they may not be seen."""
        indices = np.asarray(indices, np.int64)
        labels = self.labels[indices] if labeled and self.labels is not None else None
        return RecordSource(
            self._files,
            name=self._name,
            features=self._features,
            labels=labels,
            classes=self.classes,
            rows=indices if self._rows is None else self._rows[indices],
        )

    def _at(self, index: int) -> tuple[int, int]:
        """Returns which file a record is in, and its number there."""
        row = int(index if self._rows is None else self._rows[index])
        file = bisect.bisect_right(self._ends, row)
        return file, row - (self._ends[file - 1] if file else 0)


def check_names(paths: Sequence[pathlib.Path]) -> None:
    """Refuses files that are called alike, whose records keys could not tell apart.

    Raises:
      UserError: two are.
    """
    seen: dict[str, pathlib.Path] = {}
    for path in paths:
        other = seen.setdefault(path.name, path)
        if other is not path:
            raise UserError(
                f"record files need names of their own, but '{printable(str(other))}'"
                f" and '{printable(str(path))}' are called alike: rename one"
            )


def check_features(
    record_files: Sequence[RecordFile], features: Features, *, labeled: bool
) -> None:
    """Refuses records that are of another layout, by the first that can be read.

    Raises:
      UserError: there is no record, or the first lacks a feature.
    """
    file = next((file for file in record_files if len(file)), None)
    if file is None:
        raise UserError(
            f"'{printable(str(record_files[0].path))}' and the files that belong to it"
            " hold no records: give others"
        )
    first = next((data for data in file.read([0]).data if data is not None), None)
    example = None if first is None else _parsed(first)
    if example is None:
        return  # damaged: its status will tell
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
    """Reads the labels of all records; what has been read once is kept.

    Args:
      record_files: the files.
      features: what is called how.
      index_folder: where to keep them.
      classes: how many there are; None if that is not known.

    Returns:
      int64 ``[records]``, from 0; `UNKNOWN` where a record is damaged.

    Raises:
      UserError: a record has no label, or one that is of no class.
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

    return np.concatenate(for_each(of_file, record_files))


def for_each(function: Callable, items: Sequence) -> list:
    """Calls a function with each item, some at a time; returns what it returns."""
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(function, items))


def kept_column(
    path: pathlib.Path,
    folder: pathlib.Path,
    what: str,
    make: Callable[[], np.ndarray],
) -> np.ndarray:
    """Returns numbers that are told from a file, and keeps them until it changes.

    Args:
      path: the file.
      folder: where to keep them.
      what: they are.
      make: reads the file; returns int64 ``[count]``.

    Raises:
      UserError: the file is not there, or the system does not let us write.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    state = {"what": what, "size": found.st_size, "modified": found.st_mtime_ns}
    place = hashlib.sha256(f"{path.resolve()}\0{what}".encode("utf-8", "replace"))
    kept = folder / f"{place.hexdigest()[:32]}.parquet"
    try:
        table = files.read_parquet(kept)
        if json.loads((table.schema.metadata or {}).get(b"file", b"0")) == state:
            return table["number"].to_numpy()
    except (DamagedFileError, OSError, ValueError):
        pass  # not there yet, or damaged: made again
    try:
        numbers = make()
    except OSError as error:
        raise _unreadable(path, error) from error
    table = pa.table({"number": numbers})
    table = table.replace_schema_metadata({"file": json.dumps(state)})
    files.write_parquet(kept, table)
    return numbers


def _unreadable(path: pathlib.Path, error: OSError) -> UserError:
    return UserError(
        f"'{printable(str(path))}' cannot be read ({error.strerror}): repair it, or"
        " give another"
    )


def _labels(file: RecordFile, features: Features) -> np.ndarray:
    """Reads the labels as the records say them."""
    labels = np.full(len(file), _NOT_READ, np.int64)
    for start in range(0, len(file), _READ_AT_ONCE):
        numbers = range(start, min(start + _READ_AT_ONCE, len(file)))
        for number, data in zip(numbers, file.read(numbers).data, strict=True):
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
    """Returns the image's bytes and ``ok``, or None and why not."""
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
    # A map makes what it is asked for.
    if feature not in example.features.feature:
        return ()
    return getattr(example.features.feature[feature], kind).value
