"""Writing files so that they are either whole or not there, and hashing them."""

import hashlib
import json
import os
import pathlib
import shutil
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from noisy_student_jax.errors import UserError


def write_atomically(path: pathlib.Path, data: str | bytes) -> None:
    """Writes a file under another name, syncs it, and renames it into place."""
    data = data.encode() if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


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
    for pattern in (".*.partial", ".*.tmp"):
        for path in folder.glob(pattern):
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
