import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr

from noisy_student_jax import models
from noisy_student_jax.models import architectures, efficientnet, layers
from noisy_student_jax.models.initialize import abstract_variables, initialize

KEYS = {"dropout": jax.random.key(1), "stochastic_depth": jax.random.key(2)}


def tiny(**arguments):
    quiet = {"dropout_rate": 0.0, "stochastic_depth": 0.0}
    return models.create("efficientnet_test", outputs=10, **{**quiet, **arguments})


@pytest.fixture(scope="module")
def variables():
    # Away from the initial identity, so that every parameter and statistic matters.
    drawn = initialize(tiny(), resolution=8, seed=0)
    rng = np.random.default_rng(1)
    moved = jax.tree.map(
        lambda leaf: leaf + 0.3 * rng.random(leaf.shape, np.float32), drawn
    )
    return moved


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).standard_normal((6, 8, 8, 3), np.float32)


@functools.partial(jax.jit, static_argnums=0)
def evaluate(module, variables, images):
    return module.apply(variables, images)


@functools.partial(jax.jit, static_argnums=0)
def train(module, variables, images, noise=None):
    return module.apply(
        variables, images, train=True, noise=noise, rngs=KEYS, mutable=["batch_stats"]
    )


def equations(jaxpr):
    """All of a program's, those of the programs inside it too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(dict(equation.params), is_leaf=is_program):
            if is_program(inner):
                yield from equations(getattr(inner, "jaxpr", inner))


def is_program(value):
    return isinstance(value, ClosedJaxpr | Jaxpr)


def last(outputs):
    return np.asarray(outputs["features"][max(outputs["features"])])


# ---- Parameters.


def test_without_outputs_there_is_neither_head_nor_logits(variables, images):
    module = tiny().clone(outputs=0)
    held = abstract_variables(module, resolution=8)
    assert set(held["params"]) == {"stem_conv", "stem_bn", "blocks_0", "blocks_1"}
    out = evaluate(module, variables, images)
    assert set(out) == {"features"}
    np.testing.assert_array_equal(last(out), last(evaluate(tiny(), variables, images)))


def test_parameter_names_are_flat_and_every_batch_norm_is_named_so():
    module = models.create("efficientnet_b0", outputs=7)
    held = abstract_variables(module, resolution=32)
    params = held["params"]
    assert set(params) == {
        "stem_conv",
        "stem_bn",
        *(f"blocks_{i}" for i in range(16)),
        "head_conv",
        "head_bn",
        "classifier",
    }
    first = {
        "depthwise_conv",
        "depthwise_bn",
        "se_reduce",
        "se_expand",
        "project_conv",
        "project_bn",
    }
    assert set(params["blocks_0"]) == first
    assert set(params["blocks_1"]) == first | {"expand_conv", "expand_bn"}
    for path, _ in jax.tree_util.tree_leaves_with_path(held):
        *_, owner, name = (key.key for key in path)
        assert owner.endswith("_bn") == (
            name in ("scale", "mean", "var")
            or (
                name == "bias" and owner not in ("se_reduce", "se_expand", "classifier")
            )
        )


def test_only_squeeze_excitation_classifier_and_batch_norms_have_biases():
    held = abstract_variables(tiny(), resolution=8)
    for name, owner in held["params"]["blocks_1"].items():
        assert ("bias" in owner) == (name.startswith("se_") or name.endswith("_bn"))
    assert "bias" not in held["params"]["head_conv"]


def test_squeeze_width_is_a_quarter_of_the_blocks_input():
    module = models.create("efficientnet_b0", outputs=7)
    params = abstract_variables(module, resolution=32)["params"]
    # Inputs are 32, 16 and 24 channels; the second and fourth expand sixfold.
    for block, (hidden, squeezed) in {0: (32, 8), 1: (96, 4), 3: (144, 6)}.items():
        shape = params[f"blocks_{block}"]["se_reduce"]["kernel"].shape
        assert shape == (1, 1, hidden, squeezed)


# ---- The forward pass, against one written out from the parameters.


def swish(x):
    return x / (1 + jnp.exp(-x))


def relu6(x):
    return jnp.clip(x, 0, 6)


def written_out(variables, images, activation=swish):
    """The forward pass of `efficientnet_test` in evaluation, without Flax."""
    params, stats = variables["params"], variables["batch_stats"]

    def conv(x, kernel, stride=1, groups=1):
        size = kernel.shape[0]
        total = max(size - stride, 0)  # TensorFlow's SAME, for an even image
        pads = [(total // 2, total - total // 2)] * 2
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            pads,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    def norm(x, scope, name):
        p, s = jax.tree.map(lambda one: one[None, None, None], [t[name] for t in scope])
        return (x - s["mean"]) / jnp.sqrt(s["var"] + 1e-3) * p["scale"] + p["bias"]

    def gate(x, p):
        squeezed = x.mean((1, 2)) @ p["se_reduce"]["kernel"][0, 0]
        squeezed = activation(squeezed + p["se_reduce"]["bias"][None])
        logits = squeezed @ p["se_expand"]["kernel"][0, 0]
        logits += p["se_expand"]["bias"][None]
        return x * (1 / (1 + jnp.exp(-logits)))[:, None, None]

    top = (params, stats)
    x = activation(norm(conv(images, params["stem_conv"]["kernel"]), top, "stem_bn"))

    p, scope = params["blocks_0"], (params["blocks_0"], stats["blocks_0"])
    x = activation(norm(conv(x, p["expand_conv"]["kernel"]), scope, "expand_bn"))
    x = conv(x, p["depthwise_conv"]["kernel"], stride=2, groups=x.shape[-1])
    x = gate(activation(norm(x, scope, "depthwise_bn")), p)
    x = norm(conv(x, p["project_conv"]["kernel"]), scope, "project_bn")

    p, scope = params["blocks_1"], (params["blocks_1"], stats["blocks_1"])
    y = activation(norm(conv(x, p["expand_conv"]["kernel"]), scope, "expand_bn"))
    y = gate(y, p)
    x = x + norm(conv(y, p["project_conv"]["kernel"]), scope, "project_bn")

    x = activation(norm(conv(x, params["head_conv"]["kernel"]), top, "head_bn"))
    classifier = params["classifier"]
    return x.mean((1, 2)) @ classifier["kernel"] + classifier["bias"][None]


@pytest.mark.parametrize(
    ("function", "activation"), [(jax.nn.swish, swish), (jax.nn.relu6, relu6)]
)
def test_logits_equal_a_forward_pass_written_out(
    variables, images, function, activation
):
    module = tiny()
    architecture = dataclasses.replace(module.architecture, activation=function)
    module = module.clone(architecture=architecture)
    actual = evaluate(module, variables, images)["logits"]
    expected = jax.jit(functools.partial(written_out, activation=activation))(
        variables, images
    )
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, atol=1e-5 * scale)


def test_batch_norm_epsilon_is_a_thousandth(variables, images):
    # Where the moving variance is almost nothing, epsilon decides.
    stats = jax.tree.map(np.array, variables["batch_stats"])
    stats["head_bn"]["var"][:] = 1e-4
    changed = {**variables, "batch_stats": stats}
    expected = jax.jit(written_out)(changed, images)
    actual = evaluate(tiny(), changed, images)["logits"]
    np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())
    other = evaluate(tiny(batch_norm_epsilon=1e-5), changed, images)["logits"]
    assert np.abs(other - expected).max() > 0.1 * np.abs(expected).max()


def test_strided_convolutions_are_padded_only_at_the_far_edge():
    module = models.create("efficientnet_b0", outputs=0, depthwise="grouped")
    held = abstract_variables(module, resolution=64)
    # Every map that is halved has an even size: 64, 32, 16, 8, 4.
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    paddings = {
        (equation.invars[1].aval.shape[0], equation.params["padding"])
        for equation in equations(jax.make_jaxpr(module.apply)(held, image).jaxpr)
        if equation.primitive.name == "conv_general_dilated"
        and equation.params["window_strides"] == (2, 2)
    }
    assert paddings == {(3, ((0, 1), (0, 1))), (5, ((1, 2), (1, 2)))}


def test_training_moves_the_statistics_by_one_minus_the_momentum(variables, images):
    for momentum in (0.99, 0.9):
        module = tiny(batch_norm_momentum=momentum)
        _, updated = train(module, variables, images)
        kernel = variables["params"]["stem_conv"]["kernel"]
        stem = lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        before = variables["batch_stats"]["stem_bn"]
        after = updated["batch_stats"]["stem_bn"]
        for name, seen in (
            ("mean", stem.mean((0, 1, 2))),
            ("var", stem.var((0, 1, 2))),
        ):
            expected = momentum * before[name] + (1 - momentum) * seen
            np.testing.assert_allclose(after[name], expected, rtol=1e-4, atol=1e-5)


def test_evaluation_needs_no_random_streams_and_changes_nothing(variables, images):
    noisy = tiny(dropout_rate=0.5, stochastic_depth=0.5)
    np.testing.assert_array_equal(
        evaluate(noisy, variables, images)["logits"],
        evaluate(tiny(), variables, images)["logits"],
    )


def test_bfloat16_computes_in_bfloat16_and_keeps_the_rest_in_float32(variables, images):
    module = tiny(dtype="bfloat16")
    outputs, updated = train(module, variables, images)
    assert outputs["logits"].dtype == jnp.float32
    assert {leaf.dtype for leaf in outputs["features"].values()} == {
        jnp.dtype("bfloat16")
    }
    kept = [updated, abstract_variables(module, resolution=8)]
    assert {leaf.dtype for leaf in jax.tree.leaves(kept)} == {jnp.dtype("float32")}
    exact, _ = train(tiny(), variables, images)
    error = np.abs(outputs["logits"] - exact["logits"]).max()
    assert error < 0.1 * np.abs(exact["logits"]).max()


def test_rematerialisation_changes_neither_parameters_nor_gradients(variables, images):
    def gradient(module):
        def loss(params, images):
            outputs, _ = module.apply(
                {**variables, "params": params},
                images,
                train=True,
                rngs=KEYS,
                mutable=["batch_stats"],
            )
            return jnp.sum(jnp.sin(outputs["logits"]))

        return jax.jit(jax.grad(loss))(variables["params"], images)

    noise = {"dropout_rate": 0.3, "stochastic_depth": 0.8}
    plain, remat = tiny(**noise), tiny(remat=True, **noise)
    assert abstract_variables(plain, resolution=8) == abstract_variables(
        remat, resolution=8
    )
    for a, b in zip(*map(jax.tree.leaves, map(gradient, (plain, remat))), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * max(np.abs(a).max(), 1e-2))


# ---- Blocks that are alike.


@functools.cache
def repeating(**arguments):
    """Its last three blocks are alike."""
    module = tiny(stochastic_depth=0.5, **arguments)
    first, second = module.architecture.stages
    stages = (first, dataclasses.replace(second, repeats=3))
    architecture = dataclasses.replace(module.architecture, stages=stages)
    return module.clone(architecture=architecture)


def gradient_and_statistics(module, variables, images):
    def loss(params, images):
        outputs, updated = module.apply(
            {**variables, "params": params},
            images,
            train=True,
            rngs=KEYS,
            mutable=["batch_stats"],
        )
        return jnp.sum(jnp.sin(outputs["logits"])), updated

    # What is not traced is not shared.
    return jax.jit(jax.grad(loss, has_aux=True))(variables["params"], images)


def test_blocks_that_are_alike_are_one_program_to_trace():
    module = models.create("efficientnet_b7", outputs=10, depthwise="grouped")
    held = abstract_variables(module, resolution=32)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    jaxpr = jax.make_jaxpr(functools.partial(train, module))(held, images)

    def depthwise(program):
        return sum(e.params.get("feature_group_count", 1) > 1 for e in program)

    blocks = [
        equation.params["jaxpr"]
        for equation in equations(jaxpr.jaxpr)
        if equation.primitive.name == "jit"
        and depthwise(equations(equation.params["jaxpr"].jaxpr)) == 1
    ]
    # Each of seven stages has a first block and several others.
    assert len(blocks) == 55
    assert len({id(program) for program in blocks}) == 14


def test_sharing_a_program_changes_nothing(monkeypatch, images):
    module = repeating()
    drawn = initialize(module, resolution=8, seed=0)
    jitted, share = [], efficientnet.nn.jit

    def counted(block, **options):
        jitted.append(block)
        return share(block, **options)

    monkeypatch.setattr(efficientnet.nn, "jit", counted)
    shared = gradient_and_statistics(module, drawn, images)
    remat = gradient_and_statistics(repeating(remat=True), drawn, images)
    assert len(jitted) == 2
    monkeypatch.setattr(efficientnet.nn, "jit", lambda block, **_: block)
    alone = gradient_and_statistics(module, drawn, images)
    for found in (shared, remat):
        assert jax.tree.structure(found) == jax.tree.structure(alone)
        for a, b in zip(*map(jax.tree.leaves, (found, alone)), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5 * max(np.abs(b).max(), 1e-2))


# ---- Noise.


def drawn_depth(module, batch, noise=None, rngs=KEYS):
    noise = {} if noise is None else {"stochastic_depth": noise}
    return module.apply({}, batch, noise, method="_kept", rngs=rngs)


@pytest.mark.parametrize(
    ("name", "residual"),
    [
        ("b0", [2, 4, 6, 7, 9, 10, 12, 13, 14]),
        # Its first stage repeats, and its last block can drop.
        ("b7", None),
    ],
)
def test_drop_rates_grow_with_the_index_over_all_blocks(name, residual):
    module = models.create(f"efficientnet_{name}", outputs=10)
    total = len(module.architecture.blocks)
    # What is kept is divided by the rate of keeping: the largest factor tells it.
    found = {
        index: (1 - 1 / float(factors.max())) * total / 0.2
        for index, factors in drawn_depth(module, 64).items()
    }
    assert {index: round(rate, 3) for index, rate in found.items()} == {
        index: index for index in found
    }
    if residual is not None:
        assert list(found) == residual
    else:
        assert total == 55
        assert 1 - 0.2 * max(found) / total == pytest.approx(0.8036, abs=1e-4)


def test_each_block_drops_other_examples_and_keeps_the_expectation():
    module = models.create("efficientnet_b0", outputs=10, stochastic_depth=0.8)
    drawn = np.stack(list(drawn_depth(module, 4000).values()))
    assert drawn.shape == (9, 4000)
    assert (drawn.min(1) == 0).all()
    np.testing.assert_allclose(drawn.mean(1), 1, atol=0.08)
    between = np.corrcoef(drawn) - np.eye(9)
    assert np.abs(between).max() < 0.08


def test_only_what_is_noised_is_dropped():
    module = models.create("efficientnet_b0", outputs=10, stochastic_depth=0.8)
    noise = jnp.arange(1000) % 2
    drawn = drawn_depth(module, 1000, noise)
    assert len(drawn) == 9
    for factors in drawn.values():
        np.testing.assert_array_equal(factors[::2], 1)
    assert 0.6 < np.mean(drawn[14][1::2] == 0) < 0.8  # 0.8 · 14/16


def test_without_stochastic_depth_and_where_blocks_are_frozen_nothing_is_drawn():
    assert drawn_depth(tiny(), 4, rngs={}) == {}
    module = models.create("efficientnet_b0", outputs=10, frozen_blocks=10)
    assert list(drawn_depth(module, 4)) == [10, 12, 13, 14]


def test_values_are_dropped_one_by_one_and_the_rest_makes_up_for_them():
    drawn = layers.keep_factors(KEYS["dropout"], (1000, 4), rate=0.2, noise=None)
    np.testing.assert_allclose(np.unique(drawn), [0, 1.25], rtol=1e-6)
    assert (np.ptp(drawn, axis=1) > 0).mean() > 0.4
    assert drawn.mean() == pytest.approx(1, abs=0.04)


def test_stochastic_depth_drops_each_example_by_itself(variables, images):
    # One image many times: an example's map says whether its block was dropped.
    same = np.repeat(images[:1], 64, axis=0)
    noisy = tiny(stochastic_depth=0.8)  # the second of two blocks: 0.8 · 1/2
    outputs = last(train(noisy, variables, same)[0])
    full = last(train(tiny(), variables, same)[0])[0]
    quiet = jnp.zeros(64)
    silent = train(noisy, variables, same, {"stochastic_depth": quiet})[0]
    np.testing.assert_allclose(last(silent)[0], full, rtol=1e-4, atol=1e-4)

    kept = np.abs(outputs - outputs[0]).max((1, 2, 3)) < 1e-4
    assert 10 < kept.sum() < 54
    # Where the block is kept, its branch counts 1/0.6 of what it does without noise.
    one, other = outputs[kept][0], outputs[~kept][0]
    errors = [
        np.abs(dropped + 0.6 * (whole - dropped) - full).max()
        for dropped, whole in [(one, other), (other, one)]
    ]
    assert min(errors) < 1e-3 < 1e-2 < max(errors)


def test_the_first_block_is_never_dropped():
    architecture = dataclasses.replace(
        tiny().architecture,
        stages=(architectures.Stage(1, 3, 1, 1, 8, 8, fused=True),),
    )
    noisy, still = (
        tiny(stochastic_depth=rate).clone(architecture=architecture)
        for rate in (0.9, 0.0)
    )
    held = initialize(noisy, resolution=8, seed=0)
    image = np.ones((4, 8, 8, 3), np.float32)
    outputs, _ = noisy.apply(held, image, train=True, mutable=["batch_stats"])
    quiet, _ = still.apply(held, image, train=True, mutable=["batch_stats"])
    np.testing.assert_array_equal(outputs["logits"], quiet["logits"])


def test_noise_flags_switch_each_noise_off_per_example(variables, images):
    noisy = tiny(dropout_rate=0.5, stochastic_depth=0.8)
    on, off = jnp.ones(6), jnp.zeros(6)
    half = jnp.array([1.0, 0, 1, 0, 1, 0])

    def run(module, dropout, depth):
        noise = {"dropout": dropout, "stochastic_depth": depth}
        outputs, _ = train(module, variables, images, noise)
        return last(outputs), np.asarray(outputs["logits"])

    clean_map, clean = run(tiny(), on, on)
    silent_map, silent = run(noisy, off, off)
    np.testing.assert_allclose(silent_map, clean_map, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(silent, clean, rtol=1e-4, atol=1e-4)

    # Dropout alone: the maps stay, the flagged examples' logits do not.
    dropped_map, dropped = run(noisy, half, off)
    np.testing.assert_allclose(dropped_map, clean_map, rtol=1e-5, atol=1e-5)
    different = np.abs(dropped - clean).max(1) > 1e-3
    np.testing.assert_array_equal(different, half > 0)

    # Stochastic depth alone: the last block's map stays where the flag is 0.
    depth_map, _ = run(noisy, off, half)
    different = np.abs(depth_map - clean_map).max((1, 2, 3)) > 1e-3
    np.testing.assert_array_equal(different, half > 0)


def test_no_noise_argument_means_all_noise(variables, images):
    noisy = tiny(dropout_rate=0.5, stochastic_depth=0.8)
    on = {"dropout": jnp.ones(6), "stochastic_depth": jnp.ones(6)}
    np.testing.assert_allclose(
        train(noisy, variables, images)[0]["logits"],
        train(noisy, variables, images, on)[0]["logits"],
        rtol=1e-5,
        atol=1e-5,
    )


def test_the_random_streams_decide_the_noise(variables, images):
    noisy = tiny(dropout_rate=0.5)

    @jax.jit
    def run(key):
        return noisy.apply(
            variables,
            images,
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )[0]["logits"]

    first, second = jax.random.key(0), jax.random.key(1)
    np.testing.assert_array_equal(run(first), run(first))
    assert (np.abs(run(first) - run(second)).max(1) > 1e-3).all()
