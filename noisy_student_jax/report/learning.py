"""Learning curves of each model: raw and EMA validation metrics, and training loss."""

import itertools
from typing import Any

from markupsafe import Markup

from noisy_student_jax.report import svg
from noisy_student_jax.report.formatting import is_number
from noisy_student_jax.report.students import Shown
from noisy_student_jax.training.loop import read_metrics

_HEIGHT = 150
_FEW = 12  # up to this many points are marked individually
_MOST = 400  # curves with more points are thinned out

Curve = list[tuple[float, float]]
Curves = dict[str, Curve]


def panels(summary: dict[str, Any], students: list[Shown]) -> dict[str, Any]:
    """Returns a row of panels for each model, on common scales."""
    primary = summary["primary_metric"]
    found = {one.title: _read(one, primary) for one in students}
    validation = _scale([curves for curves, _ in found.values()])
    loss = _scale([curves for _, curves in found.values()], zero=True)
    rows = []
    for one in students:
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
    return {"rows": rows, "primary": primary, "missing": missing}


def _read(one: Shown, primary: str) -> tuple[Curves, Curves]:
    """Returns the curves of the validation metric in percent, and of training loss."""
    try:
        entries, _ = read_metrics(one.folder / "train" / "metrics.jsonl")
    except OSError:
        entries = []

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
    several: list[Curves], *, zero: bool = False
) -> tuple[svg.Scale, svg.Scale] | None:
    """Returns scales of steps and values that cover all curves."""
    points = [p for curves in several for curve in curves.values() for p in curve]
    if not points:
        return None
    steps, values = zip(*points, strict=True)
    low = 0.0 if zero else min(values)
    return (
        svg.Scale(0, max(steps), ticks=3, tight=True),
        svg.Scale(min(low, *values), max(values), ticks=3),
    )


def _panel(
    title: str,
    curves: Curves,
    scales: tuple[svg.Scale, svg.Scale] | None,
    *,
    unit: str = "",
) -> Markup | None:
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
        marks.append(svg.text(x(tick), _HEIGHT + 18, x.name(tick), anchor=anchor))
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
