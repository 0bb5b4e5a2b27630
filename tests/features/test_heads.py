"""Heads are tuned on labeled records left out, and cross-fitted rung by rung."""

import dataclasses

import numpy as np
import pytest

from noisy_student_jax.features import heads
from noisy_student_jax.features.heads import (
    Labeled,
    cross_fit,
    deal,
    fit,
    side_by_side,
    tune,
)

CLASSES = 3
EYE = np.eye(CLASSES)
CENTERS = np.random.default_rng(9).standard_normal((CLASSES, 40))


def drawn(count, *, seed, views=2, distance=0.5):
    """Features of classes in turn, and views that differ a little."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    clean = distance * CENTERS[labels] + random.standard_normal((count, 40))
    noised = [
        clean + 0.5 * random.standard_normal(clean.shape) for _ in range(views - 1)
    ]
    found = [view.astype(np.float32) for view in (clean, *noised)]
    return Labeled(found, EYE[labels], np.ones(count)), labels


def right(head, labeled, labels):
    return (head.probabilities(labeled.views[0]).argmax(axis=1) == labels).mean()


def test_each_fold_leaves_out_some_of_each_class():
    labels = np.repeat([0, 1, 2], [20, 10, 5])
    fold = deal(labels, np.random.default_rng(0).permutation(35))

    counts = [np.bincount(fold[labels == one], minlength=5) for one in range(3)]
    assert [own.tolist() for own in counts] == [[4] * 5, [2] * 5, [1] * 5]


def test_few_records_a_class_make_few_folds_and_a_lone_one_is_in_none():
    labels = np.array([0, 0, 1, 1, 2, 2, 3])
    fold = deal(labels, np.arange(7))

    assert fold.tolist() == [0, 1, 0, 1, 0, 1, -1]


def test_no_more_than_so_many_are_left_out(monkeypatch):
    monkeypatch.setattr(heads, "MOST", 60)
    labels = np.arange(300) % CLASSES
    fold = deal(labels, np.arange(300))

    assert (fold >= 0).sum() == 60
    assert np.bincount(labels[fold >= 0]).tolist() == [20] * 3


def test_folds_follow_records_and_not_their_places():
    labels, order = np.arange(30) % 3, np.random.default_rng(0).permutation(30)
    places = np.random.default_rng(1).permutation(30)

    assert np.array_equal(
        deal(labels, order)[places], deal(labels[places], order[places])
    )


def test_noisier_features_ask_for_more_regularization():
    order = np.arange(60)
    clear = tune(drawn(60, seed=0, distance=2.0)[0], order)
    vague = tune(drawn(60, seed=0, distance=0.2)[0], order)

    assert vague.strength < clear.strength
    assert vague.curve[vague.strength] == min(vague.curve.values())


def test_without_two_records_of_a_class_nothing_is_left_out():
    labeled, _ = drawn(3, seed=0)
    tuned = tune(labeled, np.arange(3))

    assert (tuned.strength, tuned.curve, tuned.folds) == (heads.WITHOUT_FOLDS, {}, 0)


def test_views_that_do_harm_are_not_chosen():
    labeled, _ = drawn(60, seed=0, views=4)
    # As a mirrored letter looks like another one.
    misleading = [labeled.views[0][np.roll(np.arange(60), 1)]] * 2
    harmed = Labeled(
        [*labeled.views[:2], *misleading], labeled.targets, labeled.weights
    )

    tuned = tune(harmed, np.arange(60))

    assert tuned.views <= 2
    # As good as each other.
    random = np.random.default_rng(0)
    alike = [
        one + 0.1 * random.standard_normal(one.shape) for one in 4 * [labeled.views[0]]
    ]
    assert tune(dataclasses.replace(labeled, views=alike), np.arange(60)).views == 4
    assert min(tuned.curve, key=tuned.curve.get) == tuned.strength


def test_pseudo_labeled_records_weigh_as_often_as_they_are_drawn():
    labeled, _ = drawn(12, seed=0)
    pool, _ = drawn(6, seed=1)
    twice = Labeled(pool.views, pool.targets, 2 * pool.weights)
    copied = pool[np.tile(np.arange(6), 2)]

    one, other = (fit(labeled, own, 0.1) for own in (twice, copied))

    assert one.kernel == pytest.approx(other.kernel, abs=1e-3)
    assert one.kernel != pytest.approx(fit(labeled, pool, 0.1).kernel, abs=1e-3)


def test_a_left_out_label_reaches_its_prediction_on_no_way():
    labeled, labels = drawn(30, seed=0)
    pool, _ = drawn(90, seed=1)
    fold = deal(labels, np.arange(30))

    def ladder(targets):
        rungs, taught = [], None
        given = Labeled(labeled.views, targets, labeled.weights)
        for number in range(3):
            found = cross_fit(
                given,
                pool.views if number else None,
                0.05,
                fold,
                teacher=taught,
                select=lambda p: (np.arange(90), EYE[p.argmax(axis=1)]),
                predict=pool.views[0],
            )
            taught = found.pool
            rungs.append(found.probabilities)
        return rungs

    wrong = labeled.targets.copy()
    lied = fold == 1
    wrong[lied] = np.roll(wrong[lied], 1, axis=1)
    for one, other in zip(ladder(labeled.targets), ladder(wrong), strict=True):
        assert np.array_equal(one[lied], other[lied])
        assert not np.array_equal(one[~lied], other[~lied])
        assert np.isfinite(one).all()


def test_students_of_a_pool_are_better_left_out_than_their_teacher():
    labeled, labels = drawn(15, seed=3)
    pool, _ = drawn(600, seed=4)
    fold = deal(labels, np.arange(15))
    teacher = cross_fit(labeled, None, 0.01, fold, predict=pool.views[0])
    student = cross_fit(
        labeled,
        pool.views,
        0.01,
        fold,
        teacher=teacher.pool,
        select=lambda p: (np.arange(600), EYE[p.argmax(axis=1)]),
    )

    def surprise(found):
        return -np.log(found.probabilities[np.arange(15), labels]).mean()

    assert surprise(student) < surprise(teacher)
    assert student.pool is None


def test_a_head_of_everything_is_solved_beside_the_folds_to_the_same_bits():
    labeled, _ = drawn(60, seed=0)
    fold = tune(labeled, np.arange(60)).fold
    alone = cross_fit(labeled, None, 0.1, fold)

    with side_by_side() as threads:
        whole = threads.submit(fit, labeled, None, 0.1)
        beside = cross_fit(labeled, None, 0.1, fold, threads=threads)

    assert np.array_equal(beside.probabilities, alone.probabilities)
    assert np.array_equal(whole.result().kernel, fit(labeled, None, 0.1).kernel)
