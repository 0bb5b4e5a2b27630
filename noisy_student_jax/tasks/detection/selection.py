"""Which of a teacher's boxes a student learns from, and how often it sees an image.

Boxes at or above the threshold of their class (`thresholds`) are objects. Those below,
from `UNSURE` on, are regions to ignore: nobody knows whether there is an object. So are
boxes that a surer one of another class overlaps with (`doubles`). A further box of an
object is neither: what is there is known. An image without boxes is a valid example:
nothing is to be found in it. The place of a box is learned where both views of the
teacher agree on it (`sidecar.RELIABLE`).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from noisy_student_jax.core.console import printable
from noisy_student_jax.core.errors import NothingSelectedError, UserError
from noisy_student_jax.core.protocols import Arrays
from noisy_student_jax.data.labels import IGNORE, NONE, OBJECT, totals
from noisy_student_jax.pseudo_labels.plan import SelectionOptions
from noisy_student_jax.tasks.detection import repeats, sidecar, thresholds
from noisy_student_jax.tasks.detection.doubles import again, doubles

UNSURE = np.float32(0.1)
"""Boxes below are taken for background."""
FAR_OFF = 5
"""A class is warned of if the pool has this many times fewer or more boxes of an image
than the labels have…"""
ENOUGH = 10
"""…and one of the two rates makes at least this many boxes in the pool."""

THRESHOLD = "threshold"
RATE = "boxes of a labeled image"
PSEUDO_RATE = "boxes of a pseudo-labeled image"
"""Facts by class, which the report compares."""

Batches = Callable[[], Iterator[pa.RecordBatch]]


def check(options: SelectionOptions) -> None:
    """Checks the options of a selection.

    Raises:
      UserError: the method balances whole images by one class each.
    """
    if options.method != "all":
        raise UserError(
            f"config.selection.method is {options.method!r}, which draws whole images"
            " by one class each, and an image has boxes of several classes: choose"
            " --config.selection.method=all (boxes have a threshold by class, and"
            " images of rare classes are repeated)"
        )


class BoxChooser:
    """See `core.protocols.Chooser`.

    Args:
      batches: reads the pool's labeled rows.
      labels: boxes of the labeled images, float32 ``[images, N, 6]``, see
        `data.labels`.
      options: of the selection. A `min_score` above 0 is the threshold of all classes;
        `max_copies` bounds repeats in place of `repeats.MOST`.
      classes: class names.

    Raises:
      NothingSelectedError: no box of the pool reaches the threshold of its class.
      UserError: the method balances whole images by one class each.
    """

    def __init__(
        self,
        batches: Batches,
        labels: np.ndarray,
        options: SelectionOptions,
        *,
        classes: Sequence[str],
    ):
        check(options)
        self.names = [str(name) for name in classes]
        self._seed = options.seed
        objects = totals(labels, len(classes))
        scores, images = _scores(batches, len(classes))
        if options.min_score:
            lowest = np.float32(options.min_score)
            self._with_doubles = self.thresholds = np.full(len(classes), lowest)
        else:
            known = objects, len(labels)
            self._with_doubles = thresholds.at_labeled_rate(scores, images, *known)
            scores, _ = _scores(batches, len(classes), but=self._doubles)
            self.thresholds = thresholds.at_labeled_rate(scores, images, *known)
        counts = self._counted(batches)
        if not counts["objects"].any():
            raise _nothing(scores, images, self.thresholds)
        self._asked = repeats.factors(
            counts["images"], most=options.max_copies or repeats.MOST
        )
        rates = objects / max(len(labels), 1), counts["objects"] / images
        self.facts = self._told(counts, images, *rates)
        self.warnings = _far_off(self.names, *rates, images)

    def kinds(self, found: Arrays) -> np.ndarray:
        """Returns the kinds of boxes, int8 ``[boxes]``.

        Args:
          found: the result of `sidecar.flat`.
        """
        scores = found["scores"]
        sure = (scores >= self.thresholds[found["classes"]]) & ~self._doubles(found)
        unsure = (scores >= UNSURE) & ~again(found, sure)
        kinds = np.where(unsure, IGNORE, NONE)
        return np.where(sure, OBJECT, kinds).astype(np.int8)

    def targets(self, rows: pa.RecordBatch) -> Arrays:
        """See `core.protocols.Chooser`; arrays as those of `sidecar.stored_targets`."""
        found = sidecar.flat(rows)
        return sidecar.targets_of(found, self.kinds(found), rows.num_rows)

    def copies(self, rows: pa.RecordBatch) -> np.ndarray:
        """See `core.protocols.Chooser`; images of rare classes are repeated."""
        present = self._present(sidecar.flat(rows), rows.num_rows)
        return repeats.draws(present, self._asked, rows.column("key"), seed=self._seed)

    def _doubles(self, found: Arrays) -> np.ndarray:
        return doubles(found, self._with_doubles)

    def _present(self, found: Arrays, images: int) -> np.ndarray:
        """Returns which classes have an object, bool ``[images, classes]``."""
        present = np.zeros((images, len(self.names)), bool)
        sure = self.kinds(found) == OBJECT
        present[found["rows"][sure], found["classes"][sure]] = True
        return present

    def _counted(self, batches: Batches) -> dict[str, np.ndarray]:
        """Counts objects, ignored boxes, placed ones and images, by class."""
        names = ("objects", "ignored", "placed", "images")
        counts = {name: np.zeros(len(self.names), np.int64) for name in names}
        counts["empty"] = np.zeros(1, np.int64)
        for rows in batches():
            found = sidecar.flat(rows)
            kinds, of_class = self.kinds(found), found["classes"]
            placed = found["reliabilities"] >= sidecar.RELIABLE
            present = self._present(found, rows.num_rows)
            for name, chosen in (
                ("objects", kinds == OBJECT),
                ("ignored", kinds == IGNORE),
                ("placed", (kinds == OBJECT) & placed),
            ):
                counts[name] += np.bincount(of_class[chosen], minlength=len(self.names))
            counts["images"] += present.sum(axis=0)
            counts["empty"] += (~present.any(axis=1)).sum()
        return counts

    def _told(
        self,
        counts: dict[str, np.ndarray],
        images: int,
        labeled: np.ndarray,
        pseudo: np.ndarray,
    ) -> dict[str, Any]:
        objects, ignored = counts["objects"], counts["ignored"]
        facts = {
            THRESHOLD: self._by_class(self.thresholds),
            RATE: self._by_class(labeled),
            PSEUDO_RATE: self._by_class(pseudo),
            "share of boxes that are ignored": self._by_class(
                ignored, of=objects + ignored
            ),
            "images without boxes": f"{int(counts['empty'][0]):,} of {images:,}",
            "draws that a class asks for": self._by_class(self._asked),
        }
        if (counts["placed"] < objects).any():
            facts["share of boxes whose place is learned"] = self._by_class(
                counts["placed"], of=objects
            )
        return facts

    def _by_class(
        self, values: np.ndarray, *, of: np.ndarray | None = None
    ) -> dict[str, float | None]:
        """Returns values, or their shares of others, by class name."""
        whole = np.ones(len(values)) if of is None else of
        return {
            name: round(float(value / one), 4) if one else None
            for name, value, one in zip(self.names, values, whole, strict=True)
        }


def _scores(
    batches: Batches,
    classes: int,
    *,
    but: Callable[[Arrays], np.ndarray] | None = None,
) -> tuple[np.ndarray, int]:
    """Returns the histogram of the pool's scores, and its number of images.

    Args:
      batches: reads the pool's labeled rows.
      classes: number of classes.
      but: tells which boxes of `sidecar.flat` do not count.
    """
    counts, images = np.zeros((classes, thresholds.BINS + 1), np.int64), 0
    for rows in batches():
        found = sidecar.flat(rows)
        counted = slice(None) if but is None else ~but(found)
        counts += thresholds.histogram(
            found["classes"][counted], found["scores"][counted], classes
        )
        images += rows.num_rows
    return counts, images


def _nothing(
    scores: np.ndarray, images: int, lowest: np.ndarray
) -> NothingSelectedError:
    bins = np.flatnonzero(scores.any(axis=0))
    best = "there is none at all"
    if len(bins):
        best = f"the best has {thresholds.EDGES[bins[-1]]:.3g}"
    return NothingSelectedError(
        f"no box in {images:,} images of the pool reaches the threshold of its class,"
        f" which is {lowest.min():.3g} or more ({best}); give a lower one for all"
        " classes with --config.selection.min_score=SCORE, or train a better teacher"
    )


def _far_off(
    names: Sequence[str], labeled: np.ndarray, pseudo: np.ndarray, images: int
) -> list[str]:
    """Warns of classes whose boxes are far rarer, or far more frequent, than labels."""
    told = [
        f"'{printable(name)}' {found:.2g} against {known:.2g}"
        for name, found, known in zip(names, pseudo, labeled, strict=True)
        if max(found, known) > FAR_OFF * min(found, known)
        and max(found, known) * images >= ENOUGH
    ]
    if not told:
        return []
    return [
        "boxes of an image are far from the labeled rate, pseudo-labeled against"
        f" labeled: {', '.join(told)}; look at some of the pool: it may be of other"
        " images than the labeled ones, their labels may lack objects, or the teacher"
        " needs more labels of these classes"
    ]
