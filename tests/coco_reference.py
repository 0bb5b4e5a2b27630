"""pycocotools on the arrays of the detection task, and random boxes to compare on."""

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from noisy_student_jax.data.labels import IGNORE, OBJECT


def evaluated(predictions, labels, classes, *, images=None):
    """Returns a finished COCOeval.

    Args:
      predictions: as a detector gives them.
      labels: as a source has them.
      classes: number of classes.
      images: the images, some maybe several times; all once if None.
    """
    images = range(len(labels)) if images is None else images
    annotations, results = [], []
    for number, image in enumerate(images):
        for left, top, right, bottom, label, kind in labels[image].astype(float):
            if kind:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": int(label),
                        "bbox": [left, top, right - left, bottom - top],
                        "area": (right - left) * (bottom - top),
                        "iscrowd": int(kind == IGNORE),
                    }
                )
        rows = zip(
            predictions["boxes"][image].astype(float),
            predictions["scores"][image].astype(float),
            predictions["classes"][image],
            strict=True,
        )
        for (left, top, right, bottom), score, label in rows:
            if score > 0:
                results.append(
                    {
                        "image_id": number,
                        "category_id": int(label),
                        "bbox": [left, top, right - left, bottom - top],
                        "score": score,
                    }
                )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": number} for number, _ in enumerate(images)],
            "categories": [{"id": n, "name": str(n)} for n in range(classes)],
            "annotations": annotations,
        }
        truth.createIndex()
        found = COCOeval(truth, truth.loadRes(results), "bbox")
        found.evaluate()
        found.accumulate()
        found.summarize()
    return found


def expected(predictions, labels, names, *, images=None):
    """Returns the metrics by their keys; -1 where there is nothing to measure."""
    found = evaluated(predictions, labels, len(names), images=images)
    precision = found.eval["precision"][:, :, :, 0, -1]  # all sizes, 100 detections
    stats = dict(zip(("AP", "AP50", "AP75"), found.stats, strict=False))
    return {
        **stats,
        "AR100": found.stats[8],
        **{
            f"AP/{name}": precision[:, :, label].mean()
            for label, name in enumerate(names)
        },
    }


def random_boxes(rng, *, images=12, most=8, detections=20, classes=3, ignored=0.2):
    """Labels with ignore regions, and detections near them, elsewhere, and twice.

    Scores have few values, so that many are equal; some images have nothing.
    """
    labels = np.zeros((images, most, 6), np.float32)
    corners = rng.uniform(0, 0.7, (images, most, 2))
    sizes = rng.uniform(0.05, 0.3, (images, most, 2))
    labels[..., :2], labels[..., 2:4] = corners, corners + sizes
    labels[..., 4] = rng.integers(0, classes, (images, most))
    labels[..., 5] = np.where(rng.random((images, most)) < ignored, IGNORE, OBJECT)
    there = np.arange(most) < rng.integers(0, most + 1, images)[:, None]
    labels[~there] = 0
    chosen = rng.integers(0, most, (images, detections))
    near = np.take_along_axis(labels, chosen[:, :, None], axis=1)
    noise = rng.normal(0, rng.choice([0.0, 0.005, 0.03], (images, detections, 1)))
    boxes = near[..., :4] + noise * rng.uniform(0.5, 1.5, (images, detections, 4))
    boxes[..., 2:] = np.maximum(boxes[..., 2:], boxes[..., :2] + 0.01)
    label = np.where(
        rng.random((images, detections)) < 0.8,
        near[..., 4],
        rng.integers(0, classes, (images, detections)),
    )
    scores = rng.integers(0, 15, (images, detections)) / 20
    order = np.argsort(-scores, axis=1, kind="stable")
    return {
        "boxes": np.take_along_axis(boxes, order[:, :, None], 1).astype(np.float32),
        "scores": np.take_along_axis(scores, order, 1).astype(np.float32),
        "classes": np.take_along_axis(label, order, 1).astype(np.int32),
    }, labels
