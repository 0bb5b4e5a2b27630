"""``predict`` and ``evaluate`` with a detector's bundle, whose weights are random."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pyarrow.parquet as pq
import pytest
from interop.export import some
from PIL import Image

from noisy_student_jax.cli.main import main
from noisy_student_jax.data.annotations import formats, write
from noisy_student_jax.data.annotations.structure import AnnotatedImage
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.tasks.detection import drawing

CLASSES = ("cell", "platelet")
SIZES = {"a.png": (64, 48), "deep/b.jpg": (60, 90), "deep/c.webp": (50, 50)}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A bundle; low scores are all that random weights give."""
    folder = tmp_path_factory.mktemp("model")
    bundles.write(some.detector(classes=CLASSES), folder)
    return folder


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    rng = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        picture = Image.fromarray(pixels)
        exif = Image.Exif()
        if name.endswith(".jpg"):
            exif[0x0112] = 6  # to be turned by a quarter: people see 90 × 60
        picture.save(path, exif=exif)
    return folder


def seen(name):
    width, height = SIZES[name]
    return (height, width) if name.endswith(".jpg") else (width, height)


def run(capsys, *arguments, status=0):
    capsys.readouterr()
    assert main([str(one) for one in arguments]) == status
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return out, err


def predict(capsys, model, *arguments, **more):
    return run(
        capsys, "predict", f"--model={model}", "--min-score=0", *arguments, **more
    )


def test_boxes_are_in_pixels_of_the_image_that_people_see(model, images, capsys):
    out, _ = predict(capsys, model, "--json", images)
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["image"] for row in rows] == [str(images / name) for name in SIZES]
    for row, name in zip(rows, SIZES, strict=True):
        assert (row["width"], row["height"]) == seen(name)
        assert len(row["boxes"]) > 5
        scores = [one["score"] for one in row["boxes"]]
        assert scores == sorted(scores, reverse=True)
        for one in row["boxes"]:
            left, top, right, bottom = one["box"]
            assert 0 <= left <= right <= seen(name)[0]
            assert 0 <= top <= bottom <= seen(name)[1]
            assert one["class"] == CLASSES[one["index"]]


def test_boxes_of_low_scores_are_left_out(model, images, capsys):
    out, _ = run(capsys, "predict", f"--model={model}", images)
    assert out.count(": no boxes\n") == 3
    told, _ = predict(capsys, model, images / "a.png")
    assert "a.png: " in told and " cell (0.0" in told


def test_pictures_are_drawn_in_their_size_and_with_their_names(
    model, images, tmp_path, capsys
):
    drawn = tmp_path / "drawn"
    out, _ = predict(capsys, model, f"--draw={drawn}", images)
    assert f"3 pictures are in '{drawn}'" in out
    files = {"a.png": "a.png", "deep/b.jpg": "deep/b.jpg"}
    files |= {"deep/c.webp": "deep/c.webp.png"}
    for name, path in files.items():
        picture = Image.open(drawn / path)
        assert picture.size == seen(name)
        near = np.abs(np.asarray(picture, int) - drawing.PREDICTED).max(axis=2) < 60
        assert near.sum() > 20
    _, err = predict(capsys, model, f"--draw={drawn}", images, status=2)
    assert "exists: give another" in err


@pytest.mark.parametrize("form", ["coco", "yolo", "voc", "csv"])
def test_what_is_written_is_read_again(model, images, tmp_path, capsys, form):
    out, _ = predict(capsys, model, "--json", images)
    rows = {json.loads(line)["image"]: json.loads(line) for line in out.splitlines()}
    told, _ = predict(
        capsys, model, f"--format={form}", f"--output={images / 'x'}", images
    )
    assert "3 predictions are in" in told
    # Beside the images, as a labeling tool would have it.
    for path in sorted((images / "x").rglob("*")):
        if path.is_file():
            place = images / path.relative_to(images / "x")
            place.parent.mkdir(parents=True, exist_ok=True)
            path.rename(place)
    found, _ = formats.read(images, classes=CLASSES)
    assert sum(len(one.boxes) for one in found.images) > 15
    for image in found.images:
        boxes = [one["box"] for one in rows[str(images / image.path)]["boxes"]]
        kept = [box for box in boxes if box[2] > box[0] and box[3] > box[1]]
        assert abs(len(kept) - len(image.boxes)) <= 2
        assert image.size == seen(image.path)
        for box in image.boxes:
            assert np.abs(np.array(kept) - box).max(axis=1).min() < 0.6


def test_pascal_voc_has_scores(model, images, tmp_path, capsys):
    place = tmp_path / "voc"
    predict(capsys, model, "--format=voc", f"--output={place}", images)
    tree = ET.parse(place / "Annotations" / "a.xml")
    assert float(tree.find("object/confidence").text) > 0


@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_tables_hold_the_boxes(model, images, tmp_path, capsys, kind):
    path = tmp_path / f"table.{kind}"
    predict(capsys, model, f"--output={path}", images)
    rows = (
        json.loads(path.read_text())
        if kind == "json"
        else pq.ParquetFile(path).read().to_pylist()
    )
    assert len(rows) == 3 and len(rows[0]["boxes"][0]["box"]) == 4


def test_mistakes_are_one_sentence(model, images, tmp_path, capsys, tiny_run):
    wrong = {
        "--format=coco": "--format=coco also needs --output=DIR",
        "--format=kitti --output=x": "--format='kitti' is not known (known: coco",
        "--min-score=2": "--min-score is 2, but must be 0 to 1",
        "--logits --json": "--logits is for models that tell one class of an image",
        "--output=x.csv": "give --format=csv and a folder",
        f"--format=coco --output={images}": "exists: give another",
    }
    for flags, told in wrong.items():
        line = ["predict", f"--model={model}", *flags.split(), images]
        _, err = run(capsys, *line, status=2)
        assert told in err and err.count("error: ") == 1, flags
    best = f"--model={tiny_run / 'best'}"
    for flag in (f"--draw={tmp_path / 'd'}", "--min-score=0.5"):
        _, err = run(capsys, "predict", best, flag, images, status=2)
        assert "is for models that find boxes; task 'classification'" in err
    assert not (tmp_path / "d").exists()


def labeled(folder):
    """Writes boxes for the images of a folder in COCO's form; returns them."""
    rng = np.random.default_rng(1)
    found = []
    for name in SIZES:
        low = rng.uniform(0, 20, (4, 2))
        boxes = np.concatenate([low, low + rng.uniform(8, 28, (4, 2))], axis=1)
        found.append(
            AnnotatedImage(
                name, seen(name), boxes, rng.integers(0, 2, 4), np.ones(4, np.int64)
            )
        )
    write.coco(folder, found, CLASSES)
    return found


def test_any_labeled_set_is_evaluated(model, images, tmp_path, capsys):
    labeled(images)
    output = tmp_path / "found.json"
    line = ["evaluate", f"--model={model}", f"--images={images}"]
    out, _ = run(capsys, *line, f"--output={output}")
    assert "3 images, 12 boxes, COCO JSON (1 file)" in out
    found = json.loads(output.read_text())
    assert list(found["metrics"]) == [
        "AP",
        "AP50",
        "AP75",
        "AR100",
        "AP/cell",
        "AP/platelet",
    ]
    assert found["images"] == 3 and set(found["intervals"]) == set(found["metrics"])
    for name in found["metrics"]:
        assert f"\n{name} " in out
    as_json, _ = run(capsys, *line, "--json")
    assert json.loads(as_json)["metrics"] == found["metrics"]


def test_every_format_gives_the_same_precision(model, images, tmp_path, capsys):
    found = labeled(images)
    results = []
    for form, writer in write.FORMATS.items():
        folder = tmp_path / form
        for name in SIZES:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((images / name).read_bytes())
        writer(folder, found, CLASSES)
        line = ["evaluate", f"--model={model}", f"--images={folder}", "--json"]
        results.append(json.loads(run(capsys, *line)[0])["metrics"])
    assert all(one == pytest.approx(results[0], nan_ok=True) for one in results)


def test_suites_of_images_with_one_class_each_are_refused(model, images, capsys):
    line = ["evaluate", "--suite=fgsm", f"--model={model}", f"--images={images}"]
    _, err = run(capsys, *line, status=2)
    assert "judge models that tell one class of an image" in err
    assert "task 'detection' predicts otherwise: evaluate it without --suite" in err


def test_an_evaluation_that_cannot_be_is_told(model, images, tmp_path, capsys):
    wrong = {
        f"--model={model}": "needs --images=DIR",
        f"--model={model} --images={tmp_path / 'none'}": "there is no '",
        f"--model={model} --images={images}": "holds 3 images and no boxes",
        f"--model={model} --images={images} --generation=1": "takes either --model",
        f"--model={model} --images={images} --epsilon=3": "--epsilon belongs to",
        f"--images={images}": "--images belongs to",
    }
    for flags, told in wrong.items():
        _, err = run(capsys, "evaluate", *flags.split(), status=2)
        assert told in err and err.count("error: ") == 1, flags
