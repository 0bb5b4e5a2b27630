"""The whole loop on images that are streamed: folders without a cache, TFRecord."""

import json
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from people import FOLDER, QUICK, line

from noisy_student_jax import data as datasets
from noisy_student_jax.cli.main import main
from noisy_student_jax.config import base_config
from noisy_student_jax.core.console import Progress
from noisy_student_jax.core.preemption import Interruption

SHORT = ["--config.control.enabled=false", "--config.noise.pseudo.crop_area=0.3"]
CLASSES = 3


def examples(root):
    """Files, with labels counted from 1 as ImageNet's are; None without."""
    for number, path in enumerate(sorted((root / "labeled").rglob("*.png"))):
        yield f"train-{number % 2:05d}", path, 1 + number // 16
    for path in sorted((root / "unlabeled").glob("*.*g")):
        yield "pool-00000", path, None


@pytest.fixture(scope="module")
def records(folders, tmp_path_factory):
    """The folders' images as TFRecord files in ImageNet's layout."""
    import tensorflow as tf

    place = tmp_path_factory.mktemp("records")
    writers = {}
    for name, path, label in examples(folders):
        if name not in writers:
            writers[name] = tf.io.TFRecordWriter(str(place / name))
        image = tf.train.BytesList(value=[path.read_bytes()])
        feature = {"image/encoded": tf.train.Feature(bytes_list=image)}
        if label is not None:
            number = tf.train.Int64List(value=[label])
            feature["image/class/label"] = tf.train.Feature(int64_list=number)
        example = tf.train.Example(features=tf.train.Features(feature=feature))
        writers[name].write(example.SerializeToString())
    for writer in writers.values():
        writer.close()
    return place


def counts(workdir):
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["verdict"]["says"]
    return summary["splits"], summary["classes"]


def quarantined(workdir):
    path = workdir / "generation_0" / "labels" / "quarantine.parquet"
    return pq.read_table(path).to_pylist()


def test_folders_without_a_cache(folders, tmp_path):
    workdir = tmp_path / "run"

    ways = ["--config.data.pipeline=streamed", "--config.data.augment=device", *SHORT]

    assert main(line("run", folders, workdir, *ways)) == 0

    splits, classes = counts(workdir)
    assert len(classes) == CLASSES
    # Nothing is read beforehand, so the torn file and the copy are still there.
    assert splits["pool"] == 38
    (bad,) = quarantined(workdir)
    assert bad["key"] == "unlabeled/torn.jpg"
    assert not list((workdir / "prepared").glob("side_*"))


def test_record_files(records, tmp_path):
    workdir = tmp_path / "run"
    command = [
        "run",
        f"--config={FOLDER}",
        f"--workdir={workdir}",
        f"--config.labeled=tfrecord:{records}/train-*",
        f"--config.unlabeled=tfrecord:{records}/pool-*",
        *QUICK,
        *SHORT,
    ]

    assert main(command) == 0

    splits, classes = counts(workdir)
    assert classes == ["0", "1", "2"]
    assert splits["pool"] == 38
    (bad,) = quarantined(workdir)
    assert bad["key"].startswith("unlabeled/pool-00000/")
    # The same line goes on, with nothing to do.
    assert main(command) == 0


def test_a_record_that_is_damaged_later_is_named_in_training(folders, tmp_path):
    own, workdir = tmp_path / "own", tmp_path / "run"
    shutil.copytree(folders, own)
    ways = ["--config.data.pipeline=streamed", *SHORT]
    assert main(line("prepare", own, workdir, *ways)) == 0
    # As large as before, and of the same time: only its bytes are others.
    victims = sorted((own / "labeled" / "cat").glob("*.png"))
    for path in victims[:4]:
        found = path.stat()
        path.write_bytes(b"x" * found.st_size)
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))

    more = [*ways, "--config.data.max_quarantined=0.2"]
    assert main([*line("train", own, workdir, *more), "--generation=0"]) == 0

    lines = (workdir / "generation_0/train/quarantine.csv").read_text().splitlines()
    assert lines[0] == "key,reason"
    assert 0 < len(lines) - 1 <= 4
    assert all(row.startswith("labeled/cat/") for row in lines[1:])


def test_a_torn_test_image_is_left_out_and_the_verdict_stands(
    folders, tmp_path, capsys
):
    test, workdir = tmp_path / "test", tmp_path / "run"
    for number, path in enumerate(sorted((folders / "labeled").rglob("*.png"))):
        copy = test / path.parent.name / f"t{number}.png"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    torn = sorted(test.rglob("*.png"))[7]
    torn.write_bytes(torn.read_bytes()[:60])
    ways = ["--config.data.pipeline=streamed", f"--config.test={test}", *SHORT]

    assert main(line("run", folders, workdir, *ways)) == 0

    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["splits"]["test"] == 47
    assert summary["verdict"]["images"] == 47
    evaluation = json.loads((workdir / "generation_0" / "evaluation.json").read_text())
    (key,) = evaluation["splits"]["test"]["unusable"]
    assert key == f"test/{torn.parent.name}/{torn.name}"
    told = "1 of 48 test images cannot be used"
    said = capsys.readouterr().out
    assert f"{told} and are left out, the first being '{key}'" in said
    # Not where fewer are allowed.
    (workdir / "generation_0" / "evaluation.json").unlink()
    fewer = [*ways, "--config.data.max_quarantined=0.02"]
    again = [*line("evaluate", folders, workdir, *fewer), "--generation=0"]
    assert main([*again, "--again"]) == 2
    assert f"{told}, more than config.data.max_quar" in capsys.readouterr().err


def test_a_folder_with_labels_and_a_pool_of_records_come_by_one_road(
    folders, records, tmp_path
):
    workdir = tmp_path / "run"
    pool = f"--config.unlabeled=tfrecord:{records}/pool-*"

    assert main(line("run", folders, workdir, pool, *SHORT)) == 0

    assert counts(workdir)[0]["pool"] == 38


def test_records_that_are_judged_on_leave_the_pool_they_lie_in(records, tmp_path):
    section = base_config().data
    section.update(name="own", cache=str(tmp_path), side=8)
    section.sources.update(
        labeled=f"tfrecord:{records}/train-00000", unlabeled=f"tfrecord:{records}/*"
    )

    found = datasets.load(
        section, seed=0, interruption=Interruption(), progress=Progress()
    )

    sizes = {name: len(part) for name, part in found.parts().items()}
    # All records but those that are in another part.
    assert sum(sizes.values()) == 48 + 38
    judged = [found.test, found.validation, found.labeled]
    elsewhere = {p.key(n).partition("/")[2] for p in judged for n in range(len(p))}
    pool = {found.pool.key(n).partition("/")[2] for n in range(len(found.pool))}
    assert not elsewhere & pool


def test_other_names_of_features_can_be_said(records, tmp_path, capsys):
    command = [
        "prepare",
        f"--config={FOLDER}",
        f"--workdir={tmp_path / 'run'}",
        f"--config.labeled=tfrecord:{records}/train-*",
        f"--config.unlabeled=tfrecord:{records}/pool-*",
        *QUICK,
    ]

    assert main([*command, "--config.data.image_feature=picture"]) == 2
    assert "--config.data.image_feature" in capsys.readouterr().err
    # Counted from 0, nothing is left of the first class.
    assert main([*command, "--config.data.first_label=0"]) == 2
    assert "'0' (0); add images" in capsys.readouterr().err


def test_a_data_set_of_tfds_by_its_folder(folders, tmp_path):
    import tensorflow_datasets as tfds
    from PIL import Image

    paths = sorted((folders / "labeled").rglob("*.png"))
    records = []
    for number, path in enumerate(paths):
        with Image.open(path) as image:
            pixels = np.asarray(image)
        records.append((number, {"image": pixels, "label": number // 16}))
    names = ["cat", "dog", "owl"]
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="png"),
            "label": tfds.features.ClassLabel(names=names),
        }
    )
    tfds.dataset_builders.store_as_tfds_dataset(
        "people", "1.0.0", features, {"train": records}, data_dir=tmp_path
    )
    workdir = tmp_path / "run"
    command = [
        "run",
        f"--config={FOLDER}",
        f"--workdir={workdir}",
        f"--config.labeled=tfds:{tmp_path / 'people' / '1.0.0'}:train",
        "--config.data.labels_per_class=4",
        *QUICK,
        *SHORT,
    ]

    assert main(command) == 0

    splits, classes = counts(workdir)
    assert classes == names
    assert splits["train"] == 12
    assert sum(splits.values()) == 48
