"""Numbers about records that are computed once and kept: offsets, labels, headers."""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from noisy_student_jax.core import console, files
from noisy_student_jax.core.errors import DamagedFileError
from noisy_student_jax.images.decode import UndecodableImageError, inspect

Item = TypeVar("Item")
Result = TypeVar("Result")

READ_AT_ONCE = 64
"""Number of records that are read at a time."""
_SIDE_BITS = 31
_END = b"\xff\xd9"


@dataclasses.dataclass(frozen=True)
class Headers:
    """The headers of encoded images.

    Attributes:
      heights: int64 ``[images]``, of the upright image; 0 if it has no valid header.
      widths: likewise.
      plain: bool ``[images]``, whether TensorFlow decodes it as `images.decode.decode`
        does: an upright sRGB JPEG of one or three channels that is not cut short.
    """

    heights: np.ndarray
    widths: np.ndarray
    plain: np.ndarray

    @classmethod
    def unpacked(cls, numbers: np.ndarray) -> "Headers":
        """Inverts `packed_headers`."""
        sides = numbers >> 1
        return cls(
            sides >> _SIDE_BITS, sides & ((1 << _SIDE_BITS) - 1), numbers & 1 > 0
        )

    def of(self, records: np.ndarray) -> "Headers":
        """Returns the headers of some of the images."""
        return Headers(*(column[records] for column in dataclasses.astuple(self)))


def packed_headers(images: Iterable[bytes | None]) -> np.ndarray:
    """Reads the headers of image files, one number each; int64 ``[images]``.

    Args:
      images: contents of the files; None for an unreadable one.
    """
    numbers = []
    for data in images:
        try:
            found = None if data is None else inspect(data)
        except UndecodableImageError:
            found = None  # decoding gives the reason
        if found is None:
            numbers.append(0)
        else:
            sides = found.height << _SIDE_BITS | found.width
            # Whether a truncated file is usable must not depend on the crop.
            is_plain = found.plain and data is not None and data.endswith(_END)
            numbers.append(sides << 1 | is_plain)
    return np.array(numbers, np.int64)


def announce_headers(name: str, count: int) -> None:
    """Says that the headers of a source are about to be read."""
    console.say(f"reading the headers of the {count:,} images of {name}, once")


def count_others(headers: Headers) -> None:
    """Says how many images the graph of a streaming pipeline does not decode."""
    if others := int((~headers.plain).sum()):
        console.say(
            f"  {others:,} of them are not plain sRGB JPEGs: Pillow decodes those, and"
            " takes longer"
        )


def in_threads(
    function: Callable[[Item], Result], items: Sequence[Item]
) -> list[Result]:
    """Maps a function over items in threads; returns the results in order."""
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(function, items))


def kept(
    folder: pathlib.Path,
    name: str,
    state: dict[str, Any],
    make: Callable[[], np.ndarray],
    *,
    writes: bool = True,
) -> np.ndarray:
    """Returns numbers that are computed once, and again when their origin changes.

    Args:
      folder: folder of the index.
      name: determines the name of the file that keeps the numbers.
      state: anything in JSON that changes whenever the numbers would.
      make: computes the numbers, int64 ``[count]``.
      writes: whether to keep numbers that are computed.

    Raises:
      UserError: the index cannot be written.
    """
    place = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:32]
    path = folder / f"{place}.parquet"
    try:
        table = files.read_parquet(path, columns=["number"])
        if json.loads((table.schema.metadata or {}).get(b"file", b"0")) == state:
            return table["number"].to_numpy()
    except (FileNotFoundError, ValueError):
        pass  # missing, or of another version: computed again
    except (DamagedFileError, OSError) as error:
        console.warn(
            f"'{path}' is damaged ({files.reason(error)}): it is computed again"
        )
    numbers = make()
    if writes:
        table = pa.table({"number": numbers})
        table = table.replace_schema_metadata({"file": json.dumps(state)})
        files.write_parquet(path, table)
    return numbers
