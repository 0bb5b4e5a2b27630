"""What a task adds to the report is escaped, drawn and put in its place."""

import re

import numpy as np
import pytest
from made_up_run import HOSTILE, Page, fill, make_run, render, summary_of

from noisy_student_jax.core.sections import (
    Beside,
    Curve,
    Curves,
    Heading,
    Histogram,
    Legend,
    Picture,
    Pictures,
    Section,
    Table,
    Text,
)
from noisy_student_jax.tasks.classification import Classification


def page_with(tmp_path, sections, *, anchor="own"):
    """Returns the report of a run whose task adds some blocks, and the context."""
    run = make_run(tmp_path)
    fill(run)
    seen = []

    def report_sections(context):
        seen.append(context)
        return [Section(anchor, "Own", "Of one's own", sections)]

    run.task.report_sections = report_sections
    return Page(render(run, summary_of(run))), seen[0]


def test_a_task_is_told_of_the_models_and_their_files(tmp_path):
    _, context = page_with(tmp_path, [])

    titles = [one.title for one in context.models]
    assert titles == ["generation 0", "generation 1", "generation 2", "control"]
    assert [one.is_generation for one in context.models] == [True] * 3 + [False]
    assert context.best.title == "control"
    assert context.best.predictions == tmp_path / "control" / "predictions.parquet"
    assert context.models[0].selection.is_dir() and context.models[0].labels.is_dir()
    assert len(context.part("test")) == 40


def test_numbers_are_shown_by_their_type(tmp_path):
    rows = [("one", 1234, 0.567, (0.1, 0.25), None, "as it is")]
    table = Table("T", "A table", ("", "n", "share", "ends", "none", "text"), rows)

    page, _ = page_with(tmp_path, [table])

    assert "one1,23456.7 %[10.0, 25.0]–as it is" in page.text
    assert "A table." in page.text


def test_names_of_a_task_are_only_text(tmp_path):
    pixels = np.zeros((40, 60, 3), np.uint8)
    curve = Curve(HOSTILE, np.array([[0, 1], [1, 0]]))
    blocks = [
        Heading(HOSTILE),
        Text(HOSTILE),
        Table(HOSTILE, HOSTILE, [HOSTILE], [[HOSTILE]]),
        Beside([Curves(HOSTILE, HOSTILE, HOSTILE, [curve])]),
        Histogram(HOSTILE, HOSTILE, ["", HOSTILE], {HOSTILE: np.ones(1)}, (1, HOSTILE)),
        Legend({HOSTILE: (0, 10, 255)}),
        Pictures(HOSTILE, [Picture(pixels, HOSTILE, HOSTILE, HOSTILE)], HOSTILE),
    ]

    page, _ = page_with(tmp_path, blocks)

    assert {name for name, _ in page.elements}.isdisjoint({"script"})
    assert page.text.count("<script>alert(1)</script>") > 20
    assert any(a.get("style") == "background:#000aff" for _, a in page.elements)


def test_pictures_are_embedded_and_shrunk(tmp_path):
    large = Picture(np.zeros((900, 1200, 3), np.uint8), "a field", "0.91", "key 1")
    gone = Picture(None, "nothing", "0.12", "key 2")

    page, _ = page_with(tmp_path, [Pictures("Most confident", [large, gone])])

    (shown,) = (a for n, a in page.elements if n == "img" and a["alt"] == "a field")
    assert shown["src"].startswith("data:image/jpeg;base64,")
    assert len(shown["src"]) < 20_000
    assert page.of("gone", "span")[-1]["title"] == "key 2"
    assert "not readable0.12" in page.text


def test_a_curve_goes_through_its_points_and_a_histogram_is_proportional(tmp_path):
    curves = Curves(
        "PR", "recall", "precision", [Curve("a", np.array([[0, 1], [1, 0.5]]))]
    )
    histogram = Histogram(
        "H",
        "size",
        ["0", "", "2"],
        {"x": np.array([0.25, 0.75]), "y": np.array([0.5, 0.5])},
    )
    run = make_run(tmp_path)
    run.task.report_sections = lambda context: [
        Section("own", "Own", "Own", [curves, histogram])
    ]

    source = render(run, summary_of(run))

    assert 'points="0,0 1000,95"' in source
    own = source[source.index("<title>H: x and y by size") :]
    heights = re.findall(r'height="([\d.]+)" class="bar before"', own)
    assert float(heights[1]) == pytest.approx(3 * float(heights[0]), rel=1e-3)


def test_a_section_may_stand_in_the_place_of_one_that_all_tasks_have(tmp_path):
    page, _ = page_with(tmp_path, [Text("pictures with boxes")], anchor="images")

    ids = [a["id"] for n, a in page.elements if n == "section"]
    assert ids.count("images") == 1
    assert ids.index("images") < ids.index("provenance")
    assert "pictures with boxes" in page.text
    assert "Most and least confident pseudo-labels" not in page.text


def test_a_task_may_add_nothing(tmp_path, monkeypatch):
    monkeypatch.delattr(Classification, "report_sections")
    run = make_run(tmp_path)

    page = Page(render(run, summary_of(run)))

    assert "mistakes" not in [a.get("id") for _, a in page.elements]
    assert "#mistakes" not in [a.get("href") for _, a in page.elements]
