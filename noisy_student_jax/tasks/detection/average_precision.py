"""COCO's average precision (AP) of a set of images and of its resamples.

AP is no mean over images, since it ranks the detections of all of them. The statistics
of an image say of each of its detections whether it is a hit, so that boxes are matched
once. In a resample each image has a weight, the number of times that it was drawn, and
precision and recall are ratios of weighted sums along one ranking: what copies of the
images give, unless one image has detections of equal score.

Source: ``COCOeval.accumulate`` and ``summarize`` of pycocotools: 10 thresholds of IoU,
101 points of recall, precision made monotone, all sizes, at most 100 detections an
image. The tests compare with it.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from noisy_student_jax.core.protocols import Arrays
from noisy_student_jax.data.labels import class_counts
from noisy_student_jax.tasks.detection import matching
from noisy_student_jax.tasks.detection.matching import THRESHOLDS

MOST = 100
"""Number of detections of an image that count, those of highest score."""
RECALLS = np.linspace(0.0, 1.0, 101)
"""Points of recall whose precision is averaged."""
MOST_SUMS = 1 << 17
"""Number of weighted sums, of resamples by detections, that are in memory at once."""


def statistics(
    predictions: Arrays, labels: np.ndarray, *, classes: int
) -> pa.StructArray:
    """Returns what AP needs to know of each image.

    Args:
      predictions: ``boxes`` ``[images, detections, 4]``, ``scores`` (0 for none) and
        ``classes`` ``[images, detections]``.
      labels: float ``[images, boxes, 6]``: left, top, right, bottom, class, and kind
        (0 none, 1 object, 2 ignore).
      classes: number of classes.

    Returns:
      Structs ``[images]`` of four lists over the image's detections in order of score,
      ``classes`` (int32), ``scores`` (float32), ``hits`` and ``ignored`` (uint16, bit
      `k` for `THRESHOLDS[k]`), and a list over classes, ``boxes`` (int32), the number
      of true boxes.
    """
    scores = predictions["scores"].astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :MOST]
    scores = np.take_along_axis(scores, order, axis=1)
    best: Arrays = {
        "boxes": np.take_along_axis(predictions["boxes"], order[:, :, None], axis=1),
        "scores": scores,
        "classes": np.take_along_axis(predictions["classes"], order, axis=1),
    }
    found = matching.matched(best, labels)
    bits = 1 << np.arange(len(THRESHOLDS))
    there = scores > 0
    counts = there.sum(axis=1)
    columns = {
        "classes": best["classes"].astype(np.int32),
        "scores": scores,
        "hits": ((found >= 0) @ bits).astype(np.uint16),
        "ignored": ((found == matching.NEITHER) @ bits).astype(np.uint16),
    }
    lists = {name: _lists(value[there], counts) for name, value in columns.items()}
    boxes = class_counts(labels, classes).astype(np.int32)
    lists["boxes"] = _lists(boxes.reshape(-1), np.full(len(labels), classes))
    return pa.StructArray.from_arrays(list(lists.values()), list(lists))


def primary(statistics: pa.StructArray, draws: np.ndarray | None = None) -> np.ndarray:
    """Returns AP of resampled images (`Task.primary`), float64 ``[resamples]``."""
    return _mean(averages(statistics, draws).precision, axis=(1, 2))


def metrics(
    statistics: pa.StructArray, names: Sequence[str], draws: np.ndarray | None = None
) -> Arrays:
    """Returns AP, AP50, AP75, AR100, and ``AP/NAME`` of each class.

    Args:
      statistics: see `statistics`.
      names: names of the classes.
      draws: int ``[resamples, images]``, how often each image was drawn; None for one
        resample with each image once.

    Returns:
      float64 ``[resamples]`` each. Classes without a true box have NaN and are in no
      mean; without any true box all is NaN.
    """
    found = averages(statistics, draws)
    at = {name: int(np.argmin(abs(THRESHOLDS - iou))) for name, iou in _SINGLE.items()}
    return {
        "AP": _mean(found.precision, axis=(1, 2)),
        **{name: _mean(found.precision[:, :, k], axis=1) for name, k in at.items()},
        "AR100": _mean(found.recall, axis=(1, 2)),
        **{
            f"AP/{name}": found.precision[:, label].mean(axis=1)
            for label, name in enumerate(names)
        },
    }


_SINGLE = {"AP50": 0.5, "AP75": 0.75}


@dataclasses.dataclass(frozen=True)
class Averages:
    """Average precision and recall of resamples; NaN for classes without true boxes.

    Attributes:
      precision: float64 ``[resamples, classes, thresholds]``, mean over `RECALLS`.
      recall: float64 ``[resamples, classes, thresholds]``, of all detections.
    """

    precision: np.ndarray
    recall: np.ndarray


def averages(statistics: pa.StructArray, draws: np.ndarray | None = None) -> Averages:
    """Computes average precision of each class at each threshold.

    Args:
      statistics: see `statistics`.
      draws: int ``[resamples, images]``, how often each image was drawn; None for one
        resample with each image once.
    """
    if draws is None:
        draws = np.ones((1, len(statistics)), np.int32)
    ranked = _ranked(statistics)
    found = np.empty((2, len(draws), len(ranked), len(THRESHOLDS)))
    for label, one in enumerate(ranked):
        some = max(1, MOST_SUMS // max(1, len(one.image), len(RECALLS)))
        for start in range(0, len(draws), some):
            rows = slice(start, start + some)
            found[:, rows, label] = _averages(one, draws[rows])
    return Averages(*found)


@dataclasses.dataclass(frozen=True)
class Curve:
    """Precision and recall of one class as its detections are admitted by score.

    Attributes:
      scores: float32 ``[points]``, the lowest score admitted, descending.
      precision: float64 ``[points]``, not made monotone.
      recall: float64 ``[points]``.
      boxes: number of true boxes.
    """

    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    boxes: int


def curves(statistics: pa.StructArray, *, threshold: int = 0) -> list[Curve]:
    """Returns the precision–recall curve of each class at one of `THRESHOLDS`.

    Args:
      statistics: see `statistics`.
      threshold: its index.
    """
    found = []
    for one in _ranked(statistics):
        counts = ~one.ignored[:, threshold]
        hits = np.cumsum(one.hits[counts, threshold])
        boxes = int(one.boxes.sum())
        found.append(
            Curve(
                scores=one.scores[counts],
                precision=hits / np.arange(1, len(hits) + 1),
                recall=hits / boxes if boxes else np.full(len(hits), np.nan),
                boxes=boxes,
            )
        )
    return found


@dataclasses.dataclass(frozen=True)
class _Ranked:
    """The detections of one class in order of score; of equal scores, by image.

    Attributes:
      scores: float32 ``[detections]``.
      image: int ``[detections]``.
      hits: bool ``[detections, thresholds]``.
      ignored: bool ``[detections, thresholds]``.
      boxes: int ``[images]``, number of true boxes.
    """

    scores: np.ndarray
    image: np.ndarray
    hits: np.ndarray
    ignored: np.ndarray
    boxes: np.ndarray


def _ranked(statistics: pa.StructArray) -> list[_Ranked]:
    names = [field.name for field in statistics.type]
    # Unlike `StructArray.field`, it takes slices into account.
    lists = dict(zip(names, statistics.flatten(), strict=True))
    counts = lists["scores"].value_lengths().to_numpy(zero_copy_only=False)
    image = np.repeat(np.arange(len(statistics)), counts)
    flat = {
        name: one.flatten().to_numpy(zero_copy_only=False)
        for name, one in lists.items()
    }
    boxes = flat.pop("boxes").reshape(len(statistics), -1)
    order = np.argsort(-flat["scores"], kind="stable")
    image, flat = image[order], {name: one[order] for name, one in flat.items()}
    found = []
    for label in range(boxes.shape[1]):
        own = flat["classes"] == label
        found.append(
            _Ranked(
                scores=flat["scores"][own],
                image=image[own],
                hits=_bits(flat["hits"][own]),
                ignored=_bits(flat["ignored"][own]),
                boxes=boxes[:, label],
            )
        )
    return found


def _averages(one: _Ranked, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns average precision and recall of one class.

    Only hits are points of the curve: between two of them recall stays, and precision
    is lower than it was at the first.

    Returns:
      Two arrays float64 ``[resamples, thresholds]``.
    """
    precision, recall = np.full((2, len(draws), len(THRESHOLDS)), np.nan)
    boxes = draws @ one.boxes
    there = boxes > 0
    draws, boxes = draws[there], boxes[there, None]
    if not len(draws):
        return precision, recall
    needed = _needed(boxes)
    seen = np.cumsum(draws[:, one.image], axis=1)
    # Rows follow each other in one ascending sequence, to be searched at once.
    first = np.arange(len(draws))[:, None] * (boxes.max() + 1)
    for k in range(len(THRESHOLDS)):
        hits, ignored = (np.flatnonzero(x[:, k]) for x in (one.hits, one.ignored))
        if not len(hits):
            precision[there, k] = recall[there, k] = 0.0
            continue
        right = np.cumsum(draws[:, one.image[hits]], axis=1)
        admitted = seen[:, hits]
        if len(ignored):
            passed = np.cumsum(draws[:, one.image[ignored]], axis=1)
            passed = np.pad(passed, ((0, 0), (1, 0)))
            admitted -= passed[:, np.searchsorted(ignored, hits)]
        share = right / np.maximum(admitted, 1)
        share = np.maximum.accumulate(share[:, ::-1], axis=1)[:, ::-1]
        place = np.searchsorted((right + first).reshape(-1), needed + first)
        reached = needed <= right[:, -1:]
        place = np.where(reached, place, 0)
        precision[there, k] = np.where(reached, share.reshape(-1)[place], 0).mean(
            axis=1
        )
        recall[there, k] = right[:, -1] / boxes[:, 0]
    return precision, recall


def _needed(boxes: np.ndarray) -> np.ndarray:
    """Returns the fewest hits with which recall reaches each of `RECALLS`.

    In floating point, as recall is compared with them there.

    Args:
      boxes: int ``[resamples, 1]``.

    Returns:
      int64 ``[resamples, recalls]``.
    """
    needed = np.ceil(RECALLS * boxes).astype(np.int64)
    needed -= (needed - 1) / boxes >= RECALLS
    return needed + (needed / boxes < RECALLS)


def _mean(values: np.ndarray, *, axis: int | tuple[int, ...]) -> np.ndarray:
    """Returns the mean of what is defined; NaN where nothing is."""
    there = ~np.isnan(values)
    total = np.where(there, values, 0).sum(axis=axis)
    count = there.sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _bits(masks: np.ndarray) -> np.ndarray:
    return (masks[:, None] >> np.arange(len(THRESHOLDS), dtype=np.uint16)) & 1 == 1


def _lists(values: np.ndarray, counts: np.ndarray) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
