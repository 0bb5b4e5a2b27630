"""Paired differences over draws and images, and the effects that they show."""

import dataclasses

import numpy as np
import pytest
from made_up_bundles import write_bundle

from noisy_student_jax.studies.transfer import checkpoints
from noisy_student_jax.studies.transfer.differences import (
    Difference,
    Effect,
    Measure,
    effects,
)

DRAWS, IMAGES = 10, 400


def made(share, *, of_images=0.0, of_draws=0.0, seed=0):
    """Returns what a model gets right, where images and draws are easy or hard."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=IMAGES) * of_images
    draws = rng.normal(size=(DRAWS, 1)) * of_draws
    return rng.random((DRAWS, IMAGES)) < share + images + draws


def width(gap):
    return gap.high - gap.low


def test_accuracies_are_means_over_draws_and_images():
    right = np.zeros((2, 4), bool)
    right[0, :3] = True

    measure = Measure({"a": right, "b": ~right})
    assert measure.accuracy("a") == 3 / 8
    assert measure.difference("a", "b").value == -1 / 4


def test_a_model_does_not_differ_from_itself():
    measure = Measure({"a": made(0.5), "b": made(0.5)})

    assert measure.difference("a", "b") == Difference(0.0, 0.0, 0.0)
    assert measure.difference("a", "b").outcome == "cannot tell"


def test_hard_images_that_models_share_do_not_widen_the_interval():
    hard = np.random.default_rng(0).random(IMAGES) < 0.5
    ours, theirs = np.tile(hard, (DRAWS, 1)), np.tile(hard, (DRAWS, 1))
    ours[:, np.flatnonzero(~hard)[:8]] = True
    paired = Measure({"a": ours, "b": theirs}).difference("a", "b")

    shuffled = np.tile(np.random.default_rng(1).permutation(hard), (DRAWS, 1))
    apart = Measure({"a": ours, "b": shuffled}).difference("a", "b")
    assert paired.value == pytest.approx(apart.value)
    assert width(paired) < width(apart) / 3
    assert (paired.outcome, apart.outcome) == ("better", "cannot tell")


def test_an_interval_is_that_of_the_spread_over_images():
    # All draws agree, so only images vary: a mean of 400 numbers of 0 and 1.
    right = np.tile(np.arange(IMAGES) < IMAGES // 2, (DRAWS, 1))
    gap = Measure({"a": right, "b": np.zeros_like(right)}).difference("a", "b")

    assert width(gap) == pytest.approx(2 * 1.96 * np.sqrt(0.25 / IMAGES), rel=0.1)


def test_an_interval_is_that_of_the_spread_over_draws():
    # All images agree, so only draws vary.
    right = np.zeros((DRAWS, IMAGES), bool)
    right[: DRAWS // 2] = True
    gap = Measure({"a": right, "b": np.zeros_like(right)}).difference("a", "b")

    assert width(gap) == pytest.approx(2 * 1.96 * np.sqrt(0.25 / DRAWS), rel=0.1)


def test_intervals_hold_the_true_difference_as_often_as_they_say():
    held = 0
    for seed in range(60):
        ours = made(0.6, of_images=0.1, of_draws=0.05, seed=2 * seed)
        theirs = made(0.5, of_images=0.1, of_draws=0.05, seed=2 * seed + 1)
        gap = Measure({"a": ours, "b": theirs}).difference("a", "b")
        held += gap.low <= 0.1 <= gap.high
    # Of 60 intervals of 95 %, fewer than 52 hold it once in a hundred times.
    assert held >= 52


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(0.01, 0.03, "better"), (-0.03, -0.01, "worse"), (0.0, 0.02, "cannot tell")],
)
def test_an_interval_with_zero_says_nothing(low, high, outcome):
    assert Difference((low + high) / 2, low, high).outcome == outcome


def test_a_difference_is_told_in_points():
    assert str(Difference(0.0123, -0.004, 0.025)) == "+1.2 [−0.4, +2.5]"


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    """Returns a function from names and sizes to models."""
    place = write_bundle(tmp_path_factory.mktemp("sizes") / "small")
    (small,) = checkpoints.read(f"small={place}", trust=False)

    def models(**asked):
        found = []
        for name, size in asked.items():
            bundle = dataclasses.replace(small.bundle, architecture=f"size_{size}")
            one = checkpoints.Checkpoint(name, bundle, "")
            # The count is remembered: no model needs to be this large.
            one.__dict__["parameters"] = size
            found.append(one)
        return found

    return models


def test_self_training_is_the_last_student_beside_the_control_of_its_size(sizes):
    found = effects(sizes(teacher=1, student_1=1, student_2=2, student_3=2, control=2))

    assert Effect("self-training", "student_3", "control") in found


def test_capacity_is_a_larger_student_beside_a_smaller_one(sizes):
    found = effects(sizes(teacher=1, student_1=1, student_2=2, control=2))

    assert Effect("capacity", "student_2", "student_1") in found


def test_capacity_is_else_a_larger_control_beside_the_teacher(sizes):
    found = effects(sizes(teacher=1, student=2, control=2))

    assert Effect("capacity", "control", "teacher") in found
    assert not effects(sizes(teacher=2, control=2))


def test_noise_is_a_student_beside_one_without(sizes):
    found = effects(sizes(student=2, without_noise=2))

    assert found == [Effect("noise", "student", "without_noise")]


def test_models_of_other_sizes_tell_nothing(sizes):
    assert not effects(sizes(teacher=2, student=1, control=2, without_noise=2))
