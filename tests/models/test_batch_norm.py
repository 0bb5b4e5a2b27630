"""Batch norm over groups of a batch, against batch norm on each group by itself."""

import dataclasses
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import on_eight_devices

from noisy_student_jax import models
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.models.batch_norm import BatchNorm
from noisy_student_jax.models.initialize import abstract_variables, initialize

CHANNELS = 5


def plain_norm(**arguments):
    return nn.BatchNorm(
        use_running_average=False, momentum=0.75, epsilon=1e-3, **arguments
    )


def grouped_norm(group, dtype=jnp.float32):
    if not group:
        return plain_norm(dtype=dtype)
    return BatchNorm(
        lambda normed: normed, momentum=0.75, epsilon=1e-3, group=group, dtype=dtype
    )


@pytest.fixture
def variables():
    rng = np.random.default_rng(2)
    names = {"params": ("scale", "bias"), "batch_stats": ("mean", "var")}
    return {
        collection: {
            name: 0.5 + rng.random(CHANNELS, np.float32) for name in of_collection
        }
        for collection, of_collection in names.items()
    }


def values_of(shape):
    # Every example has a level and a spread of its own, so that groups differ.
    rng = np.random.default_rng(0)
    level = rng.uniform(-3, 3, (shape[0], *[1] * (len(shape) - 2), shape[-1]))
    spread = rng.uniform(0.5, 2, level.shape)
    return (level + spread * rng.standard_normal(shape)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def train(module, variables, values):
    """Returns the output, the new statistics, and all gradients of some loss."""

    def loss(params, values):
        out, updated = module.apply(
            {**variables, "params": params}, values, mutable=["batch_stats"]
        )
        weights = jnp.cos(jnp.arange(out[0].size, dtype=jnp.float32))
        weighted = jnp.sin(out).astype(jnp.float32) * weights.reshape(1, *out.shape[1:])
        return jnp.sum(weighted), (out, updated)

    gradient, (out, updated) = jax.grad(loss, (0, 1), has_aux=True)(
        variables["params"], values
    )
    return out, updated["batch_stats"], gradient


def assert_close(left, right, relative=1e-5):
    def close(a, b):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=relative * max(np.abs(b).max(), 1e-2))

    jax.tree.map(close, left, right)


MAPS, VECTORS = (6, 3, 4, CHANNELS), (6, CHANNELS)


@pytest.mark.parametrize(
    ("shape", "group"), [(MAPS, 1), (MAPS, 2), (MAPS, 3), (VECTORS, 3)], ids=str
)
def test_each_group_is_normed_as_a_batch_of_its_own(variables, shape, group):
    values = values_of(shape)
    out, moved, (to_params, to_values) = train(grouped_norm(group), variables, values)

    parts = np.split(values, len(values) // group)
    alone = [train(plain_norm(), variables, part) for part in parts]
    outs, stats, gradients = zip(*alone, strict=True)
    assert_close(out, np.concatenate(outs))
    assert_close(moved, jax.tree.map(lambda *s: np.mean(s, axis=0), *stats))
    params, inputs = zip(*gradients, strict=True)
    assert_close(to_params, jax.tree.map(lambda *g: np.sum(g, axis=0), *params))
    assert_close(to_values, np.concatenate(inputs), relative=1e-4)


def test_groups_are_runs_of_neighbors(variables):
    values = values_of((6, 2, 2, CHANNELS))
    out, _, _ = train(grouped_norm(3), variables, values)

    changed = np.array(values)
    changed[:3] *= 2
    other, _, _ = train(grouped_norm(3), variables, changed)
    np.testing.assert_array_equal(other[3:], out[3:])
    assert not np.allclose(other[:3], out[:3])


def test_one_group_of_all_is_batch_norm(variables):
    values = values_of(MAPS)
    assert_close(
        train(grouped_norm(6), variables, values),
        train(plain_norm(), variables, values),
    )


def test_statistics_are_float32_under_bfloat16(variables):
    values = jnp.asarray(20 + values_of(MAPS), jnp.bfloat16)
    out, moved, _ = train(grouped_norm(2, jnp.bfloat16), variables, values)

    exact = np.asarray(values, np.float64).reshape(3, -1, CHANNELS)
    seen = {"mean": exact.mean(axis=1).mean(axis=0), "var": exact.var(1).mean(axis=0)}
    for name, value in seen.items():
        assert moved[name].dtype == jnp.float32
        expected = 0.75 * variables["batch_stats"][name] + 0.25 * value
        np.testing.assert_allclose(moved[name], expected, rtol=1e-4)
    assert out.dtype == jnp.bfloat16


def test_a_group_without_spread_stays_finite(variables):
    # E[x²] − E[x]² falls below zero here, but for the clip.
    values = np.full((6, 3, 3, CHANNELS), 1000.1, np.float32)
    values[:, 0] += 0.01
    assert all(
        np.isfinite(leaf).all()
        for leaf in jax.tree.leaves(train(grouped_norm(2), variables, values))
    )


def test_variables_are_those_of_flaxs_batch_norm():
    values = jnp.ones((4, 2, 2, CHANNELS))
    expected = plain_norm().init(jax.random.key(0), values)
    actual = grouped_norm(2).init(jax.random.key(0), values)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize("batch", [5, 2])
def test_a_batch_that_does_not_divide_is_told_when_it_is_traced(batch):
    module = models.create("efficientnet_test", outputs=3, batch_norm_group=4)
    images = jax.ShapeDtypeStruct((batch, 8, 8, 3), jnp.float32)
    with pytest.raises(UserError, match=rf"{batch} images .* groups of 4: change"):
        jax.eval_shape(functools.partial(step, module), held(), images)


# ---- A whole model.


def quiet(**arguments):
    return models.create(
        "efficientnet_test",
        outputs=3,
        dropout_rate=0.0,
        stochastic_depth=0.0,
        batch_norm_momentum=0.75,
        **arguments,
    )


def stem_and_head(**arguments):
    """The model without blocks: two batch norms, and little to compile."""
    module = quiet(**arguments)
    return module.clone(
        architecture=dataclasses.replace(module.architecture, stages=())
    )


@functools.cache
def held_without_blocks():
    return initialize(stem_and_head(), resolution=8, seed=0)


@functools.cache
def held():
    return initialize(quiet(), resolution=8, seed=0)


def step(module, variables, images):
    """Returns logits, new statistics and the parameters' gradient."""

    def loss(params):
        outputs, updated = module.apply(
            {**variables, "params": params},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs=dict.fromkeys(("dropout", "stochastic_depth"), jax.random.key(0)),
        )
        logits = outputs["logits"]
        return jnp.sum(jnp.sin(logits)), (logits, updated["batch_stats"])

    gradient, (logits, updated) = jax.grad(loss, has_aux=True)(variables["params"])
    return logits, updated, gradient


@pytest.fixture(scope="module")
def images():
    # Away from one another, as statistics of two alike would tell little.
    rng = np.random.default_rng(0)
    level = rng.uniform(-2, 2, (6, 1, 1, 3))
    return (level + rng.standard_normal((6, 8, 8, 3))).astype(np.float32)


@pytest.fixture(scope="module")
def group_by_group(images):
    alone = jax.jit(functools.partial(step, quiet()))
    parts = [alone(held(), part) for part in np.split(images, 2)]
    logits, updated, gradients = zip(*parts, strict=True)
    return (
        np.concatenate(logits),
        jax.tree.map(lambda *s: np.mean(s, axis=0), *updated),
        jax.tree.map(lambda *g: np.sum(g, axis=0), *gradients),
    )


@pytest.mark.parametrize("remat", [False, True])
def test_a_models_groups_are_trained_as_batches_of_their_own(
    images, group_by_group, remat
):
    module = quiet(batch_norm_group=3, remat=remat)
    actual = jax.jit(functools.partial(step, module))(held(), images)
    assert_close(actual, group_by_group, relative=1e-4)


def test_a_model_with_one_group_of_all_is_the_ungrouped(images):
    grouped, whole = (
        jax.jit(functools.partial(step, stem_and_head(batch_norm_group=group)))
        for group in (6, 0)
    )
    held = held_without_blocks()
    assert_close(grouped(held, images), whole(held, images), relative=1e-4)


def test_groups_change_neither_variables_nor_evaluation(images):
    grouped = quiet(batch_norm_group=4)
    assert abstract_variables(grouped, resolution=8) == abstract_variables(
        quiet(), resolution=8
    )
    # Six images are no whole groups of four, which evaluation does not mind.
    evaluate = jax.jit(
        lambda module, images: module.apply(held(), images)["logits"], static_argnums=0
    )
    np.testing.assert_array_equal(evaluate(grouped, images), evaluate(quiet(), images))


# ---- Spread over eight devices, which only a process of its own can have.

WORK = """
import functools, json
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from test_batch_norm import held_without_blocks, stem_and_head, step

assert jax.device_count() == 8
mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
rng = np.random.default_rng(0)
images = rng.standard_normal((16, 8, 8, 3)) + rng.uniform(-2, 2, (16, 1, 1, 3))
images = images.astype(np.float32)
spread = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
held = held_without_blocks()
whole = jax.device_put(held, NamedSharding(mesh, PartitionSpec()))


def logits(module, variables, images):
    return module.apply(
        variables, images, train=True, mutable=["batch_stats"]
    )[0]["logits"]


found = {}
for group in (2, 4):
    module = stem_and_head(batch_norm_group=group)
    work = jax.jit(functools.partial(step, module))
    compiled = work.lower(whole, spread).compile()
    forward = jax.jit(functools.partial(logits, module)).lower(whole, spread).compile()
    pairs = zip(
        jax.tree.leaves(work(held, images)),
        jax.tree.leaves(compiled(whole, spread)),
        strict=True,
    )
    found[group] = {
        "step": compiled.as_text(),
        "forward": forward.as_text(),
        "error": max(
            float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-2))
            for a, b in ((np.asarray(a), np.asarray(b)) for a, b in pairs)
        ),
    }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def eight_devices():
    return on_eight_devices(WORK, beside=__file__)


def collectives(program):
    """Yields each collective's kind, and the values in its largest result."""
    kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    for line in program.splitlines():
        found = re.search(rf"= (.*?) ({kinds})(?:-start)?\(", line)
        if found:
            shapes = re.findall(r"\[([\d,]*)\]", found[1])
            yield (
                found[2],
                max(
                    np.prod([int(n) for n in shape.split(",") if n]) for shape in shapes
                ),
            )


@pytest.mark.parametrize("group", ["2", "4"])
def test_eight_devices_compute_what_one_does(eight_devices, group):
    assert eight_devices[group]["error"] < 1e-4


def test_groups_within_a_device_need_no_other_device(eight_devices):
    within = eight_devices["2"]
    assert not list(collectives(within["forward"]))
    # Gradients and moving statistics are summed over devices; that is all.
    assert {kind for kind, _ in collectives(within["step"])} == {"all-reduce"}


def test_groups_across_devices_move_statistics_alone(eight_devices):
    moved = list(collectives(eight_devices["4"]["forward"]))
    assert moved
    # At most a value for each of 16 images and the head's 32 channels; the smallest
    # feature map has 16 × 8 × 8 × 8.
    assert max(size for _, size in moved) <= 16 * 32
