"""Detectors: their outputs, views, noise, and names of variables."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noisy_student_jax import models
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.models import architectures, fcos
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.models.initialize import (
    abstract_outputs,
    abstract_variables,
    initialize,
)
from noisy_student_jax.training.optimizer import decayed

CLASSES, SIDE = 3, 32
create = functools.partial(models.create, "fcos_test", outputs=CLASSES)


def pixels(count=2, height=SIDE, width=SIDE, seed=0):
    random = np.random.default_rng(seed)
    return jnp.asarray(random.standard_normal((count, height, width, 3)), jnp.float32)


@functools.cache
def variables():
    return initialize(create(), resolution=SIDE, seed=0)


@functools.partial(jax.jit, static_argnums=0)
def applied(module, given, images):
    return module.apply(given, images)


def predicted(module, images):
    """Returns the outputs of a forward pass in evaluation."""
    return applied(module, variables(), images)


@functools.partial(jax.jit, static_argnums=0)
def applied_in_training(module, given, images, noise, key):
    return module.apply(
        given,
        images,
        train=True,
        noise=noise,
        mutable=["batch_stats"],
        rngs={name: key for name in ("dropout", "stochastic_depth")},
    )[0]


def trained(module, images, *, noise=None, seed=0):
    """Returns the outputs of a forward pass in training."""
    return applied_in_training(module, variables(), images, noise, jax.random.key(seed))


@pytest.mark.parametrize("name", models.DETECTORS)
def test_a_detector_has_the_variables_of_its_backbone_and_two_modules(name):
    backbone = models.backbone(name)
    detector, classifier = (
        abstract_variables(models.create(one, outputs=CLASSES), resolution=64)
        for one in (name, backbone)
    )
    own, theirs = detector["params"], classifier["params"]
    for head in ("head_conv", "head_bn", "classifier"):
        del theirs[head]
    del classifier["batch_stats"]["head_bn"]

    assert own.keys() - theirs.keys() == {"neck", "detector"}
    assert {name: own[name] for name in theirs} == theirs
    assert detector["batch_stats"] == classifier["batch_stats"]
    assert models.normalization(name) == models.normalization(backbone)


@pytest.mark.parametrize("name", models.DETECTORS)
def test_a_detector_has_outputs_for_every_cell_of_its_levels(name):
    found = abstract_outputs(models.create(name, outputs=CLASSES), resolution=64)

    small = "tiny" in name or "test" in name
    strides = (8, 16, 32)
    if "mini" in name:
        strides = (4, 8, 16)
    elif small:
        strides = (2, 4) if "test" in name else (1, 2, 4)
    count = sum((64 // stride) ** 2 for stride in strides)
    assert found["logits"].shape == (1, 1, count, CLASSES)
    assert found["distances"].shape == (1, 1, count, 4)
    assert found["locations"].shape == (count, 3)
    for output in ("logits", "distances", "locations"):
        assert found[output].dtype == np.float32


@pytest.mark.parametrize(
    ("name", "side"), [("lite0", 320), ("lite4", 640), ("b0", 512), ("mini_s", 128)]
)
def test_a_detector_sees_larger_images_than_a_classifier(name, side):
    assert models.resolution(f"fcos_{name}") == side
    assert models.resolution(f"efficientnet_{name}") < side


def test_a_detector_is_a_bundle_like_any_model(tmp_path):
    given = bundles.Bundle(
        architecture="fcos_test",
        arguments={"outputs": CLASSES, "views": 2},
        preprocessing=Preprocessing(SIDE, 0, "bilinear", framing="letterbox"),
        task="detection",
        classes=("a", "b", "c"),
        variables=variables(),
        origin={},
        trained_on=np.zeros(0, np.uint64),
    )

    bundles.write(given, tmp_path / "model")
    found = bundles.read(tmp_path / "model")

    assert found.views == 2
    assert jax.tree.all(jax.tree.map(np.array_equal, found.variables, given.variables))
    with pytest.raises(UserError, match="views must be 1, or 2"):
        three = found.in_views(3)
        models.create(three.architecture, **three.arguments)


def test_a_backbone_of_small_images_has_its_last_three_strides():
    assert fcos.levels(architectures.MEMBERS["b0_small"]) == (2, 4, 8)
    assert fcos.levels(architectures.MEMBERS["lite0"]) == (8, 16, 32)


def test_locations_are_the_centers_of_cells_in_units_of_the_longer_side():
    found = fcos.locations(33, 64, (16, 32))

    assert found.shape == (3 * 4 + 2 * 2, 3)
    np.testing.assert_allclose(found[0] * 64, [8, 8, 16])
    np.testing.assert_allclose(found[11] * 64, [56, 40, 16])
    np.testing.assert_allclose(found[13] * 64, [48, 16, 32])


@pytest.mark.parametrize(("height", "width"), [(33, 47), (8, 64)])
def test_images_of_odd_sides_have_a_pyramid_too(height, width):
    found = predicted(create(), pixels(1, height, width))

    count = len(fcos.locations(height, width, (2, 4)))
    assert found["logits"].shape == (1, 1, count, CLASSES)
    assert (np.asarray(found["distances"]) > 0).all()


def test_a_level_is_repeated_and_cut_to_the_next_finer_one():
    level = jnp.arange(6.0).reshape(1, 2, 3, 1)

    found = fcos.enlarged(level, 2, (1, 3, 5, 1))[0, :, :, 0]

    np.testing.assert_array_equal(
        found, [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]
    )


def test_a_new_detector_expects_no_object_and_boxes_of_four_strides():
    found = predicted(create(), pixels())

    assert np.asarray(jax.nn.sigmoid(found["logits"])).mean() == pytest.approx(
        0.01, rel=0.3
    )
    strides = found["distances"] / found["locations"][None, None, :, 2:]
    assert np.asarray(strides).mean() == pytest.approx(2, rel=0.2)


def test_the_second_view_is_the_mirrored_image():
    images = pixels()

    both = predicted(create(views=2), images)

    for number, one in enumerate((images, images[:, :, ::-1])):
        alone = predicted(create(), one)
        for name in ("logits", "distances"):
            np.testing.assert_allclose(
                both[name][:, number], alone[name][:, 0], atol=1e-5
            )
    alone = predicted(create(), images)
    for stride, one in both["features"].items():
        np.testing.assert_allclose(one, alone["features"][stride], atol=1e-5)
    assert trained(create(views=2), images)["logits"].shape[1] == 1


def test_a_third_view_is_refused():
    with pytest.raises(UserError, match="views must be 1, or 2 for the image and its"):
        create(views=3)


def test_noise_is_where_the_batch_says():
    images = jnp.concatenate([pixels(1)] * 3)
    module = create(dropout_rate=0.5, stochastic_depth=0.9)
    where = {
        "dropout": jnp.array([0.0, 1.0, 0.0]),
        "stochastic_depth": jnp.array([0.0, 0.0, 0.0]),
    }

    one, other = (trained(module, images, noise=where, seed=s) for s in (1, 2))

    for name in ("logits", "distances"):
        np.testing.assert_allclose(one[name][0], one[name][2], atol=1e-5)
        np.testing.assert_allclose(one[name][0], other[name][0], atol=1e-5)
    assert np.abs(one["logits"][0] - one["logits"][1]).max() > 1e-3
    assert np.abs(one["logits"][1] - other["logits"][1]).max() > 1e-3
    # The place of a box is a regression, without dropout.
    np.testing.assert_allclose(one["distances"][0], one["distances"][1], atol=1e-5)


def test_stochastic_depth_is_in_the_backbone():
    images = jnp.concatenate([pixels(1)] * 8)
    module = create(dropout_rate=0.0, stochastic_depth=0.9)

    found = np.asarray(trained(module, images)["distances"])

    assert np.abs(found - found[:1]).max() > 1e-3


def test_examples_of_a_group_share_batch_statistics():
    images = pixels(4)
    off = {"dropout_rate": 0.0, "stochastic_depth": 0.0}

    grouped = trained(create(batch_norm_group=2, **off), images)["logits"]

    for half in (slice(0, 2), slice(2, 4)):
        alone = trained(create(**off), images[half])["logits"]
        np.testing.assert_allclose(grouped[half], alone, atol=1e-4)


def test_half_precision_is_of_the_computation_alone():
    images = pixels()
    whole = predicted(create(), images)

    half = predicted(create(dtype="bfloat16"), images)

    for name in ("logits", "distances", "locations"):
        assert half[name].dtype == np.float32
        np.testing.assert_allclose(half[name], whole[name], atol=0.05)
    np.testing.assert_array_equal(half["locations"], whole["locations"])


def test_frozen_blocks_learn_nothing_and_the_rest_does():
    module = create(frozen_blocks=2, dropout_rate=0.0)

    def total(params):
        outputs, _ = module.apply(
            {**variables(), "params": params},
            pixels(),
            train=True,
            mutable=["batch_stats"],
        )
        return outputs["logits"].sum() + outputs["distances"].sum()

    gradient = jax.jit(jax.grad(total))(variables()["params"])

    assert module.frozen == ("stem_conv", "stem_bn", "blocks_0", "blocks_1")
    for name, own in gradient.items():
        learns = [bool(np.asarray(leaf).any()) for leaf in jax.tree.leaves(own)]
        assert not any(learns) if name in module.frozen else all(learns), name


def test_group_norm_does_not_decay_and_convolutions_do():
    mask = decayed(variables()["params"])["detector"]

    assert not any(jax.tree.leaves([mask["conv_0_gn"], mask["conv_1_gn"]]))
    assert mask["conv_0"]["kernel"] and mask["logits"]["kernel"]


def test_no_outputs_are_features_alone():
    module = models.create("fcos_test", outputs=0)
    own = initialize(module, resolution=SIDE, seed=0)

    assert set(module.apply(own, pixels(1))) == {"features"}
    assert {"neck", "detector"}.isdisjoint(own["params"])


def test_a_detector_takes_the_arguments_of_its_backbone():
    detector, backbone = (
        models.accepted_arguments(name) for name in ("fcos_b0", "efficientnet_b0")
    )

    assert detector == backbone
    assert models.takes_views("fcos_lite0")
    with pytest.raises(UserError, match=r"must be 0 \(the stem alone\) to 2, the num"):
        create(frozen_blocks=3)
