"""The page of a study: verdicts, a chart, the table, and links to the runs."""

import math
import pathlib
from typing import Any

import jinja2
from markupsafe import Markup

from noisy_student_jax import report, studies
from noisy_student_jax.core import files
from noisy_student_jax.report import formatting, svg
from noisy_student_jax.studies import comparison
from noisy_student_jax.studies.findings import Findings, Row, difference
from noisy_student_jax.studies.perform import Performed
from noisy_student_jax.studies.study import STUDENT, written

PAGE = "study.html"
_HERE = pathlib.Path(studies.__file__).parent
_STYLE = pathlib.Path(report.__file__).parent / "style.css"
_ROW = 46
_CSS = {
    comparison.HOLDS: "ahead",
    comparison.FAILS: "behind",
    comparison.UNKNOWN: "level",
}


def write(performed: Performed, found: Findings) -> pathlib.Path:
    """Writes the page into the study's directory; returns its path."""
    path = performed.workdir / PAGE
    files.write_atomically(path, render(performed, found))
    return path


def render(performed: Performed, found: Findings) -> str:
    """Returns the page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        style=Markup(files.read_text(_STYLE)),
        study=found.study,
        base=performed.base.name,
        seeds=len(found.seeds),
        metric=found.metric,
        images=formatting.count(found.images),
        pool=formatting.count(found.pool),
        command=performed.command,
        claims=[
            {
                "says": one.claim.says,
                "verdict": one.says,
                "css": _CSS[one.verdict],
                "difference": difference(one.found) if one.found else "",
                "paper": one.claim.paper,
            }
            for one in found.claims
        ],
        chart=chart(found),
        rows=[_row(performed, found, row) for row in found.rows],
    )


def chart(found: Findings) -> Markup | None:
    """Draws each variant's difference to the base: mean, interval, and each seed."""
    rows = [row for row in found.rows if row.against is not None]
    if not rows:
        return None
    reach = 0.5
    for row in rows:
        assert row.against is not None, "the others are left out"
        ends = [end for end in row.against.interval if not math.isnan(end)]
        reach = max(reach, *(100 * abs(one) for one in (*ends, *row.against.gaps)))
    scale = svg.Scale(-reach, reach, ticks=6)
    height = _ROW * len(rows) + 8
    marks = [svg.line(scale(t), 0, scale(t), height, "grid") for t in scale.ticks]
    marks += [
        svg.text(scale(t), height + 18, scale.name(t), anchor="middle")
        for t in scale.ticks
    ]
    base = found.rows[0].variant.name
    marks += [
        svg.text(0, height + 38, "← worse than the base", class_="aside"),
        svg.text(1, height + 38, "better →", anchor="end", class_="aside"),
        svg.line(scale(0), 0, scale(0), height, "zero"),
    ]
    for number, row in enumerate(rows):
        marks += _drawn(row, scale, _ROW * number + 4)
    title = f"difference to “{base}” in points: " + "; ".join(
        f"{row.variant.name} {difference(row.against)}" for row in rows if row.against
    )
    return svg.chart(title, *marks, height=height + 42, css="inset")


def _drawn(row: Row, scale: svg.Scale, top: float) -> list[Markup]:
    one = row.against
    assert one is not None, "the base is not drawn"
    middle, (low, high) = top + 28, one.interval
    # Only an interval without zero has a color.
    side = "ahead" if low > 0 else "behind" if high < 0 else "level"
    marks = [
        svg.text(0, top + 14, row.variant.name, class_="name halo"),
        svg.text(1, top + 14, difference(one), anchor="end", class_="name halo"),
    ]
    if not math.isnan(low):
        ends = scale(100 * low), scale(100 * high)
        marks.append(
            svg.rectangle(ends[0], middle - 7, ends[1] - ends[0], 14, f"span {side}")
        )
    marks += [
        svg.circle(scale(100 * gap), middle, 3, f"dot {side}") for gap in one.gaps
    ]
    return [*marks, svg.circle(scale(100 * one.mean), middle, 6, f"dot {side}")]


def _row(performed: Performed, found: Findings, row: Row) -> dict[str, Any]:
    variant = row.variant
    changes = [f"{name}={written(value)}" for name, value in variant.changes.items()]
    if variant.generations != found.rows[0].variant.generations:
        changes.append(f"generations={variant.generations}")
    if variant.judged != STUDENT:
        changes.append(f"judged: the {variant.judged}")
    runs = []
    for seed in found.seeds:
        path = performed.folder(row.variant, seed) / report.REPORT
        if files.is_file(path):
            where = path.relative_to(performed.workdir).as_posix()
            runs.append({"seed": seed, "href": where})
    return {
        "name": row.variant.name,
        "changes": changes,
        "told": row.told,
        "difference": "" if row.against is None else difference(row.against),
        "paper": row.variant.paper,
        "runs": runs,
    }
