"""Prepares images: reads and checks each file once, and caches uint8 pixels.

Afterwards the cache is read instead of the files, so nothing is decoded twice and no
bad file appears in the middle of a run. ``quarantine.csv`` lists the unusable files.
"""

import collections
import csv
import dataclasses
import io
import os
import pathlib

import numpy as np

from noisy_student_jax.core import console, files, unusable
from noisy_student_jax.core.console import Progress, printable
from noisy_student_jax.core.errors import DamagedFileError, UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.data.cache import integrity
from noisy_student_jax.data.cache.listing import MISSING, NOT_REGULAR, Listing
from noisy_student_jax.data.cache.read import (
    Found,
    PreparedSource,
    find,
    part_paths,
)
from noisy_student_jax.data.cache.walk import safe_text
from noisy_student_jax.data.cache.workers import PartWriters, decoder_versions
from noisy_student_jax.images import samples
from noisy_student_jax.images.decode import DEFAULT, MAX_BYTES, Decoding
from noisy_student_jax.images.samples import Scale

FORMAT = 1
MANIFEST = "prepare.json"
QUARANTINE = "quarantine.csv"
SCALES = "scales.json"
"""The values that become black and white in this cache, by type of the samples."""
NAMED = 3
# Assumed bound on pixel bytes per file byte; used only to warn of full disks.
_LARGEST_EXPANSION = 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Options of `prepare`.

    Attributes:
      side: shorter side of cached images, in pixels; smaller images keep their size.
      max_quarantined: largest fraction of the files that may be unusable.
      workers: number of processes; None for one per visible core.
      decoding: how images are decoded.
    """

    side: int
    max_quarantined: float = 0.05
    workers: int | None = None
    decoding: Decoding = DEFAULT


def prepare(
    listing: Listing,
    folder: str | os.PathLike,
    options: PrepareOptions,
    *,
    name: str,
    interruption: Interruption,
    progress: Progress,
) -> PreparedSource:
    """Updates a cache to match a listing, and opens it.

    Files are identified by path, size and modification time. Reads only files that
    are new, changed or previously unreadable, or whose cached images are damaged (their
    parts are named); cached images of other files are kept.

    Args:
      listing: the files.
      folder: the cache, one per listing; created if missing.
      options: how to prepare.
      name: name of the source, the first part of its keys.
      interruption: polled; images read before an interruption are kept.
      progress: updated with each file.

    Raises:
      Interrupted: a stop was requested; the same call resumes.
      UserError: the cache has another format or side or cannot be written, or too many
        files are unusable.
    """
    folder = pathlib.Path(folder).absolute()
    interruption.check()
    _open_cache(folder, options.side)
    decoder = decoder_versions()
    scales = _known_scales(folder) | dict(options.decoding.scales)
    found = _find_whole(folder, listing, decoder, scales, interruption, progress)
    unread = _never_read(listing)
    while rows := _still_to_read(found, unread):
        _check_room(folder, listing.sizes[rows], options.side)
        writers = PartWriters(
            listing,
            rows,
            folder,
            side=options.side,
            decoding=dataclasses.replace(
                options.decoding, scales=scales, observes=True
            ),
            decoder=decoder,
            processes=options.workers or len(os.sched_getaffinity(0)),
            taken=set(found.parts),
            interruption=interruption,
            progress=progress,
        )
        unread |= writers.run()
        found = find(folder, listing, decoder=decoder, keep=True, scales=scales)
        if new := _observed(found, scales):
            scales |= _announced(new, name)
            files.write_json(folder / SCALES, scales, with_sum=True)
    source = _open(folder, listing, found, unread, name)
    _write_quarantine(folder / QUARANTINE, source.quarantined)
    unusable.tell(
        source.quarantined,
        len(listing),
        f"files in '{printable(str(listing.root))}'",
        most=options.max_quarantined,
        listed=folder / QUARANTINE,
    )
    _tell_notes(found, listing, name)
    if found.older:
        console.say(
            f"  {len(found.older):,} images of {name} were prepared by an earlier"
            " version, which applied no color profiles, and stay as they are: move"
            f" '{printable(str(folder))}' away to have them prepared again"
        )
    return source


def _known_scales(folder: pathlib.Path) -> dict[str, Scale]:
    """Returns the scales that a cache's images were decoded by."""
    path = folder / SCALES
    if not files.is_file(path):
        return {}
    return {
        kind: (black, white) for kind, (black, white) in files.read_json(path).items()
    }


def _observed(
    found: Found, scales: dict[str, Scale]
) -> dict[str, tuple[int, float, float]]:
    """Returns how many images wait for a scale, and their range, by type."""
    seen: dict[str, tuple[int, float, float]] = {}
    for row, (kind, lowest, highest) in found.unscaled.items():
        if found.status[row] is None and kind not in scales:
            count, low, high = seen.get(kind, (0, lowest, highest))
            seen[kind] = count + 1, min(low, lowest), max(high, highest)
    return seen


def _announced(
    seen: dict[str, tuple[int, float, float]], name: str
) -> dict[str, Scale]:
    """Returns the scales of observed ranges, and tells them."""
    scales = {}
    for kind, (count, lowest, highest) in sorted(seen.items()):
        black, white = scales[kind] = samples.observed(kind, lowest, highest)
        console.warn(
            f"{count:,} images of {name} have {kind} values, from {lowest:,g} to"
            f" {highest:,g}: {black:,g} becomes black and {white:,g} white, in all"
            " sources of the run (--config.data.scale='(BLACK,WHITE)' changes that)"
        )
    return scales


def _tell_notes(found: Found, listing: Listing, name: str) -> None:
    """Warns about usable images that may not look as they were meant to."""
    noted = collections.defaultdict(list)
    for row, notes in enumerate(found.notes):
        for note in notes:
            if note.startswith("scale "):
                continue
            noted[note].append(safe_text(listing.paths[row]))
    for note, paths in sorted(noted.items()):
        some = ", ".join(f"'{printable(path)}'" for path in paths[:NAMED])
        more = " and more" if len(paths) > NAMED else ""
        console.warn(
            f"{len(paths):,} of {len(listing):,} images of {name} {note}: {some}{more}"
        )


def _find_whole(
    folder: pathlib.Path,
    listing: Listing,
    decoder: str,
    scales: dict[str, Scale],
    interruption: Interruption,
    progress: Progress,
) -> Found:
    """Looks up a listing's files in the parts that match their sums; names the others.

    Parts without a file of the listing are not checked.
    """
    found = find(folder, listing, decoder=decoder, keep=True, scales=scales)
    rows = [row for row, status in enumerate(found.status) if status == "ok"]
    path_of = {n: part_paths(folder, n)[0] for n in set(found.part[rows].tolist())}
    bad = integrity.damaged(
        {path: found.parts[number] for number, path in path_of.items()},
        interruption=interruption,
        progress=progress,
    )
    told = found.damaged | {path.name: integrity.FALSE_SUM for path in bad}
    for name, why in told.items():
        console.warn(
            f"'{folder / name}' is damaged ({why}): its images are prepared again"
        )
    without = [number for number, path in path_of.items() if path in bad]
    if not without:
        return found
    return find(
        folder, listing, decoder=decoder, keep=True, without=without, scales=scales
    )


def open_prepared(
    listing: Listing,
    folder: str | os.PathLike,
    options: PrepareOptions,
    *,
    name: str,
) -> PreparedSource | None:
    """Opens a cache if it is complete; reads and writes no image.

    Args:
      listing: the files.
      folder: the cache.
      options: how the files were prepared.
      name: name of the source.

    Returns:
      The result of `prepare`; None if files are yet to be prepared.

    Raises:
      UserError: the cache has another format or side.
    """
    folder = pathlib.Path(folder).absolute()
    if not files.is_file(folder / MANIFEST):
        return None
    _check_kind(folder, options.side)
    scales = _known_scales(folder) | dict(options.decoding.scales)
    found = find(folder, listing, decoder=decoder_versions(), scales=scales)
    unread = _never_read(listing)
    reasons = _known_quarantine(folder / QUARANTINE)
    for row in _still_to_read(found, unread):
        reason = reasons.get(safe_text(listing.paths[row]))
        if reason is None:
            return None
        unread[row] = reason
    return _open(folder, listing, found, unread, name)


def _open_cache(folder: pathlib.Path, side: int) -> None:
    """Creates the cache, or validates the existing one."""
    try:
        if files.is_file(folder / MANIFEST):
            _check_kind(folder, side)
            if files.is_writable(folder):
                files.remove_unfinished(folder)
            return
    except OSError as error:
        raise files.not_written(folder, error) from error
    files.remove_unfinished(folder)
    files.check_free(folder)
    versions = {"format": FORMAT, "side": side, "decoder": decoder_versions()}
    files.write_json(folder / MANIFEST, versions, with_sum=True)


def _check_kind(folder: pathlib.Path, side: int) -> None:
    try:
        there = files.read_json(folder / MANIFEST)
        if not isinstance(there, dict):
            raise DamagedFileError("", "it is no object")
    except DamagedFileError as error:
        raise UserError(
            f"'{folder / MANIFEST}' is damaged ({files.reason(error)}): restore it, or"
            f" move '{folder}' away to have its images prepared again"
        ) from error
    for field, wanted in (("format", FORMAT), ("side", side)):
        if there.get(field) != wanted:
            raise UserError(
                f"'{folder}' holds images prepared with {field} {there.get(field)},"
                f" and {field} {wanted} is needed: give another folder, or move it"
                " away to have them prepared again"
            )


def _never_read(listing: Listing) -> dict[int, str]:
    """Returns the reasons, by row, for files that are never opened."""
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
    """Raises if the images may not fit on the disk."""
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
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("path", "reason"), *quarantined])
    wanted = text.getvalue() if quarantined else None
    there = (
        files.read_bytes(path).decode(errors="replace") if files.is_file(path) else None
    )
    if wanted == there:
        return  # as in a complete cache, which may be one that can only be read
    if wanted is None:
        files.remove(path)
    else:
        files.write_atomically(path, wanted)


def _known_quarantine(path: pathlib.Path) -> dict[str, str]:
    try:
        text = files.read_bytes(path).decode("utf-8", errors="replace")
    except FileNotFoundError:
        return {}
    rows = csv.DictReader(io.StringIO(text, newline=""))
    try:
        known = [(row.get("path"), row.get("reason")) for row in rows]
    except csv.Error:
        return {}  # damaged: its files count as yet to be read
    return {path: reason for path, reason in known if path and reason}
