"""The report's section of pictures: images with their boxes drawn."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError, cause
from noisy_student_jax.core.protocols import Arrays, ReportContext, Source
from noisy_student_jax.core.sections import (
    Block,
    Legend,
    Model,
    Picture,
    Pictures,
    Section,
    Text,
)
from noisy_student_jax.data.labels import OBJECT
from noisy_student_jax.pseudo_labels import selection
from noisy_student_jax.tasks.detection import drawing, judged, matching
from noisy_student_jax.tasks.detection.drawing import Layer
from noisy_student_jax.tasks.detection.judged import Judged

SHOWN = 6
"""Pictures of a row."""
SIDE = 360
"""Longer side of a picture in pixels."""
_FAULTS = (UserError, OSError, ValueError, LookupError, RuntimeError)


def section(context: ReportContext, names: Sequence[str]) -> Section:
    """Returns test images with their boxes, and those that each teacher labeled."""
    blocks: list[Block] = [Legend(drawing.LEGEND)]
    try:
        blocks += _tested(context, names)
    except _FAULTS as error:
        says = f"The test images cannot be shown: {cause(error)}."
        blocks.append(Text(says, missing=True))
    for one in context.models:
        if not (one.is_generation and files.is_file(one.selection / selection.PLAN)):
            continue
        try:
            blocks += _pseudo_labeled(one, context.part("pool"), names)
        except _FAULTS as error:
            says = f"The images labeled by {one.title} cannot be shown: {cause(error)}."
            blocks.append(Text(says, missing=True))
    return Section("images", "Images", "Images with their boxes", blocks)


def _tested(context: ReportContext, names: Sequence[str]) -> list[Block]:
    best = context.best
    test = judged.read(best.predictions)
    lowest = np.full(len(names), judged.CUT, np.float32)
    if files.is_file(best.validation):
        lowest = judged.cuts(judged.read(best.validation).statistics)
    shown = _Shown(test, context.part("test"), lowest, names)
    taken = test.predictions["scores"] >= lowest[test.predictions["classes"]]
    counts = taken.sum(axis=1)
    sure = np.where(taken, test.predictions["scores"], 0).sum(axis=1)
    sure = sure / np.maximum(counts, 1)
    there = np.flatnonzero(counts)
    order = there[np.argsort(-sure[there], kind="stable")]
    least = order[max(SHOWN, len(order) - SHOWN) :][::-1]
    says = (
        f"Boxes of {best.title} are drawn from the score that is best on validation"
        f" images ({_listed(lowest, names)}). Confidence is their mean score"
    )
    none = len(counts) - len(there)
    says += f"; {none:,} images have no such box." if none else "."
    blocks: list[Block] = [Text(says)]
    for title, images in (("Most", order[:SHOWN]), ("Least", least)):
        pictures = [shown.whole(k, f"{sure[k]:.2f}") for k in images.tolist()]
        if pictures:
            blocks.append(Pictures(f"{title} confident test images", pictures))
    return blocks + _mistakes(shown)


def _listed(lowest: np.ndarray, names: Sequence[str]) -> str:
    told = [f"{name} {score:.2f}" for name, score in zip(names, lowest, strict=True)]
    return ", ".join(told[:SHOWN]) + (", …" if len(told) > SHOWN else "")


def _mistakes(shown: "_Shown") -> list[Block]:
    """Returns the worst misses and the worst false alarms, one of an image."""
    test = shown.test
    misses: list[tuple[float, float, int, int]] = []
    alarms: list[tuple[float, int, int]] = []
    for image in range(len(test.keys)):
        predictions, labels = test.of_image(image), test.labels[image]
        found = matching.outcome(predictions, labels)
        scores = np.zeros(len(labels))
        scores[found.hits[:, 1]] = predictions["scores"][found.hits[:, 0]]
        areas = (labels[:, 2:4] - labels[:, :2]).prod(axis=1)
        lowest = shown.lowest[labels[:, 4].astype(np.int64)]
        missed = np.flatnonzero((labels[:, 5] == OBJECT) & (scores < lowest))
        if len(missed):
            worst = min(missed.tolist(), key=lambda n: (scores[n], -areas[n]))
            misses.append((scores[worst], -areas[worst], image, worst))
        if len(found.false_alarms):
            worst = int(found.false_alarms[0])
            alarms.append((-float(predictions["scores"][worst]), image, worst))
    blocks: list[Block] = []
    if misses:
        pictures = [
            shown.miss(k, n, score) for score, _, k, n in sorted(misses)[:SHOWN]
        ]
        says = (
            f"{len(misses):,} of {len(test.keys):,} test images have an object that no"
            " drawn box overlaps by half. First those that have the lowest score, and"
            " of these the largest."
        )
        blocks.append(Pictures("Worst misses", pictures, says))
    if alarms:
        pictures = [shown.alarm(k, n) for _, k, n in sorted(alarms)[:SHOWN]]
        says = "Boxes of the highest scores that overlap no true box of their class by"
        says += " half: mistakes, or objects that nobody has labeled."
        blocks.append(Pictures("Worst false alarms", pictures, says))
    return blocks


@dataclasses.dataclass(frozen=True)
class _Shown:
    """Test images to be drawn.

    Attributes:
      test: what was predicted.
      source: the test images.
      lowest: float32 ``[classes]``, the score from which boxes are drawn.
      names: class names.
    """

    test: Judged
    source: Source
    lowest: np.ndarray
    names: Sequence[str]

    def whole(self, image: int, caption: str) -> Picture:
        """Draws all boxes of an image."""
        true = drawing.of_labels(self.test.labels[image])
        found = drawing.of_predictions(self.test.of_image(image), self.lowest)
        layers = [*(dataclasses.replace(one, labeled=False) for one in true), found]
        told = f"{len(true[1].boxes)} true, {len(found.boxes)} predicted"
        return self._picture(image, layers, told, f"{caption} · {told}")

    def miss(self, image: int, place: int, score: float) -> Picture:
        """Draws an image with a true box pointed out."""
        label = self.test.labels[image, place]
        name = self.names[int(label[4])]
        caption = f"{name}, only {score:.2f}" if score else f"{name}, not found"
        found = drawing.of_predictions(self.test.of_image(image), self.lowest)
        layer = _one(label[:4], label[4], drawing.TRUE, None)
        around = [dataclasses.replace(found, labeled=False), layer]
        return self._picture(image, around, f"missed: {caption}", caption)

    def alarm(self, image: int, place: int) -> Picture:
        """Draws an image with its true boxes and a false alarm."""
        found = self.test.of_image(image)
        score, label = float(found["scores"][place]), found["classes"][place]
        caption = f"{self.names[int(label)]} {score:.2f}"
        layer = _one(found["boxes"][place], label, drawing.PREDICTED, score)
        layers = [*drawing.of_labels(self.test.labels[image]), layer]
        return self._picture(image, layers, f"false alarm: {caption}", caption)

    def _picture(
        self, image: int, layers: Sequence[Layer], tells: str, caption: str
    ) -> Picture:
        key = self.test.keys[image]
        record = self._records[key]
        pixels = self.source.read([record]).images[0]
        return _picture(pixels, layers, self.names, tells, caption, key)

    @functools.cached_property
    def _records(self) -> dict[str, int]:
        return {self.source.key(index): index for index in range(len(self.source))}


def _one(
    box: np.ndarray, label: float, color: drawing.Color, score: float | None
) -> Layer:
    return Layer(
        boxes=np.asarray(box)[None],
        classes=np.array([label], np.int64),
        color=color,
        scores=None if score is None else np.array([score]),
        strong=np.ones(1, bool),
    )


def _picture(
    pixels: np.ndarray | None,
    layers: Sequence[Layer],
    names: Sequence[str],
    tells: str,
    caption: str,
    key: str,
) -> Picture:
    if pixels is not None:
        pixels = drawing.drawn(pixels, layers, names, side=SIDE)
    return Picture(pixels, tells, caption, key)


def _pseudo_labeled(model: Model, pool: Source, names: Sequence[str]) -> list[Block]:
    """Returns the images that a generation labeled most and least confidently."""
    table = files.read_parquet(model.selection / selection.PLAN, columns=["key"])
    picks, targets = selection.load_picks(model.selection)
    objects = np.asarray(targets["kinds"]) == OBJECT
    counts = objects.sum(axis=1)
    sure = np.where(objects, targets["scores"], 0).sum(axis=1) / np.maximum(counts, 1)
    there = np.flatnonzero(counts)
    order = there[np.argsort(-sure[there], kind="stable")]
    half = SHOWN // 2
    rows = [*order[:half], *order[max(half, len(order) - half) :]]
    pictures = []
    for row in rows:
        # Picks follow the plan's order, one per copy: take the first of each row.
        record = int(picks[np.searchsorted(picks[:, 1], row), 0])
        key = table["key"][int(row)].as_py()
        if pool.key(record) != key:
            raise ValueError("the pool is not the one that was labeled")
        target: Arrays = {name: array[row] for name, array in targets.items()}
        layers = drawing.layers_of(target, color=drawing.PSEUDO)
        boxes = f"{counts[row]:,} {'box' if counts[row] == 1 else 'boxes'}"
        pixels = pool.read([record]).images[0]
        caption = f"{sure[row]:.2f} · {boxes}"
        tells = f"{boxes} by {model.title}, mean score {sure[row]:.2f}"
        pictures.append(_picture(pixels, layers, names, tells, caption, key))
    says = (
        "The student learns these boxes; the first images are the most confident, the"
        " last the least."
    )
    if empty := len(counts) - len(there):
        says += (
            f" {empty:,} of {len(counts):,} images have none: nothing is to be found"
        )
        says += " in them."
    return [Pictures(f"Pseudo-labeled by {model.title}", pictures, says)]
