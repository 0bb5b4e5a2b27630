"""The table that a run prints: one primary metric, or several with intervals."""

import math
import re
from types import SimpleNamespace

from noisy_student_jax.evaluation.statistics import without_nan
from noisy_student_jax.report.text_table import text_table

RUN = SimpleNamespace(
    config=SimpleNamespace(evaluation=SimpleNamespace(confidence=0.95))
)


def entry(**more):
    return {
        "model": "m",
        "parameters": 1234,
        "resolution": 8,
        "trained_at": 8,
        "labeled": 6,
        "pseudo_labeled": 0,
        "raw": {"AP": 0.4},
        "metrics": {"AP": 0.5},
        "interval": [0.4, 0.6],
        "seconds": 5,
        **more,
    }


def table(*entries):
    summary = {
        "primary_metric": "AP",
        "generations": [one | {"generation": n} for n, one in enumerate(entries)],
        "control": None,
        "baselines": [],
        "best": 0,
    }
    return text_table(RUN, without_nan(summary)).splitlines()


def test_a_model_is_a_row():
    head, row = table(entry())

    assert " ".join(head.split()) == (
        "model parameters px labeled pseudo AP raw AP EMA 95% interval time"
    )
    assert row == "generation 0 ★  m           1,234   8        6       0    40.0" + (
        "    50.0  [40.0, 60.0]   5 s"
    )


def test_metrics_with_intervals_are_rows_of_their_own():
    metrics = {"AP": 0.5, "AR100": 0.612, "AP/red\x07 cell": 0.25, "AP/none": math.nan}
    ends = {"AP": [0.4, 0.6], "AR100": [0.51, 0.7], "AP/red\x07 cell": [0.1, 0.3]}
    ends["AP/none"] = [math.nan, math.nan]
    one = entry(metrics=metrics, intervals=ends)

    rows = table(one, one | {"intervals": {}})

    assert rows[3] == ""
    assert len({len(row) for row in rows[4:]}) == 1
    assert [re.split(r"\s{2,}", row) for row in rows[4:]] == [
        ["", "generation 0 ★", "generation 1"],
        ["AP", "50.0 % [40.0, 60.0]", "50.0 %"],
        ["AR100", "61.2 % [51.0, 70.0]", "61.2 %"],
        ["AP/red\\x07 cell", "25.0 % [10.0, 30.0]", "25.0 %"],
        ["AP/none", "–", "–"],
    ]


def test_a_metric_that_is_not_defined_is_a_dash():
    _, row = table(
        entry(raw={"AP": math.nan}, metrics={"AP": math.nan}, interval=[math.nan] * 2)
    )

    assert row.split()[-5:] == ["–", "–", "–", "5", "s"]
