"""The report: what it says, that it comes alone, and that no name can harm it."""

import base64
import dataclasses
import html
import io
import itertools
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up_run import (
    CLASSES,
    HOSTILE,
    TEST,
    Page,
    entry,
    fill,
    make_run,
    render,
    summary_of,
)
from PIL import Image
from support import ROOT

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data.sources import Alike, ArraySource


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A fabricated finished run, its summary, and its report."""
    run = make_run(tmp_path_factory.mktemp("run"))
    fill(run)
    summary = summary_of(run)
    return run, summary, render(run, summary)


def test_it_needs_nothing_from_elsewhere(finished):
    _, _, source = finished
    page = Page(source)
    assert "://" not in source
    assert "url(" not in source and "@import" not in source
    names = {name for name, _ in page.elements}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "use"}
    for name, attributes in page.elements:
        assert not any(key.startswith("on") for key in attributes)
        if name == "img":
            assert attributes["src"].startswith("data:image/png;base64,")
            assert attributes["alt"]
        if "href" in attributes:
            assert attributes["href"].startswith("#")
    policy = next(a for n, a in page.elements if n == "meta" and "http-equiv" in a)
    assert policy["content"].startswith("default-src 'none'; img-src data:;")


def test_links_lead_somewhere_and_headings_are_in_order(finished):
    page = Page(finished[2])
    ids = {a["id"] for _, a in page.elements if "id" in a}
    links = {a["href"][1:] for n, a in page.elements if n == "a"}
    assert links and links <= ids
    levels = [int(n[1]) for n, _ in page.elements if re.fullmatch(r"h\d", n)]
    assert levels[0] == 1 and levels.count(1) == 1
    steps = itertools.pairwise(levels)
    assert all(after <= before + 1 for before, after in steps)


def test_charts_have_names_and_tables_captions_and_scopes(finished):
    source = finished[2]
    for chart in re.findall(r'<svg[^>]*role="img".*?>(.{30})', source, re.S):
        assert chart.startswith("<title>")
    assert source.count("<table") == source.count("<caption>") > 5
    assert not re.search(r"<th(?![^>]*scope)[ >]", source)


def test_hostile_names_are_only_text(finished):
    source = finished[2]
    page = Page(source)  # which fails if a name closed an element
    assert "<script" not in source.lower()
    assert "\x00" not in source and "\u202e" not in source
    assert "{{ 7*7 }}" in page.text  # nor is it read as a template
    visible = "class\"'><script>alert(1)</script>\\x00\\u202e&"
    for place in (
        "cannot decode " + visible,  # a reason
        "pool/0-" + visible,  # a key
        visible,  # a class and a fact about the data
    ):
        assert place in page.text
    assert any(visible in a.get("alt", "") for n, a in page.elements if n == "img")


def test_hostile_names_of_everything_else(tmp_path):
    run = make_run(tmp_path)
    fill(run)
    summary = summary_of(run)
    for one in (*summary["generations"], summary["control"]):
        one["model"] = HOSTILE
        one["metrics"][HOSTILE] = 1.0
    summary |= {"dataset": HOSTILE, "task": HOSTILE}
    summary["verdict"] |= {"says": HOSTILE, "method": HOSTILE}
    path = tmp_path / "generation_0" / "selection" / "selection.json"
    found = files.read_json(path)
    files.write_json(path, found | {"warnings": [HOSTILE], "method": HOSTILE})
    source = render(run, summary)
    page = Page(source)
    assert "<script" not in source.lower()
    assert "\x00" not in source and "\u202e" not in source
    assert page.text.count("<script>alert(1)</script>") > 30


def test_numbers_are_those_of_the_files(finished):
    run, summary, source = finished
    text = Page(source).text
    for one in (*summary["generations"], summary["control"]):
        top1, (low, high) = one["metrics"]["top1"], one["interval"]
        assert f"{100 * top1:.1f} %" in text
        assert f"{100 * one['raw']['top1']:.1f} %" in text
        assert f"[{100 * low:.1f}, {100 * high:.1f}]" in text
        assert f"{one['images_drawn']:,}" in text
    assert summary["verdict"]["says"] in text
    assert "0.457" in text and "0.123" in text  # nll and ece as they are
    assert "1 min 15 s" in text and "1,234,567" in text
    assert "+1.0 points, 90 % interval [−2.0, +4.0]" in text
    assert "only the student is right on 13, only the control on 11" in text
    assert "paired bootstrap over test images, 777 samples" in text
    counts = files.read_json(
        run.workdir / "generation_1" / "selection" / "selection.json"
    )["counts"]
    assert (
        f"{counts['read']} read = {counts['selected']} selected +"
        f" {counts['quarantined']} quarantined + {counts['below_threshold']} not above"
        f" 0.4 + {counts['over_capacity']} over a class's capacity"
    ) in text
    assert counts["quarantined"] == 3 and "3 quarantined records" in text
    assert "4 of 40 test images are taken for another class" in text
    assert "1.2.3" in text and "4.5.6" in text and "a" * 16 in text


def test_the_page_says_what_to_use_and_marks_it(finished):
    run, summary, source = finished
    text = Page(source).text
    assert "Use the control (best/): a reason." in text
    assert "Generation 2 is smaller class" in text
    assert re.findall(r"(\S+) ★ ?efficientnet_test", text) == ["control"]
    assert "best/ is not there" in text
    files.write_json(run.workdir / "best" / "model.json", {})
    assert "best/ is not there" not in Page(render(run, summary)).text


def test_a_summary_of_before_has_a_page(tmp_path):
    run = make_run(tmp_path)
    summary = summary_of(run)
    del summary["choice"], summary["verdict"]["student"]
    summary["best"] = 0
    text = Page(render(run, summary)).text
    assert "generation 2, efficientnet_test trained on" in text
    assert text.count("★") == 2  # one is in the caption


def test_the_verdict_may_be_against_any_baseline(tmp_path):
    run = make_run(tmp_path)
    summary = summary_of(run, outcome="worse", difference=-0.1, interval=(-0.2, -0.05))
    summary["baselines"] = [{"name": "fine_tuning", **entry(0.99, pseudo=0)}]
    summary["verdict"] |= {"against": "fine_tuning", "student": 1}
    page = Page(render(run, summary))
    assert "Fine-tuning on labels only is better than the student." in page.text
    assert "generation 1, efficientnet_test trained on" in page.text
    assert "efficientnet_test trained on 6 labeled and 0 pseudo-labeled" in page.text
    assert "The verdict is on generation 1, the best student, and not on the last." in (
        page.text
    )


@pytest.mark.parametrize(
    ("outcome", "difference", "interval", "headline"),
    [
        ("better", 0.03, (0.01, 0.05), "The student is better than the control."),
        ("worse", -0.03, (-0.05, -0.01), "The control is better than the student."),
        (
            "probably worse, not surely",
            -0.01,
            (-0.03, 0.002),
            "The control is probably better than the student, not surely.",
        ),
        (
            "cannot tell",
            0.0,
            (-0.02, 0.02),
            "This test cannot tell the student and the control apart.",
        ),
    ],
)
def test_every_outcome_is_said_as_plainly(
    tmp_path, outcome, difference, interval, headline
):
    run = make_run(tmp_path)
    summary = summary_of(run, outcome=outcome, difference=difference, interval=interval)
    page = Page(render(run, summary))
    assert headline in page.text
    sure = {"better": "ahead", "worse": "behind"}.get(outcome, "level")
    assert len(page.of(f"span {sure}", "rect")) == 1


def test_a_better_teacher_and_other_terms_are_said(tmp_path):
    run = make_run(tmp_path)
    summary = summary_of(run)
    summary["generations"][0]["metrics"]["top1"] = 0.95
    summary["control"]["images_drawn"] = 17
    page = Page(render(run, summary))
    assert (
        "The first teacher is ahead of the student: 95.0 % against 90.0 %" in page.text
    )
    assert "the control drew 17 images, the student 4,321" in page.text
    assert len(page.of("adverse", "li")) == 3


def test_no_two_rules_of_the_style_sheet_are_for_the_same(finished):
    css = (ROOT / "noisy_student_jax/report/style.css").read_text(encoding="utf-8")
    plain = re.sub(r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", css)
    selectors = re.findall(r"^([^{}@/\n]+) \{", plain, re.MULTILINE)

    assert len(selectors) > 100
    twice = {one for one in selectors if selectors.count(one) > 1}
    assert not twice, "one of them is meant for something else"


def test_heads_that_are_solved_show_the_search_for_c_and_no_steps(tmp_path):
    run = make_run(tmp_path)
    fill(run)
    for name in ("generation_0", "generation_1", "generation_2"):
        lines = [
            {"step": k, "strength": 10.0 ** (k - 2), "left_out/loss": 1 / (1 + k)}
            for k in range(3)
        ]
        lines.append({"step": 3, "strength": 1.0, "validation/raw/top1": 1.0})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        files.write_atomically(tmp_path / name / "train" / "metrics.jsonl", text)

    page = Page(render(run, summary_of(run)))

    assert "metrics.jsonl lacks" not in page.text
    assert "generation 0 and generation 1, generation 2: efficientnet_test, C = 1" in (
        page.text
    )
    assert len(page.of("learning")) == 2  # the search, and the control's steps
    assert page.of("learning control")


def test_a_model_without_an_average_has_one_number(tmp_path):
    run = make_run(tmp_path)
    fill(run)
    summary = summary_of(run)
    before = Page(render(run, summary)).text

    for one in (*summary["generations"], summary["control"]):
        one["raw"] = one["metrics"]

    after = Page(render(run, summary)).text
    assert "top1rawtop1EMA" in before
    assert "EMA" not in after.split("top1 by generation")[0]


def test_the_networks_of_a_model_of_several_are_named(tmp_path):
    run = make_run(tmp_path)
    config = run.config.copy_and_resolve_references()
    config.generations[0].model.name = "concatenated"
    run = run.reconfigured(config)
    fill(run)

    text = Page(render(run, summary_of(run))).text

    assert text.count("concatenated: the features of efficientnet_lite0 + ") == 1


def test_histogram_bars_are_proportional(finished):
    run, _, source = finished
    found = files.read_json(
        run.workdir / "generation_0" / "selection" / "selection.json"
    )["score_histogram"]
    chart = re.search(r'class="chart histogram s0".*?</svg>', source, re.S)[0]
    for css, name in (("bar before", "before"), ("bar selected", "selected")):
        pattern = rf'<rect [^>]*height="([\d.]+)" class="{css}"><title>'
        heights = [float(h) for h in re.findall(pattern, chart)]
        counts = [n for n in found[name] if n]
        assert len(heights) == len(counts) > 5
        unit = heights[0] / counts[0]
        np.testing.assert_allclose(heights, np.multiply(counts, unit), atol=0.02)
    assert "selected above 0.4" in chart


def test_class_balance_bars_are_proportional(finished):
    run, _, source = finished
    found = files.read_json(
        run.workdir / "generation_0" / "selection" / "selection.json"
    )["per_class"]
    chart = re.search(r'class="chart balance s0".*?</svg>', source, re.S)[0]
    most = max(map(max, found.values()))
    for css, name in (("bar before", "before"), ("bar selected", "selected")):
        widths = re.findall(rf'width="([\d.]+)%" [^>]*class="{css}"', chart)
        expected = [100 * n / most for n in found[name]]
        np.testing.assert_allclose([float(w) for w in widths], expected, atol=0.01)
    rows = zip(*found.values(), strict=True)
    told = [" → ".join(map(str, numbers)) for numbers in rows]
    assert all(html.escape(one) in chart for one in told)


def test_images_are_the_most_and_least_confident(finished):
    run, _, source = finished
    folder = run.workdir / "generation_1" / "selection"
    plan = pq.ParquetFile(folder / "plan.parquet").read().to_pylist()
    shown = [a for n, a in Page(source).elements if n == "img"]
    start = 0
    for label in range(len(CLASSES)):
        rows = [row for row in plan if row["label"] == label]
        rows.sort(key=lambda row: -row["score"])
        expected = rows if len(rows) <= 12 else rows[:6] + rows[-6:]
        tiles = shown[start : start + len(expected)]
        start += len(expected)
        scores = [tile["alt"].rsplit(" ", 1)[1] for tile in tiles]
        assert scores == [f"{row['score']:.2f}" for row in expected]
        keys = [tile["title"].split("-")[0] for tile in tiles]
        assert keys == [row["key"].split("-")[0] for row in expected]
    assert start == len(shown)
    assert all(tile["class"] == "pixels" for tile in shown)


def test_a_pool_that_changed_shows_no_wrong_images(tmp_path):
    run = make_run(tmp_path)
    fill(run)
    run.dataset.pool.keys.reverse()
    page = Page(render(run, summary_of(run)))
    assert "the pool is not the one that was labeled" in page.text
    assert not [n for n, _ in page.elements if n == "img"]


def test_images_that_are_alike_are_shown_in_pairs(tmp_path):
    run = make_run(tmp_path)
    pool, test = run.dataset.pool, run.dataset.test
    run.dataset = dataclasses.replace(
        run.dataset,
        alike=(
            Alike(
                "one image in two classes",
                (pool.key(0), pool.key(1)),
                ("ant", HOSTILE),
                (pool.subset([0]), pool.subset([1])),
            ),
            *(
                Alike(
                    "near-duplicates",
                    (pool.key(n), test.key(n)),
                    ("unlabeled", "test"),
                    (pool.subset([n]), test.subset([n])),
                    n,
                )
                for n in (1, 6)
            ),
        ),
    )

    page = Page(render(run, summary_of(run)))

    shown = [attributes for name, attributes in page.elements if name == "img"]
    assert [one["title"].split("-")[0] for one in shown] == [
        *("pool/0", "pool/1", "pool/1", "test/1", "pool/6", "test/6")
    ]
    data = shown[3]["src"].removeprefix("data:image/png;base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    np.testing.assert_array_equal(np.asarray(picture), test.images[1])
    assert "script" not in {name for name, _ in page.elements}
    for text in ("One image in two classes", "the same pixels", "Near-duplicates"):
        assert page.text.count(text) == 1
    assert "1 bit apart" in page.text and "6 bits apart" in page.text


def test_images_that_are_gone_leave_the_pairs_out(tmp_path):
    run = make_run(tmp_path)

    class Gone(ArraySource):
        def read(self, indices):
            raise UserError("'a.bin' can no longer be read")

    gone = Gone(["a"], [None])
    pair = Alike("near-duplicates", ("a", "a"), ("x", "test"), (gone, gone), 2)
    run.dataset = dataclasses.replace(run.dataset, alike=(pair,))

    text = Page(render(run, summary_of(run))).text

    assert (
        "Pairs of images that are alike cannot be shown: 'a.bin' can no longer be read."
    ) in text


def test_everything_missing_is_said_in_sentences(tmp_path):
    run = make_run(tmp_path)
    text = Page(render(run, summary_of(run))).text
    for sentence in (
        "metrics.jsonl lacks curves of generation 0, generation 1, generation 2,"
        " control.",
        "What was selected is not known: selection.json is not there.",
        "Which records were quarantined is not known: quarantine.parquet is not there.",
        "There is no selection of pseudo-labels to show.",
        "There is no confusion to show: predictions.parquet of control is not there.",
        "How the data were split is not known: data/dataset.json is not there.",
        "The ledger holds no finished stage.",
    ):
        assert sentence in text


def test_damaged_files_are_said_to_be_damaged(tmp_path):
    run = make_run(tmp_path)
    fill(run)
    folder = tmp_path / "generation_1"
    (folder / "selection" / "selection.json").write_text("{")
    (folder / "selection" / "plan.parquet").write_bytes(b"PAR1 no")
    (folder / "labels" / "quarantine.parquet").write_bytes(b"")
    (tmp_path / "control" / "predictions.parquet").write_bytes(b"no")
    (tmp_path / "generation_2" / "train" / "metrics.jsonl").write_bytes(b"\xff\xfe")
    (tmp_path / "data" / "dataset.json").write_text("[]")
    (run.ledger.folder / "control.train.json").write_text("no")
    text = Page(render(run, summary_of(run))).text
    for sentence in (
        "selection.json is damaged",
        "plan.parquet is damaged",
        "quarantine.parquet cannot be read",
        "predictions.parquet of control cannot be read",
        "metrics.jsonl lacks curves of generation 2",
        "data/dataset.json is damaged",
    ):
        assert sentence in text


def test_one_generation_and_no_control(tmp_path):
    run = make_run(tmp_path, generations=1, control=False)
    fill(run)
    summary = summary_of(run)
    nothing = dict.fromkeys(("against", "difference", "interval"))
    summary["verdict"] = {**nothing, "says": "nothing to compare with"}
    text = Page(render(run, summary)).text
    assert "There is nothing to compare with." in text
    assert "There is one generation, so no model learned from pseudo-labels." in text
    assert "This run has no control" in text


def test_without_a_control_the_teacher_is_the_rival(tmp_path):
    run = make_run(tmp_path, generations=2, control=False)
    page = Page(render(run, summary_of(run, outcome="worse")))
    assert "The first teacher is better than the student." in page.text


def test_values_that_are_no_numbers(tmp_path):
    run = make_run(tmp_path)
    fill(run)
    summary = summary_of(run)
    nan = float("nan")
    summary["generations"][0] |= {"interval": None, "metrics": {"top1": nan}}
    summary["generations"][1] |= {"raw": None, "validation": {}, "seconds": None}
    summary["generations"][2]["metrics"]["nll"] = nan
    summary["control"] |= {"metrics": {}, "interval": [nan, nan]}
    summary["verdict"] |= {"difference": nan, "interval": [nan, nan]}
    source = render(run, summary)
    text = Page(source).text
    assert not re.search(
        r"\b(nan|none|inf)\b", text.split("The resolved config")[0], re.I
    )
    assert not re.search(r'="[^"]*\bnan\b', source)
    assert "There is no difference to draw." in text


def test_many_classes_have_a_profile_and_pairs(tmp_path):
    names = [f"class number {k}" for k in range(30)]
    run = make_run(tmp_path, classes=names)
    fill(run)
    source = render(run, summary_of(run))
    page = Page(source)
    assert "30 classes, sorted by how often the teacher predicts them" in page.text
    assert not page.of("matrix") and page.of("profile")
    assert "The most confused pairs" in page.text
    assert "classes are not shown here" in page.text


def test_a_task_whose_truths_are_no_classes(tmp_path):
    run = make_run(tmp_path)
    fill(run)
    path = tmp_path / "control" / "predictions.parquet"
    table = pq.ParquetFile(path).read().drop_columns("truth")
    places = pa.array([[0.5, 0.5]] * TEST)
    files.write_parquet(path, table.append_column("truth", places))
    text = Page(render(run, summary_of(run))).text
    assert "this task's truths are not classes, one an image" in text


def test_many_quarantined_records_are_counted(tmp_path):
    run = make_run(tmp_path)
    fill(run)
    rows = {"key": [f"key {k}" for k in range(1234)], "reason": ["broken"] * 1234}
    path = tmp_path / "generation_0" / "labels" / "quarantine.parquet"
    files.write_parquet(path, pa.table(rows))
    text = Page(render(run, summary_of(run))).text
    assert "1,234 quarantined records" in text
    assert "the first 50, and 1,184 more" in text
    assert "key 49" in text and "key 50" not in text


def test_stages_in_different_environments_are_a_warning(tmp_path):
    run = make_run(tmp_path)
    fill(run)
    path = run.ledger.folder / "control.train.json"
    manifest = files.read_json(path)
    manifest["environment"]["cores"] = 1
    files.write_json(path, manifest)
    text = Page(render(run, summary_of(run))).text
    assert "Stages ran in 2 different environments" in text
