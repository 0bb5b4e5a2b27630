"""The files of a run: everything that is read, written, listed, moved or locked.

All other modules name files by their paths and leave the rest to the functions here,
so that files kept by something else than a file system need another module of this
kind and no other change. A written file is whole or not there; a file that is there
and cannot be read is named in one sentence.
"""

import contextlib
import fcntl
import fnmatch
import hashlib
import json
import mmap
import os
import pathlib
import shutil
import uuid
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load_file

from noisy_student_jax.core.errors import DamagedFileError, UserError

LOCK = ".lock"
"""The file in a folder that a process at work there holds."""
_UNFINISHED = ".*.tmp"
"""The names of writes that were cut short."""


def exists(path: pathlib.Path) -> bool:
    """Returns whether there is a file or folder."""
    return path.exists()


def is_file(path: pathlib.Path) -> bool:
    """Returns whether there is a file."""
    return path.is_file()


def is_folder(path: pathlib.Path) -> bool:
    """Returns whether there is a folder."""
    return path.is_dir()


def size(path: pathlib.Path) -> int:
    """Returns the number of bytes in a file."""
    return path.stat().st_size


def identity(path: pathlib.Path) -> tuple[int, ...]:
    """Returns what changes when a file is replaced or written to."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def list_folder(folder: pathlib.Path, *, pattern: str = "*") -> list[pathlib.Path]:
    """Lists what is directly in a folder; nothing if there is no folder.

    Args:
      folder: the folder.
      pattern: of the names, as in a shell.

    Returns:
      Paths of files and folders, sorted.
    """
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if fnmatch.fnmatchcase(p.name, pattern))


def free_space(folder: pathlib.Path) -> int:
    """Returns how many more bytes a folder has room for."""
    return shutil.disk_usage(folder).free


def read_bytes(path: pathlib.Path) -> bytes:
    """Reads a whole file."""
    return path.read_bytes()


def read_text(path: pathlib.Path) -> str:
    """Reads a whole file of UTF-8, with its line ends as they are.

    Raises:
      DamagedFileError: it is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(path, "text", error) from error


def read_json(path: pathlib.Path) -> Any:
    """Reads JSON.

    Raises:
      DamagedFileError: the file is not JSON.
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _damaged(path, "JSON", error) from error


def read_parquet(
    path: pathlib.Path, *, columns: Sequence[str] | None = None
) -> pa.Table:
    """Reads a table with the metadata of its schema.

    Args:
      path: of one Parquet file; a name with ``=`` in it is only a name.
      columns: which columns, in this order; all if None.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFileError: the file is not Parquet, or lacks one of `columns`.
    """
    names = None if columns is None else list(columns)
    with open_parquet(path) as file:
        table = file.read(names)
        return table if names is None else table.select(names)


@contextlib.contextmanager
def open_parquet(path: pathlib.Path) -> Iterator[pq.ParquetFile]:
    """Opens a Parquet file, to be read in pieces.

    Args:
      path: of the file.

    Yields:
      The open file; of its pages only those in use are in memory.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFileError: it cannot be read, here or later in the context.
    """
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            yield file
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
    # NumPy leaves a file that it opened itself open if it is no archive.
    with _reading_numpy(path), path.open("rb") as file:
        return dict(np.load(file, allow_pickle=False))


@contextlib.contextmanager
def _reading_numpy(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _damaged(path, "NumPy", error) from error


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
    """Maps a file that is not empty into memory, read-only.

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
    """Says in a few words why a file could not be read, for a sentence of one's own."""
    text = error.reason if isinstance(error, DamagedFileError) else str(error)
    return (text.strip().splitlines() or ["damaged"])[0]


def _damaged(path: pathlib.Path, kind: str, error: Exception) -> DamagedFileError:
    why = reason(error)
    return DamagedFileError(
        f"'{path}' is not readable {kind} ({why}): restore it, or move it away to"
        " have it made again",
        why,
    )


def write_atomically(path: pathlib.Path, data: str | bytes) -> None:
    """Writes a file that is there whole or not at all.

    Raises:
      UserError: the system does not let us write there.
    """
    with atomic_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def sync(path: pathlib.Path) -> None:
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


def not_written(path: pathlib.Path, error: OSError) -> UserError:
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


def check_free(output: pathlib.Path) -> None:
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
def atomic_file(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Opens a temporary file that takes the name `path` only when all went well.

    Args:
      path: the file to be; its directory is made if need be.

    Yields:
      The file, open for writing.

    Raises:
      UserError: the system does not let us write there.
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
    """Opens a new file of an `atomic_directory`; it is on disk when all went well.

    Args:
      path: the file; its directory is made if need be.

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
    """Gives a directory to write to that becomes `output` only when all went well.

    Args:
      output: the directory to be; it may exist if it is empty.

    Yields:
      A new directory beside it.

    Raises:
      UserError: the system does not let us write there, or `output` has filled up.
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


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes JSON atomically, keys as given, readable by people."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def remove_unfinished(folder: pathlib.Path) -> None:
    """Removes what writes that were cut short left in a folder, and nothing else."""
    for path in list_folder(folder, pattern=_UNFINISHED):
        remove(path)


def _temporary(path: pathlib.Path) -> pathlib.Path:
    """Returns a name beside `path` for it while it is unfinished."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def sha256(path: pathlib.Path) -> str:
    """Returns the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Returns the SHA-256 of a JSON value, however its keys are ordered."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def tree_hashes(root: pathlib.Path, paths: list[str]) -> dict[str, str]:
    """Hashes files, and all files below folders.

    Args:
      root: what the paths are relative to.
      paths: files and folders below it.

    Returns:
      SHA-256 by path relative to `root`, sorted.
    """
    found = {}
    for path in paths:
        whole = root / path
        members = sorted(whole.rglob("*")) if whole.is_dir() else [whole]
        for member in members:
            # Names with a dot are of writes that were cut short.
            if member.is_file() and not member.name.startswith("."):
                found[member.relative_to(root).as_posix()] = sha256(member)
    return dict(sorted(found.items()))


def write_parquet(path: pathlib.Path, table: pa.Table, **layout: Any) -> None:
    """Writes a table atomically.

    Args:
      path: the file to be.
      table: what it holds.
      **layout: see `pyarrow.parquet.write_table`.
    """
    with atomic_file(path) as file:
        pq.write_table(table, file, compression="zstd", **layout)


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
    """Adds text to the end of a file, which is made if need be.

    Raises:
      UserError: the system does not let us write there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(text.encode())
    except OSError as error:
        raise not_written(path, error) from error


def copy_file(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies a file; the copy is there whole or not at all."""
    with source.open("rb") as data, atomic_file(target) as file:
        shutil.copyfileobj(data, file)


def copy_folder(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies a folder and all in it; the copy is there whole or not at all.

    Raises:
      UserError: `target` is there and not empty, or cannot be written.
    """
    with atomic_directory(target) as temporary:
        shutil.copytree(source, temporary, dirs_exist_ok=True)


def move(source: pathlib.Path, target: pathlib.Path) -> None:
    """Gives a file or folder another name, in a folder that is made if need be."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)


def remove(path: pathlib.Path) -> None:
    """Removes a file, or a folder with all in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


@contextlib.contextmanager
def lock(folder: pathlib.Path, *, busy: str) -> Iterator[None]:
    """Keeps every other process that asks for it out of a folder.

    The system lets go of the lock when a process ends, however it ends.

    Args:
      folder: made if need be.
      busy: what to say if another process is in it.

    Raises:
      UserError: `busy`, or the system does not let us write there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("w")
    except OSError as error:
        raise not_written(folder, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(busy) from None
        yield


def is_locked(folder: pathlib.Path) -> bool:
    """Returns whether a process holds the `lock` of a folder."""
    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
