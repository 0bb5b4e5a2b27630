"""Which noise of views serves heads: a ladder of students on features, by noise.

Command: ``python benchmarks/views.py DIR [--model=efficientnet_lite2]``, where DIR has
one sub-folder of images per class. A third of each class is for testing; of the rest
``--labels`` a class keep their labels, drawn by seed, and the others are the pool. A
teacher and three students (the surest 20, 50 and 80 % of the pool, hard labels) are
solved on the features of the clean image and of two noised views. The table has the
mean accuracy over seeds: of the teacher; of the last student where teachers label with
the clean view, or with all views; and of that one where it is tested on all views, too.
"""

import argparse
import hashlib
import pathlib

import numpy as np
from PIL import Image

from noisy_student_jax import models
from noisy_student_jax.augment.input_noise import InputNoise
from noisy_student_jax.core.console import Progress
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.data.sources import ArraySource
from noisy_student_jax.features import heads
from noisy_student_jax.features.heads import Labeled
from noisy_student_jax.features.store import Backbone, FeatureStore
from noisy_student_jax.features.views import CLEAN, View
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.interop import published
from noisy_student_jax.models.bundle import Bundle

SHARES = (0.2, 0.5, 0.8)
_RANDAUGMENT = {"randaugment_layers": 2, "randaugment_magnitude": 10.0}
NOISES = {
    "no noise": None,
    "crops of at least 25 %, flips, RandAugment 2 × 10": InputNoise(
        flip=True, crop_area=0.25, **_RANDAUGMENT
    ),
    "crops of at least 25 %, flips": InputNoise(flip=True, crop_area=0.25),
    "crops of at least 50 %, flips": InputNoise(flip=True, crop_area=0.5),
    "crops of at least 70 %, flips": InputNoise(flip=True, crop_area=0.7),
    "flips": InputNoise(flip=True),
    "crops of at least 50 %, flips, RandAugment 1 × 5": InputNoise(
        flip=True, crop_area=0.5, randaugment_layers=1, randaugment_magnitude=5.0
    ),
}


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
    views: list[np.ndarray],
    labels: np.ndarray,
    tested: np.ndarray,
    *,
    each: int,
    seeds: int,
) -> np.ndarray:
    """Returns the accuracies that the table's columns have, by seed."""
    classes, found = int(labels.max()) + 1, []
    one_hot, test = np.eye(classes), np.flatnonzero(tested)

    def right(head, seen=1):
        mean = np.mean([view[test] for view in views[:seen]], axis=0)
        return (head.probabilities(mean).argmax(axis=1) == labels[test]).mean()

    for seed in range(seeds):
        random = np.random.default_rng(seed)
        given = np.concatenate(
            [
                random.permutation(np.flatnonzero((labels == one) & ~tested))[:each]
                for one in range(classes)
            ]
        )
        pool = np.setdiff1d(np.flatnonzero(~tested), given)
        labeled = Labeled(
            [view[given] for view in views], one_hot[labels[given]], np.ones(len(given))
        )
        strength = heads.tune(labeled, random.permutation(len(given))).strength
        teacher = heads.fit(labeled, None, strength)
        row = [right(teacher)]
        for seen in (views[:1], views):
            head = teacher
            for share in SHARES:
                guessed = [head.probabilities(view[pool]) for view in seen]
                mean = np.mean(guessed, axis=0)
                taken = np.argsort(-mean.max(axis=1), kind="stable")
                taken = taken[: round(share * len(pool))]
                pseudo = Labeled(
                    [view[pool[taken]] for view in views],
                    one_hot[mean[taken].argmax(axis=1)],
                    np.ones(len(taken)),
                )
                head = heads.fit(labeled, pseudo, strength)
            row.append(right(head))
        found.append([*row, right(head, len(views))])
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
    print("noise | teacher | last student | … labels by all views | … tested on all")
    for name, noise in NOISES.items():
        seen = [CLEAN] + ([View(1, noise), View(2, noise)] if noise else [])
        features = [
            store.source(own, source, "all", view=view).rows(np.arange(len(source)))
            for view in seen
        ]
        found = ladder(
            features, source.labels, tested, each=options.labels, seeds=options.seeds
        )
        print(name, *(f"{100 * one:.1f}" for one in found.mean(axis=0)), sep=" | ")
