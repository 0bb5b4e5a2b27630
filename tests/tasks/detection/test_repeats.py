"""Images of rare classes are drawn more often."""

import numpy as np
import pyarrow as pa
import pytest

from noisy_student_jax.tasks.detection import repeats


def keys(count):
    return pa.array([f"image {number}" for number in range(count)])


def test_common_classes_ask_for_nothing_and_rare_ones_for_a_root():
    asked = repeats.factors(np.array([1000, 500, 125, 20, 1, 0]))
    assert asked[:4] == pytest.approx([1, 1, 2, 4])
    assert asked[3:].tolist() == [4, 4, 4]
    assert repeats.factors(np.array([1000, 20]), most=2).tolist() == [1, 2]


def test_an_image_is_drawn_as_its_rarest_class_asks():
    present = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 0]], bool)
    asked = np.array([1.0, 2.0, 3.0])
    found = repeats.draws(present, asked, keys(4), seed=0)
    assert found.tolist() == [1, 2, 3, 1]


def test_fractions_are_drawn_by_key_and_seed():
    present, asked = np.ones((4000, 1), bool), np.array([1.3])
    found = repeats.draws(present, asked, keys(4000), seed=5)

    assert set(found) == {1, 2}
    assert found.mean() == pytest.approx(1.3, abs=0.03)
    order = np.random.default_rng(0).permutation(4000)
    shuffled = repeats.draws(present, asked, keys(4000).take(pa.array(order)), seed=5)
    np.testing.assert_array_equal(shuffled, found[order])
    assert (repeats.draws(present, asked, keys(4000), seed=6) != found).any()


def test_labeled_images_are_repeated_by_their_objects():
    labels = np.zeros((100, 2, 6), np.float32)
    labels[:, 0] = (0, 0, 1, 1, 0, 1)
    labels[:12, 1] = (0, 0, 1, 1, 1, 1)
    labels[12:50, 1] = (0, 0, 1, 1, 1, 2)  # regions to ignore
    found = repeats.repeats(labels, keys(100).to_pylist(), 2)

    assert found[12:].tolist() == [1] * 88
    assert set(found[:12]) <= {2, 3} and found[:12].min() == 2


def test_nothing_is_repeated_without_any_object_or_with_one_class():
    empty = np.zeros((5, 3, 6), np.float32)
    assert repeats.repeats(empty, keys(5).to_pylist(), 2).tolist() == [1] * 5
    one = np.zeros((5, 1, 6), np.float32)
    one[:2, 0] = (0, 0, 1, 1, 0, 1)
    assert repeats.repeats(one, keys(5).to_pylist(), 1).tolist() == [1] * 5
