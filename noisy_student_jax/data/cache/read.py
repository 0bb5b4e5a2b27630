"""The prepared cache: checked images as uint8 in memory-mapped parts.

A part is two files: ``part_000000.bin`` holds concatenated arrays
``[height, width, 3]``, and ``part_000000.parquet`` has one row per file with the offset
of its pixels, and their SHA-256. The table is written last; a part without a table has
not been finished. Files are identified by path, size and modification time.
"""

import contextlib
import copy
import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import DamagedFileError, UserError
from noisy_student_jax.core.protocols import Examples
from noisy_student_jax.data.cache import integrity
from noisy_student_jax.data.cache.listing import Listing
from noisy_student_jax.data.cache.walk import safe_text
from noisy_student_jax.data.labels import bytes_of
from noisy_student_jax.images.decode import ANY, scale_note
from noisy_student_jax.images.perceptual import perceptual_hash
from noisy_student_jax.images.samples import Scale

NOTES = "notes"
"""The column that parts of older versions lack."""
UNSCALED = "unscaled "
"""Start of the status of a file that waits for its source's scale; then, in JSON, the
type of its samples and the smallest and largest value."""
SCHEMA = pa.schema(
    [
        ("path", pa.string()),  # by `safe_text`
        ("size", pa.int64()),
        ("modified", pa.int64()),
        ("status", pa.string()),  # ``ok``, or why the file cannot be used
        ("sha256", pa.string()),  # of the file's bytes
        ("height", pa.int32()),  # from here on null unless ok
        ("width", pa.int32()),
        ("original_height", pa.int32()),
        ("original_width", pa.int32()),
        ("offset", pa.int64()),  # in the .bin file
        ("pixels", pa.string()),  # `pixel_hash` of the cached image
        ("look", pa.uint64()),  # its `perceptual_hash`
        (NOTES, pa.string()),  # what is counted about it; absent in older parts
    ]
)
_ADDED = ("pixels", "look")
"""Columns that older parts lack; they are computed from the cached images."""
METADATA = b"prepared"
"""Metadata key of a part's Parquet file: JSON with ``bytes`` and ``sha256`` of its .bin
file, and the ``decoder`` that wrote it."""
MAX_OPEN_PARTS = 64


@dataclasses.dataclass(frozen=True)
class Found:
    """A cache's entries for the files of a listing, in the listing's order.

    Attributes:
      parts: SHA-256 of the pixels of each complete part, by number.
      damaged: why a part cannot be used, by the name of its damaged file.
      status: ``ok``, why a file is unusable, or None if it has yet to be read.
      sha256: uint8 ``[files, 32]``, digests of the files.
      part: int32 ``[files]``, number of the part that holds the pixels, if ``ok``.
      offset: int64 ``[files]``, byte offset of the pixels in the part.
      sizes: int32 ``[files, 2]``, cached height and width.
      original_sizes: int32 ``[files, 2]``, height and width of the image in the file.
      pixels: uint8 ``[files, 32]``, `pixel_hash` of each cached image.
      looks: uint64 ``[files]``, `perceptual_hash` of each cached image.
      notes: what is counted about each usable image, as in "3 images NOTE".
      older: rows of usable images that another version of our decoder has decoded.
      unscaled: type, smallest and largest value of files that wait for a scale, by row.
    """

    parts: dict[int, str]
    damaged: dict[str, str]
    status: list[str | None]
    sha256: np.ndarray
    part: np.ndarray
    offset: np.ndarray
    sizes: np.ndarray
    original_sizes: np.ndarray
    pixels: np.ndarray
    looks: np.ndarray
    notes: list[tuple[str, ...]]
    older: set[int]
    unscaled: dict[int, tuple[str, float, float]]


def pixel_hash(image: np.ndarray) -> str:
    """Returns the SHA-256 of an image's size and pixels, in hexadecimal.

    Args:
      image: uint8 ``[height, width, 3]``.
    """
    height, width, _ = image.shape
    digest = hashlib.sha256(f"{height}x{width}:".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def part_paths(folder: pathlib.Path, number: int) -> tuple[pathlib.Path, pathlib.Path]:
    """Returns the paths of a part's pixels and table."""
    name = f"part_{number:06d}"
    return folder / f"{name}.bin", folder / f"{name}.parquet"


def find(
    folder: pathlib.Path,
    listing: Listing,
    *,
    decoder: str,
    keep: bool = False,
    without: Collection[int] = (),
    scales: Mapping[str, Scale] | None = None,
) -> Found:
    """Looks up the files of a listing in a cache, and reads no pixels of today's parts.

    Parts of older versions lack the hashes of pixels, which are computed.

    Args:
      folder: the cache.
      listing: the files.
      decoder: the current `decoder_versions`; files that another version could not
        decode are read again.
      keep: whether to write computed hashes to the cache, where it can be written.
      without: numbers of parts to leave out.
      scales: see `Decoding`; images that were decoded by another are read again.
    """
    count = len(listing)
    found = Found(
        parts={},
        damaged={},
        status=[None] * count,
        sha256=np.zeros((count, 32), np.uint8),
        part=np.zeros(count, np.int32),
        offset=np.zeros(count, np.int64),
        sizes=np.zeros((count, 2), np.int32),
        original_sizes=np.zeros((count, 2), np.int32),
        pixels=np.zeros((count, 32), np.uint8),
        looks=np.zeros(count, np.uint64),
        notes=[()] * count,
        older=set(),
        unscaled={},
    )
    row_of = {safe_text(path): row for row, path in enumerate(listing.paths)}
    stamps = list(zip(listing.sizes.tolist(), listing.modified.tolist(), strict=True))
    for number, table, facts in _whole_parts(folder, found.damaged, keep=keep):
        if number in without:
            continue
        found.parts[number] = facts["sha256"]
        for path, size, modified, status, *rest in zip(
            *(column.to_pylist() for column in table.columns), strict=True
        ):
            row = row_of.get(path)
            if row is None or stamps[row] != (size, modified):
                continue
            if status.startswith(UNSCALED):
                found.unscaled[row] = tuple(json.loads(status[len(UNSCALED) :]))
                continue
            if scales and _is_of_another(rest[-1], scales):
                continue
            current = facts["decoder"] == decoder and found.status[row] is None
            if status == "ok" or current:
                found.status[row] = status
                if status == "ok" and _rules(facts["decoder"]) != _rules(decoder):
                    found.older.add(row)
                else:
                    found.older.discard(row)
                _note(found, row, number, *rest)
    return found


def _note(
    found: Found,
    row: int,
    number: int,
    sha256: str,
    height: int | None,
    width: int | None,
    original_height: int | None,
    original_width: int | None,
    offset: int | None,
    pixels: str | None,
    look: int | None,
    notes: str | None,
) -> None:
    found.sha256[row] = np.frombuffer(bytes.fromhex(sha256), np.uint8)
    if offset is not None and pixels is not None:
        found.pixels[row] = np.frombuffer(bytes.fromhex(pixels), np.uint8)
        found.looks[row] = look
        found.part[row], found.offset[row] = number, offset
        found.sizes[row] = height, width
        found.original_sizes[row] = original_height, original_width
        found.notes[row] = tuple(notes.split("; ")) if notes else ()


def _is_of_another(notes: str | None, scales: Mapping[str, Scale]) -> bool:
    """Returns whether an image was decoded by another scale than that of its type."""
    for note in notes.split("; ") if notes else ():
        if note.startswith("scale "):
            wanted = scales.get(ANY, scales.get(note.split()[1]))
            return wanted is not None and note != scale_note(note.split()[1], wanted)
    return False


def _rules(decoder: str) -> str:
    """Returns the part of `decoder_versions` that tells the rules of our decoder."""
    return next((own for own in decoder.split(", ") if "decoder" in own), "")


def _whole_parts(
    folder: pathlib.Path, damaged: dict[str, str], *, keep: bool
) -> Iterator[tuple[int, pa.Table, dict[str, Any]]]:
    """Yields number, table and facts of each complete part; notes the damaged ones."""
    for path in files.list_folder(folder, pattern="part_*.parquet"):
        pixels = path.with_suffix(".bin")
        try:
            number = int(path.stem.removeprefix("part_"))
            table = files.read_parquet(path)
            facts = json.loads((table.schema.metadata or {}).get(METADATA, b"0"))
            columns = [
                name
                for name in SCHEMA.names
                if name in table.column_names or name not in (*_ADDED, NOTES)
            ]
            known = pa.schema(map(SCHEMA.field, columns), table.schema.metadata)
            table = table.select(columns).cast(known)
            if fault := integrity.table_fault(table, facts):
                damaged[path.name] = fault
            elif files.size(pixels) != facts["bytes"]:
                damaged[pixels.name] = "it has another length than its table says"
            # Hashes must not be computed from other pixels.
            elif not set(_ADDED) <= set(columns) and not integrity.is_whole(
                pixels, facts["sha256"]
            ):
                damaged[pixels.name] = integrity.FALSE_SUM
            else:
                yield number, _with_hashes(table, path, keep=keep), facts
        except KeyError as error:
            damaged[path.name] = f"it has no column {error}"
        except (DamagedFileError, pa.ArrowException, OSError, ValueError) as error:
            damaged[path.name] = files.reason(error)


def _with_hashes(table: pa.Table, path: pathlib.Path, *, keep: bool) -> pa.Table:
    """Returns a part's table with all columns, computing those that are missing."""
    if NOTES not in table.column_names:
        table = table.append_column(NOTES, pa.nulls(len(table), pa.string()))
    if set(_ADDED) <= set(table.column_names):
        return table.select(SCHEMA.names)
    found: dict[str, list[Any]] = {name: [] for name in _ADDED}
    stored = files.map_bytes(path.with_suffix(".bin"))
    for offset, height, width in zip(
        *(table[name].to_pylist() for name in ("offset", "height", "width")),
        strict=True,
    ):
        image = None if offset is None else _cut(stored, offset, height, width)
        found["pixels"].append(None if image is None else pixel_hash(image))
        found["look"].append(None if image is None else perceptual_hash(image))
    for name, values in found.items():
        table = table.append_column(
            SCHEMA.field(name), pa.array(values, SCHEMA.field(name).type)
        )
    table = table.select(SCHEMA.names)
    if keep:
        with contextlib.suppress(UserError):  # a cache that can only be read
            files.write_parquet(path, table)
    return table


def _cut(stored: memoryview, offset: int, height: int, width: int) -> np.ndarray:
    pixels = np.frombuffer(stored, np.uint8, height * width * 3, offset)
    return pixels.reshape(height, width, 3)


class PreparedSource:
    """The usable files of a listing, in its order, read from a prepared cache.

    A key is ``name/path:content``, where content is the first 16 hexadecimal digits of
    the file's SHA-256. Images are read-only views of memory maps.

    Attributes:
      name: name of the source, the first part of its keys.
      labels: ``[records, …]`` as in the listing; None without labels.
      quarantined: path (as `safe_text`) of each unusable file of the listing, and why
        it cannot be used; empty for a subset.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        listing: Listing,
        found: Found,
        *,
        name: str,
        quarantined: Sequence[tuple[str, str]] = (),
    ):
        """Takes the result of `find`; opens nothing yet."""
        self.name = name
        self.quarantined = list(quarantined)
        self._folder, self._listing, self._found = folder, listing, found
        # Row of the listing of each record.
        self._rows = np.array(
            [row for row, status in enumerate(found.status) if status == "ok"], np.int64
        )
        self.labels = None if listing.labels is None else listing.labels[self._rows]
        self._pixels = functools.lru_cache(MAX_OPEN_PARTS)(self._open)

    @property
    def parts(self) -> np.ndarray | None:
        """The part of the dataset that each record is for, if the listing says so."""
        return None if self._listing.parts is None else self._listing.parts[self._rows]

    @property
    def scales(self) -> dict[str, Scale]:
        """The scales of the images that were decoded by one; see `Decoding`."""
        noted = {note for row in self._rows for note in self._found.notes[row]}
        words = [note.split() for note in sorted(noted) if note.startswith("scale ")]
        return {kind: (float(black), float(white)) for _, kind, black, white in words}

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, index: int) -> str:
        """See `Source`."""
        content = self._found.sha256[self._rows[index], :8].tobytes().hex()
        return f"{self.name}/{safe_text(self.path(index))}:{content}"

    def path(self, index: int) -> str:
        """Returns the path of a record's file in the listing."""
        return self._listing.paths[self._rows[index]]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over keys, cached sizes and labels."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            digest.update(self.key(index).encode() + b"\0")
        digest.update(self._found.sizes[self._rows].astype("<i4").tobytes())
        if self.labels is not None:
            digest.update(bytes_of(self.labels))
        if self.scales:
            digest.update(json.dumps(self.scales, sort_keys=True).encode())
        return digest.hexdigest()

    @property
    def sha256(self) -> list[str]:
        """The SHA-256 of each record's file, in hexadecimal."""
        return [content.tobytes().hex() for content in self._found.sha256[self._rows]]

    @property
    def pixel_hashes(self) -> list[str]:
        """The `pixel_hash` of each cached image."""
        return [pixels.tobytes().hex() for pixels in self._found.pixels[self._rows]]

    @property
    def looks(self) -> np.ndarray:
        """The `perceptual_hash` of each cached image: uint64 ``[records]``."""
        return self._found.looks[self._rows]

    @property
    def original_sizes(self) -> np.ndarray:
        """Height and width of each image in its file: int32 ``[records, 2]``."""
        return self._found.original_sizes[self._rows]

    def read(self, indices: Sequence[int]) -> Examples:
        """See `Source`; the images are read-only.

        Raises:
          UserError: a part is damaged, or was removed after the cache was opened.
        """
        places = np.asarray(indices, np.int64)
        images: list[np.ndarray | None] = [
            self._image(row) for row in self._rows[places]
        ]
        labels = None if self.labels is None else self.labels[places]
        return Examples(images, ["ok"] * len(images), labels)

    def subset(self, indices: np.ndarray, *, labeled: bool = True) -> "PreparedSource":
        """Returns a subset of the records, without labels unless `labeled`."""
        part = copy.copy(self)
        indices = np.asarray(indices, np.int64)
        part._rows = self._rows[indices]
        part.labels = None
        if labeled and self.labels is not None:
            part.labels = self.labels[indices]
        part.quarantined = []
        return part

    def _image(self, row: int) -> np.ndarray:
        height, width = self._found.sizes[row].tolist()
        part, offset = int(self._found.part[row]), int(self._found.offset[row])
        return _cut(self._pixels(part), offset, height, width)

    def _open(self, number: int) -> memoryview:
        path, _ = part_paths(self._folder, number)
        try:
            if not integrity.is_whole(path, self._found.parts[number]):
                raise DamagedFileError("", integrity.FALSE_SUM)
            return files.map_bytes(path)
        except (DamagedFileError, OSError) as error:
            raise UserError(
                f"'{path}' can no longer be read ({files.reason(error)}): run the same"
                " command again, which prepares what is missing"
            ) from error
