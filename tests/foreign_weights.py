"""Weights in the form of other libraries, drawn by NumPy alone."""

import math
import zlib

import numpy as np
from flax import traverse_util

from noisy_student_jax import models
from noisy_student_jax.interop import naming, timm_names
from noisy_student_jax.models import initialize


def shapes_there(model, outputs, names=timm_names.TIMM):
    """Returns the shapes of a model's arrays by their names in another library."""
    module = models.create(model, outputs=outputs)
    ours = traverse_util.flatten_dict(
        initialize.abstract_variables(module, resolution=32), sep="/"
    )
    rows = naming.rows(module.architecture, names)
    return {row.theirs: row.shape_there(ours[row.ours].shape) for row in rows}


def seeded(shapes, seed=0):
    """Returns random float32 arrays in PyTorch's names and layout, equal everywhere.

    Every array affects the logits, batch statistics too. In shallow networks signals
    neither vanish nor grow; in deep ones float32 would not suffice to compare logits.
    """
    return {name: _array(name, shape, seed) for name, shape in shapes.items()}


def _array(name, shape, seed):
    uniform = np.random.default_rng([seed, zlib.crc32(name.encode())]).random(shape)
    layer = name.split(".")[-2]
    if len(shape) > 1:
        array = (uniform - 0.5) * 1.8 * math.sqrt(12 / math.prod(shape[1:]))
    elif name.endswith("running_var"):
        array = 0.5 + uniform
    elif name.endswith("weight"):
        # Small at the end of a branch, so that the residual sum does not grow.
        array = (0.5 + uniform) * (0.3 if layer == "bn3" else 1)
    else:
        array = uniform - 0.5
    return array.astype(np.float32)


def seeded_images(count, side, seed=0):
    """Returns random normalized images, float32 ``[count, side, side, 3]``.

    Each has its own tint and coarse patches under noise: a network's mean over space
    would not distinguish images of noise alone. At another side they differ only in the
    noise.
    """
    rng = np.random.default_rng(seed)
    tint = 3 * rng.random((count, 1, 1, 3)) - 1.5
    coarse = rng.random((count, 5, 5, 3)).repeat(-(-side // 5), 1)
    coarse = coarse.repeat(-(-side // 5), 2)[:, :side, :side]
    noise = rng.random((count, side, side, 3))
    return (tint + 3 * coarse - 1.5 + noise - 0.5).astype(np.float32)
