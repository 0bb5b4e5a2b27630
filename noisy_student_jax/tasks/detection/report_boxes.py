"""The report's section that holds pseudo-labeled boxes against labeled ones."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError, cause
from noisy_student_jax.core.protocols import Arrays, ReportContext
from noisy_student_jax.core.sections import (
    Beside,
    Block,
    Heading,
    Histogram,
    Model,
    Section,
    Table,
    Text,
)
from noisy_student_jax.data.labels import OBJECT
from noisy_student_jax.data.sources import labels_of
from noisy_student_jax.pseudo_labels import selection
from noisy_student_jax.pseudo_labels import sidecar as sidecars
from noisy_student_jax.pseudo_labels.chosen import labeled_rows
from noisy_student_jax.tasks.detection import sidecar
from noisy_student_jax.tasks.detection.report_precision import left_out, most_frequent
from noisy_student_jax.tasks.detection.selection import PSEUDO_RATE, RATE, THRESHOLD

SCORES = np.linspace(0, 1, 21)
SIZES = 2.0 ** np.arange(-7, 0.5, 0.5)
"""Edges of the bins of sizes, in longer sides of an image."""
MOST_BOXES = 12
"""Images with more boxes of a class are in the last bin."""


@dataclasses.dataclass(frozen=True)
class Boxes:
    """The boxes of images.

    Attributes:
      images: number of images.
      image: int ``[boxes]``, the image of each box.
      boxes: ``[boxes, 4]``.
      classes: int ``[boxes]``.
    """

    images: int
    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray

    @classmethod
    def of_labels(cls, labels: np.ndarray) -> "Boxes":
        """Takes the objects of labels ``[images, N, 6]``."""
        image, place = np.nonzero(labels[..., 5] == OBJECT)
        own = labels[image, place]
        return cls(len(labels), image, own[:, :4], own[:, 4].astype(np.int64))

    @classmethod
    def of_targets(cls, targets: Arrays) -> "Boxes":
        """Takes the objects of targets that a selection wrote."""
        image, place = np.nonzero(np.asarray(targets["kinds"]) == OBJECT)
        return cls(
            len(targets["kinds"]),
            image,
            targets["boxes"][image, place],
            targets["classes"][image, place].astype(np.int64),
        )

    def counts(self, label: int) -> np.ndarray:
        """Returns the share of images with each number of boxes of a class."""
        each = np.bincount(self.image[self.classes == label], minlength=self.images)
        bins = np.bincount(np.minimum(each, MOST_BOXES), minlength=MOST_BOXES + 1)
        return bins / max(1, self.images)

    def sizes(self, label: int) -> np.ndarray:
        """Returns the share of a class's boxes in each bin of `SIZES`."""
        own = self.boxes[self.classes == label]
        roots = np.sqrt((own[:, 2:] - own[:, :2]).clip(0).prod(axis=1))
        bins, _ = np.histogram(roots.clip(SIZES[0], SIZES[-1]), SIZES)
        return bins / max(1, len(own))


def section(context: ReportContext, names: Sequence[str]) -> Section | None:
    """Returns rates, scores, numbers and sizes of boxes; None without a selection."""
    teachers = [
        one
        for one in context.models
        if one.is_generation and files.is_file(one.selection / selection.SUMMARY)
    ]
    if not teachers:
        return None
    blocks: list[Block] = []
    try:
        facts = [_facts(one) for one in teachers]
        blocks.append(_rates(teachers, facts, names))
        labeled = Boxes.of_labels(np.asarray(labels_of(context.part("labeled"))))
        blocks += _charts(teachers[-1], facts[-1], labeled, names)
    except (UserError, OSError, ValueError, LookupError) as error:
        says = f"Not all can be shown: {cause(error)}."
        blocks.append(Text(says, missing=True))
    title = "Pseudo-labeled boxes against labeled ones"
    return Section("boxes", "Boxes", title, blocks)


def _facts(one: Model) -> dict[str, Any]:
    return dict(files.read_json(one.selection / selection.SUMMARY)["facts"])


def _rates(
    teachers: Sequence[Model], facts: Sequence[dict[str, Any]], names: Sequence[str]
) -> Table:
    columns = ["Class", "Labeled"]
    for one in teachers:
        columns += [f"By {one.title}", "from score"]
    rows = []
    for name in names:
        row = [name, f"{facts[0][RATE][name]:.2f}"]
        for kept in facts:
            row += [f"{kept[PSEUDO_RATE][name]:.2f}", f"{kept[THRESHOLD][name]:.2f}"]
        rows.append(row)
    caption = (
        "Boxes of an image by class: labeled, and pseudo-labeled, from which score on"
    )
    return Table("Boxes of an image", caption, columns, rows)


def _charts(
    teacher: Model, facts: dict[str, Any], labeled: Boxes, names: Sequence[str]
) -> list[Block]:
    _, targets = selection.load_picks(teacher.selection)
    pseudo = Boxes.of_targets(targets)
    scores = _scores(teacher, len(names))
    shown = most_frequent(np.bincount(labeled.classes, minlength=len(names)).tolist())
    per_image = [f"{n}" if n % 2 == 0 else "" for n in range(MOST_BOXES + 1)]
    per_image = [*per_image[:-1], f"{MOST_BOXES} or more", ""]
    sizes = [
        f"{100 * edge:.3g} %" if n % 4 == 2 else "" for n, edge in enumerate(SIZES)
    ]
    edges = [f"{edge:g}" if n % 5 == 0 else "" for n, edge in enumerate(SCORES)]
    kinds: list[tuple[str, str, list[Block]]] = [
        (
            "Scores",
            f"Boxes of the unlabeled images by the score of {teacher.title}.",
            [],
        ),
        ("Boxes of an image", "Images by their number of boxes of a class.", []),
        ("Sizes", "Boxes by the root of their area, in longer sides of the image.", []),
    ]
    for label in shown:
        name, at = names[label], facts[THRESHOLD][names[label]]
        whole = max(1, int(scores[label].sum()))
        charts: list[Block] = [
            Histogram(
                name,
                "score",
                edges,
                {"boxes": scores[label] / whole},
                mark=(at * (len(SCORES) - 1), f"taken from {at:.2f}"),
            ),
            Histogram(
                name,
                "boxes of an image",
                per_image,
                {
                    "labeled": labeled.counts(label),
                    "pseudo-labeled": pseudo.counts(label),
                },
            ),
            Histogram(
                name,
                "size",
                sizes,
                {
                    "labeled": labeled.sizes(label),
                    "pseudo-labeled": pseudo.sizes(label),
                },
            ),
        ]
        for (_, _, several), chart in zip(kinds, charts, strict=True):
            several.append(chart)
    blocks: list[Block] = []
    for title, says, several in kinds:
        blocks += [Heading(title), Text(says + left_out(len(names))), Beside(several)]
    return blocks


def _scores(teacher: Model, classes: int) -> np.ndarray:
    """Counts a teacher's boxes by class and score, int64 ``[classes, bins]``."""
    counts = np.zeros((classes, len(SCORES) - 1), np.int64)
    for rows in labeled_rows(sidecars.shards(teacher.labels)):
        found = sidecar.flat(rows)
        for label in range(classes):
            own = found["scores"][found["classes"] == label]
            counts[label] += np.histogram(own, SCORES)[0]
    return counts
