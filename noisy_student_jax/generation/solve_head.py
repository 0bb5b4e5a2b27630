"""Solves the head of a student on features of its frozen backbone.

The same training as in `train`, of a convex problem: its solution is computed instead
of approached in steps. Its noise comes with the views of the images (`models.views`).
Batch, ratio, schedule and label smoothing have no part in it.
"""

import copy
import hashlib
import json
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from noisy_student_jax.core import console, files
from noisy_student_jax.core.errors import DamagedFileError, UserError
from noisy_student_jax.core.types import PyTree
from noisy_student_jax.data.pipelines.stream import Stream
from noisy_student_jax.data.sources import first_label, labels_of
from noisy_student_jax.features import heads
from noisy_student_jax.features.heads import CrossFitted, Labeled
from noisy_student_jax.features.likeness import likeness
from noisy_student_jax.features.logistic import Head
from noisy_student_jax.features.reduction import (
    SAMPLE,
    Reduction,
    directions_for,
    reduction,
)
from noisy_student_jax.features.source import FeatureSource, MeanOfViews
from noisy_student_jax.features.store import AT_ONCE
from noisy_student_jax.generation import streams
from noisy_student_jax.generation.left_out import cross_fitted, is_too_much
from noisy_student_jax.generation.result import write_bundles
from noisy_student_jax.generation.trainable import HeadOnFeatures, part
from noisy_student_jax.pseudo_labels.plan import SelectionOptions, natural
from noisy_student_jax.runs.paths import FOLD_LABELS, METRICS, OUT_OF_FOLD, SUSPECTS
from noisy_student_jax.runs.run import Generation

MOST_SUSPECTS = 48
"""Images like no class that are kept for the report."""


def solve_head(student: Generation) -> dict[str, Any]:
    """Solves the head of a student's model, and writes its bundles.

    Beside them, ``out_of_fold.parquet`` has the probabilities of each labeled record
    that a head gives which has not learned from it, nor from teachers that have.

    Returns:
      Counts for the ledger.
    """
    run, spec = student.run, student.spec
    trained, learned = part(student), streams.make(student)
    assert isinstance(trained, HeadOnFeatures), "only heads are solved"
    labeled = _Examples(trained, learned.labeled, "labeled")
    pseudo = None
    if spec.teacher and learned.second is not None:
        pseudo = _Examples(trained, learned.second, "pool")
    check = run.interruption.check
    by = _reduction(labeled, pseudo)
    known = labeled.reduced(by)
    tuned = heads.tune(known, labeled.order(), check=check)
    known = known.first(tuned.views)
    taught = pseudo.first(tuned.views).reduced(by) if pseudo else None
    with heads.side_by_side() as threads:
        whole = threads.submit(heads.fit, known, taught, tuned.strength, check=check)
        folds = dict(zip(labeled.keys, tuned.fold.tolist(), strict=True))
        crossed = _cross_fitted(
            student, trained, known, pseudo, tuned, folds, by, threads
        )
        head = by.whole(whole.result())
    right = _write_out_of_fold(student, labeled, crossed)
    _write_suspects(student, known, pseudo, taught)
    measured = _validated(trained, head, tuned.views)
    metric = run.task.primary_metric
    validation = f"; validation {metric} {measured[metric]:.1%}"
    _write_metrics(student, tuned, measured)
    variables = {"params": _parameters(trained, head), "batch_stats": {}}
    sha256 = write_bundles(
        trained,
        averaged=variables,
        raw=variables,
        trained_on=learned.trained_on,
        views=tuned.views,
    )
    console.say(
        f"  solved with C = {tuned.strength:.3g} in {tuned.views}"
        f" view{'s' * (tuned.views > 1)}"
        + (
            f", chosen by {tuned.folds}-fold cross-validation of labeled images"
            if tuned.curve
            else ""
        )
        + (f"; of these {right:.1%} right when left out" if right is not None else "")
        + validation * (not run.dataset.cross_fitted)
    )
    seen = len(labeled) + (len(pseudo) if pseudo else 0)
    return {
        "steps": 0,
        "images_drawn": seen * tuned.views,
        "labeled": len(labeled),
        "pseudo_labeled": len(pseudo) if pseudo else 0,
        "quarantined": labeled.left_out + (pseudo.left_out if pseudo else 0),
        "views": tuned.views,
        "strength": tuned.strength,
        "parameters": student.cost.parameters,
        "sha256": sha256,
    }


def check_solvable(student: Generation) -> None:
    """Checks that a student's head can be solved.

    Raises:
      UserError: it is no linear classifier of class probabilities.
    """
    run, trained = student.run, part(student)
    asked = "config.train.optimizer is 'lbfgs', which solves"
    if not isinstance(trained, HeadOnFeatures):
        raise UserError(
            f"{asked} a head, but config.train.part is 'all': give another optimizer,"
            " or train the head alone with --config.train=head"
        )
    channels, outputs = trained.preprocessing.channels, run.task.outputs
    own = [leaf.shape for leaf in jax.tree.leaves(trained.shapes)]
    if sorted(own, key=len) != [(outputs,), (channels, outputs)]:
        raise UserError(
            f"{asked} linear heads, but that of '{student.spec.model.name}' has other"
            " parameters than a kernel and a bias: give another optimizer"
        )
    targets = run.task.targets(first_label(run.dataset.labeled))
    if np.shape(targets) != (1, outputs) or not np.isclose(np.sum(targets), 1):
        raise UserError(
            f"{asked} heads for class probabilities, which the targets of task"
            f" '{run.task.name}' are not: give another optimizer"
        )


class _Examples:
    """The records of a stream in their views, with targets and weights."""

    def __init__(self, trained: HeadOnFeatures, stream: Stream, name: str):
        """Computes the features that are missing."""
        student = trained.student
        self.views = trained.views(stream.source, name, student.spec.model.views)
        # A record is used where it is seen in all of its views.
        self.seen = MeanOfViews(self.views)
        picks = streams.usable(self.seen, stream.picks, name, student.run.config.data)
        self.records, first, copies = np.unique(
            picks[:, 0], return_index=True, return_counts=True
        )
        self.left_out = len(np.unique(stream.picks[:, 0])) - len(self.records)
        targets = stream.targets
        if name == "pool":
            targets = _pseudo_targets(student, stream, picks[first, 1])
        else:
            targets = np.asarray(targets)[picks[first, 1]]
        self.targets = targets.astype(np.float64)
        self.weights = copies.astype(np.float64)

    def first(self, count: int) -> "_Examples":
        """Returns the records in their first `count` views."""
        fewer = copy.copy(self)
        fewer.views = self.views[:count]
        return fewer

    def reduced(self, by: Reduction) -> Labeled:
        """Returns the records with reduced features."""
        views = [_reduced(view, self.records, by) for view in self.views]
        return Labeled(views, self.targets, self.weights)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def keys(self) -> list[str]:
        """The key of each record."""
        return [self.seen.key(record) for record in self.records.tolist()]

    def order(self) -> np.ndarray:
        """Returns a hash of each record's key, uint64 ``[records]``."""
        hashes = [hashlib.sha256(key.encode()).digest()[:8] for key in self.keys]
        return np.array([int.from_bytes(one, "big") for one in hashes], np.uint64)


def _reduction(labeled: _Examples, pseudo: _Examples | None) -> Reduction:
    """Returns the reduction of features for a head on these records."""
    kept = directions_for(len(labeled))
    sample = [view.rows(labeled.records[: 4 * kept]) for view in labeled.views]
    if pseudo is not None:
        # Not the selected ones alone, so that all students find the same directions.
        good = np.flatnonzero(np.array(pseudo.seen.status) == "ok")
        some = np.linspace(0, len(good) - 1, min(SAMPLE, len(good))).astype(int)
        sample.append(pseudo.views[0].rows(good[some]))
    return reduction(np.concatenate(sample), labeled.seen.widths, kept=kept)


def _reduced(source: FeatureSource, records: np.ndarray, by: Reduction) -> np.ndarray:
    """Returns reduced features, without all features in memory at a time."""
    parts = np.array_split(records, 1 + len(records) // AT_ONCE)
    return np.concatenate([by(source.rows(part)) for part in parts])


def _pseudo_targets(
    student: Generation, stream: Stream, rows: np.ndarray
) -> np.ndarray:
    stored = {
        name: jnp.asarray(np.asarray(array[rows]))
        for name, array in stream.targets.items()
    }
    return _taught(student, np.asarray(stream.to_target(stored), np.float64))


def _taught(student: Generation, probabilities: np.ndarray) -> np.ndarray:
    """Returns the targets that a teacher's probabilities give.

    Args:
      student: the student.
      probabilities: float ``[records, classes]``.
    """
    train = student.spec.config.train
    if train.targets == "hard":
        return np.eye(probabilities.shape[1])[probabilities.argmax(axis=1)]
    sharp = np.maximum(probabilities, 1e-12) ** (1 / train.temperature)
    return sharp / sharp.sum(axis=1, keepdims=True)


def _cross_fitted(
    student: Generation,
    trained: HeadOnFeatures,
    labeled: Labeled,
    pseudo: _Examples | None,
    tuned: heads.Tuned,
    folds: dict[str, int],
    by: Reduction,
    threads: Executor,
) -> CrossFitted | None:
    """Cross-fits a student's head, and keeps its labels of the pool for its student.

    Args:
      student: the student.
      trained: the part of its model that is trained.
      labeled: the labeled records.
      pseudo: the pseudo-labeled records, if any.
      tuned: how heads are solved.
      folds: fold of each labeled record by its key.
      by: the reduction of their features.
      threads: of `heads.side_by_side`.

    Returns:
      The heads' predictions; None where the teacher, its labels or their selection are
      others than cross-fitting knows, or there are no folds.
    """
    run = student.run
    pool = run.dataset.pool
    kept = student.paths.training / FOLD_LABELS
    files.remove(kept)
    if tuned.folds < 2 or is_too_much(len(pool), run.task.outputs):
        return None
    taught, select, teaches = None, None, _teaches_a_solved_head(student)
    if pseudo is not None:
        assert student.teacher is not None, "pseudo-labels have a teacher"
        select = _selecting(student, pseudo.seen)
        shape = (tuned.folds, len(pool), run.task.outputs)
        taught = _fold_labels(student.teacher, folds, shape)
        if select is None or taught is None:
            return None
    pooled = None
    if pseudo is not None or teaches:
        everyone = np.arange(len(pool))
        seen = trained.views(pool, "pool", tuned.views)
        pooled = [_reduced(view, everyone, by) for view in seen]
    run.progress.start(1 + tuned.folds, "heads solved")
    found = heads.cross_fit(
        labeled,
        pooled,
        tuned.strength,
        tuned.fold,
        teacher=taught,
        select=select,
        predict=heads.mean(pooled) if teaches and pooled else None,
        after_fold=lambda done: run.progress.update(1 + done),
        check=run.interruption.check,
        threads=threads,
    )
    if found.pool is not None:
        files.write_array(kept, found.pool)
    return found


def _teaches_a_solved_head(student: Generation) -> bool:
    return any(
        one.spec.solves and one.spec.teacher == student.spec.name
        for one in student.run.students
    )


def _fold_labels(
    teacher: Generation, folds: dict[str, int], shape: tuple[int, ...]
) -> np.ndarray | None:
    """Returns a teacher's labels of the pool for each fold that it was dealt too.

    Those of other folds would tell a student the labels that it leaves out.
    """
    folder = teacher.paths.training
    try:
        found = files.map_array(folder / FOLD_LABELS)
        dealt = files.read_parquet(folder / OUT_OF_FOLD, columns=["key", "fold"])
    except (FileNotFoundError, DamagedFileError):
        return None
    theirs = dict(zip(dealt["key"].to_pylist(), dealt["fold"].to_pylist(), strict=True))
    ours = {key: fold for key, fold in folds.items() if fold >= 0}
    return found if found.shape == shape and theirs == ours else None


def _selecting(
    student: Generation, pool: FeatureSource
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None:
    """Returns the selection of a student as a function of probabilities in memory.

    None for rules that balance classes or keep an earlier selection.
    """
    options = SelectionOptions.from_config(student.spec.config.selection)
    if options.method != "all" or student.spec.relabels:
        return None
    good = np.array(pool.status) == "ok"
    rule = natural([pool.key(record) for record in range(len(pool))], options)

    def select(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        score = probabilities.max(axis=1).astype(np.float32)
        records = rule(np.where(good, score, np.float32(np.nan)))
        return records, _taught(student, probabilities[records].astype(np.float64))

    return select


def _write_out_of_fold(
    student: Generation, labeled: _Examples, crossed: CrossFitted | None
) -> float | None:
    """Writes the predictions for labeled records left out.

    Returns:
      The share of them that is right; None if there are none.
    """
    path = student.paths.training / OUT_OF_FOLD
    if crossed is None:
        files.remove(path)
        return None
    there = np.flatnonzero(crossed.fold >= 0)
    probabilities, truth = (
        crossed.probabilities[there],
        labeled.targets[there].argmax(axis=1),
    )
    keys = labeled.keys
    table = {
        "key": [keys[record] for record in there.tolist()],
        "truth": truth.astype(np.int32),
        "fold": crossed.fold[there].astype(np.int32),
        "probabilities": pa.array(list(probabilities)),
    }
    files.write_parquet(path, pa.table(table))
    return float((probabilities.argmax(axis=1) == truth).mean())


def _write_suspects(
    student: Generation,
    known: Labeled,
    pseudo: _Examples | None,
    taught: Labeled | None,
) -> None:
    """Writes the pseudo-labeled records that are least like any class."""
    path = student.paths.training / SUSPECTS
    if pseudo is None or taught is None or not len(pseudo):
        files.remove(path)
        return
    alike = likeness(heads.mean(taught.views), heads.mean(known.views), known.targets)
    least = np.argsort(alike, kind="stable")[:MOST_SUSPECTS]
    keys = pseudo.keys
    table = {
        "key": [keys[row] for row in least.tolist()],
        "record": pseudo.records[least],
        "label": taught.targets[least].argmax(axis=1).astype(np.int32),
        "likeness": alike[least],
    }
    files.write_parquet(path, pa.table(table))


def _validated(trained: HeadOnFeatures, head: Head, views: int) -> dict[str, float]:
    """Returns the metrics on validation images, or on those that were left out."""
    run = trained.student.run
    if run.dataset.cross_fitted:
        found = cross_fitted(trained.student)
        return run.task.metrics(found.predictions, found.truth)
    seen = MeanOfViews(trained.views(run.dataset.validation, "validation", views))
    records = np.flatnonzero(np.array(seen.status) == "ok")
    logits = head.logits(seen.rows(records)).astype(np.float32)
    predictions = run.task.predict({"logits": jnp.asarray(logits)})
    arrays = {name: np.asarray(value) for name, value in predictions.items()}
    return run.task.metrics(arrays, labels_of(run.dataset.validation)[records])


def _write_metrics(
    student: Generation, tuned: heads.Tuned, measured: dict[str, float]
) -> None:
    """Writes ``metrics.jsonl``: a line for each C that was tried, and validation."""
    entries: list[dict[str, float]] = [
        {"step": number, "strength": strength, "left_out/loss": loss}
        for number, (strength, loss) in enumerate(tuned.curve.items())
    ]
    validation = {
        f"validation/{weights}/{name}": value
        for weights in ("raw", "ema")
        for name, value in measured.items()
    }
    entries.append({"step": len(entries), "strength": tuned.strength, **validation})
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    files.write_atomically(student.paths.training / METRICS, lines)


def _parameters(trained: HeadOnFeatures, head: Head) -> PyTree:
    """Returns a head's parameters under the names of the module."""
    by_rank = {1: head.bias, 2: head.kernel}
    return jax.tree.map(
        lambda leaf: by_rank[len(leaf.shape)].astype(np.float32), trained.shapes
    )
