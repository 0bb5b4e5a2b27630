"""Learning curves of each model, and the search for C of heads that are solved."""

import itertools
import math
from typing import Any

from markupsafe import Markup

from noisy_student_jax.report import svg
from noisy_student_jax.report.formatting import NOTHING, is_number
from noisy_student_jax.report.students import Shown
from noisy_student_jax.training.loop import read_metrics

_HEIGHT = 150
_FEW = 12  # up to this many points are marked individually
_MOST = 400  # curves with more points are thinned out

Curve = list[tuple[float, float]]
Curves = dict[str, Curve]


def panels(summary: dict[str, Any], students: list[Shown]) -> dict[str, Any]:
    """Returns a row of panels for each model, on common scales.

    Heads that are solved have no steps: their rows show the search for C, once for all
    that share it.
    """
    primary = summary["primary_metric"]
    read = {one.title: _entries(one) for one in students}
    solved = [one for one in students if any("strength" in e for e in read[one.title])]
    found = {
        one.title: _curves(one, read[one.title], primary)
        for one in students
        if one not in solved
    }
    validation = _scale([curves for curves, _ in found.values()])
    loss = _scale([curves for _, curves in found.values()], zero=True)
    rows = []
    for one in students:
        if one in solved:
            continue
        measured, losses = found[one.title]
        rows.append(
            {
                "title": one.title,
                "model": one.entry.get("model", ""),
                "css": one.css,
                "validation": _panel(
                    f"{one.title}: {primary} on validation, in percent, by step",
                    measured,
                    validation,
                    unit=" %",
                ),
                "loss": _panel(f"{one.title}: training loss by step", losses, loss),
            }
        )
    missing = [row["title"] for row in rows if not row["validation"] or not row["loss"]]
    return {
        "rows": rows,
        "primary": primary,
        "missing": missing,
        "solved": _searches([(one, read[one.title]) for one in solved]),
    }


def _searches(
    solved: list[tuple[Shown, list[dict[str, Any]]]],
) -> list[dict[str, Any]]:
    """Returns a row for each search for C: its curve and the value that was chosen."""
    rows: dict[tuple, dict[str, Any]] = {}
    curves: dict[tuple, Curve] = {}
    for one, entries in solved:
        tried = [
            (math.log10(entry["strength"]), entry["left_out/loss"])
            for entry in entries
            if is_number(entry.get("left_out/loss")) and is_number(entry["strength"])
        ]
        chosen = entries[-1].get("strength")
        model = one.entry.get("model", "")
        same = (model, chosen, *tried)
        if same in rows:
            rows[same]["also"].append(one.title)
            continue
        curves[same] = tried
        rows[same] = {"title": one.title, "also": [], "model": model, "css": one.css}
        rows[same]["chosen"] = f"{chosen:.3g}" if is_number(chosen) else NOTHING
    scales = _scale([{"": curve} for curve in curves.values()], zero=True, first=None)
    for same, row in rows.items():
        row["chart"] = _panel(
            f"{row['title']}: loss of labeled images left out, by C",
            _there({"": curves[same]}),
            scales,
            powers=True,
            chosen=same[1],
        )
    return list(rows.values())


def _entries(one: Shown) -> list[dict[str, Any]]:
    try:
        return read_metrics(one.folder / "train" / "metrics.jsonl")[0]
    except OSError:
        return []


def _curves(
    one: Shown, entries: list[dict[str, Any]], primary: str
) -> tuple[Curves, Curves]:
    """Returns the curves of the validation metric in percent, and of training loss."""

    def curve(name: str, factor: float = 1.0) -> Curve:
        return [
            (entry["step"], factor * entry[name])
            for entry in entries
            if is_number(entry.get(name))
        ]

    validation = {
        label: curve(f"validation/{weights}/{primary}", 100.0)
        for weights, label in (("raw", "raw"), ("ema", "EMA"))
    }
    losses = {"labeled": curve("labeled/loss"), "pseudo": curve("pseudo/loss")}
    if not one.entry.get("pseudo_labeled"):
        del losses["pseudo"]  # logged as zero without a second stream
    if not any(losses.values()):
        losses = {"loss": curve("loss")}
    return _there(validation), _there(losses)


def _there(curves: Curves) -> Curves:
    return {name: curve for name, curve in curves.items() if curve}


def _scale(
    several: list[Curves], *, zero: bool = False, first: float | None = 0.0
) -> tuple[svg.Scale, svg.Scale] | None:
    """Returns scales of steps and values that cover all curves.

    Args:
      several: the curves.
      zero: whether the values' scale begins at zero.
      first: where the steps' scale begins; None for the first of the curves.
    """
    points = [p for curves in several for curve in curves.values() for p in curve]
    if not points:
        return None
    steps, values = zip(*points, strict=True)
    low = 0.0 if zero else min(values)
    return (
        svg.Scale(
            min(steps) if first is None else first, max(steps), ticks=3, tight=True
        ),
        svg.Scale(min(low, *values), max(values), ticks=3),
    )


def _panel(
    title: str,
    curves: Curves,
    scales: tuple[svg.Scale, svg.Scale] | None,
    *,
    unit: str = "",
    powers: bool = False,
    chosen: Any = None,
) -> Markup | None:
    """Draws curves.

    Args:
      title: its accessible title.
      curves: the curves by the name at their end.
      scales: of both directions.
      unit: of the values.
      powers: whether steps are powers of ten.
      chosen: the step to be marked, if it is a number; not yet as a power of ten.
    """
    if not curves or scales is None:
        return None
    x, y = scales

    def down(value: float) -> float:
        return _HEIGHT * (1 - y(value))

    marks = []
    for tick in y.ticks:
        marks.append(svg.line(0, down(tick), 1, down(tick), "grid"))
        name = f"{y.name(tick)}{unit}"
        marks.append(svg.text(0, down(tick) + 4, name, anchor="end", dx=-8))
    for tick in x.ticks:
        anchor = "end" if x(tick) > 0.9 else "start" if x(tick) < 0.1 else "middle"
        name = f"{10.0**tick:g}" if powers else x.name(tick)
        marks.append(svg.text(x(tick), _HEIGHT + 18, name, anchor=anchor))
    if is_number(chosen):
        at = x(math.log10(chosen))
        marks.append(svg.line(at, 0, at, _HEIGHT, "threshold"))
    styles = itertools.cycle(("curve second", "curve first"))
    if len(curves) == 1:
        next(styles)
    ends = []
    for (name, curve), css in zip(curves.items(), styles, strict=False):
        curve = _thinned(curve)
        places = [(x(step), down(value)) for step, value in curve]
        marks.append(svg.path(places, height=_HEIGHT, css=css))
        if len(places) <= _FEW:
            marks += [
                svg.circle(*place, 3, css.replace("curve", "point")) for place in places
            ]
        ends.append((name, css.replace("curve", "label"), *places[-1]))
    heights = [end[-1] + 4 for end in ends]
    heights = svg.spread(heights, gap=14, low=8, high=_HEIGHT)
    for (name, css, right, _), height in zip(ends, heights, strict=True):
        marks.append(svg.text(right, height, name, dx=8, class_=css))
    return svg.chart(title, *marks, height=_HEIGHT + 24, css="panel")


def _thinned(curve: Curve) -> Curve:
    stride = -(-len(curve) // _MOST)
    kept = curve[::stride]
    return kept if kept[-1] == curve[-1] else [*kept, curve[-1]]
