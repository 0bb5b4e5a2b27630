"""TFRecord files with random access: record offsets are looked up once.

A record consists of its length (8 bytes, little-endian), the length's checksum (4), the
data, and the data's checksum (4). Records follow each other without gaps.
"""

import glob
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from noisy_student_jax.core.console import printable
from noisy_student_jax.core.errors import UserError, one_line
from noisy_student_jax.data.encoded import Encoded
from noisy_student_jax.data.index import in_threads
from noisy_student_jax.data.streaming.records import (
    Features,
    RecordSource,
    check_features,
    check_names,
    kept_column,
    read_labels,
)
from noisy_student_jax.images.decode import DEFAULT, MAX_BYTES, Decoding

try:
    import google_crc32c
except ImportError as error:
    raise UserError(
        "TFRecord files need google-crc32c, which cannot be imported"
        f" ({one_line(error)}): pip install 'noisy-student-jax[streaming]'"
    ) from error

_HEADER, _FOOTER = 12, 4
_GZIP = b"\x1f\x8b"


class TFRecordSource(RecordSource):
    """The records of TFRecord files, each a ``tf.train.Example``."""

    def __init__(
        self,
        paths: str | Sequence[str | os.PathLike],
        index_folder: str | os.PathLike,
        *,
        name: str,
        labeled: bool,
        classes: Sequence[str] | None = None,
        features: Features | None = None,
        decoder: str = "auto",
        decoding: Decoding = DEFAULT,
    ):
        """Reads record offsets and labels, from the cache if possible.

        Args:
          paths: the files, or a pattern such as ``train-*``, whose matches are sorted
            by name.
          index_folder: folder for cached offsets and labels.
          name: prefix of all keys.
          labeled: whether to read labels.
          classes: class names in index order; None to name classes by number.
          features: feature names; None for ImageNet's usual layout.
          decoder: see `RecordSource`.
          decoding: see `RecordSource`.

        Raises:
          UserError: a file is missing, truncated or has a damaged record header, or
            records lack an image or a valid label.
        """
        features = features or Features()
        found = _found(paths)
        check_names(found)
        record_files = open_files(found, pathlib.Path(index_folder))
        check_features(record_files, features, labeled=labeled)
        labels = None
        if labeled:
            labels = read_labels(
                record_files,
                features,
                pathlib.Path(index_folder),
                classes=None if classes is None else len(classes),
            )
            if classes is None:
                classes = [str(number) for number in range(labels.max(initial=-1) + 1)]
        super().__init__(
            record_files,
            name=name,
            features=features,
            index_folder=pathlib.Path(index_folder),
            labels=labels,
            classes=(classes or ()) if labeled else (),
            decoder=decoder,
            decoding=decoding,
        )


class TFRecordFile:
    """A TFRecord file."""

    def __init__(self, path: pathlib.Path, starts: np.ndarray):
        """Takes record offsets and the end of the last one, int64 ``[n + 1]``."""
        self.path, self._starts = path, starts
        self.found = path.stat()

    def __len__(self) -> int:
        return len(self._starts) - 1

    def read(self, numbers: Sequence[int]) -> Encoded:
        """See `RecordFile`."""
        handle = os.open(self.path, os.O_RDONLY)
        try:
            found = [self._record(handle, number) for number in numbers]
        finally:
            os.close(handle)
        return Encoded([data for data, _ in found], [why for _, why in found])

    def _record(self, handle: int, number: int) -> tuple[bytes | None, str]:
        start, end = self._starts[number : number + 2].tolist()
        length = end - start - _HEADER - _FOOTER
        if length > MAX_BYTES:
            return None, f"{length:,} bytes, more than {MAX_BYTES:,}"
        # Two reads, as slicing one would copy the record.
        data = os.pread(handle, length, start + _HEADER)
        checksum = os.pread(handle, _FOOTER, end - _FOOTER)
        if len(data) < length or masked(data) != _number(checksum):
            return None, f"damaged: wrong checksum of the record at byte {start}"
        return data, "ok"


def open_files(
    paths: Sequence[pathlib.Path], index_folder: pathlib.Path
) -> list[TFRecordFile]:
    """Opens TFRecord files.

    Args:
      paths: the files.
      index_folder: folder for cached offsets.

    Raises:
      UserError: a file is unreadable, truncated or has a damaged record header.
    """

    def open_one(path: pathlib.Path) -> TFRecordFile:
        starts = kept_column(path, index_folder, "offset", lambda: _starts(path))
        return TFRecordFile(path, starts)

    return in_threads(open_one, paths)


def _found(paths: str | Sequence[str | os.PathLike]) -> list[pathlib.Path]:
    if isinstance(paths, str):
        pattern = str(pathlib.Path(paths).expanduser())
        # pathlib's glob takes no absolute patterns.
        found = sorted(pathlib.Path(path) for path in glob.glob(pattern))  # noqa: PTH207
    else:
        found = [pathlib.Path(path) for path in paths]
    for path in found:
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "not there"
            raise UserError(
                f"'{printable(str(path))}' is {kind}: give TFRecord files, or a pattern"
                " such as 'folder/train-*'"
            )
    if not found:
        raise UserError(
            f"no file matches '{printable(str(paths))}': give TFRecord files, or a"
            " pattern such as 'folder/train-*'"
        )
    return found


def _starts(path: pathlib.Path) -> np.ndarray:
    """Reads the headers of a file.

    Returns:
      int64 ``[records + 1]``, offsets of the records and the end of the last one.
    """
    starts, headers, position = [], [], 0
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        while position < size:
            header = os.pread(file.fileno(), _HEADER, position)
            starts.append(position)
            if len(header) < _HEADER:
                break
            headers.append(header)
            position += _HEADER + _number(header[:8]) + _FOOTER
    _check_headers(path, starts, headers)
    if position != size:
        raise UserError(
            f"'{printable(str(path))}' is cut short: its record at byte {starts[-1]}"
            f" goes on beyond its end at byte {size}; copy or write the file again"
        )
    return np.array([*starts, size], np.int64)


def _check_headers(path: pathlib.Path, starts: list[int], headers: list[bytes]) -> None:
    """Checks the checksums of record lengths, without which the rest is lost."""
    wrong = (
        number
        for number, header in enumerate(headers)
        if masked(header[:8]) != _number(header[8:])
    )
    if (first := next(wrong, None)) is None:
        return
    if first == 0 and headers[0].startswith(_GZIP):
        raise UserError(
            f"'{printable(str(path))}' is compressed, so that its records cannot be"
            " read at random: unpack it with gunzip"
        )
    raise UserError(
        f"'{printable(str(path))}' is damaged, or no TFRecord file: the length of a"
        f" record at byte {starts[first]} has a wrong checksum; copy or write the file"
        " again"
    )


def masked(data: bytes) -> int:
    """Returns the checksum of bytes, CRC-32C, as TFRecord files mask it."""
    checksum = google_crc32c.value(data)
    turned = checksum >> 15 | checksum << 17
    return (turned + 0xA282EAD8) & 0xFFFFFFFF


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")
