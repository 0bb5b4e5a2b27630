"""Datasets like `outside.gray`, whose pool may not be as it should be."""

import dataclasses

import numpy as np
from outside.gray import gray

from noisy_student_jax.data.sources import ArraySource


def alike(data, *, seed):
    """A pool like the labeled images."""
    whole = gray(data, seed=seed)
    examples = whole.labeled.read(range(len(whole.labeled)))
    keys = [whole.labeled.key(index) for index in range(len(whole.labeled))]
    labeled = ArraySource(keys, examples.images, examples.labels)
    return dataclasses.replace(whole, labeled=labeled)


def one_class(data, *, seed):
    """A pool of bright images alone."""
    whole = alike(data, seed=seed)
    odd = [2 * index + 1 for index in range(len(whole.pool))]
    images = [whole.pool.image(index) for index in odd]
    pool = ArraySource([f"bright-{index}" for index in odd], images)
    return dataclasses.replace(whole, pool=pool)


def noise(data, *, seed):
    """A pool of noise, which is neither dark nor bright."""
    whole = alike(data, seed=seed)
    count = len(whole.pool)
    images = np.random.default_rng(0).integers(0, 241, (count, 9, 11, 3))
    pool = ArraySource([f"noise-{i}" for i in range(count)], images.astype(np.uint8))
    return dataclasses.replace(whole, pool=pool)
