"""FGSM: one step against the true label, on pixels of 0–255."""

import jax
import numpy as np
import pytest
from outside.brightness import Brightness

from noisy_student_jax import models
from noisy_student_jax.evaluation.predictor import Predictor
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.models.initialize import initialize
from noisy_student_jax.robustness import fgsm
from noisy_student_jax.tasks.classification import Classification


def test_the_step_goes_to_where_a_brightness_model_errs():
    """Two bands meet at 127.5: 115 + 16 and 140 − 16 lie beyond, with 8 they do not."""
    task = Classification(("dark", "bright"))
    plain = Preprocessing(4, 0, mean=(0, 0, 0), std=(1, 1, 1))
    predictor = Predictor(task, Brightness(outputs=2), plain, batch=4)
    weights = predictor.place({"params": {"gain": np.float32(20)}})
    images = np.stack([np.full((4, 4, 3), v, np.uint8) for v in (115, 140)])
    labels = np.array([0, 1])

    sign = fgsm.gradient_sign(predictor)(weights, images, labels)

    assert (sign[0] == 1).all() and (sign[1] == -1).all()
    right = {
        epsilon: (
            predictor(weights, fgsm.step(images, sign, epsilon))["logits"].argmax(1)
            == labels
        ).tolist()
        for epsilon in (8, 16)
    }
    assert right == {8: [True, True], 16: [False, False]}


def test_pixels_stay_within_0_and_255():
    images = np.array([3, 250, 100], np.uint8).reshape(1, 1, 1, 3)
    sign = np.array([-1, 1, 1], np.int8).reshape(1, 1, 1, 3)

    assert fgsm.step(images, sign, 16).ravel().tolist() == [0, 255, 116]
    assert fgsm.step(images, sign, 0.5).ravel().tolist() == [2.5, 250.5, 100.5]


@pytest.fixture(scope="module")
def net():
    arguments = {"outputs": 4, "dropout_rate": 0.9, "stochastic_depth": 0.9}
    module = models.create("efficientnet_test", **arguments)
    predictor = Predictor(
        Classification(tuple("abcd")), module, Preprocessing(8, 0), batch=4
    )
    variables = initialize(module, resolution=8, seed=0)
    return predictor, predictor.place(jax.device_get(variables))


def test_a_networks_loss_grows_and_the_sign_is_that_of_its_slope(net):
    predictor, weights = net
    rng = np.random.default_rng(0)
    images = rng.integers(40, 216, (3, 8, 8, 3)).astype(np.uint8)
    labels = np.array([0, 1, 3])

    def loss(pixels):
        p = predictor(weights, pixels)["probabilities"].astype(np.float64)
        return -np.log(p[np.arange(3), labels])

    sign = fgsm.gradient_sign(predictor)(weights, images, labels)

    assert sign.dtype == np.int8 and sign.shape == images.shape
    assert set(np.unique(sign)) <= {-1, 0, 1}
    assert (loss(fgsm.step(images, sign, 2)) > loss(images)).all()
    assert (loss(fgsm.step(images, -sign, 2)) < loss(images)).all()


def test_an_images_gradient_knows_nothing_of_the_others(net):
    predictor, weights = net
    images = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    labels = np.array([2, 0, 1, 3])
    sign_of = fgsm.gradient_sign(predictor)

    together = sign_of(weights, images, labels)
    alone = np.concatenate(
        [sign_of(weights, images[n : n + 1], labels[n : n + 1]) for n in range(4)]
    )

    assert (together != alone).mean() < 0.01
    with pytest.raises(ValueError, match="more than 4"):
        sign_of(weights, np.concatenate([images, images]), np.tile(labels, 2))
