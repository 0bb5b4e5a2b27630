"""Features of frozen backbones, computed once and kept.

A folder holds the features of one backbone in one view. A chunk is two files: the
features as a ``.npy`` array, and a table with a row for each: the number of the image's
content, and ``ok`` or why there are none. The table is written last and holds the
SHA-256 of the array. Features belong to contents, not to records of a source: a folder
that grows, another split and another seed find what is there.
"""

import dataclasses
import functools
import hashlib
import pathlib
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pyarrow as pa

from noisy_student_jax.core import console, files
from noisy_student_jax.core.console import Progress
from noisy_student_jax.core.errors import DamagedFileError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.core.protocols import Source
from noisy_student_jax.core.types import PyTree
from noisy_student_jax.data.cache import integrity
from noisy_student_jax.data.sources import fingerprint
from noisy_student_jax.evaluation.predictor import Predictor, predict_batches
from noisy_student_jax.features.source import FeatureSource
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.models import views

FOLDER = "features"
AT_ONCE = 2048
"""Records in a chunk, at most."""
_SCHEMA = pa.schema([("content", pa.uint64()), ("status", pa.string())])
_METADATA = b"features"
_FALSE_SUM = "its features do not match their SHA-256"


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A frozen backbone.

    Attributes:
      module: a model whose output has ``pooled``.
      variables: its variables; those of its head are not used.
      preprocessing: preprocessing of its images.
      channels: number of channels of the features.
      described: what its features depend on apart from weights and preprocessing.
      head: names of the parameters that its features do not depend on.
    """

    module: nn.Module
    variables: PyTree
    preprocessing: Preprocessing
    channels: int
    described: dict[str, Any]
    head: tuple[str, ...] = ("classifier",)

    def digest(self, view: int) -> str:
        """Returns the SHA-256 over everything that features in a view depend on."""
        return files.digest(
            {
                **self.described,
                "weights": self._weights,
                "preprocessing": self.preprocessing.to_json(),
                "view": views.NAMES[view] if view else None,
            }
        )

    @functools.cached_property
    def _weights(self) -> str:
        weights = hashlib.sha256()
        trunk = {
            **self.variables,
            "params": {
                name: value
                for name, value in self.variables["params"].items()
                if name not in self.head
            },
        }
        for path, leaf in jax.tree_util.tree_leaves_with_path(trunk):
            array = np.ascontiguousarray(leaf)
            weights.update(
                f"{jax.tree_util.keystr(path)}{array.dtype}{array.shape}".encode()
            )
            weights.update(array.tobytes())
        return weights.hexdigest()


@dataclasses.dataclass(frozen=True)
class FeatureStore:
    """A folder of features.

    Attributes:
      folder: the folder.
      interruption: checked before each batch.
      progress: updated while features are computed.
      batch: images computed at once.
      ahead: see `Predictor`.
    """

    folder: pathlib.Path
    interruption: Interruption
    progress: Progress
    batch: int = 256
    ahead: int = 1

    def source(
        self, backbone: Backbone, source: Source, name: str, *, view: int = 0
    ) -> FeatureSource:
        """Returns the features of all records of a source; computes missing ones.

        Args:
          backbone: the backbone.
          source: source of images.
          name: name of the source, for progress.
          view: see `views.view`.

        Raises:
          UserError: the folder is not writable.
          Interrupted: a stop was requested; finished chunks are kept.
        """
        ids = contents(source)
        folder = self.folder / backbone.digest(view)[:16]
        found = _Found(folder, ids, backbone.channels)
        if len(missing := found.missing()):
            self._compute(backbone, source, name, view, ids, missing, folder)
            found = _Found(folder, ids, backbone.channels)
        return FeatureSource(source, found.chunks, found.places, found.status())

    def _compute(
        self,
        backbone: Backbone,
        source: Source,
        name: str,
        view: int,
        ids: np.ndarray,
        missing: np.ndarray,
        folder: pathlib.Path,
    ) -> None:
        files.remove_unfinished(folder)
        predictor = Predictor(
            _POOLED,
            views.Seen(backbone.module, view),
            backbone.preprocessing,
            batch=self.batch,
            ahead=self.ahead,
        )
        placed = predictor.place(backbone.variables)
        what = f"{name} images" + f", {views.NAMES[view]}" * bool(view)
        self.progress.start(len(missing), f"features of {what}", at=0)
        for start in range(0, len(missing), AT_ONCE):
            here = missing[start : start + AT_ONCE]
            features = np.zeros((len(here), backbone.channels), np.float32)
            status: list[str] = []
            for found, predictions in predict_batches(
                predictor,
                {"backbone": placed},
                source,
                _ranges(here, predictor.batch),
                before=lambda at: self.interruption.check(),
            ):
                if predictions:
                    rows = len(status) + np.flatnonzero(found.good)
                    features[rows] = predictions["backbone"]["features"]
                status += found.status
                self.progress.update(start + len(status))
            _write(folder, ids[here], features, status)


def contents(source: Source) -> np.ndarray:
    """Returns a number of each record's content: uint64 ``[records]``.

    Records of one number have the same pixels. Where a source does not know its pixels,
    the numbers are those of its keys, and belong to this source alone.
    """
    hashes = getattr(source, "pixel_hashes", None)
    if hashes is None:
        own = fingerprint(source)
        hashes = [
            hashlib.sha256(f"{own}:{source.key(index)}".encode()).hexdigest()
            for index in range(len(source))
        ]
    return np.array([int(one[:16], 16) for one in hashes], np.uint64)


class _Found:
    """The features of some contents that a folder holds."""

    def __init__(self, folder: pathlib.Path, ids: np.ndarray, channels: int):
        """Reads the tables and checks the arrays that hold any of `ids`."""
        self.chunks: list[np.ndarray] = []
        self.places = np.full((len(ids), 2), -1, np.int64)
        self._status: list[list[str]] = []
        order = np.argsort(ids, kind="stable")
        ordered = ids[order]
        for path in files.list_folder(folder, pattern="*.parquet"):
            table = _table(path)
            if table is None:
                continue
            stored = table["content"].to_numpy()
            # Several records may have one content.
            first = np.searchsorted(ordered, stored, "left")
            last = np.searchsorted(ordered, stored, "right")
            rows = np.repeat(np.arange(len(stored)), last - first)
            within = np.arange(len(rows)) - np.repeat(
                np.cumsum(last - first) - (last - first), last - first
            )
            records = order[np.repeat(first, last - first) + within]
            new = self.places[records, 0] < 0
            if not new.any():
                continue
            features = _array(path, table, channels)
            if features is None:
                continue
            number = len(self.chunks)
            self.places[records[new]] = np.stack(
                [np.full(new.sum(), number), rows[new]], axis=1
            )
            self.chunks.append(features)
            self._status.append(table["status"].to_pylist())

    def missing(self) -> np.ndarray:
        """Returns the records without features, in order."""
        return np.flatnonzero(self.places[:, 0] < 0)

    def status(self) -> list[str]:
        """Returns the status of each record."""
        return [self._status[chunk][row] for chunk, row in self.places.tolist()]


def _table(path: pathlib.Path) -> pa.Table | None:
    """Reads a chunk's table; names and removes a damaged one."""
    try:
        table = files.read_parquet(path)
        names = _SCHEMA.names
        table = table.select(names).cast(
            pa.schema(list(_SCHEMA), table.schema.metadata)
        )
        if table["content"].null_count or table["status"].null_count:
            raise DamagedFileError("", "it lacks values")
        return table
    except KeyError as error:
        _damaged(path, f"it has no column {error}")
    except (DamagedFileError, pa.ArrowException, OSError, ValueError) as error:
        _damaged(path, files.reason(error))
    return None


def _array(path: pathlib.Path, table: pa.Table, channels: int) -> np.ndarray | None:
    """Maps a chunk's features; names and removes a damaged chunk."""
    array = path.with_suffix(".npy")
    told = (table.schema.metadata or {}).get(_METADATA, b"").decode()
    try:
        if not integrity.is_whole(array, told):
            raise DamagedFileError("", _FALSE_SUM)
        features = files.map_array(array)
        if features.shape != (len(table), channels) or features.dtype != np.float32:
            raise DamagedFileError("", "it holds other arrays")
        return features
    except (DamagedFileError, OSError) as error:
        _damaged(array, files.reason(error))
        files.remove(path)
    return None


def _damaged(path: pathlib.Path, why: str) -> None:
    console.warn(f"'{path}' is damaged ({why}): its features are computed again")
    files.remove(path)


def _write(
    folder: pathlib.Path, ids: np.ndarray, features: np.ndarray, status: list[str]
) -> None:
    """Writes a chunk, whose name tells its contents."""
    name = hashlib.sha256(ids.tobytes()).hexdigest()[:16]
    path = folder / f"{name}.npy"
    files.write_array(path, features)
    schema = _SCHEMA.with_metadata({_METADATA: files.sha256(path).encode()})
    table = pa.table({"content": pa.array(ids), "status": status}, schema)
    files.write_parquet(path.with_suffix(".parquet"), table)


def _ranges(records: np.ndarray, most: int) -> list[range]:
    """Splits increasing record numbers into ranges of at most `most` records."""
    ends = np.flatnonzero(np.diff(records) != 1) + 1
    return [
        range(start, min(start + most, int(run[-1]) + 1))
        for run in np.split(records, ends)
        for start in range(int(run[0]), int(run[-1]) + 1, most)
    ]


class _Pooled:
    """A task whose predictions are the features that the head reads."""

    def predict(self, outputs: PyTree) -> dict[str, jax.Array]:
        return {"features": outputs["pooled"]}


_POOLED = _Pooled()
"""The only instance, so that all predictors share one program."""
