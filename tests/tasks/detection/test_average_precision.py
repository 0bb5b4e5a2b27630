"""Average precision equals that of pycocotools, of images and of their resamples."""

import math

import numpy as np
import pyarrow as pa
import pytest
from coco_reference import expected, random_boxes

from noisy_student_jax.core import files
from noisy_student_jax.data.labels import IGNORE, OBJECT
from noisy_student_jax.evaluation import resampling
from noisy_student_jax.tasks.detection import average_precision
from noisy_student_jax.tasks.detection.average_precision import (
    curves,
    metrics,
    primary,
    statistics,
)

NAMES = ("ant", "bee", "cat")


def measured(predictions, labels, draws=None):
    """The metrics of one resample, with -1 for NaN as pycocotools has it."""
    found = metrics(statistics(predictions, labels, classes=3), NAMES, draws)
    assert all(value.shape == (1,) for value in found.values())
    return {name: -1.0 if math.isnan(v) else float(v) for name, (v,) in found.items()}


def distinct(predictions, rng):
    """The same detections, of which no two of one image have equal scores."""
    scores = predictions["scores"]
    scores = np.where(scores > 0, scores + rng.uniform(0, 0.04, scores.shape), 0)
    return predictions | {"scores": scores.astype(np.float32)}


def joined(parts):
    """One set of images made of several."""
    predictions, labels = zip(*parts, strict=True)
    arrays = {
        name: np.concatenate([one[name] for one in predictions])
        for name in predictions[0]
    }
    return arrays, np.concatenate(labels)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_that_of_pycocotools_on_random_boxes(seed):
    rng = np.random.default_rng(seed)
    predictions, labels = random_boxes(rng, images=int(rng.integers(2, 25)))

    found = measured(predictions, labels)

    assert found == pytest.approx(expected(predictions, labels, NAMES), abs=1e-12)


@pytest.mark.parametrize(
    "changes",
    [
        {"ignored": 0.0},
        {"ignored": 0.9},
        {"classes": 1},  # the others have no box
        {"most": 40, "detections": 100, "images": 4},
        {"images": 60, "most": 2, "detections": 3},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_it_is_that_of_pycocotools_on_odd_sets(changes):
    predictions, labels = random_boxes(np.random.default_rng(1), **changes)

    found = measured(predictions, labels)

    assert found == pytest.approx(expected(predictions, labels, NAMES), abs=1e-12)


def test_many_equal_scores_are_ranked_as_pycocotools_ranks_them():
    predictions, labels = random_boxes(np.random.default_rng(2), images=20)
    flat = predictions | {"scores": np.where(predictions["scores"] > 0.2, 0.5, 0.25)}

    found = measured(flat, labels)

    assert found == pytest.approx(expected(flat, labels, NAMES), abs=1e-12)
    assert found["AP"] != measured(predictions, labels)["AP"]


@pytest.mark.parametrize("seed", range(5))
def test_a_resample_is_what_pycocotools_makes_of_copies(seed):
    rng = np.random.default_rng(seed)
    predictions, labels = random_boxes(rng)
    predictions = distinct(predictions, rng)
    drawn = rng.integers(0, 12, 12)
    draws = np.bincount(drawn, minlength=12)[None]

    found = measured(predictions, labels, draws)

    copies = expected(predictions, labels, NAMES, images=np.sort(drawn).tolist())
    assert found == pytest.approx(copies, abs=1e-12)


def test_the_primary_metric_is_ap_of_each_resample(monkeypatch):
    rng = np.random.default_rng(0)
    kept = statistics(*random_boxes(rng), classes=3)
    draws = rng.multinomial(12, [1 / 12] * 12, size=50)

    one_by_one = [primary(kept, row[None])[0] for row in draws]

    together = primary(kept, draws)
    assert together.tolist() == one_by_one
    np.testing.assert_array_equal(metrics(kept, NAMES, draws)["AP"], together)
    assert primary(kept).tolist() == primary(kept, np.ones((1, 12), int)).tolist()
    monkeypatch.setattr(average_precision, "MOST_SUMS", 1)
    np.testing.assert_array_equal(primary(kept, draws), together)


def test_the_truth_as_prediction_is_perfect():
    _, labels = random_boxes(np.random.default_rng(0), ignored=0.0)
    predictions = {
        "boxes": labels[..., :4],
        "scores": (labels[..., 5] == OBJECT).astype(np.float32),
        "classes": labels[..., 4].astype(np.int32),
    }

    found = measured(predictions, labels)

    assert found == {
        **dict.fromkeys(("AP", "AP50", "AP75", "AR100"), 1.0),
        **{f"AP/{name}": 1.0 for name in NAMES},
    }


def test_a_false_alarm_below_all_hits_costs_nothing_and_above_them_much():
    labels = np.array([[[0.1, 0.1, 0.3, 0.3, 0, OBJECT]]], np.float32)
    boxes = np.array([[[0.1, 0.1, 0.3, 0.3], [0.6, 0.6, 0.9, 0.9]]], np.float32)
    classes = np.zeros((1, 2), np.int32)

    def ap(*scores):
        given = {"boxes": boxes, "classes": classes, "scores": np.array([scores])}
        return measured(given, labels)["AP"]

    assert ap(0.9, 0.5) == 1.0
    assert ap(0.5, 0.9) == 0.5


def test_classes_without_boxes_are_left_out_of_the_mean_and_have_no_number():
    labels = np.array([[[0.1, 0.1, 0.3, 0.3, 1, OBJECT]]], np.float32)
    predictions = {
        "boxes": np.array([[[0.1, 0.1, 0.3, 0.3], [0, 0, 0.5, 0.5]]], np.float32),
        "scores": np.array([[0.9, 0.8]], np.float32),
        "classes": np.array([[1, 2]], np.int32),
    }
    kept = statistics(predictions, labels, classes=3)

    found = metrics(kept, NAMES)

    assert found["AP"] == found["AP/bee"] == 1.0
    assert np.isnan(found["AP/ant"]) and np.isnan(found["AP/cat"])
    # A resample may lack the image with the class's only box.
    none = primary(pa.concat_arrays([kept, kept]), np.array([[0, 0], [0, 2]]))
    assert np.isnan(none[0]) and none[1] == 1.0


def test_without_any_box_nothing_has_a_number():
    predictions, labels = random_boxes(np.random.default_rng(0))
    labels[..., 5] = np.where(labels[..., 5] == OBJECT, IGNORE, labels[..., 5])

    kept = statistics(predictions, labels, classes=3)

    assert all(np.isnan(value).all() for value in metrics(kept, NAMES).values())
    options = {"confidence": 0.95, "samples": 100}
    assert all(map(math.isnan, resampling.interval(kept, primary, **options)))


def test_without_detections_average_precision_is_zero():
    predictions, labels = random_boxes(np.random.default_rng(0))
    predictions["scores"][:] = 0

    found = measured(predictions, labels)

    assert set(found.values()) == {0.0}


def test_only_the_hundred_surest_detections_of_an_image_count():
    labels = np.array([[[0.1, 0.1, 0.3, 0.3, 0, OBJECT]]], np.float32)
    boxes = np.tile(np.float32([0.6, 0.6, 0.9, 0.9]), (1, 101, 1))
    boxes[:, 100] = labels[:, 0, :4]
    scores = np.linspace(0.9, 0.1, 101, dtype=np.float32)[None]
    predictions = {"boxes": boxes, "scores": scores, "classes": np.zeros((1, 101), int)}

    assert measured(predictions, labels)["AP"] == 0
    predictions["scores"] = scores[:, ::-1]
    assert measured(predictions, labels)["AP"] == 1


def test_statistics_are_kept_in_a_file_and_joined_and_picked(tmp_path):
    parts = [random_boxes(np.random.default_rng(seed)) for seed in range(2)]
    kept = [statistics(*one, classes=3) for one in parts]
    files.write_parquet(tmp_path / "a.parquet", pa.table({"primary": kept[0]}))

    read = files.read_parquet(tmp_path / "a.parquet")["primary"].combine_chunks()

    assert read.equals(kept[0])
    whole = pa.concat_arrays([read, kept[1]])
    assert primary(whole) == primary(statistics(*joined(parts), classes=3))
    assert primary(whole[12:]) == primary(kept[1])
    keys = list(range(24))
    assert primary(resampling.of_images(keys, whole, keys[12:])) == primary(kept[1])


def test_two_detectors_are_compared_on_the_same_draws():
    rng = np.random.default_rng(0)
    predictions, labels = random_boxes(rng, images=60)
    worse = predictions | {"scores": rng.permuted(predictions["scores"], axis=1)}
    ours, theirs = (statistics(p, labels, classes=3) for p in (predictions, worse))
    options = {"confidence": 0.95, "samples": 200}

    same = resampling.difference(ours, ours, primary, **options)
    found = resampling.difference(ours, theirs, primary, **options)

    assert (same.low, same.high) == (0, 0)
    assert found.value == pytest.approx(primary(ours)[0] - primary(theirs)[0])
    assert found.low < found.value < found.high
    alone = resampling.interval(ours, primary, **options)
    assert alone[0] < primary(ours)[0] < alone[1]


def test_a_curve_has_the_precision_of_what_reaches_a_score():
    predictions, labels = random_boxes(np.random.default_rng(0), images=30)
    kept = statistics(predictions, labels, classes=3)

    found = curves(kept)

    assert len(found) == 3
    for label, one in enumerate(found):
        true = (labels[..., 5] == OBJECT) & (labels[..., 4] == label)
        assert one.boxes == true.sum()
        assert (np.diff(one.scores) <= 0).all() and (np.diff(one.recall) >= 0).all()
        monotone = np.maximum.accumulate(one.precision[::-1])[::-1]
        at = np.searchsorted(one.recall, average_precision.RECALLS)
        area = np.append(monotone, 0)[at].mean()
        averaged = average_precision.averages(kept).precision[0, label, 0]
        assert area == pytest.approx(averaged)
