"""Preparing: each file of a listing is read once, checked, and kept as uint8 pixels.

From then on everything reads the cache: nothing is decoded again, and no file is a
surprise in the middle of a run. What cannot be used is named in ``quarantine.csv``.
"""

import csv
import dataclasses
import io
import os
import pathlib

import numpy as np

from noisy_student_jax.core import files, unusable
from noisy_student_jax.core.console import Progress, printable
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.data.cache.listing import (
    MISSING,
    NOT_REGULAR,
    Listing,
    safe_text,
)
from noisy_student_jax.data.cache.read import Found, PreparedSource, find
from noisy_student_jax.data.cache.workers import PartWriters, decoder_versions
from noisy_student_jax.images.decode import MAX_BYTES

FORMAT = 1
MANIFEST = "prepare.json"
QUARANTINE = "quarantine.csv"
# Pixels are at most so many times larger than the file; only to warn of full disks.
_LARGEST_EXPANSION = 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """How files are prepared.

    Attributes:
      side: shorter side that is kept, in pixels; smaller images stay as they are.
      max_quarantined: fraction of the files that may be unusable.
      workers: processes; None for one per visible core.
    """

    side: int
    max_quarantined: float = 0.05
    workers: int | None = None


def prepare(
    listing: Listing,
    folder: str | os.PathLike,
    options: PrepareOptions,
    *,
    name: str,
    interruption: Interruption,
    progress: Progress,
) -> PreparedSource:
    """Brings a cache up to a listing, and opens it.

    Files are known by path, size and time of change: only new and changed ones are
    read, as are those that could not be read before. What was prepared of others stays.

    Args:
      listing: of the files.
      folder: of the cache, made if need be; one for each listing.
      options: how.
      name: of the source, the first part of its keys.
      interruption: when it is asked to stop, what has been read is kept.
      progress: told of each file.

    Raises:
      Interrupted: asked to stop; the same call goes on.
      UserError: the cache is of another kind or cannot be written, or too many files
        cannot be used.
    """
    folder = pathlib.Path(folder).absolute()
    interruption.check()
    _open_cache(folder, options.side)
    decoder = decoder_versions()
    found = find(folder, listing, decoder=decoder)
    unread = _never_read(listing)
    rows = _still_to_read(found, unread)
    if rows:
        _check_room(folder, listing.sizes[rows], options.side)
        writers = PartWriters(
            listing,
            rows,
            folder,
            side=options.side,
            decoder=decoder,
            processes=options.workers or len(os.sched_getaffinity(0)),
            taken=found.parts,
            interruption=interruption,
            progress=progress,
        )
        unread |= writers.run()
        found = find(folder, listing, decoder=decoder)
    source = _open(folder, listing, found, unread, name)
    _write_quarantine(folder / QUARANTINE, source.quarantined)
    unusable.tell(
        source.quarantined,
        len(listing),
        f"files in '{printable(str(listing.root))}'",
        most=options.max_quarantined,
        listed=folder / QUARANTINE,
    )
    return source


def open_prepared(
    listing: Listing,
    folder: str | os.PathLike,
    options: PrepareOptions,
    *,
    name: str,
) -> PreparedSource | None:
    """Opens a cache that holds all of a listing already; reads and writes no image.

    Args:
      listing: of the files.
      folder: of the cache.
      options: how they were to be prepared.
      name: of the source.

    Returns:
      What `prepare` would; None if it would have something to do.

    Raises:
      UserError: the cache is of another kind.
    """
    folder = pathlib.Path(folder).absolute()
    if not files.is_file(folder / MANIFEST):
        return None
    _check_kind(folder, options.side)
    found = find(folder, listing, decoder=decoder_versions())
    unread = _never_read(listing)
    reasons = _known_quarantine(folder / QUARANTINE)
    for row in _still_to_read(found, unread):
        reason = reasons.get(safe_text(listing.paths[row]))
        if reason is None:
            return None
        unread[row] = reason
    return _open(folder, listing, found, unread, name)


def _open_cache(folder: pathlib.Path, side: int) -> None:
    """Makes a new cache, or makes sure that the one that is there is of our kind."""
    try:
        if files.is_file(folder / MANIFEST):
            _check_kind(folder, side)
            files.remove_unfinished(folder)
            return
    except OSError as error:
        raise files.not_written(folder, error) from error
    files.remove_unfinished(folder)
    files.check_free(folder)
    versions = {"format": FORMAT, "side": side, "decoder": decoder_versions()}
    files.write_json(folder / MANIFEST, versions)


def _check_kind(folder: pathlib.Path, side: int) -> None:
    there = files.read_json(folder / MANIFEST)
    for field, wanted in (("format", FORMAT), ("side", side)):
        if there.get(field) != wanted:
            raise UserError(
                f"'{folder}' holds images prepared with {field} {there.get(field)},"
                f" and {field} {wanted} is needed: give another folder, or move it"
                " away to have them prepared again"
            )


def _never_read(listing: Listing) -> dict[int, str]:
    """Returns why, by row, of the files that are not even opened."""
    reasons = {
        row: "no such file" if listing.sizes[row] == MISSING else "not a regular file"
        for row in np.flatnonzero(
            np.isin(listing.sizes, [MISSING, NOT_REGULAR])
        ).tolist()
    }
    for row in np.flatnonzero(listing.sizes > MAX_BYTES).tolist():
        reasons[row] = f"{listing.sizes[row]:,} bytes, more than {MAX_BYTES:,}"
    return reasons


def _still_to_read(found: Found, never_read: dict[int, str]) -> list[int]:
    return [
        row
        for row, status in enumerate(found.status)
        if status is None and row not in never_read
    ]


def _check_room(folder: pathlib.Path, sizes: np.ndarray, side: int) -> None:
    """Refuses to begin what surely cannot end."""
    need = int(np.minimum(sizes * _LARGEST_EXPANSION, side * side * 4).sum())
    free = files.free_space(folder)
    if need > free:
        raise UserError(
            f"preparing {len(sizes):,} images takes up to {need / 1e9:.3g} GB in"
            f" '{folder}', where {free / 1e9:.3g} GB are free: make room, give another"
            " folder, or prepare at a smaller side"
        )


def _open(
    folder: pathlib.Path,
    listing: Listing,
    found: Found,
    unread: dict[int, str],
    name: str,
) -> PreparedSource:
    reasons = unread | {
        row: status
        for row, status in enumerate(found.status)
        if status not in (None, "ok")
    }
    quarantined = [
        (safe_text(listing.paths[row]), reasons[row]) for row in sorted(reasons)
    ]
    source = PreparedSource(folder, listing, found, name=name, quarantined=quarantined)
    assert len(source) + len(quarantined) == len(listing), "a file is not accounted for"
    return source


def _write_quarantine(path: pathlib.Path, quarantined: list[tuple[str, str]]) -> None:
    if not quarantined:
        files.remove(path)
        return
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("path", "reason"), *quarantined])
    files.write_atomically(path, text.getvalue())


def _known_quarantine(path: pathlib.Path) -> dict[str, str]:
    try:
        text = files.read_bytes(path).decode("utf-8", errors="replace")
    except FileNotFoundError:
        return {}
    rows = csv.DictReader(io.StringIO(text, newline=""))
    known = ((row.get("path"), row.get("reason")) for row in rows)
    return {path: reason for path, reason in known if path and reason}
