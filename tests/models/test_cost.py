import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from noisy_student_jax import models
from noisy_student_jax.models.cost import (
    activation_bytes,
    forward_flops,
    parameter_count,
)

small_one = functools.partial(models.create, "efficientnet_test", outputs=10)


@pytest.mark.parametrize(
    ("name", "resolution", "giga"),
    [
        ("b0", 224, "0.386"),
        ("b1", 240, "0.687"),
        ("b2", 260, "0.994"),
        ("b3", 300, "1.83"),
        ("b4", 380, "4.39"),
        ("b5", 456, "10.3"),
        ("b6", 528, "19.1"),
        ("b7", 600, "37.7"),
        ("b8", 672, "62.6"),
        ("l0", 380, "32.8"),
        ("l1", 380, "64.9"),
        ("l2", 475, "171"),
        ("l2", 800, "476"),
    ],
)
def test_multiply_adds_of_the_family_are_the_published(name, resolution, giga):
    module = models.create(f"efficientnet_{name}", outputs=1000)
    multiplications = forward_flops(module, resolution=resolution) / 2e9
    digits = len(giga.partition(".")[2])
    assert f"{multiplications:.{digits}f}" == giga


def test_multiply_adds_of_the_small_image_variant_are_the_published():
    module = models.create("efficientnet_b0_small", outputs=10)
    assert f"{forward_flops(module, resolution=32) / 2e6:.0f}" == "102"


@pytest.mark.parametrize(
    ("size", "parameters", "millions"),
    [("s", 20_000, (0.4, 1)), ("m", 60_000, (1, 2)), ("l", 150_000, (2, 4))],
)
def test_tiny_members_are_as_small_as_they_say(size, parameters, millions):
    module = models.create(f"efficientnet_tiny_{size}", outputs=10)
    count = parameter_count(module, resolution=16)
    assert count == pytest.approx(parameters, rel=0.2)
    low, high = millions
    assert low < forward_flops(module, resolution=16) / 2e6 < high


@pytest.mark.parametrize(
    ("size", "parameters", "millions"),
    [("s", 200_000, 8), ("m", 650_000, 20), ("l", 1_700_000, 50)],
)
def test_mini_members_cost_what_they_say(size, parameters, millions):
    module = models.create(f"efficientnet_mini_{size}", outputs=10)
    count = parameter_count(module, resolution=64)
    assert count == pytest.approx(parameters, rel=0.05)
    cost = forward_flops(module, resolution=64) / 2e6
    assert cost == pytest.approx(millions, rel=0.05)


def test_squeeze_excitation_and_classifier_count():
    size = {"resolution": 8}
    few, more = (models.create("efficientnet_test", outputs=n) for n in (10, 11))
    # The head has 32 channels.
    assert forward_flops(more, **size) - forward_flops(few, **size) == 2 * 32
    architecture = few.architecture
    assert all(stage.se_ratio for stage in architecture.stages)
    bare = few.clone(
        architecture=type(architecture)(
            **{
                **vars(architecture),
                "stages": tuple(
                    type(stage)(**{**vars(stage), "se_ratio": 0})
                    for stage in architecture.stages
                ),
            }
        )
    )
    # 16 → 2 → 16 and 32 → 4 → 32, on one pixel.
    gates = 2 * 16 * 2 + 2 * 32 * 4
    assert forward_flops(few, **size) - forward_flops(bare, **size) == 2 * gates


def test_how_it_is_computed_does_not_change_the_count():
    plain = small_one()
    expected = forward_flops(plain, resolution=8)
    for change in ({"remat": True}, {"dtype": "bfloat16"}, {"depthwise": "shifted"}):
        changed = small_one(**change)
        assert forward_flops(changed, resolution=8) == expected
        assert parameter_count(changed, resolution=8) == parameter_count(
            plain, resolution=8
        )


class Outside(nn.Module):
    """A model from outside, with the control flow that a count must walk into."""

    @nn.compact
    def __call__(self, images, train=False):
        hidden = nn.Conv(4, (3, 3), strides=2, use_bias=False)(images)
        hidden = hidden.mean((1, 2))
        square = self.param("square", nn.initializers.ones, (4, 4))
        hidden, _ = jax.lax.scan(
            lambda carry, _: (carry @ square, None), hidden, None, length=5
        )
        hidden = jax.lax.cond(
            hidden.sum() > 0, lambda x: x, lambda x: jax.jit(jnp.dot)(x, square), hidden
        )
        return {"logits": nn.Dense(2)(hidden)}


def test_scans_count_each_turn_branches_the_costliest_and_jit_what_is_inside():
    convolution = 4 * 4 * 9 * 3 * 4
    rest = 5 * 16 + 16 + 4 * 2
    assert forward_flops(Outside(), resolution=8) == 2 * (convolution + rest)
    assert parameter_count(Outside(), resolution=8) == 9 * 3 * 4 + 16 + 4 * 2 + 2


def test_activation_memory_follows_pixels_precision_and_rematerialisation():
    plain = small_one()
    small = activation_bytes(plain, resolution=8)
    # At least the stem's convolution: 8 × 8 pixels, 8 channels of 4 bytes.
    assert small > 8 * 8 * 8 * 4
    large = activation_bytes(plain, resolution=16)
    assert large / small == pytest.approx(4, rel=0.05)
    assert activation_bytes(small_one(remat=True), resolution=8) < 0.5 * small
    half = activation_bytes(small_one(dtype="bfloat16"), resolution=8)
    assert 0.5 * small <= half < 0.8 * small


def test_activation_memory_of_batch_norm_groups_is_an_images_share():
    plain = small_one()
    whole = activation_bytes(plain, resolution=16)
    grouped = activation_bytes(small_one(batch_norm_group=3), resolution=16)
    assert grouped == pytest.approx(whole, rel=0.05)


def test_activation_memory_of_a_known_module_is_exact():
    class Square(nn.Module):
        @nn.compact
        def __call__(self, images, train=False):
            weight = self.param("weight", nn.initializers.ones, (3, 5))
            return {"logits": jnp.sin(images.mean((1, 2)) @ weight)}

    # Kept: the pooled image (3 values) and the sine's derivative (5).
    assert activation_bytes(Square(), resolution=4) == 4 * (3 + 5)
