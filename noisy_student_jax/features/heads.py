"""Heads on features: tuned by cross-validation on the labeled images, then solved.

A labeled record weighs as much as a draw of a pseudo-labeled one; each of a record's
views has an equal part of its weight, and a head predicts from their mean. The strength
of the regularization and the number of views are chosen on labeled images alone, by the
likelihood of those left out. One thread does each matrix product, so that results do
not depend on the number of cores; folds run side by side.
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
from noisy_student_jax.features.reduction import directions_for

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
      views: float32 ``[records, channels]`` each.
      targets: float ``[records, classes]``, each row summing to one.
      weights: float ``[records]``.
    """

    views: Sequence[np.ndarray]
    targets: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, records: np.ndarray) -> "Labeled":
        views = [view[records] for view in self.views]
        return Labeled(views, self.targets[records], self.weights[records])

    def first(self, count: int) -> "Labeled":
        """Returns the records in their first `count` views."""
        return dataclasses.replace(self, views=self.views[:count])

    def rows(self) -> Rows:
        """Returns the examples of all views."""
        count = len(self.views)
        return Rows(
            np.concatenate(self.views),
            np.tile(self.targets, (count, 1)),
            np.tile(self.weights / count, count),
        )


@dataclasses.dataclass(frozen=True)
class Tuned:
    """The result of cross-validation.

    Attributes:
      strength: the chosen C.
      views: the chosen number of views, of the first ones.
      curve: by C, the mean negative log-likelihood of records left out, with so many.
      fold: int64 ``[records]``, the fold that leaves a record out; -1 for none.
    """

    strength: float
    views: int
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
    """Chooses C and the number of views by cross-validation of labeled records.

    All views are taken, unless half of them, or so on down to the first one, are ahead
    by more than a standard error: flips help with animals, and do harm with letters.

    Args:
      labeled: the labeled records.
      order: see `deal`.
      check: called in every iteration; may raise.
    """
    labels, most = labeled.targets.argmax(axis=1), len(labeled.views)
    fold = deal(labels, order)
    dealt = np.flatnonzero(fold >= 0)
    if not len(dealt):
        return Tuned(WITHOUT_FOLDS, most, {}, fold)
    # Those in no fold are learned from as well, unless there are more than enough.
    used = dealt if len(labeled) > MOST else np.arange(len(labeled))
    found, count = {}, most
    while count:
        own = labeled[used].first(count)
        found[count] = _losses(own, fold[used], check)
        count //= 2
    best = {count: min(own.values(), key=np.mean) for count, own in found.items()}
    views, ahead = most, 0.0
    for count, losses in best.items():
        better = best[most] - losses
        error = better.std() / math.sqrt(len(better))
        if better.mean() > max(ahead, error):
            views, ahead = count, float(better.mean())
    curve = {strength: float(one.mean()) for strength, one in found[views].items()}
    return Tuned(min(curve, key=lambda tried: curve[tried]), views, curve, fold)


def _losses(
    labeled: Labeled, fold: np.ndarray, check: Check
) -> dict[float, np.ndarray]:
    """Returns by C the negative log-likelihood of each record left out."""
    left_out = [np.flatnonzero(fold == n) for n in range(fold.max() + 1)]
    kept = [labeled[np.flatnonzero(fold != n)].rows() for n in range(fold.max() + 1)]
    heads: list[Head | None] = [None] * len(left_out)
    losses: dict[float, np.ndarray] = {}
    with side_by_side() as threads:
        for strength in STRENGTHS:

            def one(number: int, strength: float = strength) -> np.ndarray:
                heads[number] = head = solve(
                    kept[number],
                    strength,
                    start=heads[number],
                    gradient=_ROUGHLY,
                    check=check,
                )
                return _surprise(head, labeled[left_out[number]])

            by_fold = threads.map(one, range(len(left_out)))
            losses[strength] = np.concatenate(list(by_fold))
            means = [float(own.mean()) for own in losses.values()]
            if len(means) > means.index(min(means)) + _WORSE:
                break
    return losses


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
      labeled: the labeled records.
      pseudo: the pseudo-labeled records in as many views, if any.
      strength: C.
      start: a head of the same features to begin with.
      check: called in every iteration; may raise.
    """
    both = [one.rows() for one in (labeled, pseudo) if one is not None and len(one)]
    rows = Rows(
        np.concatenate([one.features for one in both]),
        np.concatenate([one.targets for one in both]),
        np.concatenate([one.weights for one in both]),
    )
    with threadpoolctl.threadpool_limits(1):
        return solve(rows, strength, start=start, check=check)


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
        found[own] = head.probabilities(mean(labeled[own].views))
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


def seconds(rows: int, channels: int, *, labeled: int) -> float:
    """Returns about how long a head takes: solved once, and once for each fold.

    Args:
      rows: examples of all views.
      channels: of the features.
      labeled: number of labeled records.
    """
    # Each iteration reads the features twice, and they come from memory.
    kept = min(channels, directions_for(labeled))
    once = _ITERATIONS * 2 * 4 * rows * kept / _BYTES_PER_SECOND
    return once * (1 + FOLDS / len(os.sched_getaffinity(0)))


def mean(views: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the mean of features over views."""
    return views[0] if len(views) == 1 else np.mean(views, axis=0)


def _surprise(head: Head, held: Labeled) -> np.ndarray:
    """Returns the negative log-likelihood of each record left out."""
    probabilities = head.probabilities(mean(held.views))
    own = (probabilities * held.targets).sum(axis=1)
    return -np.log(np.maximum(own, 1e-12))
