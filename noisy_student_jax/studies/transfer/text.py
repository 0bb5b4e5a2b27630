"""Formats a study of transfer as text."""

from typing import Any

from noisy_student_jax.core.console import printable
from noisy_student_jax.report import formatting
from noisy_student_jax.report.text_table import aligned
from noisy_student_jax.studies.transfer.differences import CONFIDENCE, Difference
from noisy_student_jax.studies.transfer.study import FINE_TUNED

_SOURCE = {"top1": "source", "ece": "ECE", "corrupted": "corrupted"}
"""Columns of what a model's own run has measured, where any has."""


def told(found: dict[str, Any]) -> str:
    """Returns a table of the models, their differences, and the effects in words.

    Args:
      found: from `study.compare`.
    """
    target, models = found["target"], found["models"]
    head = (
        f"{printable(target['name'])}: {target['train']:,} images to learn from,"
        f" {target['test']:,} test images of {len(target['classes']):,} classes; probes"
        f" are means ± standard deviations over {found['draws']} draws, in percent"
    )
    lines = [head, "", _models(models)]
    for rival in dict.fromkeys(one["against"] for one in found["differences"]):
        own = [one for one in found["differences"] if one["against"] == rival]
        title = f"points more than {rival}, {CONFIDENCE:.0%} intervals"
        lines += ["", _differences(own, f"{title} over draws and test images")]
    if found["effects"]:
        lines += ["", *(one["says"] for one in found["effects"])]
    return "\n".join(lines)


def _models(models: list[dict[str, Any]]) -> str:
    measured = [key for key in _SOURCE if any(key in one["source"] for one in models)]
    probes = list(models[0]["probe"])
    tuned = [FINE_TUNED] if FINE_TUNED in models[0] else []
    columns = [_SOURCE[key] for key in measured]
    rows = [("", "parameters", *columns, *probes, *tuned)]
    for one in models:
        source = [_source(key, one["source"].get(key)) for key in measured]
        shots = [
            f"{formatting.hundredths(own['mean'])} ± {formatting.hundredths(own['sd'])}"
            for own in one["probe"].values()
        ]
        last = [formatting.hundredths(one[name]["accuracy"]) for name in tuned]
        rows.append((one["name"], f"{one['parameters']:,}", *source, *shots, *last))
    return aligned(rows, left=1)


def _source(key: str, value: Any) -> str:
    if key == "ece":
        return formatting.metric(key, value, primary="")
    return formatting.hundredths(value)


def _differences(entries: list[dict[str, Any]], title: str) -> str:
    measures = dict.fromkeys(one["measure"] for one in entries)
    by_model: dict[str, dict[str, str]] = {}
    for one in entries:
        gap = Difference(one["value"], one["low"], one["high"])
        own = by_model.setdefault(one["model"], {})
        own[one["measure"]] = f"{gap} {gap.outcome}"
    rows = [("", *measures)]
    rows += [(name, *(own[one] for one in measures)) for name, own in by_model.items()]
    return f"{title}\n{aligned(rows, left=1)}"
