"""Heads on features: tuned by cross-validation on the labeled images, then solved.

A labeled record weighs as much as a draw of a pseudo-labeled one; each of a record's
views has an equal part of its weight. The strength of the regularization is chosen on
labeled images alone, by the likelihood of those left out. Each backbone's features
count on a scale of their own, since regularization would suppress small ones beside
large ones. One thread does each matrix
product, so that results do not depend on the number of cores; folds run side by side.
"""

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

import numpy as np
import threadpoolctl

from noisy_student_jax.features.logistic import Head, Rows, solve

FOLDS = 5
STRENGTHS = tuple(10.0 ** (half / 2) for half in range(-8, 5))
"""Values of C that are tried, from the most regularized one."""
WITHOUT_FOLDS = 0.01
"""C where no class has two labeled images, so that nothing can be left out."""
MOST = 2000
"""Labeled images that are left out in turn, at most."""
_ITERATIONS, _BYTES_PER_SECOND = 90, 4e9
"""Of a solution, about; and of reading features on one core, about."""
_ROUGHLY = 3e-4
"""Largest entry of the gradient of the heads that values of C are compared by."""
_WORSE = 2
"""Steps of C after the best one at which trying ends."""

Check = Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Labeled:
    """Labeled records in their views.

    Attributes:
      views: float32 ``[records, channels]`` each, the clean view first.
      targets: float ``[records, classes]``, each row summing to one.
      weights: float ``[records]``.
      widths: channels of each backbone, whose features lie side by side; empty for one.
    """

    views: Sequence[np.ndarray]
    targets: np.ndarray
    weights: np.ndarray
    widths: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, records: np.ndarray) -> "Labeled":
        views = [view[records] for view in self.views]
        own = self.targets[records], self.weights[records]
        return Labeled(views, *own, self.widths)

    @property
    def scales(self) -> np.ndarray:
        """Root mean square of the clean features of its backbone: ``[channels]``."""
        clean = self.views[0]
        widths = self.widths or [clean.shape[1]]
        blocks = np.split(clean, np.cumsum(widths)[:-1], axis=1)
        found = [np.sqrt(np.square(one, dtype=np.float64).mean()) for one in blocks]
        return np.repeat([one or 1.0 for one in found], widths).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Tuned:
    """The result of cross-validation.

    Attributes:
      strength: the chosen C.
      curve: by C, the mean negative log-likelihood of records left out.
      fold: int64 ``[records]``, the fold that leaves a record out; -1 for none.
    """

    strength: float
    curve: dict[float, float]
    fold: np.ndarray

    @property
    def folds(self) -> int:
        """Number of folds; 0 where nothing is left out."""
        return int(self.fold.max()) + 1


def deal(labels: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Deals labeled records into folds, each of which has some of each class.

    There are no more folds than records in most classes: a fold that lacked a class
    would have more of the others than they are. The records beyond `MOST`, and those
    that are alone in their class, are in no fold.

    Args:
      labels: int ``[records]``.
      order: ``[records]``, hashes of the records, by which they are dealt.

    Returns:
      int64 ``[records]``, the fold of each record, or -1.
    """
    fold = np.full(len(labels), -1, np.int64)
    classes, sizes = np.unique(labels, return_counts=True)
    share = min(1.0, MOST / len(labels))
    folds = min(FOLDS, max(2, int(np.median(sizes))))
    for label, size in zip(classes.tolist(), sizes.tolist(), strict=True):
        own = np.flatnonzero(labels == label)
        own = own[np.argsort(order[own], kind="stable")]
        own = own[: max(2, math.ceil(share * size))] if size > 1 else own[:0]
        fold[own] = np.arange(len(own)) % folds
    return fold


def tune(labeled: Labeled, order: np.ndarray, *, check: Check = lambda: None) -> Tuned:
    """Chooses C by cross-validation over the clean views of labeled records.

    Args:
      labeled: the labeled records.
      order: see `deal`.
      check: called in every iteration; may raise.
    """
    labels = labeled.targets.argmax(axis=1)
    fold = deal(labels, order)
    dealt = np.flatnonzero(fold >= 0)
    if not len(dealt):
        return Tuned(WITHOUT_FOLDS, {}, fold)
    # Those in no fold are learned from as well, unless there are more than enough.
    used = dealt if len(labeled) > MOST else np.arange(len(labeled))
    clean = _shorter(labeled.views[0][used] / labeled.scales)
    rows = Rows(clean, labeled.targets[used], labeled.weights[used])
    left_out = [np.flatnonzero(fold[used] == n) for n in range(fold.max() + 1)]
    kept = [np.setdiff1d(np.arange(len(used)), own) for own in left_out]
    heads: list[Head | None] = [None] * len(left_out)
    curve: dict[float, float] = {}
    with side_by_side() as threads:
        for strength in STRENGTHS:

            def one(number: int, strength: float = strength) -> float:
                heads[number] = head = solve(
                    rows[kept[number]],
                    strength,
                    start=heads[number],
                    gradient=_ROUGHLY,
                    check=check,
                )
                held = rows[left_out[number]]
                return _surprise(head, held)

            total = sum(threads.map(one, range(len(left_out))))
            curve[strength] = float(total / len(dealt))
            best = min(curve, key=lambda tried: curve[tried])
            if len(curve) > list(curve).index(best) + _WORSE:
                break
    return Tuned(best, curve, fold)


def fit(
    labeled: Labeled,
    pseudo: Labeled | None,
    strength: float,
    *,
    start: Head | None = None,
    check: Check = lambda: None,
) -> Head:
    """Solves a head on labeled and pseudo-labeled records.

    Args:
      labeled: the labeled records, whose features give the scales.
      pseudo: the pseudo-labeled records in as many views, if any.
      strength: C, on features divided by the scales.
      start: a head of the same features to begin with.
      check: called in every iteration; may raise.

    Returns:
      The head of unscaled features.
    """
    scales = labeled.scales
    every = examples([one for one in (labeled, pseudo) if one is not None], scales)
    if start is not None:
        start = Head(start.kernel * scales[:, None], start.bias)
    with threadpoolctl.threadpool_limits(1):
        head = solve(every, strength, start=start, check=check)
    return Head(head.kernel / scales[:, None], head.bias)


@dataclasses.dataclass(frozen=True)
class CrossFitted:
    """Heads that were each solved without one fold of the labeled records.

    Attributes:
      fold: int64 ``[records]``, see `Tuned`.
      probabilities: float64 ``[records, classes]``, each record's from the head that
        has not learned from it, nor from a teacher that has; NaN in no fold.
      pool: float32 ``[folds, pool, classes]``, each head's for the pool, if any.
    """

    fold: np.ndarray
    probabilities: np.ndarray
    pool: np.ndarray | None


def cross_fit(
    labeled: Labeled,
    pool: Sequence[np.ndarray] | None,
    strength: float,
    fold: np.ndarray,
    *,
    teacher: np.ndarray | None = None,
    select: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None,
    predict: np.ndarray | None = None,
    after_fold: Callable[[int], None] = lambda done: None,
    check: Check = lambda: None,
    threads: Executor | None = None,
) -> CrossFitted:
    """Solves a student's head once for each fold, without the fold's labels.

    A student learns from labels that a teacher gave, who learned from the labeled
    records: those are left out of the whole ladder, each of whose rungs is cross-fitted
    with the `pool` of the rung before as `teacher`.

    Args:
      labeled: the labeled records.
      pool: the pool's features in as many views, or None for labels alone.
      strength: C.
      fold: from `Tuned`.
      teacher: float ``[folds, pool, classes]``, of the teacher's `CrossFitted`.
      select: from one fold's probabilities ``[pool, classes]`` to the selected records
        ``[selected]`` and their targets ``[selected, classes]``.
      predict: features of a pool to be labeled by each head; None for none.
      after_fold: called after each fold with the number of folds done.
      check: called in every iteration; may raise.
      threads: of `side_by_side`; None for its own.
    """
    classes = labeled.targets.shape[1]
    found = np.full((len(labeled), classes), np.nan)

    def one(number: int) -> np.ndarray | None:
        kept = np.flatnonzero(fold != number)
        pseudo = None
        if pool is not None and teacher is not None and select is not None:
            records, targets = select(teacher[number])
            views = [view[records] for view in pool]
            pseudo = Labeled(views, targets, np.ones(len(records)))
        head = fit(labeled[kept], pseudo, strength, check=check)
        own = np.flatnonzero(fold == number)
        found[own] = head.probabilities(labeled.views[0][own])
        if predict is None:
            return None
        return head.probabilities(predict).astype(np.float32)

    with contextlib.nullcontext(threads) if threads else side_by_side() as cores:
        given = []
        for number, own in enumerate(cores.map(one, range(fold.max() + 1))):
            after_fold(number + 1)
            given += [] if own is None else [own]
    return CrossFitted(fold, found, np.stack(given) if given else None)


@contextlib.contextmanager
def side_by_side() -> Iterator[ThreadPoolExecutor]:
    """Provides one thread for each core, with one BLAS thread each."""
    with (
        threadpoolctl.threadpool_limits(1),
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads,
    ):
        try:
            yield threads
        finally:
            threads.shutdown(cancel_futures=True)


def seconds(rows: int, channels: int) -> float:
    """Returns about how long a head takes: solved once, and once for each fold.

    Args:
      rows: examples of all views.
      channels: of the features.
    """
    # Each iteration reads the features twice, and they come from memory.
    once = _ITERATIONS * 2 * 4 * rows * channels / _BYTES_PER_SECOND
    return once * (1 + FOLDS / len(os.sched_getaffinity(0)))


def examples(parts: Sequence[Labeled], scales: np.ndarray) -> Rows:
    """Returns the examples of all views of all parts, on common scales."""
    views = [view for one in parts for view in one.views]
    features = np.empty((sum(map(len, views)), len(scales)), np.float32)
    at = 0
    for view in views:
        # Into its place: copies of all views would take as long as some iterations.
        np.divide(view, scales, out=features[at : at + len(view)], casting="same_kind")
        at += len(view)
    return Rows(
        features,
        np.concatenate([np.tile(one.targets, (len(one.views), 1)) for one in parts]),
        np.concatenate(
            [np.tile(one.weights / len(one.views), len(one.views)) for one in parts]
        ),
    )


def _surprise(head: Head, held: Rows) -> float:
    """Returns the summed negative log-likelihood of records left out."""
    probabilities = head.probabilities(held.features)
    own = (probabilities * held.targets).sum(axis=1)
    return float(-np.log(np.maximum(own, 1e-12)).sum())


def _shorter(features: np.ndarray) -> np.ndarray:
    """Returns the features in as few coordinates as there are records, float64.

    Inner products, and so the solutions, stay the same.
    """
    features = features.astype(np.float64)
    if len(features) >= features.shape[1]:
        return features
    with threadpoolctl.threadpool_limits(1):
        return np.asarray(np.linalg.qr(features.T, mode="r")).T
