"""Data that are not here are counted as the config expects, for plans only."""

import json

import pytest
from support import ROOT

from noisy_student_jax.cli.main import main
from noisy_student_jax.config import base_config
from noisy_student_jax.core.console import Progress
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.data import expected, load

SIZES = {"labeled": 30, "pool": 300_000_000, "validation": 5, "test": 7, "classes": 3}


def section(tmp_path, **sources):
    data = base_config().data
    data.name, data.cache = "own", str(tmp_path / "cache")
    data.expected.update(SIZES)
    data.sources.update(labeled=str(tmp_path / "labeled"), **sources)
    return data


def test_a_place_that_is_not_there_or_not_given_is_named(tmp_path):
    (tmp_path / "labeled").mkdir()
    (tmp_path / "train-0").write_bytes(b"")
    data = section(
        tmp_path,
        test=f"tfrecord:{tmp_path}/train-*",
        validation=f"tfrecord:{tmp_path}/other-*",
    )
    assert expected.absent(data) == [
        f"validation 'tfrecord:{tmp_path}/other-*'",
        "unlabeled (not given)",
    ]


def test_a_tfds_data_set_is_where_tfds_keeps_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    data = section(tmp_path, unlabeled="tfds:cats:train[:9]")
    data.sources.labeled = "tfds:cats:train[9:]"
    assert len(expected.absent(data)) == 2
    (tmp_path / "cats").mkdir()
    assert expected.absent(data) == []


def test_where_no_sizes_are_expected_the_places_are_opened(tmp_path):
    data = section(tmp_path)
    data.expected.labeled = None
    assert expected.absent(data) == []


def test_hundreds_of_millions_are_counted_not_listed(tmp_path):
    helpers = {"interruption": Interruption(), "progress": Progress()}
    found = load(section(tmp_path), seed=0, believe=True, **helpers)
    sizes = {name: len(part) for name, part in found.parts().items()}
    assert {**sizes, "classes": len(found.classes)} == SIZES
    assert found.labeled.labels.strides == (0,)
    assert found.facts["sizes"].startswith("as config.data.expected says; not here: ")


def test_images_with_boxes_are_counted_with_labels_of_that_kind(tmp_path):
    helpers = {"interruption": Interruption(), "progress": Progress()}
    data = section(tmp_path)
    data.name = "boxes"
    labels = load(data, seed=0, believe=True, **helpers).labeled.labels

    assert labels.shape == (SIZES["labeled"], 1, 6)
    assert labels.dtype == "float32"


def test_labeled_images_left_out_in_turn_are_counted_once(tmp_path):
    data = section(tmp_path)
    data.validation_fraction = 0.0
    helpers = {"interruption": Interruption(), "progress": Progress()}

    found = load(data, seed=0, believe=True, **helpers)

    assert found.cross_fitted
    assert {*found.parts()} == {"labeled", "pool", "test"}


def test_only_a_plan_believes(tmp_path, capsys):
    config = f"--config={ROOT / 'configs' / 'svhn.py'}"
    assert main(["run", config, f"--workdir={tmp_path / 'run'}"]) == 2
    assert "there is no prepared TFDS dataset 'svhn_cropped'" in capsys.readouterr().err


PLAN = [
    "plan",
    f"--config={ROOT / 'configs' / 'svhn.py'}",
    "--config.model.name=efficientnet_test",
]


def test_a_plan_says_on_whose_word_its_sizes_are(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert main(PLAN) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "69,257 labeled, 531,131 pool, 4,000 validation, 26,032 test" in lines[1]
    assert lines[2].startswith("sizes: as config.data.expected says; not here: ")
    assert "202 passes over the labeled images, 132 over the others" in lines[4]
    (told,) = [line for line in lines if line.endswith("on 8 of them")]
    assert "of a TPU v3 core (peak 61.5 TFLOP/s in bfloat16) if 10 %" in told
    assert main([*PLAN, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["devices"] == 8
    student = facts["generations"][1]
    assert student["passes"]["labeled"] == pytest.approx(109_474 * 128 / 69_257)
    assert student["passes"]["pseudo"] == pytest.approx(109_474 * 640 / 531_130)
    spent = sum(student[f"{part}_flops"] for part in ("train", "label", "evaluate"))
    assert student["chip_hours"] == pytest.approx(spent / 61.5e12 / 0.1 / 3600)
    assert student["label_flops"] == 0 < facts["generations"][0]["label_flops"]


def test_a_plan_tells_what_does_not_fit_its_chip(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    flags = ["--config.train.batch=1024000", "--config.plan.devices=1"]
    assert main([*PLAN, *flags]) == 0
    assert "  that is more than the 17.2 GB of a TPU v3 core: " in (
        capsys.readouterr().out
    )


def test_a_batch_that_the_planned_devices_cannot_share_is_refused(capsys):
    assert main([*PLAN, "--config.train.batch=12"]) == 2
    err = capsys.readouterr().err
    assert "generation_0: a batch of 12 labeled + 0 pseudo-labeled images" in err
    assert "each of 8 devices" in err


def test_a_chip_that_nobody_knows_is_refused(capsys):
    assert main([*PLAN, "--config.plan.chip=tpu_v3"]) == 2
    err = capsys.readouterr().err
    assert "config.plan.chip is 'tpu_v3', but may only be one of" in err
