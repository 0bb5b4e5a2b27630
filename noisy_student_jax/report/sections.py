"""Sections that the task adds to the report, prepared for the template."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from noisy_student_jax.core import sections
from noisy_student_jax.core.protocols import Source
from noisy_student_jax.report import svg
from noisy_student_jax.report.formatting import NOTHING, count, interval, percent
from noisy_student_jax.report.gallery import data_url
from noisy_student_jax.report.students import Shown, generations
from noisy_student_jax.runs import paths
from noisy_student_jax.runs.run import Run

PICTURE = 360
"""Longest side of a task's picture, in pixels."""
_HEIGHT = 190
_COLORS = 6  # of the style sheet


@dataclasses.dataclass(frozen=True)
class _Context:
    """See `core.protocols.ReportContext`."""

    models: Sequence[sections.Model]
    best: sections.Model
    run: Run

    def part(self, name: str) -> Source:
        """Returns a part of the dataset."""
        return self.run.dataset.parts()[name]


def of_task(
    run: Run, summary: dict[str, Any], students: list[Shown]
) -> dict[str, dict[str, Any]]:
    """Returns the task's sections by anchor; none if it adds none."""
    if not hasattr(run.task, "report_sections"):
        return {}
    best = [one for one in students if one.name == summary["best"]]
    (best_one,) = best or generations(students)[-1:]
    context = _Context(
        models=[_model(one) for one in students],
        best=_model(best_one),
        run=run,
    )
    return {
        one.anchor: {
            "anchor": one.anchor,
            "name": one.name,
            "title": one.title,
            "blocks": _blocks(one.blocks),
        }
        for one in run.task.report_sections(context)
    }


def _model(one: Shown) -> sections.Model:
    return sections.Model(
        title=one.title,
        is_generation=one.generation is not None,
        predictions=one.folder / paths.PREDICTIONS,
        validation=one.folder / paths.VALIDATION,
        selection=one.folder / paths.SELECTION,
        labels=one.folder / paths.LABELS,
    )


def _blocks(blocks: Sequence[sections.Block]) -> list[dict[str, Any]]:
    return [{"kind": type(one).__name__, **_prepared(one)} for one in blocks]


def _prepared(block: sections.Block) -> dict[str, Any]:
    match block:
        case sections.Table():
            rows = [[_cell(cell) for cell in row] for row in block.rows]
            return vars(block) | {"rows": rows}
        case sections.Confusion():
            return {"caption": block.caption, "names": block.names} | _matrix(block)
        case sections.Beside():
            return {"blocks": _blocks(block.blocks)}
        case sections.Pictures():
            return vars(block) | {"pictures": list(map(_picture, block.pictures))}
        case sections.Legend():
            named = {k: f"#{bytes(v).hex()}" for k, v in block.colors.items()}
            return {"colors": named}
        case sections.Curves():
            names = {one.name: _css(one) for one in block.curves}
            return {"title": block.title, "chart": _curves(block), "key": names}
        case sections.Histogram():
            return {"title": block.title, "chart": _histogram(block)} | {
                "key": dict(zip(block.shares, ("bars", "steps"), strict=False))
            }
        case _:
            return vars(block)


def _cell(value: sections.Cell) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return interval(value)
    return percent(value) if isinstance(value, float) else count(value)


def _matrix(block: sections.Confusion) -> dict[str, Any]:
    totals = block.counts.sum(axis=1).tolist()
    return {
        "tall": max(map(len, block.names)) > 3,
        "rows": [
            {
                "name": name,
                "total": count(totals[t]),
                "cells": [
                    _shaded(number, totals[t], right=t == p)
                    for p, number in enumerate(block.counts[t].tolist())
                ],
            }
            for t, name in enumerate(block.names)
        ],
    }


def _shaded(number: int, total: int, *, right: bool) -> dict[str, Any]:
    share = number / total if total else 0.0
    # The shade of mistakes grows with the root of their share, so that few are visible.
    shade = 0.75 * share if right else 0.15 + 0.85 * share**0.5
    return {"count": number, "right": right, "shade": f"{shade:.2f}"}


def _picture(one: sections.Picture) -> dict[str, Any]:
    data = None
    if one.pixels is not None:
        picture = Image.fromarray(np.ascontiguousarray(one.pixels))
        picture.thumbnail((PICTURE, PICTURE))
        data = data_url(picture, "JPEG", quality=80)
    return vars(one) | {"data": data}


def _css(curve: sections.Curve) -> str:
    dashed = " dashed" if curve.dashed else ""
    return f"hue{curve.kind % _COLORS}{dashed}"


def _axes(ticks: Sequence[tuple[float, str]]) -> list[Markup]:
    """Draws the grid of a vertical axis: ticks from 0 to 1, with their names."""
    marks = []
    for at, name in ticks:
        height = _HEIGHT * (1 - at)
        marks.append(svg.line(0, height, 1, height, "grid"))
        marks.append(svg.text(0, height + 4, name, anchor="end", dx=-8))
    return marks


def _below(ticks: Sequence[tuple[float, str]], across: str) -> list[Markup]:
    """Names the ticks of a horizontal axis, and the axis itself."""
    marks = []
    for at, name in ticks:
        anchor = "end" if at > 0.97 else "start" if at < 0.03 else "middle"
        marks.append(svg.text(at, _HEIGHT + 18, name, anchor=anchor))
    marks.append(svg.text(0.5, _HEIGHT + 36, across, anchor="middle", class_="label"))
    return marks


def _curves(block: sections.Curves) -> Markup:
    ticks = [(k / 4, f"{25 * k} %") for k in range(5)]
    marks = [*_axes(ticks), *_below(ticks, block.across)]
    marks.append(svg.text(0, -10, block.up, class_="label"))
    for one in block.curves:
        places = [(float(x), _HEIGHT * (1 - float(y))) for x, y in one.points]
        if places:
            css = f"curve first {_css(one)}"
            marks.append(svg.path(places, height=_HEIGHT, css=css))
    title = f"{block.title}: {block.up} by {block.across}"
    return svg.chart(title, *marks, height=_HEIGHT + 40, css="histogram")


def _histogram(block: sections.Histogram) -> Markup:
    bins = len(block.edges) - 1
    most = max((float(shares.max()) for shares in block.shares.values()), default=0)
    y = svg.Scale(0, 100 * most if most > 0 else 1, ticks=3)
    marks = _axes([(y(tick), f"{y.name(tick)} %") for tick in y.ticks])
    told = [(k / bins, name) for k, name in enumerate(block.edges) if name]
    marks += _below(told, block.across)
    for number, (name, shares) in enumerate(block.shares.items()):
        heights = [_HEIGHT * y(100 * float(share)) for share in shares]
        if number:
            steps = [
                (at / bins, _HEIGHT - height)
                for k, height in enumerate(heights)
                for at in (k, k + 1)
            ]
            marks.append(svg.path(steps, height=_HEIGHT, css="curve third"))
            continue
        for k, height in enumerate(heights):
            if height > 0:
                what = svg.tag("title", f"{name}: {percent(float(shares[k]))}")
                marks.append(
                    svg.tag(
                        "rect",
                        what,
                        x=svg.across(k / bins),
                        width=svg.across(1 / bins),
                        y=_HEIGHT - height,
                        height=height,
                        class_="bar before",
                    )
                )
    if block.mark is not None:
        at, name = block.mark[0] / bins, block.mark[1]
        anchor, shift = ("end", -6) if at > 0.5 else ("start", 6)
        marks.append(svg.line(at, -14, at, _HEIGHT, "threshold"))
        marks.append(
            svg.text(at, -4, name, anchor=anchor, dx=shift, class_="label halo")
        )
    names = " and ".join(block.shares)
    title = f"{block.title}: {names} by {block.across}"
    return svg.chart(title, *marks, height=_HEIGHT + 40, css="histogram")
