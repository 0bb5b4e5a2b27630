"""The family's shapes, read from abstract forward passes: nothing is computed."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noisy_student_jax import models
from noisy_student_jax.models import architectures
from noisy_student_jax.models.architectures import round_filters, round_repeats

PUBLISHED = {
    "b0": 5_288_548,
    "b1": 7_794_184,
    "b2": 9_109_994,
    "b3": 12_233_232,
    "b4": 19_341_616,
    "b5": 30_389_784,
    "b6": 43_040_704,
    "b7": 66_347_960,
    "b8": 87_413_142,
    "l0": 140_764_664,
    "l1": 272_630_564,
    "l2": 480_309_308,
    "lite0": 4_652_008,
    "lite1": 5_416_680,
    "lite2": 6_092_072,
    "lite3": 8_197_096,
    "lite4": 13_006_568,
}


@functools.cache
def traced(name, height=32, width=32):
    """What a member returns for two images, with its variables; shapes alone."""
    # Grouped convolutions are the quickest to trace.
    module = models.create(name, outputs=1000, depthwise="grouped")
    images = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
    return jax.eval_shape(module.init_with_output, jax.random.key(0), images)


def stages(name):
    return architectures.MEMBERS[name].stages


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_to_the_digit(name):
    _, variables = traced(f"efficientnet_{name}")
    leaves = jax.tree.leaves(variables["params"])
    assert sum(math.prod(leaf.shape) for leaf in leaves) == PUBLISHED[name]


@pytest.mark.parametrize("name", ["efficientnet_b0_small", "efficientnet_b0_svhn"])
def test_ten_digits_on_small_images_take_four_million_parameters(name):
    _, variables = traced(name)
    leaves = jax.tree.leaves(variables["params"])
    count = sum(math.prod(leaf.shape) for leaf in leaves)
    # Without 990 of the 1000 classes.
    assert count - 990 * (1280 + 1) == 4_020_358


def test_features_are_the_last_map_of_each_stride():
    outputs, _ = traced("efficientnet_b0", 224, 224)
    assert {stride: leaf.shape for stride, leaf in outputs["features"].items()} == {
        2: (2, 112, 112, 16),
        4: (2, 56, 56, 24),
        8: (2, 28, 28, 40),
        16: (2, 14, 14, 112),
        32: (2, 7, 7, 320),
    }


def test_small_image_variants_end_in_a_map_of_four_by_four():
    outputs, _ = traced("efficientnet_b0_small", 32, 32)
    assert outputs["features"][8].shape == (2, 4, 4, 320)


@pytest.mark.parametrize("member", ["b0", "b1", "b2", "b3", "lite0"])
def test_small_image_variants_differ_in_two_strides_and_resolution_alone(member):
    whole = dict(vars(architectures.MEMBERS[member]))
    small = dict(vars(architectures.MEMBERS[f"{member}_small"]))
    assert small.pop("resolution") == 32 != whole.pop("resolution")
    differences = [
        (number, name)
        for number, pair in enumerate(
            zip(whole.pop("stages"), small.pop("stages"), strict=True), 1
        )
        for name in vars(pair[0])
        if getattr(pair[0], name) != getattr(pair[1], name)
    ]
    assert differences == [(2, "stride"), (3, "stride")]
    assert small == whole
    assert [stage.stride for stage in stages(f"{member}_small")][:3] == [1, 1, 1]


@pytest.mark.parametrize(("side", "last"), [(32, 2), (48, 3), (64, 4), (96, 6)])
@pytest.mark.parametrize("size", "sml")
def test_mini_members_take_small_photographs(size, side, last):
    outputs, _ = traced(f"efficientnet_mini_{size}", side, side)
    assert outputs["features"][16].shape[1:3] == (last, last)


def test_l2_scales_as_the_authors_code_does():
    l2 = architectures.MEMBERS["l2"]
    assert [stage.repeats for stage in l2.stages] == [6, 11, 11, 16, 16, 22, 6]
    channels = [stage.outputs for stage in l2.stages]
    assert channels == [72, 104, 176, 344, 480, 824, 1376]
    assert (l2.stem, l2.head) == (136, 5504)


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("b0", 16), ("b7", 55), ("b8", 61), ("l0", 63), ("l1", 63), ("l2", 88)],
)
def test_members_are_as_deep_as_published(name, blocks):
    assert sum(stage.repeats for stage in stages(name)) == blocks


@pytest.mark.parametrize("member", [f"lite{number}" for number in range(5)])
def test_lite_keeps_the_width_of_its_ends_and_the_depth_of_their_stages(member):
    lite = architectures.MEMBERS[member]
    assert (lite.stem, lite.stages[0].inputs, lite.head) == (32, 32, 1280)
    assert (lite.stages[0].repeats, lite.stages[-1].repeats) == (1, 1)
    assert not any(stage.se_ratio for stage in lite.stages)


def test_lite4_widens_what_its_ends_hold():
    lite4 = stages("lite4")
    assert [stage.repeats for stage in lite4] == [1, 4, 4, 6, 6, 8, 1]
    assert [stage.outputs for stage in lite4] == [24, 32, 56, 112, 160, 272, 448]


@pytest.mark.parametrize("name", architectures.MEMBERS)
def test_each_stage_takes_what_the_one_before_it_gives(name):
    member = architectures.MEMBERS[name]
    given = [member.stem, *(stage.outputs for stage in member.stages)]
    assert [stage.inputs for stage in member.stages] == given[:-1]


def test_rounding_never_loses_more_than_a_tenth():
    assert round_filters(32, 1.0) == 32
    assert round_filters(24, 1.1) == 24
    assert round_filters(10, 1.15) == 16  # 8 would be below 90 % of 11.5
    assert round_filters(3, 1.0) == 8
    assert round_repeats(2, 1.1) == 3


def test_the_activation_is_the_architectures():
    swish, relu6 = (
        architectures.MEMBERS[name].activation for name in ("b0", "lite0_small")
    )
    values = np.array([-8.0, -1.0, 0.5, 5.0, 9.0])
    np.testing.assert_allclose(swish(values), values / (1 + np.exp(-values)), rtol=1e-5)
    np.testing.assert_array_equal(relu6(values), [0, 0, 0.5, 5, 6])
    others = [name for name in architectures.MEMBERS if not name.startswith("lite")]
    assert {architectures.MEMBERS[name].activation for name in others} == {swish}
