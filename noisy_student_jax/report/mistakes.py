"""The report's section on mistakes: which classes are confused."""

import collections
from typing import Any

import numpy as np
import pyarrow as pa

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import DamagedFileError
from noisy_student_jax.report.formatting import count, percent
from noisy_student_jax.report.pseudo import MANY_CLASSES, class_name
from noisy_student_jax.report.students import Shown, generations
from noisy_student_jax.runs.paths import PREDICTIONS

_PAIRS_SHOWN = 20


def mistakes(summary: dict[str, Any], students: list[Shown]) -> dict[str, Any]:
    """Returns the confusion of the model in best/, else of the last student."""
    best = [one for one in students if one.name == summary["best"]]
    (shown,) = best or generations(students)[-1:]
    return {
        "student": shown.title,
        "confusion": _confusion(_read(shown), summary["classes"]),
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
