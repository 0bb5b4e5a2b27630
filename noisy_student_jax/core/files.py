"""Writing files so that they are either whole or not there, and hashing them."""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from noisy_student_jax.core.errors import UserError


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
def atomic_directory(output: pathlib.Path) -> Iterator[pathlib.Path]:
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
        for directory in [*filter(pathlib.Path.is_dir, temporary.iterdir()), temporary]:
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


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes JSON atomically, keys as given, readable by people."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: pathlib.Path) -> Any:
    """Reads JSON.

    Raises:
      UserError: the file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"'{path}' is not readable JSON ({error}): restore it, or move it away to"
            " have it made again"
        ) from error


def remove_unfinished(folder: pathlib.Path) -> None:
    """Removes what writes that were cut short left in a folder, and nothing else."""
    for path in folder.glob(".*.tmp"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


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


def write_parquet(path: pathlib.Path, table: pa.Table) -> None:
    """Writes a table atomically."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomically(path, sink.getvalue().to_pybytes())
