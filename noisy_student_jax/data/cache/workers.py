"""Processes that read and decode image files and write parts of a cache.

Decoders are C code that reads untrusted files, so each worker is a process of its own:
a crash ends only that worker. A worker reports each file before reading it, which
identifies the file that crashed it.
"""

import collections
import contextlib
import hashlib
import importlib.metadata
import itertools
import json
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import pathlib
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from noisy_student_jax.core import files, registry
from noisy_student_jax.core.console import Progress
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.data.cache.listing import Listing
from noisy_student_jax.data.cache.read import (
    METADATA,
    SCHEMA,
    UNSCALED,
    part_paths,
    pixel_hash,
)
from noisy_student_jax.data.cache.walk import File, safe_text
from noisy_student_jax.images.decode import (
    VERSION,
    Decoded,
    Decoding,
    UndecodableImageError,
    UnscaledError,
    read,
)
from noisy_student_jax.images.perceptual import perceptual_hash

FILES_PER_PART = 512
BYTES_PER_PART = 128 * 2**20
CRASHED = "crashed the decoder"
DECODE = "noisy_student_jax.images.decode:decoded"
# Starting a process takes as long as decoding a few photographs.
_FILES_WORTH_A_WORKER = 16
_LISTEN_SECONDS = 0.2


class _Recipe(NamedTuple):
    """Settings that are sent to a worker once."""

    folder: pathlib.Path
    root: pathlib.Path
    side: int
    decoding: Decoding
    bytes_per_part: int
    decode: str
    decoder: str


class _Outcome(NamedTuple):
    """The number of files that a part consumed, and why some could not be read."""

    taken: int
    unread: dict[int, str]


def decoder_versions() -> str:
    """Returns the decoders' versions: another version may decode other files."""
    versions = [f"decoder {VERSION}"]
    for package in ("pillow", "pillow-heif"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    return ", ".join(versions)


class PartWriters:
    """Writes the parts that a cache lacks, in several processes."""

    def __init__(
        self,
        listing: Listing,
        rows: Sequence[int],
        folder: pathlib.Path,
        *,
        side: int,
        decoding: Decoding,
        decoder: str,
        processes: int,
        taken: set[int],
        interruption: Interruption,
        progress: Progress,
    ):
        """Starts nothing yet.

        Args:
          listing: the files.
          rows: rows of the listing that the cache lacks.
          folder: the cache.
          side: shorter side of cached images, in pixels.
          decoding: how they are decoded.
          decoder: `decoder_versions`, stored with the parts.
          processes: largest number of processes.
          taken: numbers of the existing parts.
          interruption: polled several times a second.
          progress: updated with each file.
        """
        self._listing = listing
        self._recipe = _Recipe(
            folder, listing.root, side, decoding, BYTES_PER_PART, DECODE, decoder
        )
        self._most = min(processes, -(-len(rows) // _FILES_WORTH_A_WORKER))
        self._numbers = (n for n in itertools.count() if n not in taken)
        size = min(FILES_PER_PART, -(-len(rows) // self._most))
        self._waiting = collections.deque(
            list(rows[start : start + size]) for start in range(0, len(rows), size)
        )
        self._workers: list[_Worker] = []
        self._unread: dict[int, str] = {}
        self._done = len(listing) - len(rows)
        self._interruption, self._progress = interruption, progress

    def run(self) -> dict[int, str]:
        """Writes all parts; if interrupted, those of the files read so far.

        Returns:
          Reasons by row for files that are in no part: they could not be read or
          crashed the decoder. The next run retries them.

        Raises:
          Interrupted: a stop was requested.
          UserError: the cache cannot be written.
        """
        self._progress.start(len(self._listing), "files", at=self._done)
        stopping = False
        try:
            while self._busy() or (self._waiting and not stopping):
                if not stopping and self._interruption.requested:
                    stopping = True
                    for worker in self._busy():
                        worker.stop()
                if not stopping:
                    self._deal()
                for worker in _heard(self._busy()):
                    self._hear(worker)
                begun = sum(worker.begun or 0 for worker in self._busy())
                self._progress.update(self._done + begun)
        finally:
            for worker in self._workers:
                worker.end()
            files.remove_unfinished(self._recipe.folder)
        self._interruption.check()
        return self._unread

    def _busy(self) -> list["_Worker"]:
        return [worker for worker in self._workers if worker.rows]

    def _deal(self) -> None:
        """Gives idle workers files to read, and starts workers up to the limit."""
        idle = [worker for worker in self._workers if not worker.rows]
        while self._waiting and (idle or len(self._workers) < self._most):
            if idle:
                worker = idle.pop()
            else:
                worker = _Worker(self._recipe)
                self._workers.append(worker)
            rows = self._waiting.popleft()
            entries = [
                File(
                    self._listing.paths[row],
                    int(self._listing.sizes[row]),
                    int(self._listing.modified[row]),
                )
                for row in rows
            ]
            worker.begin(next(self._numbers), rows, entries)

    def _hear(self, worker: "_Worker") -> None:
        try:
            message = worker.connection.recv()
        except (EOFError, ConnectionError):
            self._bury(worker)
            return
        if isinstance(message, Exception):
            raise message
        if isinstance(message, int):
            worker.begun = message
            return
        rows, worker.rows = worker.rows, []
        self._done += message.taken
        for position, reason in message.unread.items():
            self._unread[rows[position]] = reason
        if rest := rows[message.taken :]:
            self._waiting.appendleft(rest)

    def _bury(self, worker: "_Worker") -> None:
        """Removes a dead worker, and isolates the file that it was reading."""
        self._workers.remove(worker)
        status = worker.end()
        if self._interruption.requested:
            return  # stopped on request; its files are read next time
        if worker.begun is None:
            raise UserError(
                "a process that reads images ended before it read any (exit status"
                f" {status}): run the same command again, with more memory or fewer"
                " processes (config.data.workers)"
            )
        suspect = worker.rows[worker.begun]
        others = [row for row in worker.rows if row != suspect]
        if others:
            # It may have run out of memory: the suspect is retried alone.
            self._waiting.extend([[suspect], others])
        else:
            self._unread[suspect] = CRASHED
            self._done += 1


class _Worker:
    """A process that writes one part at a time.

    Attributes:
      connection: pipe to the process.
      rows: rows of the current part; empty while idle.
      begun: position in `rows` of the current file; None before the first.
    """

    def __init__(self, recipe: _Recipe):
        spawn = multiprocessing.get_context("spawn")
        self.connection, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_work, args=(theirs, recipe), daemon=True)
        with _signals_held():
            self._process.start()
        theirs.close()
        self.rows: list[int] = []
        self.begun: int | None = None

    def begin(self, number: int, rows: list[int], entries: list[File]) -> None:
        self.rows, self.begun = rows, None
        with contextlib.suppress(BrokenPipeError):  # dead: `_hear` notices
            self.connection.send((number, entries))

    def stop(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(None)

    def end(self) -> int | None:
        """Kills the process if it runs; returns its exit status."""
        self._process.kill()
        self._process.join()
        self.connection.close()
        return self._process.exitcode


def _heard(workers: list[_Worker]) -> list[_Worker]:
    """Waits briefly; returns the workers that sent a message or died."""
    ready = multiprocessing.connection.wait(
        [worker.connection for worker in workers], _LISTEN_SECONDS
    )
    return [worker for worker in workers if worker.connection in ready]


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Blocks SIGINT and SIGTERM in processes that are started inside.

    Terminals send Ctrl-C, and some schedulers SIGTERM, to all processes at once; the
    parent decides how a worker stops.
    """
    # Starting Python's resource tracker later would unblock the signals.
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(connection: multiprocessing.connection.Connection, recipe: _Recipe) -> None:
    """Writes parts until the parent says stop or is gone."""
    with contextlib.suppress(EOFError, ConnectionError):
        try:
            decode = registry.find(recipe.decode, {}, "decoder")
            while (task := connection.recv()) is not None:
                number, entries = task
                connection.send(
                    _write_part(connection, number, entries, recipe, decode)
                )
        except (EOFError, ConnectionError):
            raise
        except Exception as error:
            error.add_note(traceback.format_exc())
            connection.send(error)


def _write_part(
    connection: multiprocessing.connection.Connection,
    number: int,
    entries: list[File],
    recipe: _Recipe,
    decode: Callable[..., Decoded],
) -> _Outcome:
    """Writes a part of as many files as fit, or fewer if the parent says stop."""
    pixels_path, table_path = part_paths(recipe.folder, number)
    records: list[dict[str, Any]] = []
    unread: dict[int, str] = {}
    length, digest = 0, hashlib.sha256()
    with files.atomic_file(pixels_path) as pixels:
        # A damaged part's table must not describe the new pixels.
        files.remove(table_path)
        for position, entry in enumerate(entries):
            if connection.poll() or length >= recipe.bytes_per_part:
                break
            connection.send(position)
            try:
                data = read(recipe.root / entry.path)
            except UndecodableImageError as error:
                unread[position] = str(error)
                continue
            record, image = _read(data, entry, recipe, decode)
            records.append(record)
            if image is not None:
                record["offset"] = length
                content = np.ascontiguousarray(image).data
                pixels.write(content)
                digest.update(content)
                length += content.nbytes
    if records:
        facts = {
            "bytes": length,
            "sha256": digest.hexdigest(),
            "decoder": recipe.decoder,
        }
        schema = SCHEMA.with_metadata({METADATA: json.dumps(facts)})
        files.write_parquet(table_path, pa.Table.from_pylist(records, schema))
    else:
        files.remove(pixels_path)
    return _Outcome(len(records) + len(unread), unread)


def _read(
    data: bytes, entry: File, recipe: _Recipe, decode: Callable[..., Decoded]
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Decodes a file; returns its row of the table, and its pixels or None."""
    record = {
        "path": safe_text(entry.path),
        "size": entry.size,
        "modified": entry.modified,
        "status": "ok",
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    try:
        found = decode(data, shorter_side=recipe.side, decoding=recipe.decoding)
    except UnscaledError as error:
        seen = [error.kind, error.lowest, error.highest]
        return record | {"status": UNSCALED + json.dumps(seen)}, None
    except UndecodableImageError as error:
        return record | {"status": str(error)}, None
    record["original_height"], record["original_width"] = found.original_size
    record["height"], record["width"], _ = found.pixels.shape
    record["notes"] = "; ".join(found.notes)
    record["pixels"] = pixel_hash(found.pixels)
    record["look"] = perceptual_hash(found.pixels)
    return record, found.pixels
