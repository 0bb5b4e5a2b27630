"""How many views of an image serve heads, and how many directions of its features.

Command: ``python benchmarks/views.py DIR [--model=efficientnet_lite2]``, where DIR has
one sub-folder of images per class. A third of each class is for testing; of the rest
``--labels`` a class keep their labels, drawn by seed, and the others are the pool. A
teacher and three students (the surest 20, 50 and 80 % of the pool, hard labels) are
solved on features of the first views, all in as many directions, and predict from their
mean. Labels are hard but in the last rows. The table has the mean accuracy over seeds
of teacher and last student, and of the last student on the whole images alone.
"""

import argparse
import hashlib
import pathlib

import numpy as np
from PIL import Image

from noisy_student_jax import models
from noisy_student_jax.core.console import Progress
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.data.sources import ArraySource
from noisy_student_jax.features import heads
from noisy_student_jax.features.heads import Labeled
from noisy_student_jax.features.reduction import LEAST, reduction
from noisy_student_jax.features.store import Backbone, FeatureStore
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.interop import published
from noisy_student_jax.models import views
from noisy_student_jax.models.bundle import Bundle

SHARES = (0.2, 0.5, 0.8)
VARIANTS: list[tuple[int, int, float | None]] = [
    *((count, LEAST, None) for count in range(1, views.MOST + 1)),
    *((views.MOST, kept, None) for kept in (256, 1024)),
    *((views.MOST, LEAST, temperature) for temperature in (0.5, 1.0)),
]
"""Numbers of views and directions, and temperature of soft labels (None: hard ones)."""


def read(folder: pathlib.Path) -> tuple[ArraySource, np.ndarray]:
    """Reads the images, and which are for testing."""
    keys, images, labels, tested = [], [], [], []
    for label, name in enumerate(sorted(one.name for one in folder.iterdir())):
        paths = sorted((folder / name).iterdir(), key=lambda path: _hash(path.name))
        for place, path in enumerate(paths):
            keys.append(f"{name}/{path.name}")
            images.append(np.asarray(Image.open(path).convert("RGB")))
            labels.append(label)
            tested.append(place < len(paths) / 3)
    return ArraySource(keys, images, np.array(labels)), np.array(tested)


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def backbone_of(bundle: Bundle, side: int) -> Backbone:
    """Returns the backbone of published weights, for images of a size."""
    preprocessing = Preprocessing(
        resolution=side,
        crop_padding=0,
        mean=bundle.preprocessing.mean,
        std=bundle.preprocessing.std,
    )
    module = models.create(bundle.architecture, **bundle.arguments)
    channels = bundle.variables["params"]["classifier"]["kernel"].shape[0]
    described = {"model": bundle.architecture}
    return Backbone(module, bundle.variables, preprocessing, channels, described)


def ladder(
    features: list[np.ndarray],
    labels: np.ndarray,
    tested: np.ndarray,
    *,
    kept: int,
    temperature: float | None,
    each: int,
    seeds: int,
) -> np.ndarray:
    """Returns the accuracies that the table's columns have, by seed."""
    classes, found = int(labels.max()) + 1, []
    one_hot, test = np.eye(classes), np.flatnonzero(tested)
    learned = np.flatnonzero(~tested)
    by = reduction(features[0][learned], [features[0].shape[1]], kept=kept)
    seen = [by(view) for view in features]

    def right(head, count):
        mean = heads.mean([view[test] for view in seen[:count]])
        return (head.probabilities(mean).argmax(axis=1) == labels[test]).mean()

    for seed in range(seeds):
        random = np.random.default_rng(seed)
        given = np.concatenate(
            [
                random.permutation(np.flatnonzero((labels == one) & ~tested))[:each]
                for one in range(classes)
            ]
        )
        pool = np.setdiff1d(learned, given)
        targets = one_hot[labels[given]]
        labeled = Labeled([view[given] for view in seen], targets, np.ones(len(given)))
        strength = heads.tune(labeled, random.permutation(len(given))).strength
        teacher = student = heads.fit(labeled, None, strength)
        for share in SHARES:
            guessed = student.probabilities(heads.mean([view[pool] for view in seen]))
            taken = np.argsort(-guessed.max(axis=1), kind="stable")
            taken = taken[: round(share * len(pool))]
            taught = one_hot[guessed[taken].argmax(axis=1)]
            if temperature:
                sharp = guessed[taken] ** (1 / temperature)
                taught = sharp / sharp.sum(axis=1, keepdims=True)
            pseudo = Labeled(
                [view[pool[taken]] for view in seen], taught, np.ones(len(taken))
            )
            student = heads.fit(labeled, pseudo, strength)
        found.append([right(teacher, 4), right(student, 4), right(student, 1)])
    return np.array(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--model", default="efficientnet_lite2")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--labels", type=int, default=25)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cache", type=pathlib.Path, default="features")
    options = parser.parse_args()
    source, tested = read(options.folder)
    own = backbone_of(published.lite_bundle(options.model), options.side)
    store = FeatureStore(options.cache, Interruption(), Progress())
    everything = np.arange(len(source))
    computed = [
        store.source(own, source, "all", view=number).rows(everything)
        for number in range(views.MOST)
    ]
    print("views | directions | labels | teacher | last student | … on whole images")
    for count, kept, temperature in VARIANTS:
        found = ladder(
            computed[:count],
            source.labels,
            tested,
            kept=kept,
            temperature=temperature,
            each=options.labels,
            seeds=options.seeds,
        )
        figures = " | ".join(f"{100 * one:.1f}" for one in found.mean(axis=0))
        labels = f"soft, {temperature:g}" if temperature else "hard"
        print(f"{count} | {kept} | {labels} | {figures}", flush=True)
