"""Predicting: un-noised, image by image, whatever the batch."""

import os
import threading

import jax
import numpy as np
import pytest

from noisy_student_jax import models
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.protocols import Examples
from noisy_student_jax.data.sources import ArraySource
from noisy_student_jax.evaluation import predictor as predicting
from noisy_student_jax.evaluation.predictor import (
    Predictor,
    predict_batches,
    predict_source,
)
from noisy_student_jax.images import resize_tf1
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.models import views
from noisy_student_jax.models.bundle import Bundle
from noisy_student_jax.models.initialize import initialize
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
def test_neither_padding_nor_neighbors_leak(
    predictor, predictions, variables, images, count
):
    part = predictor(variables, images[:count])
    last = predictor(variables, images[-count:])

    np.testing.assert_array_equal(part["logits"], predictions["logits"][:count])
    np.testing.assert_allclose(
        last["logits"], predictions["logits"][-count:], rtol=1e-5, atol=1e-6
    )


@pytest.fixture
def cores(monkeypatch):
    """Sets how many there are; and no model is too small for pieces."""
    monkeypatch.setattr(predicting, "WORTHWHILE", 2**30)

    def there_are(count):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(count))

    there_are(2)
    return there_are


@pytest.mark.usefixtures("cores")
def test_a_cpu_is_given_pieces_of_a_batch(predictions, variables, images):
    predictor = Predictor(TASK, predictor_module(), CUT, batch=8)

    found = predictor(variables, images)

    for name, values in predictions.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6)
    assert predictor.piece == 4


@pytest.mark.parametrize(("count", "piece"), [(1, 64), (3, 22), (64, 2)])
def test_each_core_has_a_piece(variables, images, cores, count, piece):
    cores(count)
    predictor = Predictor(TASK, predictor_module(), CUT, batch=64)
    predictor(variables, images)

    assert predictor.piece == piece


def test_a_piece_is_worth_a_call(variables, images, cores, monkeypatch):
    # Of the test model an image takes 0.25 million operations.
    monkeypatch.setattr(predicting, "PIECE", 64e6)
    monkeypatch.setattr(predicting, "WORTHWHILE", 16)
    cores(64)
    predictor = Predictor(TASK, predictor_module(), CUT, batch=64)
    predictor(variables, images)

    assert predictor.piece == 16


@pytest.mark.usefixtures("cores")
def test_a_piece_of_a_large_model_is_fewer_images(variables, images, monkeypatch):
    monkeypatch.setattr(predicting, "PIECE", 2e6)
    predictor = Predictor(TASK, predictor_module(), CUT, batch=64)
    predictor(variables, images)

    assert predictor.piece == 8


@pytest.mark.usefixtures("cores")
def test_what_goes_wrong_in_a_piece_is_told(variables, images, monkeypatch):
    predictor = Predictor(TASK, predictor_module(), CUT, batch=8)
    predictor(variables, images)
    apply = predictor.apply

    def torn(variables, piece):
        if threading.current_thread().name.startswith("predictor"):
            raise ValueError("torn")
        return apply(variables, piece)

    monkeypatch.setattr(predictor, "apply", torn)
    with pytest.raises(ValueError, match="torn"):
        predictor(variables, images[:8])


@pytest.mark.usefixtures("cores")
def test_what_is_not_waited_for_is_given_up(variables, images, monkeypatch):
    predictor = Predictor(TASK, predictor_module(), CUT, batch=8)
    predictor(variables, images)
    go_on, apply, begun = threading.Event(), predictor.apply, []

    def slow(variables, piece):
        if threading.current_thread().name.startswith("predictor"):
            begun.append(piece)
            go_on.wait(20)
        return apply(variables, piece)

    monkeypatch.setattr(predictor, "apply", slow)
    threads = predicting._cores()
    with pytest.raises(KeyboardInterrupt), predictor.abandoning():
        for _ in range(threads._max_workers + 20):
            predictor.start(variables, images[:8])
        raise KeyboardInterrupt
    go_on.set()
    # It would come after all the others.
    threads.submit(int).result()

    assert len(begun) <= threads._max_workers


def test_of_no_images_nothing_is_predicted(predictor, variables, images):
    found = predictor.start(variables, images[:0])()

    assert found["probabilities"].shape == (0, 4)


def test_progress_counts_images_and_not_padding(predictor, variables, images):
    told = []
    predictor(variables, images, after_batch=told.append)

    assert told == [4, 8, 11]


def test_the_bundles_normalization_is_used(predictions, variables, images):
    plain = Preprocessing(8, 0, mean=(0, 0, 0), std=(1, 1, 1))
    module = models.create("efficientnet_test", **ARGUMENTS)

    other = Predictor(TASK, module, plain, batch=4)(variables, images)

    assert np.abs(other["logits"] - predictions["logits"]).max() > 1e-3


class Torn(ArraySource):
    """Of its records, some cannot be used."""

    torn = (1, 4, 5, 6, 7)

    def read(self, indices):
        good = super().read(indices)
        status = ["torn" if index in self.torn else "ok" for index in indices]
        whole = zip(good.images, status, strict=True)
        images = [image if why == "ok" else None for image, why in whole]
        return Examples(images, status, good.labels)


def source(images, kind=ArraySource):
    labels = np.arange(len(images)) % 4
    return kind([f"key-{n}" for n in range(len(images))], list(images), labels)


def test_a_source_is_predicted_as_its_images_are(
    predictor, variables, images, predictions
):
    told = []
    found = predict_source(
        predictor, {"one": variables}, source(images), before_batch=told.append
    )

    for name, values in predictions.items():
        np.testing.assert_array_equal(found.predictions["one"][name], values)
    assert found.records.tolist() == list(range(11))
    assert found.labels.tolist() == [n % 4 for n in range(11)]
    assert not found.unusable
    assert told == [0, 4, 8]


@pytest.mark.parametrize("ahead", [0, 3])
@pytest.mark.parametrize("kind", [ArraySource, "Torn"])
def test_how_far_it_goes_ahead_changes_no_bit(
    predictor, variables, images, ahead, kind
):
    read = source(images, Torn if kind == "Torn" else kind)
    before = predict_source(predictor, {"one": variables}, read)
    other = Predictor(
        TASK, predictor_module(), predictor.preprocessing, batch=4, ahead=ahead
    )
    # Of the same model there is one program.
    assert other.apply is predictor.apply

    found = predict_source(other, {"one": variables}, read)

    assert found.records.tolist() == before.records.tolist()
    for name, values in before.predictions["one"].items():
        np.testing.assert_array_equal(found.predictions["one"][name], values)


def predictor_module():
    return models.create("efficientnet_test", **ARGUMENTS)


def test_the_devices_have_the_next_batch_before_a_result_is_asked_for(
    predictor, variables, images, monkeypatch
):
    begun, fetched, start = [], [], Predictor.start

    def watched(self, variables, images):
        begun.append(len(images))
        fetch = start(self, variables, images)
        return lambda: (fetched.append(len(begun)), fetch())[1]

    monkeypatch.setattr(Predictor, "start", watched)
    predict_source(predictor, {"one": variables}, source(images))
    predictor(variables, images)

    # Of three batches; the last has none after it.
    assert fetched == [2, 3, 3, 5, 6, 6]


def test_backbones_in_all_their_views_take_turns_without_compiling_again():
    seen = [
        views.Seen(models.create(name, outputs=4), number)
        for number in range(views.MOST)
        for name in models.MEMBERS
    ]
    first, again = (
        [Predictor(TASK, module, CUT).apply for module in seen] for _ in range(2)
    )
    assert all(one is other for one, other in zip(first, again, strict=True))


def test_somebodys_own_task_need_not_be_hashable(variables, images, predictions):
    class Unhashable(Classification):
        __hash__ = None

    own = Predictor(Unhashable(TASK.classes), predictor_module(), CUT, batch=4)

    np.testing.assert_array_equal(
        own(variables, images)["logits"], predictions["logits"]
    )


def test_the_authors_resize_reaches_the_model_without_rounding(variables, monkeypatch):
    module = models.create("efficientnet_test", **ARGUMENTS)
    large = np.random.default_rng(1).integers(0, 256, (3, 13, 21, 3), np.uint8)
    predictor = Predictor(TASK, module, Preprocessing(8, 0, "bicubic_tf1"), batch=4)
    seen, start = [], predictor.start

    def watched(variables, images):
        seen.append(images)
        return start(variables, images)

    monkeypatch.setattr(predictor, "start", watched)
    predict_source(predictor, {"one": variables}, source(large))

    exact = [resize_tf1.resize(image[:, 4:17], 8, 8) for image in large]
    np.testing.assert_array_equal(seen[0][:3], exact)
    assert np.min(exact) < 0 and np.max(exact) > 255


class Ready(ArraySource):
    """It preprocesses images itself, in the package's way."""

    def reader(self, preprocessing, batches):
        assert isinstance(preprocessing, Preprocessing)
        raise NotImplementedError


class Foreign:
    """The preprocessing of somebody's own task."""

    resolution, mean, std, dtype = 16, (0.5,) * 3, (0.5,) * 3, np.uint8
    apply_all = staticmethod(lambda images: np.stack(list(images)))


def test_a_source_does_not_preprocess_in_its_own_way_for_another(variables, images):
    own = Predictor(TASK, predictor_module(), Foreign(), batch=4)
    found = predict_source(own, {"one": variables}, source(images, Ready))

    wanted = predict_source(own, {"one": variables}, source(images))
    for name, values in wanted.predictions["one"].items():
        np.testing.assert_array_equal(found.predictions["one"][name], values)


def test_what_cannot_be_used_is_left_out_and_named(predictor, variables, images):
    whole = predict_source(predictor, {"one": variables}, source(images))
    found = predict_source(predictor, {"one": variables}, source(images, Torn))

    # A whole batch of them among others.
    assert found.records.tolist() == [0, 2, 3, 8, 9, 10]
    assert found.unusable == {f"key-{n}": "torn" for n in Torn.torn}
    assert found.labels.tolist() == [n % 4 for n in found.records]
    np.testing.assert_allclose(
        found.predictions["one"]["logits"],
        whole.predictions["one"]["logits"][found.records],
        rtol=1e-6,
        atol=1e-6,
    )


def test_nothing_to_judge_on_is_refused(predictor, variables, images):
    class AllTorn(Torn):
        torn = range(11)

    with pytest.raises(UserError, match=r"11 of 11 images .* 'key-0' \(torn\)"):
        predict_source(predictor, {"one": variables}, source(images, AllTorn))


class Gone(ArraySource):
    """A source that fails at its fifth record."""

    def read(self, indices):
        if 4 in indices:
            raise OSError("the disk is gone")
        return super().read(indices)


BATCHES = [range(0, 4), range(4, 8), range(8, 11)]


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_what_goes_wrong_costs_no_batch_before(variables, images, ahead):
    predictor = Predictor(TASK, predictor_module(), CUT, batch=4, ahead=ahead)
    found = predict_batches(
        predictor, {"one": variables}, source(images, Gone), BATCHES
    )

    assert next(found)[0].indices == BATCHES[0]
    with pytest.raises(OSError, match="the disk is gone"):
        next(found)


def test_giving_up_ends_the_thread_that_reads(predictor, variables, images):
    predicted = predict_batches(predictor, {"one": variables}, source(images), BATCHES)
    next(predicted)
    reading = [t for t in threading.enumerate() if t.name.startswith("read_ahead")]
    predicted.close()

    assert reading
    assert not any(thread.is_alive() for thread in reading)
