"""What people see of a detector's run: report, contact sheet, `predict`, `evaluate`."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from outside.shapes import CLASSES
from PIL import Image
from support import TINY_BOXES

from noisy_student_jax.cli.main import main
from noisy_student_jax.config import load
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.data.annotations import write
from noisy_student_jax.data.annotations.structure import AnnotatedImage
from noisy_student_jax.runs.run import Run
from noisy_student_jax.tasks.detection import drawing


@pytest.fixture(scope="module")
def summary(tiny_boxes_run):
    return json.loads((tiny_boxes_run / "summary.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def best(tiny_boxes_run, summary):
    """Folder of the model in best/."""
    name = summary["best"]
    return tiny_boxes_run / (f"generation_{name}" if isinstance(name, int) else name)


@pytest.fixture(scope="module")
def tested(tiny_boxes_run, tmp_path_factory):
    """The test images as files, with their boxes in COCO's form."""
    folder = tmp_path_factory.mktemp("tested")
    opened = Run(load(TINY_BOXES), tiny_boxes_run, interruption=Interruption())
    test, found = opened.dataset.test, []
    for index in range(len(test)):
        examples = test.read([index])
        image, labels = examples.images[0], examples.labels[0]
        own = labels[labels[:, 5] > 0]
        path = f"{index:02d}.png"
        Image.fromarray(image).save(folder / path)
        height, width = image.shape[:2]
        boxes = own[:, :4] * max(width, height)
        classes, kinds = own[:, 4].astype(int), own[:, 5].astype(int)
        found.append(AnnotatedImage(path, (width, height), boxes, classes, kinds))
    write.coco(folder, found, CLASSES)
    return folder


def run(capsys, *arguments):
    capsys.readouterr()
    assert main([str(one) for one in arguments]) == 0
    return capsys.readouterr().out


def test_the_report_has_pictures_curves_and_the_precision_of_each_class(
    tiny_boxes_run, summary
):
    page = (tiny_boxes_run / "report.html").read_text("utf-8")
    for anchor in ("images", "boxes", "precision"):
        section = re.search(rf'<section id="{anchor}">.*?</section>', page, re.S)[0]
        assert 'class="missing"' not in section
    assert page.count('src="data:image/jpeg;base64,') >= 12
    for name in CLASSES:
        assert f"<title>{name}: precision by recall</title>" in page
        value = summary["generations"][1]["metrics"][f"AP/{name}"]
        assert f"{100 * value:.1f} % [" in page


def test_the_contact_sheet_shows_boxes(tiny_boxes_run):
    pixels = np.asarray(Image.open(tiny_boxes_run / "contact_sheet.png"), int)
    assert (pixels == drawing.TRUE).all(axis=2).sum() > 500


def test_predict_finds_the_boxes_that_evaluation_recorded(best, tested, capsys):
    line = ["predict", f"--model={best / 'model'}", "--json", "--min-score=0.2"]
    rows = [json.loads(row) for row in run(capsys, *line, tested).splitlines()]
    recorded = pq.read_table(best / "predictions.parquet").to_pylist()
    assert len(rows) == len(recorded) == 24
    found = 0
    for row, known in zip(rows, recorded, strict=True):
        scores = [score for score in known["scores"] if score >= 0.2]
        assert [one["score"] for one in row["boxes"]] == pytest.approx(scores, abs=1e-3)
        for one, box in zip(row["boxes"], known["boxes"], strict=False):
            seen = np.minimum(np.array(box) * 64, [64, 48, 64, 48])
            np.testing.assert_allclose(one["box"], seen, atol=0.1)
        found += len(scores)
    assert found > 10


def test_evaluate_gives_the_precision_of_the_run(best, tested, capsys):
    line = ["evaluate", f"--model={best / 'model'}", f"--images={tested}", "--json"]
    found = json.loads(run(capsys, *line))
    known = json.loads((best / "evaluation.json").read_text())["splits"]["test"]
    assert found["metrics"] == pytest.approx(known["ema"], abs=2e-3)
    assert found["images"] == 24
