"""The hub folder: it loads as it is, and its card says what is known and no more."""

import json

import numpy as np
import pytest
import yaml
from interop.export import some
from outside.bright_square import BrightSquare

from noisy_student_jax.core import files
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.interop.export import model_card, to_hub
from noisy_student_jax.models import bundle as bundles

EVALUATION = {
    "schema": 1,
    "splits": {
        "test": {
            "images": 40,
            "ema": {"top1": 0.85, "nll": 0.5},
            "interval": [0.71, 0.93],
        }
    },
}


@pytest.fixture
def source(tmp_path):
    return some.written(tmp_path / "generation_1" / "model")


def export(source, output):
    one = bundles.read(source)
    to_hub.export(one, output, task=some.task(one), source=source)
    text = (output / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_a_model_of_ours_alone_is_a_bundle_of_ours(source, tmp_path):
    front, body = export(source, tmp_path / "hub")

    before, after = bundles.read(source), bundles.read(tmp_path / "hub")
    assert after.sha256 == before.sha256
    assert after.classes == before.classes
    np.testing.assert_array_equal(after.trained_on, before.trained_on)
    assert front["library_name"] == "noisy-student-jax"
    assert "noisy-student predict --model=model IMAGE" in body
    assert "timm" not in front["tags"]
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert config["label_names"] == list(some.CLASSES)


def test_the_card_lists_the_networks_of_several_with_one_head(tmp_path):
    source = tmp_path / "model"
    bundles.write(some.concatenated(), source)

    _, body = export(source, tmp_path / "hub")

    members = bundles.card(bundles.read(source))["members"]
    assert len(members) == 2
    for member in members:
        assert member["sha256"] in body
    assert bundles.read(tmp_path / "hub").sha256 == bundles.read(source).sha256


def test_a_model_that_timm_has_is_timms_with_the_bundle_in_it(tmp_path):
    from safetensors.numpy import load_file

    source = some.written(tmp_path / "model", "lite0", side=32)
    front, body = export(source, tmp_path / "hub")

    hub = tmp_path / "hub"
    assert bundles.read(hub / "noisy_student").sha256 == bundles.read(source).sha256
    assert "conv_stem.weight" in load_file(hub / "model.safetensors")
    config = json.loads((hub / "config.json").read_text())
    assert config["architecture"] == "tf_efficientnet_lite0"
    assert front["library_name"] == "timm"
    assert "`tf_efficientnet_lite0`" in body
    assert "--model=model/noisy_student IMAGE" in body


def test_the_card_says_of_how_many_views_its_metrics_are(tmp_path):
    one = some.bundle("lite0", side=32)
    bundles.write(one.in_views(2), tmp_path / "model")

    _, body = export(tmp_path / "model", tmp_path / "hub")

    assert "over 2 views of them: whole, zoomed." in body
    assert "`tf_efficientnet_lite0` and sees one view, so that other metrics" in body
    task = some.task(one)
    alone = model_card.text(one, None, task=task, timm="lite0", own=".")
    assert "view" not in alone


def test_what_timm_would_compute_otherwise_is_not_written_for_it(tmp_path):
    one = some.bundle("lite0", side=32)
    one.arguments["batch_norm_epsilon"] = 1e-5
    bundles.write(one, tmp_path / "model")

    front, _ = export(tmp_path / "model", tmp_path / "hub")

    assert front["library_name"] == "noisy-student-jax"
    assert bundles.read(tmp_path / "hub").arguments["batch_norm_epsilon"] == 1e-5


def test_what_is_not_known_is_called_unknown(source, tmp_path):
    front, body = export(source, tmp_path / "hub")

    assert front["license"] == "unknown"
    assert front["datasets"] == front["metrics"] == []
    assert body.count("unknown, to be filled in") == 5
    assert "Unknown: no evaluation of these weights" in body
    assert "| Its teacher (SHA-256 of the weights) | not recorded |" in body


def test_the_lineage_is_the_bundles(tmp_path):
    origin = some.ORIGIN | {"teacher": "ab" * 32, "license": "mit", "via": ["x|y"]}
    source = some.written(tmp_path / "model", origin=origin)

    front, body = export(source, tmp_path / "hub")

    assert front["license"] == "mit"
    assert "| License of the weights | mit |" in body
    assert "| Generation (0 is the first teacher) | 1 |" in body
    assert "| Dataset | pets |" in body
    assert "ab" * 32 in body
    assert r'| via | \["x\|y"\] |' in body
    assert bundles.read(source).sha256 in body


@pytest.mark.parametrize("place", ["generation_1", ".", "generation_1/model"])
def test_the_evaluation_of_these_weights_is_found(source, tmp_path, place):
    found = EVALUATION | {"sha256": bundles.read(source).sha256}
    files.write_json(tmp_path / place / "evaluation.json", found)
    used = source
    if place == ".":
        used = tmp_path / "best"
        source.rename(used)

    front, body = export(used, tmp_path / "hub")

    assert front["metrics"] == ["accuracy"]
    assert "| test | 40 | top1 | 0.8500 (0.7100 to 0.9300) |" in body
    assert "| test | 40 | nll | 0.5000 |" in body


def test_results_on_images_left_out_in_turn_are_said_to_be_those(source, tmp_path):
    splits = {"validation": EVALUATION["splits"]["test"] | {"left_out_in_turn": True}}
    found = {"sha256": bundles.read(source).sha256, "splits": splits}
    files.write_json(tmp_path / "generation_1" / "evaluation.json", EVALUATION | found)

    _, body = export(source, tmp_path / "hub")

    told = r"| validation \(labeled images left out in turn\) | 40 | top1 | 0.8500"
    assert told in body


def test_the_best_models_evaluation_is_its_generations(source, tmp_path):
    found = EVALUATION | {"sha256": bundles.read(source).sha256}
    files.write_json(tmp_path / "generation_1" / "evaluation.json", found)
    files.write_json(
        tmp_path / "generation_0" / "evaluation.json", found | {"sha256": "other"}
    )
    source.rename(tmp_path / "best")

    _, body = export(tmp_path / "best", tmp_path / "hub")

    assert "| test | 40 | top1 |" in body


def test_the_card_of_a_detector_has_its_precision_and_says_how_boxes_come(tmp_path):
    source = tmp_path / "generation_1" / "model"
    bundles.write(some.detector().in_views(2), source)
    of_test = {
        "images": 40,
        "ema": {"AP": 0.537, "AP50": 0.794, "AP/cell": 0.6, "AP/platelet": None},
        "interval": [0.51, 0.56],
        "intervals": {"AP": [0.51, 0.56], "AP50": [0.77, 0.81], "AP/cell": [0.5, None]},
    }
    found = {"sha256": bundles.read(source).sha256, "splits": {"test": of_test}}
    files.write_json(tmp_path / "generation_1" / "evaluation.json", found)

    front, body = export(source, tmp_path / "hub")

    assert front["pipeline_tag"] == front["tags"][0] == "object-detection"
    assert front["metrics"] == ["mean_average_precision"]
    assert "from the mean over 2 views of them: whole, mirrored." in body
    assert "| test | 40 | AP | 0.5370 (0.5100 to 0.5600) |" in body
    assert "| test | 40 | AP50 | 0.7940 (0.7700 to 0.8100) |" in body
    assert "| test | 40 | AP/cell | 0.6000 |" in body
    assert "AP/platelet" not in body
    for flags in ("", "--json ", "--draw=DIR ", "--format=coco --output=DIR "):
        assert f"noisy-student predict --model=model {flags}IMAGE" in body


def test_a_task_that_the_hub_has_no_name_for_has_its_own(tmp_path):
    task = BrightSquare(some.CLASSES)
    one = some.bundle(task=task.name)

    text = model_card.text(one, EVALUATION, task=task, timm=None, own=".")

    front = yaml.safe_load(text.split("---\n")[1])
    assert "pipeline_tag" not in front
    assert front["tags"][0] == task.name
    assert front["metrics"] == []
    assert "| test | 40 | top1 | 0.8500 |" in text


@pytest.mark.parametrize("place", ["generation_1/model", "best"])
def test_a_models_metrics_are_those_of_its_run(place, tiny_run, tmp_path):
    front, body = export(tiny_run / place, tmp_path / "hub")

    generation = bundles.read(tiny_run / place).origin["generation"]
    found = files.read_json(tiny_run / f"generation_{generation}" / "evaluation.json")
    test = found["splits"]["test"]
    assert f"| test | {test['images']} | top1 | {test['ema']['top1']:.4f} (" in body
    assert front["metrics"] == ["accuracy"]


def test_the_evaluation_of_other_weights_is_not_taken(source, tmp_path):
    found = EVALUATION | {"sha256": "of another model"}
    files.write_json(tmp_path / "generation_1" / "evaluation.json", found)

    front, body = export(source, tmp_path / "hub")

    assert front["metrics"] == []
    assert "0.85" not in body


NASTY = (
    "class<script>alert(1)</script>",
    "a\n---\nlicense: mit",
    "[link](http://example.com)",
    "| cell |",
    "**bold** `code` <!-- hidden",
    "\u202eright to left",
    "\x1b[31mred",
)


def test_names_of_people_are_shown_and_do_nothing(tmp_path):
    origin = some.ORIGIN | {"dataset": NASTY[1], "license": "mit\ntags: [x]"}
    changes = {"classes": NASTY, "origin": origin}
    one = some.bundle(**changes)
    one.arguments["outputs"] = len(NASTY)
    bundles.write(one, tmp_path / "model")

    front, body = export(tmp_path / "model", tmp_path / "hub")

    assert front["license"] == "mit\ntags: [x]"
    assert front["tags"] == ["image-classification", "noisy-student", "jax"]
    assert "<" not in body
    assert "\n---\n" not in body
    assert "\x1b" not in body
    assert "\u202e" not in body
    assert r"2. \[link\]\(http\://example\.com\)" in body
    assert r"3. \| cell \|" in body
    assert r"1. a \-\-\- license\: mit" in body
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert config["label_names"] == list(NASTY)


def test_thousands_of_classes_do_not_fill_the_card():
    one = some.bundle(classes=tuple(f"class {n}" for n in range(1000)))

    text = model_card.text(one, None, task=some.task(one), timm=None, own=".")

    assert "99. class 99" in text
    assert "class 100" not in text
    assert "and 900 more" in text


def test_a_card_says_whose_resize_it_is():
    assert "resized with Pillow (bilinear)," in model_card._what(
        some.bundle(interpolation="bilinear")
    )
    authors = model_card._what(some.bundle(interpolation="bicubic_tf1"))
    assert "resized with TensorFlow 1's `resize_bicubic`," in authors


def test_a_letterbox_is_pushed_as_a_bundle(tmp_path):
    boxed = Preprocessing(8, 0, framing="letterbox")
    one = some.bundle("lite0", preprocessing=boxed)

    to_hub.export(one, tmp_path / "hub", task=some.task(one), source=tmp_path)

    assert bundles.read(tmp_path / "hub").preprocessing == boxed
    readme = (tmp_path / "hub" / "README.md").read_text()
    assert "whole images at the top left of a gray square, resized" in readme
    assert "timm" not in readme
