"""Predictions and labels made up for tests of what is chosen among boxes."""

import numpy as np
import pyarrow as pa

from noisy_student_jax.pseudo_labels import sidecar as shards
from noisy_student_jax.tasks.detection import sidecar

METADATA = {"task": "detection", "model": "fcos", "model_sha256": "ab" * 32}


def random_labels(images, classes, *, seed=0, most=6, ignored=0.0):
    """Labels of images with none to `most` boxes, float32 `[images, most, 6]`."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.random((images, most, 2, 2)), axis=2)
    there = np.arange(most) < rng.integers(0, most + 1, images)[:, None]
    kinds = np.where(rng.random((images, most)) < ignored, 2, 1)
    return (
        np.concatenate(
            [
                corners.reshape(images, most, 4),
                rng.integers(0, classes, (images, most, 1)),
                kinds[..., None],
            ],
            axis=2,
        )
        * there[..., None]
    ).astype(np.float32)


def predicted(boxes):
    """Predictions of images, each a list of (class, score, reliability).

    The boxes of an image lie side by side.
    """
    shape = (len(boxes), sidecar.PLACES)
    found = {
        "boxes": np.zeros((*shape, 4), np.float32),
        "scores": np.zeros(shape, np.float32),
        "classes": np.zeros(shape, np.int32),
        "reliabilities": np.zeros(shape, np.float32),
    }
    for image, own in enumerate(boxes):
        for place, (of, score, reliability) in enumerate(sorted(own, key=by_score)):
            at = image, place
            found["boxes"][at] = (place / 128, image / 500, (place + 1) / 128, 0.75)
            found["classes"][at], found["scores"][at] = of, score
            found["reliabilities"][at] = reliability
    return found


def by_score(box):
    return -box[1]


def random_predictions(images, classes, *, seed=1, views=2):
    """Predictions of images with none to nine boxes."""
    rng = np.random.default_rng(seed)
    return predicted(
        [
            [
                (
                    int(rng.integers(classes)),
                    float(rng.random(dtype=np.float32)),
                    float(rng.random(dtype=np.float32)) if views == 2 else 1.0,
                )
                for _ in range(rng.integers(0, 10))
            ]
            for _ in range(images)
        ]
    )


def rows_of(predictions, *, top_k=None):
    """The sidecar's columns of predictions, with keys, as one batch."""
    own = sidecar.columns(predictions, top_k=top_k)
    keys = pa.array([f"image {n}" for n in range(len(predictions["scores"]))])
    return pa.record_batch({"key": keys, **own})


def write_shards(folder, predictions, classes, *, count=1, bad=()):
    """Writes sidecars as labeling does; records in `bad` are quarantined."""
    images = len(predictions["scores"])
    status = ["truncated" if n in bad else "ok" for n in range(images)]
    label, score = sidecar.bucket(predictions), sidecar.score(predictions)
    good = pa.array(range(images), mask=np.isin(np.arange(images), list(bad)))
    for shard, some in enumerate(np.array_split(np.arange(images), count)):
        part = {name: array[some] for name, array in predictions.items()}
        own = sidecar.columns(part, top_k=None)
        valid = good.is_valid().take(pa.array(some)).to_numpy(False)
        places = pa.array(np.arange(len(some)), mask=~valid)
        shards.write_shard(
            folder / f"shard_{shard:06d}.parquet",
            keys=[f"image {n}" for n in some],
            status=[status[n] for n in some],
            label=label[some],
            score=score[some],
            columns={name: column.take(places) for name, column in own.items()},
            metadata=METADATA | {"classes": str(classes)},
        )
    return folder
