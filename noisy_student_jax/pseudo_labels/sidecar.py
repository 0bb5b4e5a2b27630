"""Pseudo-label sidecars: one Parquet file per pool shard, one row per record.

Every task writes four columns, followed by nullable ones of its own:

- ``key`` string: the record's stable key;
- ``status`` string: `OK`, or the reason why the record is quarantined;
- ``label`` int32, null unless ok: the class that selection balances;
- ``score`` float32, null unless ok: the confidence that selection thresholds.

The file's key-value metadata holds ``noisy_student.task``, ``.schema``, ``.model``,
``.model_sha256`` and ``.classes``.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import DamagedFileError, UserError
from noisy_student_jax.pseudo_labels import writing

OK = "ok"
SCHEMA = "1"
QUARANTINE = "quarantine.parquet"
PREFIX = "noisy_student."
BATCH_ROWS = 1 << 16
COLUMNS = {
    "key": pa.string(),
    "status": pa.string(),
    "label": pa.int32(),
    "score": pa.float32(),
}
_SAME_AS = {pa.string(): (pa.large_string(), pa.string_view())}
"""Equivalent types that other programs write; cast when read."""
_REQUIRED_METADATA = ("task", "model", "model_sha256")
_QUARANTINE_SCHEMA = pa.schema([("key", pa.string()), ("reason", pa.string())])


def write_shard(
    path: str | Path,
    *,
    keys: Sequence[str] | pa.Array,
    status: Sequence[str] | pa.Array,
    label: Sequence[int | None] | np.ndarray | pa.Array,
    score: Sequence[float | None] | np.ndarray | pa.Array,
    columns: Mapping[str, pa.Array] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes the sidecar of one pool shard atomically.

    Args:
      path: file to write, ending in ``.parquet``; its directory is created if missing.
      keys: strings `[records]`, in the order of the shard.
      status: strings `[records]`, `OK` or a reason.
      label: integers `[records]`; written as null in rows that are not ok.
      score: numbers `[records]`; written as null in rows that are not ok.
      columns: the task's own columns, each `[records]`, in this order.
      metadata: ``task``, ``model``, ``model_sha256`` and, if known, ``classes``; the
        prefix ``noisy_student.`` is optional.

    Raises:
      ValueError: lengths differ, an ok row lacks a label or a finite score, or a name
        or the metadata is invalid.
      UserError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".parquet" or path.name == QUARANTINE:
        raise ValueError(f"{path.name!r} is no name for a shard of labels")
    own = dict(columns or {})
    if taken := sorted(set(own) & set(COLUMNS)):
        raise ValueError(f"columns {taken} belong to every task, not to one")
    arrays = {
        "key": _array(keys, COLUMNS["key"]),
        "status": _array(status, COLUMNS["status"]),
        "label": _array(label, COLUMNS["label"]),
        "score": _array(score, COLUMNS["score"]),
        **own,
    }
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"columns differ in length: {lengths}")
    for name in ("key", "status"):
        if arrays[name].null_count:
            raise ValueError(f"column '{name}' may not hold null")

    ok = pc.equal(arrays["status"], OK)
    for name in ("label", "score"):
        arrays[name] = pc.if_else(ok, arrays[name], pa.scalar(None, COLUMNS[name]))
    table = pa.table(arrays, metadata=_encoded(metadata or {}))
    for batch in table.to_batches():
        if fault := first_fault(batch):
            raise ValueError(f"{path.name}: {fault}")

    files.write_parquet(
        path,
        table,
        row_group_size=writing.ROW_GROUP,
        use_dictionary=["status"],  # keys are unique: a dictionary only grows them
    )


def first_fault(batch: pa.RecordBatch) -> str | None:
    """Returns a description of the first inconsistent row of a batch.

    Args:
      batch: a record batch with at least the four columns of every task.

    Returns:
      A clause that names the row by its key; None if all rows are consistent.
    """
    ok = pc.equal(batch["status"], OK)
    rejected = pc.invert(ok)
    label, score = batch["label"], batch["score"]
    checks = (
        (pc.is_null(batch["key"]), "a record has no key"),
        (pc.is_null(ok), "record {key!r} has no status"),
        (pc.and_(ok, pc.is_null(label)), "record {key!r} is ok but has no label"),
        (pc.and_(ok, pc.less(label, 0)), "record {key!r} has a label below zero"),
        (
            pc.and_(ok, pc.invert(pc.fill_null(pc.is_finite(score), False))),
            "record {key!r} is ok but its score is {score}, not a finite number",
        ),
        (
            pc.and_(rejected, pc.or_(pc.is_valid(label), pc.is_valid(score))),
            "record {key!r} is not ok but has a label or a score",
        ),
    )
    for mask, says in checks:
        if pc.any(mask).as_py():
            row = pc.index(mask, True).as_py()
            key, value = batch["key"][row].as_py(), score[row].as_py()
            return says.format(key=key, score="null" if value is None else value)
    return None


def shards(directory: str | Path) -> list[Path]:
    """Validates the sidecars in a directory; returns their paths, sorted by name.

    Args:
      directory: a ``labels/`` directory.

    Returns:
      Paths of all ``*.parquet`` files except the quarantine view.

    Raises:
      UserError: the directory is missing or holds no sidecars, or a sidecar is not
        Parquet, or lacks a column or has it in another type.
    """
    directory = Path(directory)
    if not files.is_folder(directory):
        raise UserError(
            f"there is no directory of pseudo-labels at {directory}; run the label "
            "stage first or correct the path"
        )
    found = files.list_folder(directory, pattern="*.parquet")
    paths = [path for path in found if path.name != QUARANTINE]
    if not paths:
        raise UserError(
            f"{directory} holds no pseudo-labels (no .parquet files); run the label "
            "stage first or correct the path"
        )
    for path in paths:
        with _open(path) as file:
            _check_columns(path, file.schema_arrow)
    return paths


def shard_fault(
    path: str | Path, *, rows: int, first_key: str, model_sha256: str
) -> str | None:
    """Returns why a sidecar is not the one that labeling a shard would write.

    Args:
      path: a sidecar of an earlier start.
      rows: number of records of the shard.
      first_key: key of the first of them.
      model_sha256: of the model that labels.

    Returns:
      A clause; None for a sidecar that can be kept.
    """
    path = Path(path)
    try:
        with files.open_parquet(path) as file:
            count = file.metadata.num_rows
        found = read_metadata(path)
        first = next(batches(path, ["key"], batch_rows=1))["key"][0].as_py()
    except (UserError, StopIteration) as error:
        return files.reason(error)
    if count != rows:
        return f"it has {count:,} rows, and its shard {rows:,} records"
    if first != first_key:
        return "it holds the labels of other records"
    if found.get("model_sha256") != model_sha256:
        return "it holds the labels of another model"
    return None


def read_metadata(path: str | Path) -> dict[str, str]:
    """Reads a sidecar's metadata.

    Args:
      path: a sidecar.

    Returns:
      Values by name without the prefix: ``task``, ``schema``, ``model``,
      ``model_sha256`` and ``classes``, as far as the file has them.

    Raises:
      UserError: the file cannot be read, or has another schema.
    """
    with _open(Path(path)) as file:
        raw = file.metadata.metadata or {}
    found = {
        name.decode(errors="replace").removeprefix(PREFIX): value.decode(
            errors="replace"
        )
        for name, value in raw.items()
        if name.startswith(PREFIX.encode())
    }
    if found.get("schema", SCHEMA) != SCHEMA:
        raise UserError(
            f"{path} has pseudo-label schema {found['schema']}, this program reads "
            f"{SCHEMA}; label again or use the program that wrote it"
        )
    return found


def common_metadata(paths: Sequence[Path]) -> dict[str, str]:
    """Reads the metadata that all sidecars of one labeling share.

    Args:
      paths: sidecars, at least one.

    Returns:
      The result of `read_metadata` for the first file.

    Raises:
      UserError: files differ in task, model or number of classes.
    """
    first = read_metadata(paths[0])
    for path in paths[1:]:
        other = read_metadata(path)
        for name in ("task", "model_sha256", "classes"):
            if other.get(name) != first.get(name):
                raise UserError(
                    f"{path} has {name} {other.get(name)!r} but {paths[0].name} has "
                    f"{first.get(name)!r}; keep the labels of one model per directory"
                )
    return first


def batches(
    path: str | Path,
    columns: Sequence[str] | None = None,
    *,
    batch_rows: int = BATCH_ROWS,
) -> Iterator[pa.RecordBatch]:
    """Streams a sidecar as Arrow record batches.

    Args:
      path: a sidecar.
      columns: columns to read, in this order; None for all.
      batch_rows: largest number of rows in a batch.

    Yields:
      Batches in row order.

    Raises:
      UserError: the file is damaged, or lacks a column.
    """
    path = Path(path)
    with _open(path) as file:
        known = file.schema_arrow.names
        for name in columns or ():
            if name not in known:
                raise UserError(
                    f"{path} has no column '{name}' (it has {', '.join(known)}); "
                    "label the pool again with the task in use"
                )
        stream = file.iter_batches(
            batch_size=batch_rows,
            columns=list(columns) if columns is not None else None,
        )
        for batch in stream:
            chosen = batch.select(columns) if columns is not None else batch
            yield _plain_strings(chosen)


def _plain_strings(batch: pa.RecordBatch) -> pa.RecordBatch:
    for name in set(COLUMNS) & set(batch.schema.names):
        kind = COLUMNS[name]
        if batch[name].type in _SAME_AS.get(kind, ()):
            place = batch.schema.get_field_index(name)
            batch = batch.set_column(place, name, batch[name].cast(kind))
    return batch


def to_numpy(array: pa.Array) -> np.ndarray:
    """Converts a column; null becomes −1 in integers, NaN in floats, None in objects.

    Args:
      array: an Arrow array `[rows]`.

    Returns:
      A NumPy array `[rows]` of the same width, or of objects.
    """
    if array.null_count:
        if pa.types.is_signed_integer(array.type):
            array = pc.fill_null(array, -1)
        elif pa.types.is_floating(array.type):
            array = pc.fill_null(array, pa.scalar(np.nan, array.type))
    return array.to_numpy(zero_copy_only=False)


def write_quarantine(directory: str | Path) -> dict[str, int]:
    """Writes ``quarantine.parquet``, which lists all rows that are not ok.

    Args:
      directory: a ``labels/`` directory.

    Returns:
      ``{"read", "labeled", "quarantined"}``; read = labeled + quarantined.

    Raises:
      UserError: see `shards`; or a row is inconsistent, or the file cannot be written.
    """
    directory = Path(directory)
    read = labeled = quarantined = 0
    paths = shards(directory)
    with (
        files.atomic_file(directory / QUARANTINE) as file,
        writing.TableFile(file, _QUARANTINE_SCHEMA) as view,
    ):
        for path in paths:
            for batch in batches(path, list(COLUMNS)):
                if fault := first_fault(batch):
                    raise faulty(path, fault)
                ok = pc.equal(batch["status"], OK)
                bad = batch.filter(pc.invert(ok))
                view.append([bad["key"], bad["status"]])
                read += batch.num_rows
                labeled += pc.sum(ok, min_count=0).as_py()
                quarantined += bad.num_rows
        if read != labeled + quarantined:
            raise AssertionError(f"{read} read ≠ {labeled} + {quarantined}")
    return {"read": read, "labeled": labeled, "quarantined": quarantined}


def faulty(path: Path, fault: str) -> UserError:
    """Returns the error for a sidecar with an inconsistent row.

    Args:
      path: the sidecar.
      fault: the result of `first_fault`.
    """
    return UserError(f"{path}: {fault}; label this shard again")


@contextlib.contextmanager
def _open(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with files.open_parquet(path) as file:
            yield file
    except (DamagedFileError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as Parquet ({files.reason(error)}); move it away "
            "and label this shard again"
        ) from error


def _check_columns(path: Path, schema: pa.Schema) -> None:
    for name, kind in COLUMNS.items():
        found = schema.names.count(name)
        if found != 1:
            raise UserError(
                f"{path} has {'no' if not found else f'{found}'} column '{name}'; "
                f"a pseudo-label file has {', '.join(COLUMNS)}: label this shard "
                "again or move the file away"
            )
        if schema.field(name).type not in (kind, *_SAME_AS.get(kind, ())):
            raise UserError(
                f"{path} has column '{name}' as {schema.field(name).type} where "
                f"{kind} is needed; convert it or label this shard again"
            )


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, pa.Array):
        return values if values.type == kind else values.cast(kind)
    return pa.array(values, kind)


def _encoded(metadata: Mapping[str, str]) -> dict[str, str]:
    plain = {k.removeprefix(PREFIX): str(v) for k, v in metadata.items()}
    if missing := [name for name in _REQUIRED_METADATA if name not in plain]:
        raise ValueError(f"metadata lacks {missing}")
    plain["schema"] = SCHEMA
    return {PREFIX + name: value for name, value in plain.items()}
