"""Sums that files carry in themselves, so that a flipped bit is found when one is read.

A file and its sum are one file: no interruption leaves one without the other, and other
programs read it as before. A file without a sum, as older versions wrote them, counts
as whole.

- Parquet: 64 hexadecimal digits in its key-value metadata, under `KEY`; the SHA-256 of
  all bytes of the file, with zeros in their place.
- JSON objects: a last field `KEY`; the SHA-256 of the others, with sorted keys.
"""

import hashlib
import json
from typing import Any, BinaryIO, Self

import pyarrow as pa
import pyarrow.parquet as pq

KEY = "sha256_of_the_rest"
_PREFIX = "of the other bytes: "
_ZEROS = "0" * 64
_TAIL = 1 << 16
"""Bytes at the end of a Parquet file among which its metadata values are."""
_AT_ONCE = 1 << 20


class ParquetWriter:
    """Writes a Parquet file with its sum, as a context manager.

    Args:
      file: a new file, open for writing, of which only this object writes.
      schema: schema of the table, with its metadata.
      **layout: see `pyarrow.parquet.ParquetWriter`.
    """

    def __init__(self, file: BinaryIO, schema: pa.Schema, **layout: Any):
        self._file = file
        self._hashed = _HashedFile(file)
        self._writer = pq.ParquetWriter(
            self._hashed, without_parquet_sum(schema), compression="zstd", **layout
        )

    def write(self, table: pa.Table, **layout: Any) -> None:
        """Writes rows; see `pyarrow.parquet.ParquetWriter.write_table`."""
        self._writer.write_table(table, **layout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._writer.add_key_value_metadata({KEY: _PREFIX + _ZEROS})
        self._writer.close()
        if kind is not None:
            return
        place = _place(self._hashed.tail)
        assert place is not None, "the sum's place is among the last bytes of the file"
        self._file.seek(self._hashed.length - len(self._hashed.tail) + place)
        self._file.write(self._hashed.digest.hexdigest().encode())
        self._file.seek(0, 2)


class _HashedFile:
    """Hashes what is written to a file, and keeps the last bytes."""

    closed = False

    def __init__(self, file: BinaryIO):
        self._file = file
        self.digest = hashlib.sha256()
        self.length, self.tail = 0, b""

    def write(self, data: Any) -> int:
        data = bytes(data)
        self._file.write(data)
        self.digest.update(data)
        self.length += len(data)
        self.tail = (self.tail + data[-_TAIL:])[-_TAIL:]
        return len(data)

    def tell(self) -> int:
        return self.length

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        """Leaves the file open: its owner closes it."""


def _place(tail: bytes) -> int | None:
    """Returns where the digits of the sum begin in the last bytes of a file."""
    found = tail.rfind(_PREFIX.encode())
    end = found + len(_PREFIX) + len(_ZEROS)
    return None if found < 0 or end > len(tail) else found + len(_PREFIX)


def without_parquet_sum(schema: pa.Schema) -> pa.Schema:
    """Returns the schema of a Parquet file without the sum among its metadata."""
    metadata = schema.metadata or {}
    if KEY.encode() not in metadata:
        return schema
    rest = {name: value for name, value in metadata.items() if name != KEY.encode()}
    return schema.with_metadata(rest or None)


def parquet_is_whole(file: BinaryIO) -> bool:
    """Returns whether the bytes of a Parquet file match the sum in it, if it has one.

    Args:
      file: the file, open for reading.
    """
    length = file.seek(0, 2)
    start = max(0, length - _TAIL)
    file.seek(start)
    tail = file.read()
    if (place := _place(tail)) is None:
        return True
    wanted = tail[place : place + len(_ZEROS)]
    digest = hashlib.sha256()
    file.seek(0)
    left = start + place
    while left and (data := file.read(min(left, _AT_ONCE))):
        digest.update(data)
        left -= len(data)
    digest.update(_ZEROS.encode())
    digest.update(tail[place + len(_ZEROS) :])
    return digest.hexdigest().encode() == wanted


def with_sum(value: dict[str, Any]) -> dict[str, Any]:
    """Returns a JSON object with the sum of its fields as a last one."""
    return value | {KEY: _json_sum(value)}


def without_sum(value: dict[str, Any]) -> dict[str, Any]:
    """Inverts `with_sum`; returns an object without a sum as it is.

    Raises:
      ValueError: the fields do not match their sum.
    """
    rest = {name: field for name, field in value.items() if name != KEY}
    if KEY in value and value[KEY] != _json_sum(rest):
        raise ValueError(f"its values do not match its {KEY}")
    return rest


def _json_sum(value: dict[str, Any]) -> str:
    # Keys that are numbers become text, and are sorted as such when they are read.
    plain = json.loads(json.dumps(value))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
