"""Classification: loss, metrics, and what is kept of a teacher's prediction."""

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest

from noisy_student_jax import tasks
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.protocols import LossOptions
from noisy_student_jax.core.types import LABELED, PSEUDO
from noisy_student_jax.tasks.classification import (
    DEFAULT_TOP_K,
    FEW_CLASSES,
    Classification,
    training_target,
)


def task_of(classes):
    return Classification(tuple(f"c{number}" for number in range(classes)))


def probabilities(rows, classes, seed=0):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(classes, 0.2), rows).astype(np.float32)


def stored(task, p, **options):
    """What a sidecar gives back of predictions."""
    columns = task.columns({"probabilities": p}, **({"top_k": None} | options))
    rows = pa.record_batch(list(columns.values()), names=list(columns))
    return columns, task.stored_targets(rows)


def pseudo_targets(task, arrays):
    found = task.pseudo_targets({k: jnp.asarray(v) for k, v in arrays.items()})
    return np.asarray(found)


PREDICTED = np.array(
    [
        # Right, with 0.5; wrong, truth second; wrong, truth last; right, with 0.9.
        [0.5, 0.2, 0.1, 0.1, 0.05, 0.03, 0.02],
        [0.3, 0.4, 0.1, 0.1, 0.05, 0.03, 0.02],
        [0.3, 0.2, 0.2, 0.1, 0.1, 0.06, 0.04],
        [0.01, 0.01, 0.01, 0.9, 0.03, 0.02, 0.02],
    ]
)
TRUTH = np.array([0, 0, 6, 3])


def test_metrics_are_those_of_a_hand_calculation():
    found = task_of(7).metrics({"probabilities": PREDICTED}, TRUTH)

    assert found["top1"] == 0.5
    assert found["top5"] == 0.75
    own = [0.5, 0.3, 0.04, 0.9]
    assert found["nll"] == pytest.approx(-np.log(own).mean())
    # Bins of a fifteenth: 0.5 → 7, 0.4 → 6, 0.3 → 4, 0.9 → 13, one image in each.
    gaps = [abs(1 - 0.5), abs(0 - 0.4), abs(0 - 0.3), abs(1 - 0.9)]
    assert found["ece"] == pytest.approx(np.mean(gaps))
    assert list(found) == ["top1", "top5", "nll", "ece"]
    assert all(type(value) is float for value in found.values())


def test_the_primary_metric_is_the_mean_of_what_it_is_on_each_image():
    task = task_of(7)
    predictions = {"probabilities": PREDICTED}

    statistics = task.statistics(predictions, TRUTH)

    assert statistics.to_pylist() == [1, 0, 0, 1]
    metrics = task.metrics(predictions, TRUTH)
    assert task.primary(statistics).tolist() == [metrics[task.primary_metric]]


def test_the_primary_metric_of_resamples_counts_images_as_often_as_drawn():
    task = task_of(7)
    statistics = task.statistics({"probabilities": PREDICTED}, TRUTH)

    found = task.primary(
        statistics, np.array([[1, 1, 1, 1], [4, 0, 0, 0], [1, 3, 0, 0]])
    )

    assert found.tolist() == [0.5, 1, 0.25]


@pytest.mark.parametrize(("classes", "has"), [(5, False), (6, True)])
def test_the_best_five_are_counted_above_five_classes(classes, has):
    p = probabilities(9, classes)

    found = task_of(classes).metrics({"probabilities": p}, np.zeros(9, int))

    assert ("top5" in found) is has


def test_a_class_of_probability_zero_costs_much_and_not_everything():
    p = np.array([[1.0, 0.0]])

    found = task_of(2).metrics({"probabilities": p}, np.array([1]))

    assert found["nll"] == pytest.approx(-np.log(1e-12))


def test_bucket_and_score_are_the_most_probable_class_and_how_much():
    task, predictions = task_of(7), {"probabilities": PREDICTED}

    assert task.bucket(predictions).tolist() == [0, 1, 0, 3]
    assert task.bucket(predictions).dtype == np.int32
    np.testing.assert_allclose(task.score(predictions), [0.5, 0.4, 0.3, 0.9])
    assert task.score(predictions).dtype == np.float32


def test_predictions_are_the_softmax_of_the_logits():
    logits = np.array([[1.0, 2.0, 0.5]])

    found = task_of(3).predict({"logits": jnp.asarray(logits, jnp.bfloat16)})

    exponents = np.exp(logits)
    np.testing.assert_allclose(
        found["probabilities"], exponents / exponents.sum(), rtol=1e-6
    )
    np.testing.assert_array_equal(found["logits"], logits)
    assert found["probabilities"].dtype == jnp.float32


def test_labels_become_one_hot_targets():
    found = task_of(3).targets(np.array([2, 0]))

    assert found.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert found.dtype == np.float32


@pytest.mark.parametrize("classes", [2, 10, FEW_CLASSES])
def test_few_classes_are_kept_whole_in_half_precision(classes):
    task, p = task_of(classes), probabilities(20, classes)

    columns, arrays = stored(task, p)

    assert columns.keys() == {"probabilities"}
    assert columns["probabilities"].type == pa.list_(pa.float16())
    np.testing.assert_array_equal(arrays["probabilities"], p.astype(np.float16))
    targets = pseudo_targets(task, arrays)
    np.testing.assert_allclose(targets, p, rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=3e-7)


def test_what_half_precision_loses_is_made_up_for():
    # A hundred equal classes of 0.01 sum to 0.9998 in half precision.
    task, p = task_of(100), np.full((1, 100), 0.01, np.float32)
    _, arrays = stored(task, p)
    assert abs(arrays["probabilities"].astype(np.float64).sum() - 1) > 1e-5

    targets = pseudo_targets(task, arrays)

    np.testing.assert_allclose(targets, 0.01, rtol=1e-6)


def test_many_classes_are_kept_by_their_most_probable():
    classes = FEW_CLASSES + 1
    task, p = task_of(classes), probabilities(20, classes)

    columns, arrays = stored(task, p)

    assert list(columns) == ["top_ids", "top_probabilities"]
    assert columns["top_ids"].type == pa.list_(pa.int32())
    assert arrays["top_ids"].shape == (20, DEFAULT_TOP_K)
    best = np.argsort(-p, axis=1, kind="stable")[:, :DEFAULT_TOP_K]
    np.testing.assert_array_equal(arrays["top_ids"], best)
    assert (arrays["top_ids"][:, 0] == task.bucket({"probabilities": p})).all()


@pytest.mark.parametrize("top_k", [1, 3, 29])
def test_what_the_top_leave_over_is_spread_evenly(top_k):
    task, p = task_of(30), probabilities(20, 30)

    _, arrays = stored(task, p, top_k=top_k)
    targets = pseudo_targets(task, arrays)

    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=5e-7)
    for row, ids in enumerate(arrays["top_ids"]):
        rest = np.setdiff1d(np.arange(30), ids)
        kept = p[row, ids].astype(np.float64)
        np.testing.assert_allclose(targets[row, ids], kept, rtol=2e-3, atol=1e-4)
        np.testing.assert_allclose(
            targets[row, rest], (1 - kept.sum()) / len(rest), atol=1e-3 / len(rest)
        )


def test_asking_for_more_than_there_are_keeps_all():
    task, p = task_of(4), probabilities(5, 4)

    _, arrays = stored(task, p, top_k=9)

    assert arrays["top_ids"].shape == (5, 4)
    np.testing.assert_allclose(pseudo_targets(task, arrays), p, rtol=2e-3, atol=1e-4)


def test_rows_of_a_part_of_a_sidecar_are_read_as_they_are():
    task, p = task_of(4), probabilities(6, 4)
    columns, whole = stored(task, p)
    rows = pa.record_batch(list(columns.values()), names=list(columns))

    part = task.stored_targets(rows.slice(2, 3))

    np.testing.assert_array_equal(part["probabilities"], whole["probabilities"][2:5])


TARGET = np.array([[0.0, 1.0, 0.0, 0.0], [0.1, 0.2, 0.6, 0.1]], np.float32)


def trained_towards(**options):
    """The targets of the same two rows, as labels and as pseudo-labels."""
    return tuple(
        np.asarray(
            training_target(
                jnp.asarray(TARGET),
                jnp.full(2, stream, jnp.int32),
                LossOptions(**options),
            )
        )
        for stream in (LABELED, PSEUDO)
    )


def test_labels_are_smoothed_and_soft_pseudo_labels_are_not():
    labeled, pseudo = trained_towards(label_smoothing=0.1)

    np.testing.assert_allclose(labeled[0], [0.025, 0.925, 0.025, 0.025], rtol=1e-6)
    np.testing.assert_array_equal(pseudo, TARGET)


def test_hard_pseudo_labels_are_the_best_class_smoothed():
    _, pseudo = trained_towards(label_smoothing=0.1, targets="hard")

    np.testing.assert_allclose(pseudo[0], [0.025, 0.925, 0.025, 0.025], rtol=1e-6)
    np.testing.assert_allclose(pseudo[1], [0.025, 0.025, 0.925, 0.025], rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_is_that_of_the_teachers_logits(temperature):
    logits = np.log(TARGET[1])

    labeled, pseudo = trained_towards(temperature=temperature)

    exponents = np.exp(logits / temperature)
    np.testing.assert_allclose(pseudo[1], exponents / exponents.sum(), rtol=1e-5)
    np.testing.assert_array_equal(labeled, TARGET)


def test_every_target_sums_to_one():
    for options in (
        {"label_smoothing": 0.3},
        {"targets": "hard", "label_smoothing": 0.3},
        {"temperature": 3.0},
    ):
        for target in trained_towards(**options):
            np.testing.assert_allclose(target.sum(axis=1), 1, rtol=1e-6)


def test_padding_and_the_other_stream_do_not_count():
    task = task_of(4)
    batch = {
        "target": jnp.asarray(np.repeat(TARGET, 2, axis=0)),
        "stream": jnp.array([LABELED, LABELED, PSEUDO, PSEUDO]),
        "weight": jnp.array([1.0, 0.0, 1.0, 1.0]),
    }
    logits = jnp.log(jnp.array([[0.1, 0.7, 0.1, 0.1]] * 4))

    found = task.loss({"logits": logits}, batch, LossOptions())

    labeled, pseudo = found["loss"].means()
    assert labeled == pytest.approx(-np.log(0.7), rel=1e-6)
    expected = -(TARGET[1] * np.log([0.1, 0.7, 0.1, 0.1])).sum()
    assert pseudo == pytest.approx(expected, rel=1e-6)
    assert found["loss"].normalizer.tolist() == [1, 2]
    assert [float(mean) for mean in found["agreement"].means()] == [1, 0]


def test_a_task_is_found_by_name():
    task = tasks.create("classification", ("a", "b"))

    assert (task.name, task.classes, task.outputs) == ("classification", ("a", "b"), 2)


def test_one_class_is_nothing_to_classify():
    with pytest.raises(UserError, match="at least two classes, got 1"):
        task_of(1)


@pytest.mark.parametrize(
    ("classes", "top_k"),
    [(2, 0), (FEW_CLASSES, 0), (FEW_CLASSES + 1, 0), (9, 3), (4, 7)],
)
def test_a_record_takes_as_many_bytes_as_are_told(classes, top_k):
    task = task_of(classes)
    p = np.full((1, classes), 1 / classes, np.float32)

    columns = task.columns({"probabilities": p}, top_k=top_k).values()

    taken = sum(column.flatten().to_numpy().nbytes for column in columns)
    assert task.record_bytes(top_k=top_k) == taken
