"""TFRecord files: every record at random, and nothing taken that is damaged."""

import gzip
import io
import os
import pathlib

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data.sources import fingerprint
from noisy_student_jax.data.streaming import records, tf, tfrecord
from noisy_student_jax.data.streaming.records import Features
from noisy_student_jax.data.streaming.tfrecord import TFRecordSource
from noisy_student_jax.images.preprocessing import Preprocessing

COUNTS = {
    "train-00000-of-00003": 5,
    "train-00001-of-00003": 1,
    "train-00002-of-00003": 4,
}
SIZES = [4, 30, 17, 9, 25, 6, 12, 40, 3, 8]


def png(number):
    image = np.full((SIZES[number], 5, 3), 20 * number, np.uint8)
    held = io.BytesIO()
    Image.fromarray(image).save(held, "PNG")
    return held.getvalue()


def example(image, label=None, **more):
    def feature(value):
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    values = {"image/encoded": image, **more}
    if label is not None:
        values["image/class/label"] = label
    named = {name: feature(value) for name, value in values.items()}
    features = tf.train.Features(feature=named)
    return tf.train.Example(features=features).SerializeToString()


def write(path, serialized):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in serialized:
            writer.write(record)


@pytest.fixture
def folder(tmp_path):
    numbers = iter(range(10))
    for name, count in COUNTS.items():
        own = [next(numbers) for _ in range(count)]
        write(tmp_path / "data" / name, [example(png(n), 1 + n % 3) for n in own])
    return tmp_path / "data"


@pytest.fixture
def open_source(folder, tmp_path):
    def opened(paths=None, **options):
        options = {"name": "labeled", "labeled": True} | options
        return TFRecordSource(
            str(folder / "train-*") if paths is None else paths,
            tmp_path / "index",
            **options,
        )

    return opened


def starts_of(path):
    """Where each record of a file begins."""
    starts, start, data = [], 0, path.read_bytes()
    while start < len(data):
        starts.append(start)
        start += 16 + int.from_bytes(data[start : start + 8], "little")
    return starts


def damage(path, place, value=None):
    data = bytearray(path.read_bytes())
    data[place] = data[place] ^ 0x55 if value is None else value
    path.write_bytes(data)


def test_records_are_addressed_over_all_files(open_source):
    source = open_source()

    assert len(source) == 10
    assert source.key(0) == "labeled/train-00000-of-00003/00000000"
    assert source.key(5) == "labeled/train-00001-of-00003/00000000"
    assert source.key(9) == "labeled/train-00002-of-00003/00000003"
    assert source.labels.tolist() == [n % 3 for n in range(10)]
    wanted = [9, 0, 5, 4, 0, 6]
    encoded = source.read_encoded(wanted)
    assert encoded.data == [png(number) for number in wanted]
    assert encoded.status == ["ok"] * 6


def test_records_are_decoded_with_their_labels(open_source):
    examples = open_source().read([7, 2])

    assert [image.shape for image in examples.images] == [(40, 5, 3), (17, 5, 3)]
    assert [image[0, 0, 0] for image in examples.images] == [140, 40]
    assert examples.labels.tolist() == [1, 2]


def test_a_list_of_files_and_other_names_of_features_will_do(tmp_path, open_source):
    path = tmp_path / "own.tfrecord"
    write(path, [example(b"", 7, picture=png(1), kind=0)])
    features = Features(image="picture", label="kind", first_label=0)

    source = open_source([path], features=features, classes=("cat", "dog"))

    assert source.read_encoded([0]).data == [png(1)]
    assert source.labels.tolist() == [0]
    assert source.classes == ("cat", "dog")


def test_classes_without_names_are_named_by_their_numbers(open_source):
    assert open_source().classes == ("0", "1", "2")


def test_records_may_be_without_labels(open_source, tmp_path):
    path = tmp_path / "pool.tfrecord"
    write(path, [example(png(1)), example(png(2))])

    source = open_source([path], labeled=False, name="unlabeled")

    assert source.labels is None
    assert source.classes == ()
    assert source.read([1]).labels is None
    assert source.key(1) == "unlabeled/pool.tfrecord/00000001"


def test_an_empty_file_among_others_is_passed_over(open_source, folder):
    write(folder / "train-00000-of-00000", [])

    source = open_source()
    assert len(source) == 10
    assert source.read_encoded([0, 9]).data == [png(0), png(9)]


def test_a_subset_keeps_keys_labels_and_records_together(open_source):
    some = open_source().subset(np.array([9, 2, 5]))

    assert [some.key(n)[-8:] for n in range(3)] == ["00000003", "00000002", "00000000"]
    assert some.labels.tolist() == [0, 2, 2]
    assert some.read_encoded([2, 0]).data == [png(5), png(9)]
    assert len(some) == 3
    again = some.subset(np.array([1]), labeled=False)
    assert again.read_encoded([0]).data == [png(2)]
    assert again.labels is None


def test_a_file_is_looked_through_once_and_again_when_it_has_changed(
    open_source, folder, monkeypatch
):
    looked = []
    through = tfrecord._starts
    monkeypatch.setattr(
        tfrecord, "_starts", lambda path: looked.append(path.name) or through(path)
    )
    first = open_source()
    assert sorted(looked) == sorted(COUNTS)

    looked.clear()
    second = open_source()
    assert looked == []
    assert second.labels.tolist() == first.labels.tolist()
    assert second.read_encoded([3, 8]) == first.read_encoded([3, 8])

    changed = folder / "train-00001-of-00003"
    write(changed, [example(png(8), 1), example(png(9), 3)])
    third = open_source()
    assert looked == [changed.name]
    assert len(third) == 11
    assert third.labels[5:7].tolist() == [0, 2]
    assert third.read_encoded([6]).data == [png(9)]


def test_a_damaged_index_is_made_again(open_source, tmp_path):
    whole = open_source()
    for path in (tmp_path / "index").iterdir():
        path.write_bytes(path.read_bytes()[:50])

    again = open_source()
    assert again.labels.tolist() == whole.labels.tolist()
    for path in (tmp_path / "index").iterdir():
        assert pq.read_table(path).num_rows > 0


def test_a_reader_gives_what_reading_and_preprocessing_give(open_source, folder):
    start = starts_of(folder / "train-00000-of-00003")[2]
    damage(folder / "train-00000-of-00003", start + 40)
    source, authors = open_source(), Preprocessing(8, 2, "bicubic_tf1")
    reader = source.reader(authors, [range(1, 4), range(6, 10)])

    for batch in (range(1, 4), range(6, 10)):
        found, status = reader.take(len(batch))
        wanted = source.read(batch)
        assert status == wanted.status
        for image, whole in zip(found["image"], wanted.images, strict=True):
            expected = (
                np.full((8, 8, 3), 128) if whole is None else authors.apply(whole)
            )
            np.testing.assert_array_equal(image, expected)
    reader.close()


def test_a_record_with_a_wrong_checksum_is_named_and_the_others_stay(
    open_source, folder
):
    path = folder / "train-00000-of-00003"
    start = starts_of(path)[2]
    damage(path, start + 40)

    source = open_source()
    encoded = source.read_encoded(range(5))

    why = f"damaged: wrong checksum of the record at byte {start}"
    assert encoded.status == ["ok", "ok", why, "ok", "ok"]
    assert encoded.data == [png(0), png(1), None, png(3), png(4)]
    assert source.labels[:5].tolist() == [0, 1, records.UNKNOWN, 0, 1]
    assert source.read([2]).images == [None]


def test_a_file_that_changes_or_goes_while_it_is_read_gives_reasons(
    open_source, folder
):
    source = open_source()
    short = folder / "train-00000-of-00003"
    os.truncate(short, starts_of(short)[4] + 20)
    (folder / "train-00001-of-00003").unlink()

    encoded = source.read_encoded([3, 4, 5, 6])

    assert [data is None for data in encoded.data] == [False, True, True, False]
    assert encoded.status[1].startswith("damaged: wrong checksum of the record at")
    assert encoded.status[2] == "No such file or directory"


@pytest.mark.parametrize("left", [5, 11, 12, 30])
def test_a_file_that_is_cut_short_is_refused_with_the_place(open_source, folder, left):
    path = folder / "train-00002-of-00003"
    start = starts_of(path)[2]
    os.truncate(path, start + left)

    with pytest.raises(
        UserError, match=rf"{path.name}' is cut short: its record at byte {start} goes"
    ):
        open_source()


@pytest.mark.parametrize(("place", "value"), [(0, None), (5, 1), (9, None)])
def test_a_wrong_length_of_a_record_is_refused_with_the_place(
    open_source, folder, place, value
):
    path = folder / "train-00002-of-00003"
    start = starts_of(path)[1]
    damage(path, start + place, value)

    with pytest.raises(
        UserError, match=rf"{path.name}' is damaged.* at byte {start} has a wrong"
    ):
        open_source()


def test_a_compressed_file_is_refused(open_source, tmp_path, folder):
    path = tmp_path / "packed.gz"
    path.write_bytes(gzip.compress((folder / "train-00000-of-00003").read_bytes()))

    with pytest.raises(UserError, match=r"packed.gz' is compressed.*gunzip"):
        open_source([path])


def test_records_of_another_layout_are_refused_with_the_names_they_use(
    open_source, tmp_path
):
    path = tmp_path / "other.tfrecord"
    write(path, [example(png(1), picture=png(1))])

    with pytest.raises(
        UserError, match=r"no feature 'jpg' \(their features: image/enc"
    ):
        open_source([path], labeled=False, features=Features(image="jpg"))
    with pytest.raises(UserError, match="no feature 'image/class/label'"):
        open_source([path])


def test_a_record_without_its_image_has_a_reason(open_source, tmp_path):
    path = tmp_path / "gaps.tfrecord"
    empty = tf.train.Example().SerializeToString()
    write(path, [example(png(1)), empty, b"\xff\xff not an example"])

    source = open_source([path], labeled=False)

    assert source.read_encoded(range(3)).status == [
        "ok",
        "no feature image/encoded with an image in it",
        "not a tf.train.Example",
    ]


def test_labels_that_are_of_no_class_are_refused_with_the_record(open_source, tmp_path):
    path = tmp_path / "labels.tfrecord"
    write(path, [example(png(1), 1), example(png(2), 4)])
    with pytest.raises(UserError, match=r"record 1 of .* label 4, .* have to be 1–3"):
        open_source([path], classes=("a", "b", "c"))

    write(path, [example(png(1), 1), example(png(2), 1), example(png(3), 0)])
    with pytest.raises(UserError, match=r"record 2 of .* label 0, .* be 1 or more"):
        open_source([path])

    # As sets without labels are often written.
    write(path, [example(png(1), -1)])
    with pytest.raises(UserError, match=r"record 0 of .* label -1"):
        open_source([path], features=Features(first_label=0))

    write(path, [example(png(1), 1), example(png(2))])
    with pytest.raises(
        UserError, match=r"record 1 of .* no feature 'image/class/label'"
    ):
        open_source([path])


def test_places_without_records_are_refused(open_source, tmp_path, folder):
    with pytest.raises(UserError, match=r"no file matches '.*/none-\*'"):
        open_source(str(tmp_path / "none-*"))
    with pytest.raises(UserError, match=r"data' is a folder: give TFRecord files"):
        open_source(str(folder))
    with pytest.raises(UserError, match="gone' is not there"):
        open_source([folder / "gone"])
    write(tmp_path / "empty", [])
    with pytest.raises(UserError, match="hold no records"):
        open_source([tmp_path / "empty"])
    write(tmp_path / "train-00000-of-00003", [example(png(1), 1)])
    with pytest.raises(UserError, match="have the same: rename one"):
        open_source(
            [folder / "train-00000-of-00003", tmp_path / "train-00000-of-00003"]
        )


def test_the_fingerprint_tells_files_records_and_labels_apart(open_source, folder):
    source = open_source()
    assert fingerprint(source) == source.fingerprint == open_source().fingerprint

    others = [
        open_source(labeled=False),
        source.subset(np.arange(9)),
        source.subset(np.arange(10)[::-1]),
        open_source(sorted(folder.iterdir())[:2]),
    ]
    os.utime(folder / "train-00001-of-00003", ns=(0, 1))
    others.append(open_source())
    assert len({source.fingerprint, *(other.fingerprint for other in others)}) == 6


def test_records_of_a_file_are_read_from_front_to_back(open_source, monkeypatch):
    source, asked = open_source(), []
    read = tfrecord.TFRecordFile.read

    def noted(self, numbers):
        asked.append((self.path.name, list(numbers)))
        return read(self, numbers)

    monkeypatch.setattr(tfrecord.TFRecordFile, "read", noted)
    source.read_encoded([9, 3, 6, 0, 4])

    assert asked == [
        ("train-00000-of-00003", [0, 3, 4]),
        ("train-00002-of-00003", [0, 3]),
    ]


@pytest.mark.parametrize("length", [0, 8, 2000])
def test_checksums_are_those_that_tensorflow_writes(tmp_path, length):
    data = np.random.default_rng(length).bytes(length)
    path = pathlib.Path(tmp_path / "one")
    write(path, [data])

    written = path.read_bytes()
    assert tfrecord.masked(data) == int.from_bytes(written[-4:], "little")
    assert tfrecord.masked(written[:8]) == int.from_bytes(written[8:12], "little")
