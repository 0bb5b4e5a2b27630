"""Writers that append row by row, for more rows than fit in memory."""

from typing import BinaryIO, Self

import numpy as np
import pyarrow as pa

from noisy_student_jax.core import summed

ROW_GROUP = 1 << 16


class ArrayFile:
    """Appends to a ``.npy`` file of known shape without holding it in memory.

    As a context manager, it checks on a normal exit that all rows were written.

    Args:
      file: a new file, open for writing.
      shape: shape of the whole array.
      dtype: a numeric dtype; stored little-endian.
    """

    def __init__(self, file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype):
        self._left, self._row = shape[0], shape[1:]
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._file = file
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
          ValueError: the rows have another dtype or shape.
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
        if kind is None and self._left:
            raise AssertionError(f"{self._file.name} is {self._left} rows off")


class TableFile:
    """Appends record batches to a Parquet file in row groups of `ROW_GROUP` rows.

    As a context manager, it finishes the file on exit.

    Args:
      file: a new file, open for writing.
      schema: schema of the table, with its metadata.
    """

    def __init__(self, file: BinaryIO, schema: pa.Schema):
        self.schema = schema
        self._writer = summed.ParquetWriter(file, schema, use_dictionary=False)
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
            self._writer.write(pa.Table.from_batches(self._waiting))
        self._waiting, self._rows = [], 0
