"""Labels the pool with the un-noised teacher, shard by shard.

Each shard gets one sidecar, written atomically with its sum; a shard whose sidecar is
whole and of the same model is done.
Paper §2, step 2: no noise, EMA weights, the teacher's own resolution.
"""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pyarrow as pa
from jax.experimental import multihost_utils

from noisy_student_jax.core import console, files
from noisy_student_jax.core.console import Progress
from noisy_student_jax.core.errors import TrainingDivergedError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.core.protocols import Arrays, Source, Task
from noisy_student_jax.core.types import PyTree
from noisy_student_jax.evaluation.predictor import Predictor, Read, predict_batches
from noisy_student_jax.pseudo_labels import sidecar

TEACHER = "teacher"


@dataclasses.dataclass(frozen=True)
class Shard:
    """A range of consecutive records of the pool."""

    number: int
    start: int
    stop: int

    @property
    def file_name(self) -> str:
        """Name of the shard's sidecar; names sort like shard numbers."""
        return f"shard_{self.number:06d}.parquet"


def label_pool(
    predictor: Predictor,
    variables: PyTree,
    task: Task,
    pool: Source,
    shards: list[Shard],
    folder: pathlib.Path,
    *,
    top_k: int | None,
    metadata: dict[str, str],
    interruption: Interruption,
    progress: Progress,
) -> dict[str, int]:
    """Writes the missing sidecars, then ``quarantine.parquet``.

    Damaged sidecars, and those of another model, are named and written again. Each host
    labels every n-th shard; hosts synchronize once, at the end.

    Args:
      predictor: predictor for the teacher's architecture and preprocessing.
      variables: the teacher's EMA weights and batch statistics.
      task: provides the sidecar's columns.
      pool: source of the pool.
      shards: all shards of the pool.
      folder: folder for the sidecars.
      top_k: see `Task.columns`.
      metadata: model, its SHA-256, task and classes.
      interruption: polled before every batch.
      progress: updated after every batch.

    Returns:
      ``{"read", "labeled", "quarantined"}``, where read is the sum of the others.

    Raises:
      Interrupted: a signal arrived; finished shards are kept.
      TrainingDivergedError: the teacher's predictions are not finite.
    """
    placed = {TEACHER: predictor.place(variables)}
    progress.start(shards[-1].stop, "images")
    mine = shards[jax.process_index() :: jax.process_count()]
    missing = [s for s in mine if not _is_labeled(s, pool, folder, metadata)]
    # One sequence of batches over all shards: prediction continues during writes.
    batches = [
        range(start, min(start + predictor.batch, shard.stop))
        for shard in missing
        for start in range(shard.start, shard.stop, predictor.batch)
    ]
    predicted = predict_batches(
        predictor, placed, pool, batches, before=lambda start: interruption.check()
    )
    for shard in missing:
        rows = _label_shard(predicted, task, pool, shard, top_k, progress)
        sidecar.write_shard(folder / shard.file_name, **rows, metadata=metadata)
    if jax.process_count() > 1:
        # Counting needs the sidecars of all hosts.
        multihost_utils.sync_global_devices("labeled")
    return sidecar.write_quarantine(folder)


def _is_labeled(
    shard: Shard, pool: Source, folder: pathlib.Path, metadata: dict[str, str]
) -> bool:
    """Returns whether an earlier start has labeled a shard; names a damaged sidecar."""
    path = folder / shard.file_name
    if not files.exists(path):
        return False
    why = sidecar.shard_fault(
        path,
        rows=shard.stop - shard.start,
        first_key=pool.key(shard.start),
        model_sha256=metadata["model_sha256"],
    )
    if why is not None:
        console.warn(f"'{path}' is damaged ({why}): its images are labeled again")
    return why is None


def _label_shard(
    predicted: Iterator[tuple[Read, dict[str, Arrays]]],
    task: Task,
    pool: Source,
    shard: Shard,
    top_k: int | None,
    progress: Progress,
) -> dict[str, Any]:
    """Collects a shard's predictions as the arguments of `sidecar.write_shard`."""
    keys: list[str] = []
    status: list[str] = []
    labels, scores, columns = [], [], []
    while len(keys) < shard.stop - shard.start:
        found, predictions = next(predicted)
        own, good, indices = predictions.get(TEACHER), found.good, found.indices
        keys += [pool.key(index) for index in indices]
        status += found.status
        if own and not (finite := np.isfinite(task.score(own))).all():
            row = np.flatnonzero(good)[np.argmin(finite)]
            raise TrainingDivergedError(
                f"the model's prediction for '{pool.key(indices[row])}' is not finite:"
                " its weights are unusable; train it again"
            )
        bucket, score = (task.bucket(own), task.score(own)) if own else (None, None)
        labels.append(_scattered(good, bucket, np.int32))
        scores.append(_scattered(good, score, np.float32))
        columns.append(
            {
                name: column.take(_places(good))
                for name, column in task.columns(own, top_k=top_k).items()
            }
            if own
            else None
        )
        progress.update(indices.stop)
    return {
        "keys": keys,
        "status": status,
        "label": np.concatenate(labels),
        "score": np.concatenate(scores),
        "columns": _stacked(columns, [len(part) for part in labels]),
    }


def _scattered(good: np.ndarray, values: np.ndarray | None, dtype: type) -> np.ndarray:
    """Scatters the values of good rows; other rows are zero."""
    whole: np.ndarray = np.zeros(len(good), dtype)
    if values is not None:
        whole[good] = values
    return whole


def _places(good: np.ndarray) -> pa.Array:
    """Returns each row's index among the good rows; null for other rows."""
    return pa.array(np.cumsum(good) - 1, mask=~good)


def _stacked(
    parts: list[dict[str, pa.Array] | None], lengths: list[int]
) -> dict[str, pa.Array]:
    first = next((part for part in parts if part is not None), None)
    if first is None:
        return {}
    return {
        name: pa.concat_arrays(
            [
                pa.nulls(length, column.type) if part is None else part[name]
                for part, length in zip(parts, lengths, strict=True)
            ]
        )
        for name, column in first.items()
    }
