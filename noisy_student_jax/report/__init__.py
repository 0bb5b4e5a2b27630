"""The report of a run: one self-contained HTML file.

It loads nothing from elsewhere and executes nothing: charts are inline SVG, images are
data URLs, and its content security policy forbids the rest. It reports only the
contents of the run's files, and names those that are missing.
"""

import pathlib
import re
from typing import Any

import jinja2
from markupsafe import Markup, escape

from noisy_student_jax.core import console, files
from noisy_student_jax.report import (
    alike,
    dataset,
    formatting,
    gallery,
    learning,
    provenance,
    pseudo,
    results,
    robustness,
    sections,
    suspects,
)
from noisy_student_jax.report.students import colors, students_of
from noisy_student_jax.runs.run import Run

REPORT = "report.html"
_HERE = pathlib.Path(__file__).parent
_PERCENT = re.compile(r"[\d.,]+ %")


def write(run: Run, summary: dict[str, Any]) -> None:
    """Writes ``report.html``.

    Args:
      run: a run whose evaluations are finished.
      summary: the contents of ``summary.json``.
    """
    files.write_atomically(run.workdir / REPORT, render(run, summary))


def render(run: Run, summary: dict[str, Any]) -> str:
    """Returns the report as HTML."""
    students = students_of(run.workdir, summary)
    own = sections.of_task(run, summary, students)
    return (
        _environment()
        .get_template("template.html")
        .render(
            dataset=summary["dataset"],
            task=summary["task"],
            splits=summary["splits"],
            style=Markup((_HERE / "style.css").read_text(encoding="utf-8")),
            colors=Markup(colors(students)),
            verdict=results.verdict(run.workdir, summary),
            table=results.table(run, summary, students),
            robustness=robustness.table(students),
            by_generation=results.by_generation(summary, students),
            learning=learning.panels(summary, students),
            teachers=pseudo.teachers(run, summary, students),
            sections=own,
            gallery=(
                None if "images" in own else gallery.gallery(run, summary, students)
            ),
            suspects=suspects.suspects(run, summary, students),
            data=dataset.dataset(run.workdir),
            alike=alike.alike(run),
            provenance=provenance.provenance(run),
        )
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": formatting.count,
        "prose": _prose,
    }
    return environment


def _prose(text: str) -> Markup:
    """Keeps a number and its percent sign on one line."""
    safe = str(escape(console.printable(text)))
    return Markup(_PERCENT.sub(r'<span class="together">\g<0></span>', safe))


def _visible(value: Any) -> Any:
    """Makes control characters in inserted text visible; markup is trusted."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return console.printable(value)
    return value
