"""A model of several views predicts from the mean of their features."""

import jax
import numpy as np
import pytest
from PIL import Image

from noisy_student_jax import models
from noisy_student_jax.core import random_keys
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.models import views

SIDE = 32


@pytest.fixture(scope="module")
def images():
    drawn = np.random.default_rng(0).standard_normal((3, SIDE, SIDE, 3))
    return drawn.astype(np.float32)


def test_the_zoomed_view_is_the_middle_enlarged():
    random = np.random.default_rng(0)
    planes = random.integers(0, 256, (40, 40)).astype(np.float32)
    image = Image.fromarray(planes, mode="F")
    middle = image.resize((40, 40), Image.Resampling.BICUBIC, box=(4, 4, 36, 36))

    zoomed = views.view(planes[None, :, :, None], 1)[0, :, :, 0]

    # Pillow sees no pixels beyond the box.
    inner = slice(4, -4)
    assert np.asarray(zoomed)[inner, inner] == pytest.approx(
        np.asarray(middle)[inner, inner], abs=0.01
    )


def test_mirrored_views_are_mirrored(images):
    for number in (0, 1):
        mirrored = views.view(images, number + 2)
        assert np.array_equal(mirrored, views.view(images, number)[:, :, ::-1])


@pytest.mark.parametrize("name", ["efficientnet_test", "concatenated"])
def test_features_and_logits_are_means_over_views(name, images):
    members = {"members": ("efficientnet_test",)} if name == "concatenated" else {}
    one, several = (
        models.create(name, outputs=4, views=count, **members) for count in (1, 4)
    )
    variables = one.init(random_keys.key(0), images)
    seen = [one.apply(variables, views.view(images, number)) for number in range(4)]

    found = several.apply(variables, images)

    for what in ("pooled", "logits"):
        mean = np.mean([own[what] for own in seen], axis=0)
        assert found[what] == pytest.approx(mean, abs=1e-5)
    for stride, own in seen[0]["features"].items():
        assert found["features"][stride] == pytest.approx(np.asarray(own), abs=1e-5)


def test_training_sees_one_view(images):
    one, several = (
        models.create("efficientnet_test", outputs=4, views=count) for count in (1, 4)
    )
    variables = one.init(random_keys.key(0), images)

    def trained(module):
        keys = {name: random_keys.key(1) for name in ("dropout", "stochastic_depth")}
        return module.apply(
            variables, images, train=True, rngs=keys, mutable=["batch_stats"]
        )

    pairs = zip(*map(jax.tree.leaves, map(trained, (one, several))), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_there_are_four_views():
    with pytest.raises(UserError, match="views must be 1 to 4, not 5"):
        models.create("efficientnet_test", outputs=4, views=5)
