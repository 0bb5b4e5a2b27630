"""Files that are there whole or not at all, and files written row by row."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from noisy_student_jax.errors import UserError

ROW_GROUP = 1 << 16


def sync(path: Path) -> None:
    """Makes the system put a file or directory on disk before going on.

    Args:
      path: an existing file or directory.
    """
    if os.name != "posix" and path.is_dir():
        return  # directories cannot be opened there
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def not_written(path: Path, error: OSError) -> UserError:
    """Makes the error for a path that the system would not let us write.

    Args:
      path: file or directory.
      error: what the system said.

    Returns:
      The error, to be raised.
    """
    return UserError(
        f"could not write {path} ({error.strerror or error}); make room or grant "
        "access there, or choose another directory"
    )


def check_free(output: Path) -> None:
    """Makes sure that a directory can be written without touching anything.

    Args:
      output: the directory.

    Raises:
      UserError: it exists and is not an empty directory.
    """
    try:
        free = not output.exists() or (output.is_dir() and not any(output.iterdir()))
    except OSError as error:
        raise not_written(output, error) from error
    if not free:
        raise UserError(
            f"{output} already exists and is not an empty directory; nothing is ever "
            "overwritten, so move it away or choose another directory"
        )


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a temporary file that takes the name `path` only when all went well.

    Args:
      path: the file to be; its directory is made if need be.

    Yields:
      The file, open for writing.

    Raises:
      UserError: the system does not let us write there.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise not_written(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(output: Path) -> Iterator[Path]:
    """Gives a directory to write to that becomes `output` only when all went well.

    Args:
      output: the directory to be; it may exist if it is empty.

    Yields:
      A new directory beside it.

    Raises:
      UserError: the system does not let us write there, or `output` has filled up.
    """
    temporary = output.with_name(f".{output.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for directory in [*filter(Path.is_dir, temporary.iterdir()), temporary]:
            sync(directory)
        check_free(output)
        if output.exists():
            output.rmdir()  # it is empty; else this raises
        temporary.rename(output)
        sync(output.parent)
    except OSError as error:
        raise not_written(output, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class ArrayFile:
    """Appends to a ``.npy`` file of known shape, without holding it in memory.

    As a context manager: leaving it in peace says that all rows are there.

    Args:
      path: the file.
      shape: of the whole array.
      dtype: numbers of fixed width; stored little-endian.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype):
        self._left, self._row = shape[0], shape[1:]
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._file = path.open("wb")
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": shape,
        }
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, rows: np.ndarray) -> None:
        """Writes the next rows.

        Args:
          rows: `[rows, …]` of the file's dtype and width.

        Raises:
          ValueError: they are not.
        """
        if rows.shape[1:] != self._row or rows.dtype != self._dtype:
            raise ValueError(
                f"rows are {rows.dtype}{list(rows.shape[1:])} after "
                f"{self._dtype}{list(self._row)}"
            )
        self._left -= len(rows)
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file:
            if kind is None:
                if self._left:
                    raise AssertionError(f"{self._file.name} is {self._left} rows off")
                self._file.flush()
                os.fsync(self._file.fileno())


class TableFile:
    """Appends record batches to a Parquet file, in row groups of a good size.

    As a context manager: leaving it finishes the file.

    Args:
      file: path or open file.
      schema: of the table, with its metadata.
    """

    def __init__(self, file: Path | BinaryIO, schema: pa.Schema):
        self.schema = schema
        self._writer = pq.ParquetWriter(
            file, schema, compression="zstd", use_dictionary=False
        )
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0

    def append(self, columns: list[pa.Array]) -> None:
        """Writes the next rows, one array per column."""
        batch = pa.record_batch(columns, schema=self.schema)
        self._waiting.append(batch)
        self._rows += batch.num_rows
        if self._rows >= ROW_GROUP:
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._writer:
            if kind is None:
                self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_batches(self._waiting))
        self._waiting, self._rows = [], 0
