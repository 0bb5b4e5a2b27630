"""Every model of the table, there and back: it computes, and all of it can learn."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noisy_student_jax import models
from noisy_student_jax.models.architectures import Architecture
from noisy_student_jax.models.initialize import initialize

OUTPUTS = 7
# An odd and an even side, so that one pass sees both; the last map is of four pixels.
BATCH, HEIGHT, WIDTH = 3, 33, 40
STEP = 0.01
UNOPTIMIZED = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
"""To compile takes most of the time."""


def shrunk(name):
    """A model of the same stages, narrower and with fewer blocks.

    Its narrowest map has four channels, the next wider one eight, and so on: members
    that differ in width, depth and use alone become one.
    """
    # Grouped convolutions are the quickest to compile; `test_depthwise.py` has others.
    module = models.create(name, outputs=OUTPUTS, dropout_rate=0.2, depthwise="grouped")
    whole = module.architecture
    outputs = {stage.outputs for stage in whole.stages}
    widths = sorted({whole.stem, whole.head} | outputs)
    narrow = {width: 4 * (1 + rank) for rank, width in enumerate(widths)}
    stages = [
        dataclasses.replace(
            stage, repeats=1, inputs=narrow[stage.inputs], outputs=narrow[stage.outputs]
        )
        for stage in whole.stages
    ]
    if not any(stage.adds for stage in stages):
        # A second block adds its input.
        stages[1] = dataclasses.replace(stages[1], repeats=2)
    return module.clone(
        architecture=Architecture(
            narrow[whole.stem],
            tuple(stages),
            narrow[whole.head],
            resolution=32,
            stem_stride=whole.stem_stride,
            activation=whole.activation,
        )
    )


def strides(name):
    if "small" in name or "svhn" in name:
        return (2, 4, 8)
    if "mini" in name:
        return (2, 4, 8, 16)
    if "tiny" in name or "wrn" in name:
        return (1, 2, 4)
    return (1, 2) if "test" in name else (2, 4, 8, 16, 32)


def widths(module):
    """The channels of the last map of each stride."""
    stride = module.architecture.stem_stride
    found = {stride: module.architecture.stem}
    for stage in module.architecture.stages:
        stride *= stage.stride
        found[stride] = stage.outputs
    return found


@functools.cache
def there_and_back(module):
    """Returns variables, losses, outputs, new statistics and the gradient.

    The losses are those before and after a short step against the gradient.
    """
    # The sides matter to no variable.
    variables = initialize(module, resolution=32, seed=0)
    # A branch whose last scale is zero gives its layers no gradient yet.
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + 0.5 if path[-1].key == "scale" else leaf,
        variables["params"],
    )
    variables = {**variables, "params": params}
    rng = np.random.default_rng(0)
    images = rng.standard_normal((BATCH, HEIGHT, WIDTH, 3), np.float32)
    labels = jnp.arange(BATCH)

    def loss(params, images):
        outputs, updated = module.apply(
            {**variables, "params": params},
            images,
            train=True,
            rngs={"dropout": jax.random.key(1), "stochastic_depth": jax.random.key(2)},
            mutable=["batch_stats"],
        )
        log_p = jax.nn.log_softmax(outputs["logits"])
        return -log_p[jnp.arange(BATCH), labels].mean(), (outputs, updated)

    program = jax.jit(
        jax.value_and_grad(loss, has_aux=True), compiler_options=UNOPTIMIZED
    )
    (before, (outputs, updated)), gradient = program(variables["params"], images)
    stepped = jax.tree.map(lambda p, g: p - STEP * g, variables["params"], gradient)
    (after, _), _ = program(stepped, images)
    return jax.device_get((variables, (before, after), outputs, updated, gradient))


@pytest.mark.parametrize("name", models.FAMILY + models.RESIDUAL)
def test_every_model_computes_and_all_of_it_can_learn(name):
    module = shrunk(name)

    variables, losses, outputs, updated, gradient = there_and_back(module)

    before, after = losses
    assert after < before
    assert outputs["logits"].shape == (BATCH, OUTPUTS)
    assert outputs["logits"].dtype == np.float32
    assert outputs["pooled"].shape == (BATCH, module.architecture.head)
    channels = widths(module)
    assert {stride: leaf.shape for stride, leaf in outputs["features"].items()} == {
        stride: (
            BATCH,
            math.ceil(HEIGHT / stride),
            math.ceil(WIDTH / stride),
            channels[stride],
        )
        for stride in strides(name)
    }
    for leaf in jax.tree.leaves((outputs, updated, gradient)):
        assert np.isfinite(leaf).all()
    moved = jax.tree.map(
        lambda before, after: (before != after).any(),
        variables["batch_stats"],
        updated["batch_stats"],
    )
    assert all(jax.tree.leaves(moved))
    reached = jax.tree.map(lambda leaf: bool(np.abs(leaf).max() > 0), gradient)
    assert jax.tree.structure(reached) == jax.tree.structure(variables["params"])
    assert all(jax.tree.leaves(reached)), reached
