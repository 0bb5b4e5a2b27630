"""Labeling: one row a record, in order, whatever the pool is like."""

import contextlib
import hashlib

import numpy as np
import pyarrow.parquet as pq
import pytest

from noisy_student_jax.core.console import Progress
from noisy_student_jax.core.errors import Interrupted, TrainingDivergedError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.core.protocols import Examples
from noisy_student_jax.data.sources import read_all_good, shard_bounds
from noisy_student_jax.evaluation.predictor import Predictor
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.pseudo_labels import sidecar
from noisy_student_jax.pseudo_labels.label import Shard, label_pool
from noisy_student_jax.tasks.classification import Classification

CLASSES, SIDE, COUNT = 3, 4, 23
TASK = Classification(("a", "b", "c"))
METADATA = {"task": "classification", "model": "m", "model_sha256": "ab" * 32}


class Pool:
    """Gray images that say their number; some cannot be decoded."""

    def __init__(self, bad=None, count=COUNT):
        self.bad, self.count, self.asked = bad or {}, count, []

    def __len__(self):
        return self.count

    def key(self, index):
        return f"pool/{index:03d}"

    def read(self, indices):
        self.asked += indices
        status = [self.bad.get(index, "ok") for index in indices]
        images = [
            np.full((SIDE, SIDE, 3), index, np.uint8) if reason == "ok" else None
            for index, reason in zip(indices, status, strict=True)
        ]
        return Examples(images, status, None)


def expected(numbers):
    """What the teacher below thinks of images that say these numbers."""
    draws = [np.random.default_rng(int(n)).dirichlet(np.ones(CLASSES)) for n in numbers]
    return np.array(draws, np.float32).reshape(-1, CLASSES)


class Teacher:
    """Predicts from the pixels; takes a few images at once."""

    preprocessing = Preprocessing(SIDE, 0)
    abandoning = staticmethod(contextlib.nullcontext)

    def __init__(self, batch=4, poison=None, ahead=1):
        self.batch, self.poison, self.ahead, self.placed = batch, poison, ahead, 0

    def place(self, variables):
        self.placed += 1
        return variables

    def start(self, variables, images):
        assert variables == "weights"
        assert 0 < len(images) <= self.batch
        numbers = images[:, 0, 0, 0]
        p = expected(numbers)
        p[numbers == self.poison] = np.nan
        return lambda: {"probabilities": p, "logits": np.log(p)}


def label(folder, pool=None, *, teacher=None, shards=3, interruption=None):
    pool = pool or Pool()
    bounds = shard_bounds(len(pool), shards)
    return label_pool(
        teacher or Teacher(),
        "weights",
        TASK,
        pool,
        [Shard(number, *ends) for number, ends in enumerate(bounds)],
        folder,
        top_k=None,
        metadata=METADATA,
        interruption=interruption or Interruption(),
        progress=Progress(every_seconds=1e9),
    )


def rows(folder):
    """All rows of all sidecars, in order."""
    return [
        row
        for path in sidecar.shards(folder)
        for row in pq.read_table(path).to_pylist()
    ]


def digests(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
    }


@pytest.mark.parametrize("batch", [1, 4, 100])
@pytest.mark.parametrize("shards", [1, 3, COUNT])
def test_there_is_one_row_a_record_in_order(tmp_path, batch, shards):
    counts = label(tmp_path, teacher=Teacher(batch), shards=shards)

    assert counts == {"read": COUNT, "labeled": COUNT, "quarantined": 0}
    assert len(sidecar.shards(tmp_path)) == shards
    found = rows(tmp_path)
    assert [row["key"] for row in found] == [f"pool/{n:03d}" for n in range(COUNT)]
    p = expected(range(COUNT))
    assert [row["label"] for row in found] == p.argmax(axis=1).tolist()
    np.testing.assert_array_equal([row["score"] for row in found], p.max(axis=1))
    np.testing.assert_array_equal(
        [row["probabilities"] for row in found], p.astype(np.float16)
    )


BAD = {0: "truncated", 5: "not an image", 6: "not an image", 22: "truncated"}


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_records_that_cannot_be_used_are_quarantined_by_reason(tmp_path, batch):
    counts = label(tmp_path, Pool(BAD), teacher=Teacher(batch))

    assert counts == {"read": 23, "labeled": 19, "quarantined": 4}
    quarantine = pq.read_table(tmp_path / sidecar.QUARANTINE).to_pylist()
    assert quarantine == [
        {"key": f"pool/{n:03d}", "reason": reason} for n, reason in BAD.items()
    ]
    p = expected(range(COUNT))
    for number, row in enumerate(rows(tmp_path)):
        assert row["status"] == BAD.get(number, "ok")
        if number in BAD:
            assert row["label"] is row["score"] is row["probabilities"] is None
        else:
            # The bad ones beside it have not moved it.
            assert row["label"] == p[number].argmax()
            assert row["probabilities"] == p[number].astype(np.float16).tolist()


def test_a_shard_of_nothing_but_bad_records_is_a_shard_too(tmp_path):
    bad = dict.fromkeys(range(8), "missing")
    counts = label(tmp_path, Pool(bad), shards=3)

    assert counts == {"read": 23, "labeled": 15, "quarantined": 8}
    assert len(sidecar.shards(tmp_path)) == 3
    # The second one has records of both kinds, the first has but bad ones.
    assert {row["status"] for row in rows(tmp_path)[:7]} == {"missing"}


def test_a_pool_of_nothing_but_bad_records_is_labeled_nevertheless(tmp_path):
    counts = label(tmp_path, Pool(dict.fromkeys(range(COUNT), "missing")))

    assert counts == {"read": 23, "labeled": 0, "quarantined": 23}


def test_finished_shards_are_left_as_they_are(tmp_path):
    label(tmp_path / "whole", Pool(BAD))
    label(tmp_path / "parts", Pool(BAD))
    second = tmp_path / "parts" / "shard_000001.parquet"
    times = {p: p.stat().st_mtime_ns for p in sidecar.shards(tmp_path / "parts")}
    second.unlink()
    (tmp_path / "parts" / sidecar.QUARANTINE).unlink()

    pool = Pool(BAD)
    counts = label(tmp_path / "parts", pool)

    assert pool.asked == list(range(*shard_bounds(COUNT, 3)[1]))
    assert counts == {"read": 23, "labeled": 19, "quarantined": 4}
    assert digests(tmp_path / "parts") == digests(tmp_path / "whole")
    for path, time in times.items():
        assert (path.stat().st_mtime_ns == time) == (path != second)


def test_a_flipped_bit_of_an_unfinished_labeling_is_found_or_harmless(tmp_path, capsys):
    label(tmp_path / "whole", Pool(BAD))
    path, found = tmp_path / "whole" / "shard_000001.parquet", 0
    whole, before = path.read_bytes(), rows(tmp_path / "whole")

    for place in np.random.default_rng(0).integers(0, len(whole) * 8, 150):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        path.unlink()
        path.write_bytes(data)
        pool = Pool(BAD)
        label(tmp_path / "whole", pool)
        if pool.asked:
            found += 1
            assert pool.asked == list(range(*shard_bounds(COUNT, 3)[1]))
            assert f"'{path}' is damaged (" in capsys.readouterr().out
            assert path.read_bytes() == whole
        assert rows(tmp_path / "whole") == before, place

    assert found > 130


def damaged_at_the_end(path):
    path.write_bytes(path.read_bytes()[:-9])


def of_fewer_records(path):
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 6), path)


def of_other_records(path):
    table = pq.read_table(path.with_name("shard_000001.parquet"))
    pq.write_table(table.slice(0, 7), path)


def of_another_model(path):
    table = pq.read_table(path)
    other = {**table.schema.metadata, b"noisy_student.model_sha256": b"cd" * 32}
    pq.write_table(table.replace_schema_metadata(other), path)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (damaged_at_the_end, "("),
        (of_fewer_records, "it has 6 rows, and its shard 7 records"),
        (of_other_records, "it holds the labels of other records"),
        (of_another_model, "it holds the labels of another model"),
    ],
)
def test_a_shard_of_something_else_is_labeled_again(tmp_path, capsys, spoil, why):
    label(tmp_path)
    before = rows(tmp_path)
    spoil(tmp_path / "shard_000000.parquet")
    pool = Pool()

    label(tmp_path, pool)

    assert pool.asked == list(range(*shard_bounds(COUNT, 3)[0]))
    assert rows(tmp_path) == before
    said = capsys.readouterr().out
    assert "shard_000000.parquet' is damaged" in said
    assert why in said


def test_a_shard_without_a_sum_is_kept_as_before(tmp_path):
    label(tmp_path)
    for path in sidecar.shards(tmp_path):
        pq.write_table(pq.read_table(path), path)
    pool = Pool()

    label(tmp_path, pool)

    assert not pool.asked


@pytest.mark.parametrize("shards", [1, 5])
def test_how_far_it_goes_ahead_changes_no_byte(tmp_path, shards):
    for ahead in (0, 1, 3):
        folder = tmp_path / str(ahead)
        label(folder, Pool(BAD), teacher=Teacher(3, ahead=ahead), shards=shards)
        assert digests(folder) == digests(tmp_path / "0")


def test_labeling_twice_doubles_nothing(tmp_path):
    first = label(tmp_path)
    pool = Pool()

    assert label(tmp_path, pool) == first
    assert pool.asked == []
    assert len(rows(tmp_path)) == COUNT


@pytest.mark.parametrize("ahead", [0, 2])
def test_being_asked_to_stop_keeps_whole_shards_only(tmp_path, ahead):
    interruption = Interruption()

    class Stopping(Pool):
        def read(self, indices):
            if 9 in indices:
                interruption.signal = 15
            return super().read(indices)

    with pytest.raises(Interrupted, match="SIGTERM"):
        label(
            tmp_path / "stopped",
            Stopping(),
            teacher=Teacher(ahead=ahead),
            interruption=interruption,
        )
    # What was read, or begun, beyond the last whole shard is given up.
    kept = ["shard_000000.parquet"] if not ahead else []
    assert [p.name for p in sorted((tmp_path / "stopped").glob("*"))] == kept

    label(tmp_path / "stopped")
    label(tmp_path / "whole")
    assert digests(tmp_path / "stopped") == digests(tmp_path / "whole")


def test_a_teacher_that_predicts_no_numbers_is_refused_by_name(tmp_path):
    with pytest.raises(TrainingDivergedError) as caught:
        label(tmp_path, Pool({8: "missing"}), teacher=Teacher(poison=10))

    assert str(caught.value) == (
        "the model's prediction for 'pool/010' is not finite: its weights are unusable;"
        " train it again"
    )
    # The shard that it is in is not written.
    assert [path.name for path in tmp_path.iterdir()] == ["shard_000000.parquet"]


def test_weights_are_placed_once(tmp_path):
    teacher = Teacher()
    label(tmp_path, teacher=teacher)

    assert teacher.placed == 1


def test_sidecars_say_by_whom(tmp_path):
    label(tmp_path)

    for path in sidecar.shards(tmp_path):
        assert METADATA.items() <= sidecar.read_metadata(path).items()


def test_the_teacher_of_a_run_is_its_averaged_model_without_noise(
    tiny_run, tiny_student
):
    teacher = tiny_student(0)
    model = bundles.read(tiny_run / "generation_0" / "model")
    raw = bundles.read(tiny_run / "generation_0" / "train" / "raw_model")
    labels = tiny_run / "generation_0" / "labels"
    pool = teacher.run.dataset.pool
    found = rows(labels)

    metadata = sidecar.read_metadata(sidecar.shards(labels)[0])
    assert metadata["model_sha256"] == model.sha256
    assert model.origin["weights"] == "ema"
    assert [row["key"] for row in found] == [pool.key(n) for n in range(len(pool))]
    images, _ = read_all_good(pool, model.preprocessing, part="pool")
    predictor = Predictor.from_bundle(model, teacher.run.task, batch=64)
    p = predictor(model.variables, images)["probabilities"]
    stored = np.array([row["probabilities"] for row in found])
    np.testing.assert_allclose(stored, p, rtol=1e-3, atol=1e-6)
    other = predictor(raw.variables, images)["probabilities"]
    assert not np.allclose(stored, other, rtol=1e-3, atol=1e-6)


def test_a_teacher_sees_the_center_crop_that_it_was_trained_for(
    tiny_student, monkeypatch
):
    from noisy_student_jax.generation import label

    asked = []
    monkeypatch.setattr(label.label, "label_pool", lambda *a, **_: asked.append(a))
    # Its student is at 8 pixels, with another crop, mean and resize.
    teacher = tiny_student(
        0,
        *(
            f"--config.generations[0].model.{field}"
            for field in ("resolution=11", "crop_padding=3", "mean=(0.1, 0.2, 0.3)")
        ),
        "--config.generations[0].model.interpolation=bicubic_tf1",
    )
    label.label_pool(teacher)

    ((predictor, *_),) = asked
    assert predictor.preprocessing == Preprocessing(
        11, 3, "bicubic_tf1", (0.1, 0.2, 0.3), (0.35, 0.35, 0.35)
    )
    assert teacher.run.student(1).spec.model.resolution == 8


def test_images_are_center_crops_and_nothing_is_added(tmp_path):
    class Photographs(Pool):
        def read(self, indices):
            good = super().read(indices)
            shape = (4 * SIDE, 6 * SIDE, 3)
            images = [np.random.default_rng(n).integers(0, 256, shape) for n in indices]
            return Examples([i.astype(np.uint8) for i in images], good.status, None)

    class Watching(Teacher):
        preprocessing = Preprocessing(SIDE, 2)

        def start(self, variables, images):
            seen.extend(images)
            return super().start(variables, images)

    seen, pool = [], Photographs()
    label(tmp_path, pool, teacher=Watching(), shards=1)

    whole = pool.read(list(range(COUNT))).images
    np.testing.assert_array_equal(seen, Watching.preprocessing.apply_all(whole))
