import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noisy_student_jax import models
from noisy_student_jax.models.initialize import (
    abstract_outputs,
    abstract_variables,
    initialize,
)


@pytest.fixture(scope="module")
def b0():
    module = models.create("efficientnet_b0", outputs=1000)
    return initialize(module, resolution=224, seed=3)


def tiny(**arguments):
    return models.create("efficientnet_test", **{"outputs": 10, **arguments})


def flat(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(key.key for key in path): leaf for path, leaf in leaves}


def kernels(variables, kind):
    found = {
        name: value
        for name, value in flat(variables["params"]).items()
        if name.endswith("/kernel") and value.ndim == 4
    }
    return {
        name: value
        for name, value in found.items()
        if ("depthwise" in name) == (kind == "depthwise")
    }


def assert_deviation(values, expected):
    # Five standard errors of a normal's standard deviation.
    assert abs(values.std() / expected - 1) < 5 / math.sqrt(2 * values.size)


def test_convolutions_are_normal_with_fan_out(b0):
    for value in kernels(b0, "full").values():
        height, width, _, outputs = value.shape
        assert_deviation(value, math.sqrt(2 / (height * width * outputs)))


def test_depthwise_convolutions_are_normal_with_the_fan_out_of_one_channel(b0):
    for value in kernels(b0, "depthwise").values():
        assert_deviation(value, math.sqrt(2 / value.shape[0] ** 2))


def test_normals_are_not_truncated(b0):
    value = b0["params"]["head_conv"]["kernel"]
    assert np.abs(value).max() > 4 * value.std()
    assert np.mean(np.abs(value) > 2 * value.std()) == pytest.approx(0.0455, abs=0.002)


def test_the_classifier_is_uniform_within_one_over_root_classes(b0):
    kernel, bias = (b0["params"]["classifier"][key] for key in ("kernel", "bias"))
    bound = 1 / math.sqrt(1000)
    assert np.abs(kernel).max() <= bound
    assert kernel.max() > 0.999 * bound and kernel.min() < -0.999 * bound
    assert kernel.std() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert abs(kernel.mean()) < 0.01 * bound
    assert not bias.any()


def test_batch_norms_start_as_the_identity_and_biases_at_zero(b0):
    for name, value in flat(b0["params"]).items():
        if name.endswith("/bias"):
            assert not value.any(), name
        if name.endswith("/scale"):
            assert (value == 1).all(), name
    for name, value in flat(b0["batch_stats"]).items():
        assert (value == (1 if name.endswith("/var") else 0)).all(), name


def test_it_has_the_tree_of_flaxs_own_init_as_float32_on_the_host():
    module = tiny()
    mine = initialize(module, resolution=8, seed=0)
    flaxs = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    assert jax.tree.structure(mine) == jax.tree.structure(flaxs)
    for name, leaf in flat(mine).items():
        assert type(leaf) is np.ndarray and leaf.dtype == np.float32, name
        assert leaf.shape == flat(flaxs)[name].shape


def test_flaxs_own_init_follows_the_same_distributions():
    variables = jax.jit(tiny().init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    for kind in ("full", "depthwise"):
        for value in kernels(variables, kind).values():
            height, width, _, outputs = value.shape
            fan_out = height * width * (1 if kind == "depthwise" else outputs)
            assert_deviation(np.asarray(value), math.sqrt(2 / fan_out))
    kernel = np.asarray(variables["params"]["classifier"]["kernel"])
    assert 0.95 < np.abs(kernel).max() * math.sqrt(10) <= 1


def test_values_depend_on_seed_and_generation_and_on_nothing_else():
    def stem(**arguments):
        variables = initialize(tiny(), resolution=8, **arguments)
        return variables["params"]["stem_conv"]["kernel"]

    first = stem(seed=1)
    np.testing.assert_array_equal(first, stem(seed=1, generation=0))
    others = [stem(seed=2), stem(seed=1, generation=1), stem(seed=2, generation=1)]
    for i, other in enumerate([first, *others]):
        for another in others[i:]:
            assert (other != another).mean() > 0.99


def test_values_of_a_parameter_do_not_depend_on_the_other_parameters():
    with_head = flat(initialize(tiny(), resolution=8, seed=0)["params"])
    without = flat(initialize(tiny(outputs=0), resolution=8, seed=0)["params"])
    assert 0 < len(without) < len(with_head)
    for name, value in without.items():
        np.testing.assert_array_equal(value, with_head[name])


def test_parameters_of_one_shape_differ(b0):
    blocks = b0["params"]
    left, right = (blocks[f"blocks_{i}"]["expand_conv"]["kernel"] for i in (6, 7))
    assert left.shape == right.shape
    assert (left != right).mean() > 0.99


def test_rematerialisation_and_precision_change_no_value():
    plain = initialize(tiny(), resolution=8, seed=0)
    other = initialize(tiny(remat=True, dtype="bfloat16"), resolution=8, seed=0)
    jax.tree.map(np.testing.assert_array_equal, plain, other)


class Outside(nn.Module):
    """A model that knows nothing of this package."""

    @nn.compact
    def __call__(self, images, train=False):
        hidden = nn.Conv(4, (3, 3))(images)
        hidden = nn.BatchNorm(use_running_average=not train)(hidden)
        return {"logits": nn.Dense(2)(hidden.mean((1, 2)))}


def test_a_module_with_ordinary_initializers_works():
    variables = initialize(Outside(), resolution=6, channels=1, seed=0)
    assert variables["params"]["Conv_0"]["kernel"].shape == (3, 3, 1, 4)
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(variables))
    again = initialize(Outside(), resolution=6, channels=1, seed=0)
    jax.tree.map(np.testing.assert_array_equal, variables, again)
    later = initialize(Outside(), resolution=6, channels=1, seed=0, generation=1)
    kernels = [tree["params"]["Dense_0"]["kernel"] for tree in (variables, later)]
    assert (kernels[0] != kernels[1]).all()


def test_abstract_variables_compute_nothing():
    module = models.create("efficientnet_l2", outputs=1000)
    leaves = jax.tree.leaves(abstract_variables(module, resolution=475))
    assert {type(leaf) for leaf in leaves} == {jax.ShapeDtypeStruct}


class Counted(nn.Module):
    """A model that counts how often it is traced."""

    @nn.compact
    def __call__(self, images, train=False):
        del train
        TRACED.append(images.shape)
        return {"pooled": nn.Dense(5)(images.mean((1, 2)))}


TRACED = []


def test_shapes_of_variables_and_outputs_come_from_one_trace():
    for _ in range(2):
        assert abstract_outputs(Counted(), resolution=6)["pooled"].shape == (1, 5)
        variables = abstract_variables(Counted(), resolution=6)
        assert variables["params"]["Dense_0"]["kernel"].shape == (3, 5)
    assert TRACED == [(1, 6, 6, 3)]
