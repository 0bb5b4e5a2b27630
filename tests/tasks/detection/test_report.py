"""What a detector adds to the report, of a run that is made up."""

import base64
import io
import itertools
import re

import numpy as np
import pytest
from made_up_boxes import CLASSES, boxes_run
from made_up_run import HOSTILE, Page, render
from PIL import Image

from noisy_student_jax.core import files
from noisy_student_jax.tasks.detection import average_precision, drawing, judged


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run, summary = boxes_run(tmp_path_factory.mktemp("boxes"))
    return run, render(run, summary)


def section(source, anchor):
    return re.search(rf'<section id="{anchor}">.*?</section>', source, re.S)[0]


def test_it_has_pictures_of_every_kind(finished):
    images = section(finished[1], "images")
    titles = re.findall("<h3>(.*?)</h3>", images)
    assert titles == [
        "Most confident test images",
        "Least confident test images",
        "Worst misses",
        "Worst false alarms",
        "Pseudo-labeled by generation 0",
    ]
    rows = images.split("<h3>")[1:]
    assert [row.count("<img") for row in rows] == [6] * 5
    assert all(alt for alt in re.findall('alt="(.*?)"', images))
    assert 'class="missing"' not in images
    assert "Most and least confident pseudo-labels" not in finished[1]


def test_its_pictures_hold_boxes_in_the_colors_of_the_legend(finished):
    images = section(finished[1], "images")
    for color in drawing.LEGEND.values():
        assert f"background:#{bytes(color).hex()}" in images
    false_alarms = images.split("Worst false alarms")[1]
    data = re.search('src="data:image/jpeg;base64,(.*?)"', false_alarms)[1]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), int)
    assert pixels.shape == (270, 360, 3)
    for color in (drawing.PREDICTED, drawing.TRUE):
        assert (abs(pixels - color).max(axis=2) < 60).sum() > 100


def test_captions_of_mistakes_name_them(finished):
    run, source = finished
    test = judged.read(run.student("control").paths.predictions)
    images = section(source, "images")
    alarms = images.split("Worst false alarms")[1].split("Pseudo-labeled by")[0]
    shown = re.findall(r"<figcaption>(\w+) (\d\.\d\d)</figcaption>", alarms)
    scores = [float(score) for _, score in shown]
    assert scores == sorted(scores, reverse=True) and len(scores) == 6
    assert {name for name, _ in shown} <= set(CLASSES)
    # The surest box that overlaps nothing is the first one of all.
    hits = [row["hits"] for row in test.statistics.to_pylist()]
    firsts = [
        score
        for row, own in zip(test.statistics.to_pylist(), hits, strict=True)
        for score, bits in zip(row["scores"], own, strict=True)
        if not bits & 1
    ]
    assert scores[0] == pytest.approx(max(firsts), abs=0.005)
    assert "not found" in images.split("Worst misses")[1]


def test_rates_and_thresholds_are_those_of_the_selection(finished):
    run, source = finished
    facts = files.read_json(run.student(0).paths.selection / "selection.json")["facts"]
    text = Page(section(source, "boxes")).text
    for name in CLASSES:
        rate = facts["boxes of a labeled image"][name]
        pseudo = facts["boxes of a pseudo-labeled image"][name]
        threshold = facts["threshold"][name]
        assert f"{name}{rate:.2f}{pseudo:.2f}{threshold:.2f}" in text
        assert f"taken from {threshold:.2f}" in text


def test_images_are_not_counted_by_the_class_of_their_surest_box(finished):
    text = section(finished[1], "pseudo-labels")
    assert "<h4>Confidence</h4>" in text
    assert "Class balance" not in text and "least confident record" not in text
    assert 'class="missing"' not in text


def test_each_class_has_its_charts(finished):
    boxes, precision = (section(finished[1], name) for name in ("boxes", "precision"))
    for name in CLASSES:
        for across in ("score", "boxes of an image", "size"):
            assert re.search(rf"<title>{name}: .* by {across}</title>", boxes)
        assert f"<title>{name}: precision by recall</title>" in precision
    assert precision.count("<polyline") == 2 * len(CLASSES)  # another model, dashed


def test_scores_to_cut_at_are_the_best_on_validation(finished):
    run, source = finished
    paths = run.student("control").paths
    lowest = judged.cuts(judged.read(paths.validation).statistics)
    curves = average_precision.curves(judged.read(paths.validation).statistics)
    for score, curve in zip(lowest, curves, strict=True):
        f1 = 2 / (1 / curve.precision + 1 / curve.recall)
        assert curve.scores[np.nanargmax(f1)] == score
    precision, recall = judged.at(
        average_precision.curves(judged.read(paths.predictions).statistics)[0],
        float(lowest[0]),
    )
    text = Page(section(source, "precision")).text
    assert f"cell{lowest[0]:.2f}{100 * precision:.1f} %{100 * recall:.1f} %" in text


def test_its_headings_are_in_order_and_charts_and_tables_are_named(finished):
    source = finished[1]
    page = Page(source)  # which fails where an element is left open
    levels = [int(n[1]) for n, _ in page.elements if re.fullmatch(r"h\d", n)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    for chart in re.findall(r'<svg[^>]*role="img".*?>(.{30})', source, re.S):
        assert chart.startswith("<title>")
    assert source.count("<table") == source.count("<caption>")
    ids = [a["id"] for _, a in page.elements if "id" in a]
    links = {a["href"][1:] for n, a in page.elements if n == "a"}
    assert links <= set(ids) and len(ids) == len(set(ids))
    assert "://" not in source.replace("data:image", "")


def test_names_of_classes_are_only_text(tmp_path):
    run, summary = boxes_run(tmp_path, names=(HOSTILE, "platelet"))

    source = render(run, summary)

    page = Page(source)
    assert "<script" not in source.lower() and "\x00" not in source
    assert page.text.count("<script>alert(1)</script>") > 10
    assert 'class="missing"' not in section(source, "boxes")


def test_a_report_without_images_and_files_says_so(tmp_path):
    run, summary = boxes_run(tmp_path)
    run.student("control").paths.predictions.unlink()
    run.student(0).paths.selection.joinpath("picks.npy").unlink()
    run.student("control").paths.validation.unlink()

    source = render(run, summary)

    text = Page(source).text
    assert "The test images cannot be shown: No such file or directory." in text
    assert "The images labeled by generation 0 cannot be shown:" in text
    assert "control cannot be shown: No such file or directory." in text
    assert "Not all can be shown:" in text


def test_a_detector_that_finds_nothing_has_a_report(tmp_path):
    run, summary = boxes_run(tmp_path, found=False)

    source = render(run, summary)

    text = Page(source).text
    assert "24 images have no such box" in text
    assert "cell, not found" in text
    assert "Worst false alarms" not in text
    assert "Most confident test images" not in text
