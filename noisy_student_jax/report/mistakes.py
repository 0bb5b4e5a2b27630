"""The report's section on mistakes: confusion of classes, and calibration."""

import collections
from typing import Any

import numpy as np
import pyarrow as pa
from markupsafe import Markup

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import DamagedFileError
from noisy_student_jax.evaluation.statistics import CALIBRATION_BINS, wilson
from noisy_student_jax.report import svg
from noisy_student_jax.report.formatting import count, metric, percent
from noisy_student_jax.report.pseudo import MANY_CLASSES, class_name
from noisy_student_jax.report.students import Shown, control, generations
from noisy_student_jax.runs.paths import PREDICTIONS
from noisy_student_jax.runs.run import Run

_PAIRS_SHOWN = 20
_HEIGHT = 200
_COUNTS = 44


def mistakes(
    run: Run, summary: dict[str, Any], students: list[Shown]
) -> dict[str, Any]:
    """Returns the last student's confusion, and its and the control's calibration."""
    last = generations(students)[-1]
    judged = [one for one in (last, control(students)) if one]
    return {
        "student": last.title,
        "confusion": _confusion(_read(last), summary["classes"]),
        "calibration": [
            {
                "title": one.title,
                "css": one.css,
                **_calibration(one, _read(one), run.config.evaluation.confidence),
                "ece": metric(
                    "ece", (one.entry.get("metrics") or {}).get("ece"), primary=""
                ),
            }
            for one in judged
        ],
    }


def _read(one: Shown) -> pa.Table | str:
    """Returns the predictions for the test images, or a phrase on their absence."""
    path = one.folder / PREDICTIONS
    try:
        return files.read_parquet(path)
    except FileNotFoundError:
        return f"{PREDICTIONS} of {one.title} is not there"
    except (DamagedFileError, OSError):
        return f"{PREDICTIONS} of {one.title} cannot be read"


def _confusion(table: pa.Table | str, classes: list[str]) -> dict[str, Any]:
    if isinstance(table, str):
        return {"missing": table}
    names = set(table.column_names)
    columns = [table[name] for name in ("truth", "label") if name in names]
    if len(columns) < 2 or not all(
        pa.types.is_integer(column.type) and not column.null_count for column in columns
    ):
        return {"missing": "this task's truths are not classes, one an image"}
    truth, label = (column.to_numpy() for column in columns)
    pairs, times = np.unique(np.stack([truth, label]), axis=1, return_counts=True)
    found = {(int(t), int(p)): int(n) for t, p, n in zip(*pairs, times, strict=True)}
    totals = collections.Counter(truth.tolist())
    wrong = sorted(
        ((n, *pair) for pair, n in found.items() if pair[0] != pair[1]),
        key=lambda one: (-one[0], one[1:]),
    )
    said: dict[str, Any] = {
        "missing": None,
        "images": count(len(truth)),
        "wrong": count(sum(n for n, _, _ in wrong)),
        "pairs": [
            {
                "truth": class_name(classes, t),
                "label": class_name(classes, p),
                "count": count(n),
                "share": percent(n / totals[t]),
            }
            for n, t, p in wrong[:_PAIRS_SHOWN]
        ],
        "pairs_left": max(0, len(wrong) - _PAIRS_SHOWN),
        "matrix": None,
    }
    if len(classes) <= MANY_CLASSES and all(
        0 <= number < len(classes) for pair in found for number in pair
    ):
        said["matrix"] = {
            "names": classes,
            "tall": max(map(len, classes)) > 3,
            "rows": [
                {
                    "name": name,
                    "total": count(totals[t]),
                    "cells": [
                        _cell(found.get((t, p), 0), totals[t], right=t == p)
                        for p in range(len(classes))
                    ],
                }
                for t, name in enumerate(classes)
            ],
        }
    return said


def _cell(number: int, total: int, *, right: bool) -> dict[str, Any]:
    share = number / total if total else 0.0
    # The shade of mistakes grows with the root of their share, so that few are visible.
    shade = 0.75 * share if right else 0.15 + 0.85 * share**0.5
    return {"count": number, "right": right, "shade": f"{shade:.2f}"}


def _calibration(
    one: Shown, table: pa.Table | str, confidence: float
) -> dict[str, Any]:
    if isinstance(table, str):
        return {"missing": table, "chart": None}
    if not {"score", "primary"} <= set(table.column_names):
        return {"missing": f"{PREDICTIONS} of {one.title} lacks columns", "chart": None}
    score, right = (
        table[name].to_numpy().astype(float) for name in ("score", "primary")
    )
    good = np.isfinite(score) & np.isfinite(right)
    score, right = score[good], right[good]
    known = len(score) and (score >= 0).all() and (score <= 1).all()
    if not known or not np.isin(right, (0.0, 1.0)).all():
        return {
            "missing": "calibration is drawn only where an image is right or wrong and"
            " its score is a probability",
            "chart": None,
        }
    return {"missing": None, "chart": _reliability(one, score, right, confidence)}


def _reliability(
    one: Shown, score: np.ndarray, right: np.ndarray, confidence: float
) -> Markup:
    """Draws the accuracy in each bin of confidence, and the counts below."""
    bins = np.minimum((score * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    marks = [svg.path([(0, _HEIGHT), (1, 0)], height=_HEIGHT, css="curve ideal")]
    for tick in (0, 25, 50, 75, 100):
        at = tick / 100
        anchor = "middle" if 0 < at < 1 else "end" if at else "start"
        height = _HEIGHT * (1 - at)
        marks += [
            svg.line(0, height, 1, height, "grid"),
            svg.text(0, height + 4, f"{tick} %", anchor="end", dx=-8),
            svg.text(at, _HEIGHT + _COUNTS + 32, f"{tick} %", anchor=anchor),
        ]
    for number in np.flatnonzero(counts):
        inside = bins == number
        mean, share = float(score[inside].mean()), float(right[inside].mean())
        low, high = wilson(float(right[inside].sum()), int(counts[number]), confidence)
        told = (
            f"{count(int(counts[number]))} images, confidence {percent(mean)}, right"
            f" {percent(share)}"
        )
        tall = max(1.0, _COUNTS * counts[number] / counts.max())
        marks += [
            svg.line(mean, _HEIGHT * (1 - low), mean, _HEIGHT * (1 - high), "whisker"),
            svg.circle(mean, _HEIGHT * (1 - share), 5, "dot", svg.tag("title", told)),
            svg.rectangle(
                number / CALIBRATION_BINS + 0.004,
                _HEIGHT + 14 + _COUNTS - tall,
                1 / CALIBRATION_BINS - 0.008,
                tall,
                "bar before",
            ),
        ]
    most = count(int(counts.max()))
    marks += [
        svg.text(0, _HEIGHT + 24, most, anchor="end", dx=-8),
        svg.text(0.03, 16, "right more often than said", class_="aside halo"),
        svg.text(
            0.98,
            _HEIGHT - 10,
            "right less often than said",
            anchor="end",
            class_="aside halo",
        ),
    ]
    title = f"{one.title}: share of test images that are right, by confidence"
    height = _HEIGHT + _COUNTS + 38
    return svg.chart(title, *marks, height=height, css=f"reliability {one.css}")
