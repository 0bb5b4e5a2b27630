"""Processes that read image files, decode them and write parts of a cache.

A worker is a process of its own because decoders are C code fed with strangers'
files: one that crashes takes its worker along and nothing else. The worker says which
file it begins, so that the one it died of is known.
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
from noisy_student_jax.data.cache.listing import File, Listing, safe_text
from noisy_student_jax.data.cache.read import METADATA, SCHEMA, part_paths
from noisy_student_jax.images.decode import UndecodableImageError, header, read

FILES_PER_PART = 512
BYTES_PER_PART = 128 * 2**20
CRASHED = "crashed the decoder"
DECODE = "noisy_student_jax.images.decode:decode"
# Starting a process takes as long as decoding some photographs.
_FILES_WORTH_A_WORKER = 16
_LISTEN_SECONDS = 0.2


class _Recipe(NamedTuple):
    """How parts are made: what a worker is told once."""

    folder: pathlib.Path
    root: pathlib.Path
    side: int
    bytes_per_part: int
    decode: str
    decoder: str


class _Outcome(NamedTuple):
    """Of a part: how many files it took, and why some of them could not be read."""

    taken: int
    unread: dict[int, str]


def decoder_versions() -> str:
    """Names what decodes: a file that it cannot decode, another version may."""
    versions = []
    for package in ("pillow", "pillow-heif"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    return ", ".join(versions)


class PartWriters:
    """Makes parts of the files that a cache lacks, in several processes."""

    def __init__(
        self,
        listing: Listing,
        rows: Sequence[int],
        folder: pathlib.Path,
        *,
        side: int,
        decoder: str,
        processes: int,
        taken: set[int],
        interruption: Interruption,
        progress: Progress,
    ):
        """Starts nothing yet.

        Args:
          listing: of the files.
          rows: of the listing, that are missing from the cache.
          folder: of the cache.
          side: the shorter side that is kept.
          decoder: `decoder_versions`, to be kept with the parts.
          processes: how many at most.
          taken: numbers of the parts that are there.
          interruption: asked several times a second.
          progress: told of each file.
        """
        self._listing = listing
        self._recipe = _Recipe(
            folder, listing.root, side, BYTES_PER_PART, DECODE, decoder
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
        """Writes all parts; when asked to stop, what has been read so far.

        Returns:
          Why, by row, of the files that no part tells of: they could not be read, or
          crashed the decoder, and will be tried again another time.

        Raises:
          Interrupted: asked to stop.
          UserError: the cache cannot be written to.
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
        """Gives every worker something to do, and starts those that are lacking."""
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
        """Goes on without a worker that died, and finds out of which file."""
        self._workers.remove(worker)
        status = worker.end()
        if self._interruption.requested:
            return  # no wonder, and what it was at is for the next time
        if worker.begun is None:
            raise UserError(
                "a process that reads images ended before it read any (exit status"
                f" {status}): run the same command again, with more memory or fewer"
                " processes (config.data.workers)"
            )
        suspect = worker.rows[worker.begun]
        others = [row for row in worker.rows if row != suspect]
        if others:
            # Perhaps it was memory that ran out: each is tried again, it alone.
            self._waiting.extend([[suspect], others])
        else:
            self._unread[suspect] = CRASHED
            self._done += 1


class _Worker:
    """A process that makes one part at a time.

    Attributes:
      connection: to it.
      rows: of the part it is at; empty while it waits.
      begun: position in `rows` of the file it is at; None before the first.
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
        with contextlib.suppress(BrokenPipeError):  # it is dead, as will be heard
            self.connection.send((number, entries))

    def stop(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(None)

    def end(self) -> int | None:
        """Ends the process if it has not ended; returns its exit status."""
        self._process.kill()
        self._process.join()
        self.connection.close()
        return self._process.exitcode


def _heard(workers: list[_Worker]) -> list[_Worker]:
    """Waits a moment for word of any worker; returns those that sent some, or died."""
    ready = multiprocessing.connection.wait(
        [worker.connection for worker in workers], _LISTEN_SECONDS
    )
    return [worker for worker in workers if worker.connection in ready]


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Has processes that are started here pay no heed to Ctrl-C and SIGTERM.

    A terminal sends Ctrl-C to all of them at once, and some schedulers SIGTERM: what
    a worker does about it is for us to say.
    """
    # Python's own helper process, once started, would let the signals through.
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(connection: multiprocessing.connection.Connection, recipe: _Recipe) -> None:
    """What a worker does: makes parts until it is told to stop, or left alone."""
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
    decode: Callable[..., np.ndarray],
) -> _Outcome:
    """Writes a part of as many of the files as fit, or as there is time for."""
    pixels_path, table_path = part_paths(recipe.folder, number)
    records: list[dict[str, Any]] = []
    unread: dict[int, str] = {}
    length, digest = 0, hashlib.sha256()
    with files.atomic_file(pixels_path) as pixels:
        # Of a damaged part that had this number: it must not speak for new pixels.
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
            record, image = _read(data, entry, recipe.side, decode)
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
    data: bytes, entry: File, side: int, decode: Callable[..., np.ndarray]
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Returns the row of a part's table, and the pixels if there are any."""
    record = {
        "path": safe_text(entry.path),
        "size": entry.size,
        "modified": entry.modified,
        "status": "ok",
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    try:
        image = decode(data, shorter_side=side)
        record["original_height"], record["original_width"] = header(data)
    except UndecodableImageError as error:
        return record | {"status": str(error)}, None
    record["height"], record["width"], _ = image.shape
    return record, image
