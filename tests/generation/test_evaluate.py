"""What an evaluation records of metrics that images have nothing to measure by."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from noisy_student_jax.evaluation.predictor import Predicted
from noisy_student_jax.generation import evaluate


class Halves:
    """A task whose metrics some images cannot measure."""

    primary_metric = "AP"

    def __init__(self, value):
        self.value = value

    def score(self, predictions):
        return predictions["score"]

    def statistics(self, predictions, labels):
        return pa.array(np.zeros(len(labels), np.int8))

    def primary(self, statistics, draws=None):
        return np.full(1 if draws is None else len(draws), self.value)

    def metrics(self, predictions, labels):
        classes = {f"AP/{number}\x07": np.nan for number in range(12)}
        return {"AP": self.value, **classes}


def measured(task):
    options = SimpleNamespace(confidence=0.95, bootstrap=100)
    run = SimpleNamespace(task=task, config=SimpleNamespace(evaluation=options, seed=0))
    predictions = {"score": np.full(5, 0.5, np.float32)}
    found = Predicted(
        np.arange(5), np.zeros(5), {"ema": predictions, "raw": predictions}, {}
    )
    return evaluate._measured(run, found, "test")


@pytest.mark.parametrize(("value", "ends"), [(0.5, [0.5, 0.5]), (np.nan, [None, None])])
def test_a_metric_without_a_number_is_empty_in_json(value, ends):
    entry = json.loads(json.dumps(measured(Halves(value)), allow_nan=False))

    assert entry["interval"] == ends
    assert entry["ema"] == entry["raw"]
    assert entry["ema"]["AP"] == ends[0]
    assert entry["ema"]["AP/3\x07"] is None
    assert "intervals" not in entry


def test_metrics_without_a_number_are_named_up_to_ten(capsys):
    measured(Halves(0.5))

    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith(
        "WARNING: the 5 test images hold nothing by which to measure AP/0\\x07, AP/1"
    )
    assert said.endswith("AP/9\\x07 and 2 more")


def test_a_task_that_resamples_all_its_metrics_has_an_interval_of_each():
    class Both(Halves):
        def resampled(self, statistics, draws=None):
            values = self.primary(statistics, draws)
            return {"AP": values, "AP/0\x07": values * np.nan}

    entry = measured(Both(0.25))

    assert entry["intervals"] == {"AP": [0.25, 0.25], "AP/0\x07": [None, None]}
    assert list(entry["interval"]) == [0.25, 0.25]


@pytest.mark.parametrize("shape", [(5,), (5, 2), (5, 3, 6)])
def test_labels_of_any_shape_are_written_as_lists(shape):
    labels = np.random.default_rng(0).random(shape)

    assert evaluate._lists(labels).equals(pa.array(labels.tolist()))
    boxes = evaluate._lists(labels.astype(np.float32))
    assert np.array(boxes.to_pylist()).astype(np.float32).tolist() == (
        labels.astype(np.float32).tolist()
    )
