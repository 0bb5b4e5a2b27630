"""Prepared TensorFlow Datasets, with random access to their records.

Nothing is downloaded: a dataset that is not on this machine is an error.
"""

import os
import pathlib
import re
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from noisy_student_jax.core.console import printable
from noisy_student_jax.core.errors import UserError, cause, nearest, one_line
from noisy_student_jax.data.encoded import Encoded
from noisy_student_jax.data.index import in_threads
from noisy_student_jax.data.streaming.records import (
    Features,
    RecordFile,
    RecordSource,
    check_features,
    check_names,
    read_labels,
)
from noisy_student_jax.data.streaming.tfrecord import open_files
from noisy_student_jax.images.decode import DEFAULT, Decoding

# NAME or NAME:VERSION, optionally followed by a split.
_SPEC = re.compile(r"(?P<name>[^:]+(?::\d[\d.*]*)?)(?::(?P<split>.+))?")


def tfds_source(
    spec: str,
    *,
    name: str,
    labeled: bool,
    index_folder: str | os.PathLike,
    classes: Sequence[str] | None = None,
    data_dir: str | None = None,
    image: str = "image",
    label: str = "label",
    decoder: str = "auto",
    decoding: Decoding = DEFAULT,
) -> RecordSource:
    """Opens a split of a prepared dataset.

    Args:
      spec: ``NAME:SPLIT``. NAME is a TFDS name, optionally with config and version, or
        the folder of the dataset's files; SPLIT may be a slice (``train[:10%]``), and
        may be omitted if there is only one split.
      name: prefix of all keys.
      labeled: whether to read labels.
      index_folder: folder for cached offsets and labels.
      classes: required class names in index order; None for the dataset's own.
      data_dir: root folder of TFDS datasets; None for the default.
      image: feature with the image.
      label: feature with the class.
      decoder: see `RecordSource`.
      decoding: see `RecordSource`.

    Raises:
      UserError: the dataset is not prepared, or lacks what was requested.
    """
    found = _SPEC.fullmatch(spec)
    if found is None:
        raise UserError(
            f"'{printable(spec)}' names no dataset of TFDS: give NAME:SPLIT, such as"
            " 'cifar10:train'"
        )
    builder = _builder(found["name"], data_dir)
    own_classes = _check_features(builder, image, label, labeled=labeled)
    if classes is not None and labeled and tuple(classes) != own_classes:
        raise UserError(
            f"the classes of TFDS dataset '{builder.info.full_name}' are not those of"
            f" the labeled images ({len(own_classes)} and {len(classes)} classes, in"
            " this order): give another dataset"
        )
    split = _split(builder, found["split"])
    index_folder = pathlib.Path(index_folder)
    instructions = sorted(split.file_instructions, key=lambda part: part.filename)
    paths = [pathlib.Path(part.filename) for part in instructions]
    check_names(paths)
    record_files = _record_files(builder, paths, index_folder)
    features = Features(image=image, label=label, first_label=0)
    check_features(record_files, features, labeled=labeled)
    labels = None
    if labeled:
        count = len(own_classes)
        labels = read_labels(record_files, features, index_folder, classes=count)
    whole = RecordSource(
        record_files,
        name=name,
        features=features,
        index_folder=index_folder,
        labels=labels,
        classes=own_classes if labeled else (),
        decoder=decoder,
        decoding=decoding,
    )
    rows = _rows(record_files, instructions)
    return whole if len(rows) == len(whole) else whole.subset(rows)


class ArrayRecordFile:
    """An ArrayRecord file, which stays open."""

    def __init__(self, path: pathlib.Path):
        """Opens the file.

        Raises:
          UserError: the file cannot be read, or ArrayRecord is not installed.
        """
        try:
            from array_record.python.array_record_module import ArrayRecordReader
        except ImportError as error:
            raise UserError(
                f"'{printable(str(path))}' is an ArrayRecord file, which needs the"
                f" package array_record ({one_line(error)}): pip install array_record,"
                " or prepare the dataset as TFRecord files"
            ) from error
        self.path, self.found = path, path.stat()
        self._lock = threading.Lock()
        try:
            self._reader = ArrayRecordReader(
                str(path),
                options="readahead_buffer_size:0",
                file_reader_buffer_size=32768,
            )
            self._count = self._reader.num_records()
        except Exception as error:  # C++ errors have no common class
            raise UserError(
                f"'{printable(str(path))}' cannot be read as an ArrayRecord file"
                f" ({cause(error)}): prepare the dataset again"
            ) from error

    def __len__(self) -> int:
        return self._count

    def read(self, numbers: Sequence[int]) -> Encoded:
        """See `RecordFile`."""
        try:
            with self._lock:
                return Encoded(self._reader.read(list(numbers)), ["ok"] * len(numbers))
        except Exception as error:  # C++ errors have no common class
            if len(numbers) == 1:
                return Encoded([None], [f"damaged: {cause(error)[:200]}"])
        parts = [self.read([number]) for number in numbers]
        return Encoded(
            [part.data[0] for part in parts], [part.status[0] for part in parts]
        )


def _builder(name: str, data_dir: str | None) -> Any:
    """Finds a prepared dataset by name or folder, without network access."""
    try:
        if pathlib.Path(name).expanduser().is_dir():
            folder = pathlib.Path(name).expanduser()
            return tfds.builder_from_directory(folder)
        options = {} if data_dir is None else {"data_dir": data_dir}
        return tfds.core.read_only_builder.builder_from_files(name, **options)
    except Exception as error:  # TFDS raises many classes
        where = "" if data_dir is None else f" in '{printable(data_dir)}'"
        raise UserError(
            f"there is no prepared TFDS dataset '{printable(name)}'{where}: prepare"
            f" it with 'tfds build {printable(name)}', or in Python with"
            f" tfds.builder({name!r}).download_and_prepare(), or give the folder that"
            " holds its dataset_info.json"
        ) from error


def _check_features(
    builder: Any, image: str, label: str, *, labeled: bool
) -> tuple[str, ...]:
    """Validates the features; returns the class names."""
    features, called = builder.info.features, builder.info.full_name
    wanted = [(image, tfds.features.Image, "an image")]
    if labeled:
        wanted.append((label, tfds.features.ClassLabel, "a class"))
    for feature, kind, what in wanted:
        if feature not in features or not isinstance(features[feature], kind):
            raise UserError(
                f"TFDS dataset '{called}' has no feature '{feature}' that is {what}"
                f" (its features: {', '.join(features)}): give another dataset"
            )
    return tuple(features[label].names) if labeled else ()


def _split(builder: Any, asked: str | None) -> Any:
    """Returns TFDS's description of a split or slice."""
    splits, called = builder.info.splits, builder.info.full_name
    known = list(splits)
    if asked is None:
        if len(known) != 1:
            raise UserError(
                f"TFDS dataset '{called}' has the splits {', '.join(known)}: name"
                f" the one that is meant, such as '{builder.name}:{known[0]}'"
            )
        return splits[known[0]]
    try:
        return splits[asked]
    except Exception as error:  # TFDS raises several classes
        close = nearest(asked, known)
        raise UserError(
            f"TFDS dataset '{called}' has no split '{printable(asked)}'{close} (its"
            f" splits: {', '.join(known)})"
        ) from error


def _record_files(
    builder: Any, paths: list[pathlib.Path], index_folder: pathlib.Path
) -> Sequence[RecordFile]:
    form = builder.info.file_format.value
    if form == "tfrecord":
        return open_files(paths, index_folder)
    if form == "array_record":
        return in_threads(ArrayRecordFile, paths)
    raise UserError(
        f"TFDS dataset '{builder.info.full_name}' is kept as {form} files: prepare it"
        " as tfrecord or array_record"
    )


def _rows(record_files: Sequence[RecordFile], instructions: list[Any]) -> np.ndarray:
    """Returns the indices of a split's records among those of all files."""
    rows, start = [], 0
    for file, part in zip(record_files, instructions, strict=True):
        take = len(file) - part.skip if part.take < 0 else part.take
        rows.append(start + part.skip + np.arange(take))
        start += len(file)
    return np.concatenate(rows)
