"""File access of a run: reading, writing, listing, moving and locking.

Other modules pass paths and leave file access to the functions here, so another
storage backend would only replace this module. Writes are atomic: a file is complete
or absent. Unreadable files are reported in one sentence.
"""

import contextlib
import errno
import fcntl
import fnmatch
import functools
import hashlib
import json
import mmap
import os
import pathlib
import shutil
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load_file

from noisy_student_jax.core import summed
from noisy_student_jax.core.errors import (
    DamagedFileError,
    FullDiskError,
    UserError,
    cause,
)

LOCK = ".lock"
"""The lock file that a process holds while it works in a folder."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of writes for which there was no room."""
_LOCK_SECONDS = 0.2
_UNFINISHED = ".*.tmp"
"""Pattern of the temporary files of interrupted writes."""


def exists(path: pathlib.Path) -> bool:
    """Returns whether a file or folder exists."""
    return path.exists()


def is_file(path: pathlib.Path) -> bool:
    """Returns whether a path is a file."""
    return path.is_file()


def is_folder(path: pathlib.Path) -> bool:
    """Returns whether a path is a folder."""
    return path.is_dir()


def size(path: pathlib.Path) -> int:
    """Returns the size of a file in bytes."""
    return path.stat().st_size


def identity(path: pathlib.Path) -> tuple[int, ...]:
    """Returns a value that changes when a file is replaced or modified."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def list_folder(folder: pathlib.Path, *, pattern: str = "*") -> list[pathlib.Path]:
    """Lists the direct contents of a folder; empty if it does not exist.

    Args:
      folder: the folder.
      pattern: a shell pattern that names must match.

    Returns:
      Paths of files and folders, sorted.
    """
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if fnmatch.fnmatchcase(p.name, pattern))


def free_space(folder: pathlib.Path) -> int:
    """Returns the free space of the disk that holds a folder, in bytes."""
    return shutil.disk_usage(folder).free


def read_bytes(path: pathlib.Path) -> bytes:
    """Reads a whole file."""
    return path.read_bytes()


def read_text(path: pathlib.Path) -> str:
    """Reads a whole UTF-8 file, with its line endings unchanged.

    Raises:
      DamagedFileError: it is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(path, "text", error) from error


_OTHER_MARKS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


def read_foreign_text(path: pathlib.Path) -> str:
    """Reads a user's text file: UTF-8, with or without a byte order mark.

    Returns:
      The text without the mark, with its line endings unchanged.

    Raises:
      UserError: the file cannot be read, or is not UTF-8.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"'{path}' cannot be read: it is not there") from None
    except OSError as error:
        raise UserError(
            f"'{path}' cannot be read ({error.strerror}): grant access to it, or give"
            " another file"
        ) from error
    for mark, encoding in _OTHER_MARKS.items():
        if data.startswith(mark):
            raise UserError(f"'{path}' is {encoding} text: save it as UTF-8")
    zeros = data[:64].count(0)
    if zeros and zeros >= len(data[:64]) // 3:
        raise UserError(
            f"'{path}' is UTF-16 or no text at all, as it is full of zero bytes: save"
            " it as UTF-8"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"'{path}' is not UTF-8 text (line {line} has a byte 0x"
            f"{data[error.start]:02x} that is none): save it as UTF-8"
        ) from None


def read_json(path: pathlib.Path) -> Any:
    """Reads JSON; an object with a sum (`write_json`) is returned without it.

    Raises:
      DamagedFileError: the file is not JSON, or does not match its sum.
    """
    try:
        found = json.loads(
            path.read_bytes().decode("utf-8"),
            object_pairs_hook=_fields,
            parse_constant=_no_number,
        )
        return summed.without_sum(found) if isinstance(found, dict) else found
    # Too many digits are a ValueError of another kind than JSON's own.
    except ValueError as error:
        raise _damaged(path, "JSON", error) from error
    except RecursionError as error:
        deep = ValueError("it is nested too deeply")
        raise _damaged(path, "JSON", deep) from error


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(
            name for i, (name, _) in enumerate(pairs) if name in dict(pairs[:i])
        )
        raise ValueError(f"field '{twice}' is there twice")
    return fields


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not a number in JSON")


def read_parquet(
    path: pathlib.Path, *, columns: Sequence[str] | None = None
) -> pa.Table:
    """Reads a table with the metadata of its schema.

    Args:
      path: one Parquet file; ``=`` in its name has no special meaning.
      columns: the columns to read, in this order; all if None.

    Raises:
      FileNotFoundError: the file does not exist.
      DamagedFileError: the file is not Parquet, does not match its sum, or lacks one of
        `columns`.
    """
    names = None if columns is None else list(columns)
    # One open file: what is checked is what is read, whatever takes its name meanwhile.
    with _reading_parquet(path), path.open("rb") as opened:
        _check_whole(opened)
        with pq.ParquetFile(opened, pre_buffer=False) as file:
            table = file.read(names)
        table = table if names is None else table.select(names)
        return table.cast(summed.without_parquet_sum(table.schema))


@contextlib.contextmanager
def open_parquet(path: pathlib.Path) -> Iterator[pq.ParquetFile]:
    """Opens a Parquet file for reading in pieces.

    Args:
      path: the file.

    Yields:
      The open file; only the pages in use are in memory.

    Raises:
      FileNotFoundError: the file does not exist.
      DamagedFileError: it cannot be read, now or later in the context, or does not
        match its sum, which is checked once.
    """
    with _reading_parquet(path):
        _check_once(path, identity(path))
        with pq.ParquetFile(path, pre_buffer=False) as file:
            yield file


@functools.lru_cache(maxsize=1 << 16)
def _check_once(path: pathlib.Path, unchanged: tuple[int, ...]) -> None:
    del unchanged
    with path.open("rb") as file:
        _check_whole(file)


def _check_whole(file: BinaryIO) -> None:
    if not summed.parquet_is_whole(file):
        raise pa.ArrowInvalid("its bytes do not match the SHA-256 in it")


@contextlib.contextmanager
def _reading_parquet(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, KeyError) as error:
        raise _damaged(path, "Parquet", error) from error


def read_array(path: pathlib.Path) -> np.ndarray:
    """Reads the array in a ``.npy`` file.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFileError: it cannot be read.
    """
    with _reading_numpy(path):
        return np.load(path, allow_pickle=False)


def map_array(path: pathlib.Path) -> np.ndarray:
    """Maps the array in a ``.npy`` file into memory, read-only.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFileError: it cannot be read.
    """
    with _reading_numpy(path):
        return np.load(path, mmap_mode="r", allow_pickle=False)


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the arrays in an ``.npz`` file, by name.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFileError: it cannot be read.
    """
    # NumPy does not close a file that it opened itself if it is not an archive.
    with _reading_numpy(path), path.open("rb") as file:
        return dict(np.load(file, allow_pickle=False))


@contextlib.contextmanager
def _reading_numpy(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise _damaged(path, "NumPy", error) from error
    # Parsers of headers and archives raise anything: tokenize.TokenError, zlib.error.
    except Exception as error:
        raise _damaged(path, "NumPy", ValueError("damaged")) from error


def read_tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the tensors in a safetensors file, by name.

    Raises:
      DamagedFileError: it cannot be read.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise _damaged(path, "safetensors", error) from error


def map_bytes(path: pathlib.Path) -> memoryview:
    """Maps a non-empty file into memory, read-only.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFileError: it cannot be read, or is empty.
    """
    try:
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise _damaged(path, "data", error) from error


def reason(error: Exception) -> str:
    """Returns the cause of a read error in a few words, for use in a message."""
    return cause(error)


def _damaged(path: pathlib.Path, kind: str, error: Exception) -> DamagedFileError:
    why = reason(error)
    return DamagedFileError(
        f"'{path}' is not readable {kind} ({why}): restore it, or move it away to"
        " have it made again",
        why,
    )


def write_atomically(path: pathlib.Path, data: str | bytes) -> None:
    """Writes a file atomically.

    Raises:
      UserError: the path is not writable.
    """
    with atomic_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def sync(path: pathlib.Path) -> None:
    """Flushes a file or directory to disk (``fsync``).

    Args:
      path: an existing file or directory.
    """
    if os.name != "posix" and path.is_dir():
        return  # directories cannot be opened on such systems
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def not_written(path: pathlib.Path, error: OSError) -> UserError:
    """Returns the error to raise for a path that could not be written.

    Args:
      path: file or directory.
      error: the system's error.
    """
    why = error.strerror or error
    if error.errno in FULL:
        return FullDiskError(
            f"could not write {path} ({why}); make room there, or choose another"
            " directory"
        )
    return UserError(
        f"could not write {path} ({why}); grant access there, or choose another"
        " directory"
    )


def check_free(output: pathlib.Path) -> None:
    """Checks that writing a directory would overwrite nothing.

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
def atomic_file(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Opens a temporary file that becomes `path` on success.

    Args:
      path: the final file; its directory is created if necessary.

    Yields:
      The file, open for writing.

    Raises:
      UserError: the path is not writable.
    """
    temporary = _temporary(path)
    try:
        with new_file(temporary) as file:
            yield file
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise not_written(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_file(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Opens a new file in an `atomic_directory`, flushed to disk on success.

    Args:
      path: the file; its directory is created if necessary.

    Yields:
      The file, open for writing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def atomic_directory(output: pathlib.Path) -> Iterator[pathlib.Path]:
    """Creates a temporary directory that becomes `output` on success.

    Args:
      output: the final directory; it may exist if it is empty.

    Yields:
      A new directory beside it.

    Raises:
      UserError: the path is not writable, or `output` is no longer empty.
    """
    temporary = _temporary(output)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for path in [*temporary.rglob("*"), temporary]:
            sync(path)
        check_free(output)
        if output.exists():
            output.rmdir()  # it is empty; else this raises
        temporary.rename(output)
        sync(output.parent)
    except OSError as error:
        raise not_written(output, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: pathlib.Path, value: Any, *, with_sum: bool = False) -> None:
    """Writes indented JSON atomically, with keys in the given order.

    Args:
      path: the final file.
      value: its contents.
      with_sum: whether to add a sum, which `read_json` checks; for objects only.
    """
    if with_sum:
        value = summed.with_sum(value)
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def remove_unfinished(folder: pathlib.Path) -> None:
    """Removes the temporary files that interrupted writes left in a folder."""
    for path in list_folder(folder, pattern=_UNFINISHED):
        remove(path)


def _temporary(path: pathlib.Path) -> pathlib.Path:
    """Returns a name beside `path` for the unfinished file."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def sha256(path: pathlib.Path) -> str:
    """Returns the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Returns the SHA-256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def tree_hashes(root: pathlib.Path, paths: list[str]) -> dict[str, str]:
    """Hashes files, and all files below folders.

    Args:
      root: the folder that the paths are relative to.
      paths: files and folders below it.

    Returns:
      SHA-256 by path relative to `root`, sorted.
    """
    found = {}
    for path in paths:
        whole = root / path
        members = sorted(whole.rglob("*")) if whole.is_dir() else [whole]
        for member in members:
            # Names with a leading dot belong to interrupted writes.
            if member.is_file() and not member.name.startswith("."):
                found[member.relative_to(root).as_posix()] = sha256(member)
    return dict(sorted(found.items()))


def write_parquet(
    path: pathlib.Path,
    table: pa.Table,
    *,
    row_group_size: int | None = None,
    **layout: Any,
) -> None:
    """Writes a table atomically, with a sum that is checked whenever it is read.

    Args:
      path: the final file.
      table: its contents.
      row_group_size: number of rows in a row group; None for Arrow's choice.
      **layout: see `pyarrow.parquet.ParquetWriter`.
    """
    with (
        atomic_file(path) as file,
        summed.ParquetWriter(file, table.schema, **layout) as writer,
    ):
        writer.write(table, row_group_size=row_group_size)


def write_array(path: pathlib.Path, array: np.ndarray) -> None:
    """Writes an array as ``.npy``, atomically."""
    with atomic_file(path) as file:
        np.save(file, array)


def write_arrays(path: pathlib.Path, **arrays: np.ndarray) -> None:
    """Writes arrays as ``.npz``, atomically."""
    with atomic_file(path) as file:
        # NumPy declares `allow_pickle`, which no array is called, beside the arrays.
        np.savez(file, **arrays)  # type: ignore[arg-type]


def append(path: pathlib.Path, text: str) -> None:
    """Appends text to a file, creating it if necessary.

    Raises:
      UserError: the path is not writable.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(text.encode())
    except OSError as error:
        raise not_written(path, error) from error


def copy_file(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies a file atomically."""
    with source.open("rb") as data, atomic_file(target) as file:
        shutil.copyfileobj(data, file)


def link_file(source: pathlib.Path, target: pathlib.Path) -> None:
    """Gives a file a second name, or copies it where that cannot be, atomically."""
    temporary = _temporary(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.hardlink_to(source)
        temporary.replace(target)
    except OSError:
        copy_file(source, target)
    finally:
        temporary.unlink(missing_ok=True)


def copy_folder(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies a folder with its contents, atomically.

    Raises:
      UserError: `target` exists and is not empty, or is not writable.
    """
    with atomic_directory(target) as temporary:
        shutil.copytree(source, temporary, dirs_exist_ok=True)


def move(source: pathlib.Path, target: pathlib.Path) -> None:
    """Renames a file or folder, creating the target's folder if necessary."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)


def remove(path: pathlib.Path) -> None:
    """Removes a file, or a folder with its contents, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


@contextlib.contextmanager
def lock(
    folder: pathlib.Path, *, busy: str = "", waiting: Callable[[], None] | None = None
) -> Iterator[None]:
    """Locks a folder against other processes that call this function.

    The system releases the lock when the process ends, however it ends.

    Args:
      folder: created if necessary.
      busy: the error message if another process holds the lock.
      waiting: called several times a second until the other process releases the lock;
        None to raise instead.

    Raises:
      UserError: `busy`, or the folder is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("w")
    except OSError as error:
        raise not_written(folder, error) from error
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if waiting is None:
                    raise UserError(busy) from None
            waiting()
            time.sleep(_LOCK_SECONDS)
        yield


def is_writable(folder: pathlib.Path) -> bool:
    """Returns whether files can be made in a folder; true if it does not exist."""
    return not folder.exists() or os.access(folder, os.W_OK)


def is_locked(folder: pathlib.Path) -> bool:
    """Returns whether a process holds the `lock` of a folder."""
    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, PermissionError):
        return False
    except BlockingIOError:
        return True
    return False
