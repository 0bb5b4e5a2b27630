import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from noisy_student_jax import models
from noisy_student_jax.models import resnet
from noisy_student_jax.models.cost import forward_flops
from noisy_student_jax.models.initialize import abstract_variables, initialize
from noisy_student_jax.models.resnet import Stage

KEYS = {"dropout": jax.random.key(1), "stochastic_depth": jax.random.key(2)}
STAGES = {
    # The first block projects, the second adds what it is given.
    "resnet50": (Stage(2, 2, 4, 8, pooled=True), Stage(1, 2, 8, 12)),
    "wrn_28_2": (Stage(2, 1, 4, 8), Stage(1, 2, 8, 12)),
}
NAMES = tuple(STAGES)
SIDE = 16


def small(name, **arguments):
    """A model of the same kind, with three narrow blocks."""
    quiet = {"dropout_rate": 0.0, "stochastic_depth": 0.0}
    module = models.create(name, outputs=5, **{**quiet, **arguments})
    own = dataclasses.replace(
        module.architecture, stem=4, stages=STAGES[name], head=12, resolution=SIDE
    )
    return module.clone(architecture=own)


@functools.cache
def moved_variables(name):
    """Variables of a small model, away from the initial identity."""
    drawn = initialize(small(name), resolution=SIDE, seed=0)
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: leaf + 0.3 * rng.random(leaf.shape, np.float32), drawn
    )


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).standard_normal((6, SIDE, SIDE, 3), np.float32)


@functools.partial(jax.jit, static_argnums=0)
def evaluate(module, variables, images):
    return module.apply(variables, images)


@functools.partial(jax.jit, static_argnums=0)
def train(module, variables, images, noise=None):
    return module.apply(
        variables, images, train=True, noise=noise, rngs=KEYS, mutable=["batch_stats"]
    )


def last(outputs):
    return np.asarray(outputs["features"][max(outputs["features"])])


# ---- Shapes.


@pytest.mark.parametrize(
    ("name", "classes", "count"),
    [("resnet50", 1000, 25_557_032), ("wrn_28_2", 10, 1_467_610)],
)
def test_parameter_counts_are_the_published_to_the_digit(name, classes, count):
    module = models.create(name, outputs=classes)
    params = abstract_variables(module, resolution=32)["params"]
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == count


def test_multiply_adds_of_resnet_50_are_torchvisions():
    module = models.create("resnet50", outputs=1000)
    assert f"{forward_flops(module, resolution=224) / 2e9:.3f}" == "4.089"


@pytest.mark.parametrize(
    ("name", "side", "expected"),
    [
        (
            "resnet50",
            224,
            {2: (112, 64), 4: (56, 256), 8: (28, 512), 16: (14, 1024), 32: (7, 2048)},
        ),
        ("wrn_28_2", 32, {1: (32, 32), 2: (16, 64), 4: (8, 128)}),
    ],
)
def test_features_are_the_last_map_of_each_stride(name, side, expected):
    module = models.create(name, outputs=0)
    image = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    outputs, variables = jax.eval_shape(
        module.init_with_output, jax.random.key(0), image
    )
    found = {stride: leaf.shape for stride, leaf in outputs["features"].items()}
    assert found == {
        stride: (2, rest, rest, channels)
        for stride, (rest, channels) in expected.items()
    }
    assert not {"head_bn", "classifier"} & variables["params"].keys()


@pytest.mark.parametrize("name", NAMES)
def test_only_the_classifier_and_batch_norms_have_biases(name):
    held = abstract_variables(models.create(name, outputs=7), resolution=32)
    for path, _ in jax.tree_util.tree_leaves_with_path(held["params"]):
        *_, owner, leaf = (key.key for key in path)
        if leaf == "bias":
            assert owner == "classifier" or owner.endswith("_bn")
        assert owner.endswith("_bn") or leaf != "scale"


# ---- The forward pass, against one written out from the parameters.


def conv(x, owner, stride=1, pads=None):
    kernel = owner["kernel"]
    if pads is None:  # TensorFlow's SAME, for an even image
        total = max(kernel.shape[0] - stride, 0)
        pads = (total // 2, total - total // 2)
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [pads, pads],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def norm(x, scope, name):
    p, s = jax.tree.map(lambda one: one[None, None, None], [t[name] for t in scope])
    return (x - s["mean"]) / jnp.sqrt(s["var"] + 1e-3) * p["scale"] + p["bias"]


def bottleneck(x, scope, stride):
    p, _ = scope
    y = jax.nn.relu(norm(conv(x, p["reduce_conv"]), scope, "reduce_bn"))
    y = conv(y, p["spatial_conv"], stride, pads=(1, 1))
    y = jax.nn.relu(norm(y, scope, "spatial_bn"))
    y = norm(conv(y, p["expand_conv"]), scope, "expand_bn")
    if "shortcut_conv" in p:
        x = norm(conv(x, p["shortcut_conv"], stride), scope, "shortcut_bn")
    return jax.nn.relu(x + y)


def resnet_written_out(variables, images):
    params, stats = variables["params"], variables["batch_stats"]
    scopes = [(params[name], stats[name]) for name in ("blocks_0", "blocks_1")]
    x = conv(images, params["stem_conv"], 2, pads=(3, 3))
    x = jax.nn.relu(norm(x, (params, stats), "stem_bn"))
    x = lax.reduce_window(
        x,
        -np.inf,
        lax.max,
        (1, 3, 3, 1),
        (1, 2, 2, 1),
        [(0, 0), (1, 1), (1, 1), (0, 0)],
    )
    for scope in scopes:
        x = bottleneck(x, scope, 1)
    x = bottleneck(x, (params["blocks_2"], stats["blocks_2"]), 2)
    classifier = params["classifier"]
    return x.mean((1, 2)) @ classifier["kernel"] + classifier["bias"][None]


def leaky(x):
    return jnp.where(x > 0, x, 0.1 * x)


def pre_activated(x, scope, stride):
    p, _ = scope
    before = leaky(norm(x, scope, "first_bn"))
    y = conv(before, p["first_conv"], stride)
    y = conv(leaky(norm(y, scope, "second_bn")), p["second_conv"])
    if "shortcut_conv" in p:
        # Of the first block alone, the shortcut too reads what is activated.
        x = conv(before if stride == 1 else x, p["shortcut_conv"], stride)
    return x + y


def wide_resnet_written_out(variables, images):
    params, stats = variables["params"], variables["batch_stats"]
    x = conv(images, params["stem_conv"])
    for index, stride in enumerate((1, 1, 2)):
        name = f"blocks_{index}"
        x = pre_activated(x, (params[name], stats[name]), stride)
    x = leaky(norm(x, (params, stats), "head_bn"))
    classifier = params["classifier"]
    return x.mean((1, 2)) @ classifier["kernel"] + classifier["bias"][None]


WRITTEN_OUT = {"resnet50": resnet_written_out, "wrn_28_2": wide_resnet_written_out}


@pytest.mark.parametrize("layers", ["own", "flax"])
@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_a_forward_pass_written_out(name, layers, images):
    variables = moved_variables(name)
    actual = evaluate(small(name, layers=layers), variables, images)["logits"]
    expected = jax.jit(WRITTEN_OUT[name])(variables, images)
    np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())


# ---- Initial weights.


def test_a_bottleneck_starts_as_its_shortcut(images):
    module = small("resnet50")
    variables = initialize(module, resolution=SIDE, seed=0)
    scales = {
        name: owner["scale"]
        for block, owners in variables["params"].items()
        if block.startswith("blocks_")
        for name, owner in owners.items()
        if "scale" in owner
    }
    assert scales.keys() == {"reduce_bn", "spatial_bn", "expand_bn", "shortcut_bn"}
    assert {name for name, scale in scales.items() if not scale.any()} == {"expand_bn"}
    whole = evaluate(module, variables, images)["features"][4]
    first = dataclasses.replace(
        module.architecture, stages=(Stage(1, 2, 4, 8, pooled=True),)
    )
    alone = evaluate(module.clone(architecture=first, outputs=0), variables, images)
    np.testing.assert_array_equal(whole, alone["features"][4])


@pytest.mark.parametrize("name", NAMES)
def test_convolutions_are_normal_with_fan_out(name):
    module = models.create(name, outputs=10)
    params = initialize(module, resolution=32, seed=0)["params"]
    for path, value in jax.tree_util.tree_leaves_with_path(params):
        if value.ndim == 4:
            height, width, _, outputs = value.shape
            ratio = value.std() / math.sqrt(2 / (height * width * outputs))
            # Five standard errors of a normal's standard deviation.
            assert abs(ratio - 1) < 5 / math.sqrt(2 * value.size), path


# ---- Noise, and parts that are not trained.


@pytest.mark.parametrize("name", NAMES)
def test_every_block_but_the_first_drops_at_a_rate_that_grows_with_its_index(name):
    module = models.create(name, outputs=10, stochastic_depth=0.2)
    total = {"resnet50": 16, "wrn_28_2": 12}[name]
    drawn = module.apply({}, 64, {}, method="_kept", rngs=KEYS)
    # What is kept is divided by the rate of keeping: the largest factor tells it.
    rates = {i: 1 - 1 / float(factors.max()) for i, factors in drawn.items()}
    assert rates == {
        index: pytest.approx(0.2 * index / total, abs=1e-4) for index in range(1, total)
    }


@pytest.mark.parametrize("name", NAMES)
def test_stochastic_depth_drops_the_branch_and_keeps_the_shortcut(name, images):
    def blocks(count, **noise):
        module = small(name, **noise)
        first, _ = STAGES[name]
        stages = (dataclasses.replace(first, repeats=count),)
        own = dataclasses.replace(module.architecture, stages=stages)
        return module.clone(architecture=own, outputs=0)

    variables = moved_variables(name)
    # One image many times: an example's map says whether its second block was dropped.
    same = np.repeat(images[:1], 64, axis=0)
    shortcut, whole = (
        last(train(blocks(count), variables, same)[0])[0] for count in (1, 2)
    )
    found = last(train(blocks(2, stochastic_depth=0.9), variables, same)[0])

    scale = np.abs(whole).max()
    dropped = np.abs(found - shortcut).max((1, 2, 3)) < 1e-4 * scale
    assert 10 < dropped.sum() < 54  # a rate of 0.9 · 1/2
    # Where the block is kept, its branch counts 1/0.55 of what it does without noise;
    # a ReLU hides branches from the sum where that is 0.
    seen = whole > 0 if name == "resnet50" else np.ones_like(whole, bool)
    expected = shortcut + (whole - shortcut) / 0.55
    expected = np.maximum(expected, 0) if name == "resnet50" else expected
    kept = found[~dropped][:, seen]
    np.testing.assert_allclose(
        kept, np.broadcast_to(expected[seen], kept.shape), atol=1e-4 * scale
    )


@pytest.mark.parametrize("name", NAMES)
def test_noise_flags_switch_each_noise_off_per_example(name, images):
    variables = moved_variables(name)
    noisy = small(name, dropout_rate=0.5, stochastic_depth=0.9)
    on, off = jnp.ones(6), jnp.zeros(6)
    half = jnp.array([1.0, 0, 1, 0, 1, 0])

    def run(module, dropout, depth):
        noise = {"dropout": dropout, "stochastic_depth": depth}
        outputs, _ = train(module, variables, images, noise)
        return last(outputs), np.asarray(outputs["logits"])

    clean_map, clean = run(small(name), on, on)
    silent_map, silent = run(noisy, off, off)
    np.testing.assert_allclose(silent_map, clean_map, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(silent, clean, rtol=1e-4, atol=1e-4)

    dropped_map, dropped = run(noisy, half, off)
    np.testing.assert_allclose(dropped_map, clean_map, rtol=1e-5, atol=1e-5)
    different = np.abs(dropped - clean).max(1) > 1e-3
    np.testing.assert_array_equal(different, half > 0)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_what_is_trained_and_stop_at_what_is_frozen(name, images):
    variables = moved_variables(name)

    def gradient(module):
        def loss(params, images):
            outputs, updated = module.apply(
                {**variables, "params": params},
                images,
                train=True,
                rngs=KEYS,
                mutable=["batch_stats"],
            )
            return jnp.sum(jnp.sin(outputs["logits"])), updated["batch_stats"]

        return jax.jit(jax.grad(loss, has_aux=True))(variables["params"], images)

    def reached(tree):
        return {
            owner: {bool(np.abs(leaf).max() > 0) for leaf in jax.tree.leaves(leaves)}
            for owner, leaves in tree.items()
        }

    everything, _ = gradient(small(name))
    assert all(one == {True} for one in reached(everything).values())
    frozen = small(name).clone(frozen_blocks=2)
    part, statistics = gradient(frozen)
    untouched = {"stem_conv", "stem_bn", "blocks_0", "blocks_1"}
    assert set(frozen.frozen) == untouched
    for owner, found in reached(part).items():
        assert found == {owner not in untouched}, owner
    for owner, kept in variables["batch_stats"].items():
        same = jax.tree.map(np.array_equal, kept, statistics[owner])
        assert set(jax.tree.leaves(same)) == {owner in untouched}, owner


@pytest.mark.parametrize("name", NAMES)
def test_recomputed_blocks_and_bfloat16_change_no_variable(name, images):
    plain = abstract_variables(small(name), resolution=SIDE)
    other = small(name, remat=True, dtype="bfloat16")
    assert abstract_variables(other, resolution=SIDE) == plain
    outputs, updated = train(other, moved_variables(name), images)
    assert last(outputs).dtype == jnp.bfloat16
    assert outputs["logits"].dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(updated)} == {jnp.dtype("float32")}


def test_the_slope_of_the_wide_networks_activation_is_a_tenth():
    values = np.array([-2.0, 0.0, 3.0], np.float32)
    np.testing.assert_allclose(resnet.leaky_relu(values), [-0.2, 0, 3], rtol=1e-6)
