"""Predicting: un-noised, image by image, whatever the batch."""

import jax
import numpy as np
import pytest

from noisy_student_jax import models
from noisy_student_jax.checkpoints.bundle import Bundle
from noisy_student_jax.evaluation.predictor import Predictor
from noisy_student_jax.models.initialize import initialize
from noisy_student_jax.preprocessing import Preprocessing
from noisy_student_jax.tasks.classification import Classification
from noisy_student_jax.training.step import normalize

TASK = Classification(tuple("abcd"))
CUT = Preprocessing(8, 0, mean=(0.3, 0.4, 0.5), std=(0.2, 0.25, 0.3))
# Noise that would be seen, were it on.
ARGUMENTS = {"outputs": 4, "dropout_rate": 0.9, "stochastic_depth": 0.9}


@pytest.fixture(scope="module")
def variables():
    module = models.create("efficientnet_test", **ARGUMENTS)
    found = initialize(module, resolution=8, seed=0)
    # Statistics that a batch of its own would not have.
    shifted = jax.tree.map(lambda leaf: leaf + 0.5, found["batch_stats"])
    return {"params": found["params"], "batch_stats": shifted}


@pytest.fixture(scope="module")
def predictor(variables):
    bundle = Bundle(
        "efficientnet_test",
        ARGUMENTS,
        CUT,
        "classification",
        TASK.classes,
        variables,
        origin={},
        trained_on=np.zeros(0, np.uint64),
    )
    return Predictor.from_bundle(bundle, TASK, batch=4)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (11, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def predictions(predictor, variables, images):
    return predictor(predictor.place(variables), images)


def test_it_is_the_model_in_evaluation_mode(predictions, variables, images):
    module = models.create("efficientnet_test", **ARGUMENTS)
    logits = module.apply(variables, normalize(images, CUT.mean, CUT.std))["logits"]

    np.testing.assert_allclose(predictions["logits"], logits, rtol=1e-4, atol=1e-5)


def test_predicting_again_gives_the_same_bits(
    predictor, predictions, variables, images
):
    again = predictor(variables, images)

    for name, values in predictions.items():
        np.testing.assert_array_equal(again[name], values)


def test_there_is_one_row_an_image_in_order(predictions):
    assert predictions["probabilities"].shape == (11, 4)
    np.testing.assert_allclose(predictions["probabilities"].sum(axis=1), 1, rtol=1e-5)
    assert len(np.unique(predictions["logits"], axis=0)) == 11


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8])
def test_neither_padding_nor_neighbours_leak(
    predictor, predictions, variables, images, count
):
    part = predictor(variables, images[:count])
    last = predictor(variables, images[-count:])

    np.testing.assert_array_equal(part["logits"], predictions["logits"][:count])
    np.testing.assert_allclose(
        last["logits"], predictions["logits"][-count:], rtol=1e-5, atol=1e-6
    )


def test_progress_counts_images_and_not_padding(predictor, variables, images):
    told = []
    predictor(variables, images, after_batch=told.append)

    assert told == [4, 8, 11]


def test_the_bundles_normalisation_is_used(predictions, variables, images):
    plain = Preprocessing(8, 0, mean=(0, 0, 0), std=(1, 1, 1))
    module = models.create("efficientnet_test", **ARGUMENTS)

    other = Predictor(TASK, module, plain, batch=4)(variables, images)

    assert np.abs(other["logits"] - predictions["logits"]).max() > 1e-3
