"""People's own images: what becomes of folders."""

import pathlib
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from noisy_student_jax import data as datasets
from noisy_student_jax.config import ConfigDict, base_config
from noisy_student_jax.core.console import Progress
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.data import open as open_
from noisy_student_jax.data.dealing import LACKING
from noisy_student_jax.images.decode import decode

CLASSES = ("cat", "dog", "owl")


def save(path, number):
    """Writes an image of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (10, 12, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Labeled images of three classes, and others without labels. Do not change."""
    root = tmp_path_factory.mktemp("folders")
    for label, name in enumerate(CLASSES):
        for number in range(20):
            save(root / "labeled" / name / f"{number}.png", 100 * label + number)
    for number in range(30):
        save(root / "unlabeled" / f"{number % 3}" / f"{number}.png", 1000 + number)
    return root


@pytest.fixture
def copied(folders, tmp_path):
    """The same, to change."""
    return pathlib.Path(shutil.copytree(folders, tmp_path / "copied"))


def load(root, cache, *, look_only=False, **fields):
    section = base_config().data
    section.update(name="own", cache=str(cache), side=8, workers=1)
    section.sources.update(
        labeled=str(root / "labeled"), unlabeled=str(root / "unlabeled")
    )
    sources = fields.pop("sources", {})
    section.sources.update(sources)
    section.update(ConfigDict(fields))
    return datasets.load(
        section,
        seed=0,
        interruption=Interruption(),
        progress=Progress(),
        look_only=look_only,
    )


def keys(source):
    return {source.key(index) for index in range(len(source))}


@pytest.fixture(scope="module")
def loaded(folders, tmp_path_factory):
    return load(folders, tmp_path_factory.mktemp("cache"))


def test_the_parts_are_split_by_class_and_none_is_lost(loaded, folders):
    sizes = {name: len(part) for name, part in loaded.parts().items()}

    assert loaded.classes == CLASSES
    assert loaded.name == f"{folders.name}/labeled"
    assert sizes["pool"] == 30
    assert sizes["labeled"] + sizes["validation"] + sizes["test"] == 60
    for part in (loaded.labeled, loaded.validation, loaded.test):
        assert set(part.labels.tolist()) == {0, 1, 2}
        for index, label in enumerate(part.labels):
            assert f"labeled/{CLASSES[label]}/" in part.key(index)
    assert loaded.pool.labels is None


def test_images_are_those_of_the_files(loaded, folders):
    for part in loaded.parts().values():
        images = part.read(range(len(part))).images
        for index, image in enumerate(images):
            path = folders / part.key(index).split(":")[0]
            np.testing.assert_array_equal(image, decode(path, shorter_side=8))


def test_a_folder_that_grows_moves_nothing_between_parts(copied, tmp_path):
    before = load(copied, tmp_path / "cache")
    for label, name in enumerate(CLASSES):
        for number in range(20, 50):
            save(copied / "labeled" / name / f"a{number}.png", 100 * label + number)

    after = load(copied, tmp_path / "cache")

    for part in ("labeled", "validation", "test"):
        assert keys(before.parts()[part]) <= keys(after.parts()[part])
    assert sum(len(after.parts()[p]) for p in ("labeled", "validation", "test")) == 150


def test_what_was_dealt_is_remembered_also_where_a_class_had_to_be_helped(
    copied, tmp_path
):
    small = copied / "labeled" / "owl"
    for path in sorted(small.iterdir())[3:]:
        path.unlink()
    before = load(copied, tmp_path / "cache")
    owls = {
        name: {key for key in keys(part) if "/owl/" in key}
        for name, part in before.parts().items()
    }
    assert [len(owls[p]) for p in ("labeled", "validation", "test")] == [1, 1, 1]

    for number in range(400, 440):
        save(small / f"{number}.png", number)
    after = load(copied, tmp_path / "cache")

    for name, part in after.parts().items():
        assert owls[name] <= keys(part)


def test_copies_of_test_images_leave_the_pool_and_the_labeled(copied, tmp_path, capsys):
    test = copied / "test"
    for label, name in enumerate(CLASSES):
        save(test / name / "t.png", 9000 + label)
    shutil.copy(test / "cat" / "t.png", copied / "unlabeled" / "leak.png")
    shutil.copy(test / "dog" / "t.png", copied / "labeled" / "dog" / "leak.png")
    shutil.copy(
        copied / "unlabeled" / "0" / "0.png", copied / "unlabeled" / "again.png"
    )
    for number in range(20):
        known = copied / f"labeled/cat/{number}.png"
        shutil.copy(known, copied / f"unlabeled/known{number}.png")

    found = load(copied, tmp_path / "cache", sources={"test": str(test)})

    assert len(found.test) == 3
    assert len(found.labeled) + len(found.validation) == 60
    assert len(found.pool) == 30
    assert not any(
        "leak" in key for part in found.parts().values() for key in keys(part)
    )
    told = {name: count for name, count in found.facts.items() if "copies" in name}
    cats = {
        name: sum("/cat/" in key for key in keys(found.parts()[name]))
        for name in ("labeled", "validation")
    }
    assert min(cats.values()) > 0
    assert told == {
        "left out of labeled: byte-identical copies of test images": 1,
        "left out of unlabeled: byte-identical copies of test images": 1,
        "left out of unlabeled: byte-identical copies of each other": 1,
        "left out of unlabeled: byte-identical copies of labeled images": cats[
            "labeled"
        ],
        "left out of unlabeled: byte-identical copies of validation images": cats[
            "validation"
        ],
    }
    assert "left out of unlabeled: byte-identical copies of test images: 1" in (
        capsys.readouterr().out
    )


def test_an_image_in_two_classes_is_left_out_of_both(copied, tmp_path, capsys):
    shutil.copy(copied / "labeled/cat/3.png", copied / "labeled/dog/x.png")

    found = load(copied, tmp_path / "cache")

    assert found.facts["left out of labeled: one image in two classes"] == 2
    assert not any("copies of each other" in name for name in found.facts)
    assert found.facts["read from labeled"] == "61 entries = 59 used + 2 left out"
    assert not any("cat/3.png" in k or "dog/x.png" in k for k in keys(found.labeled))
    assert "copies of them lie in other classes too" in (capsys.readouterr().out)


def test_a_copy_of_an_image_in_two_classes_is_left_out_of_the_pool_and_counted(
    copied, tmp_path
):
    shutil.copy(copied / "labeled/cat/3.png", copied / "labeled/dog/x.png")
    shutil.copy(copied / "labeled/cat/3.png", copied / "unlabeled/x.png")

    found = load(copied, tmp_path / "cache")

    assert len(found.pool) == 30
    assert found.facts["read from unlabeled"] == "31 entries = 30 used + 1 left out"
    copies = "byte-identical copies of contradictory labeled images"
    assert found.facts[f"left out of unlabeled: {copies}"] == 1


def test_each_entry_of_a_source_is_used_or_left_out_for_one_reason(copied, tmp_path):
    cat, dog = (copied / "labeled" / name for name in ("cat", "dog"))
    shutil.copy(cat / "3.png", dog / "x.png")
    shutil.copy(cat / "3.png", cat / "y.png")
    shutil.copy(dog / "5.png", dog / "z.png")
    (cat / "torn.png").write_bytes(b"no image")
    (cat / "notes.txt").write_text("no image")
    (copied / "labeled" / ".git").mkdir()

    found = load(copied, tmp_path / "cache", labels_per_class=4)

    left_out = {
        name.removeprefix("left out of labeled: "): count
        for name, count in found.facts.items()
        if name.startswith("left out of labeled")
    }
    used = sum(len(found.parts()[p]) for p in ("labeled", "validation", "test"))
    beyond = left_out.pop("beyond what was asked")
    assert left_out == {
        "hidden files and folders": 1,
        "other kinds of file (.txt 1)": 1,
        "one image in two classes": 3,
        "byte-identical copies of each other": 1,
    }
    assert used + beyond + 6 + len(found.quarantined) == 66
    assert found.facts["read from labeled"] == (
        f"66 entries = {used} used + {66 - used} left out"
    )


def test_what_cannot_be_used_is_named(copied, tmp_path):
    (copied / "unlabeled" / "torn.png").write_bytes(b"no image")
    (copied / "unlabeled" / "notes.txt").write_text("no image")

    found = load(copied, tmp_path / "cache")

    assert len(found.pool) == 30
    ((key, reason),) = found.quarantined
    assert key == "unlabeled/torn.png"
    assert reason
    assert any("kinds of file" in name for name in found.facts)


def test_without_a_pool_the_rest_of_the_labeled_images_is_the_pool(folders, tmp_path):
    found = load(folders, tmp_path, sources={"unlabeled": None}, labels_per_class=4)

    assert np.bincount(found.labeled.labels).tolist() == [4, 4, 4]
    assert found.pool.labels is None
    assert sum(len(part) for part in found.parts().values()) == 60


def test_labels_beyond_what_was_asked_are_counted(folders, tmp_path):
    found = load(folders, tmp_path, labels_per_class=4)

    beyond = found.facts["left out of labeled: beyond what was asked"]
    sizes = {name: len(part) for name, part in found.parts().items()}
    assert sizes["labeled"] == 12
    assert sizes["pool"] == 30
    assert beyond == 60 - 12 - sizes["validation"] - sizes["test"]


def test_looking_writes_nothing_and_counts_what_a_run_will(copied, tmp_path, capsys):
    cats = copied / "labeled" / "cat"
    shutil.copy(cats / "0.png", cats / "copy.png")
    shutil.copy(cats / "1.png", copied / "unlabeled" / "copy.png")
    shutil.copy(cats / "2.png", copied / "labeled" / "dog" / "copy.png")
    (copied / "labeled.csv").write_text(
        "path,label\nlabeled/owl/0.png,owl\nlabeled/cat/3.png,cat\n"
        "labeled/dog/5.png,dog\nunlabeled,cat\n"
    )
    asked = {"sources": {"test": str(copied / "labeled.csv")}, "max_quarantined": 0.5}

    found = load(copied, tmp_path / "cache", look_only=True, **asked)

    assert not (tmp_path / "cache").exists()
    assert "copies of them lie in other classes too: 'labeled/cat/2.png'" in (
        capsys.readouterr().out
    )
    run = load(copied, tmp_path / "cache", **asked)
    assert found.classes == CLASSES
    assert len(found.quarantined) == len(run.quarantined) == 1
    for name, part in run.parts().items():
        assert len(found.parts()[name]) == len(part), name


def test_looking_at_very_many_images_estimates_their_parts(
    folders, tmp_path, loaded, monkeypatch
):
    counted = load(folders, tmp_path / "cache", look_only=True)
    monkeypatch.setattr(open_, "HASHED_FILES", 59)

    found = load(folders, tmp_path / "cache", look_only=True)

    assert counted.facts["sizes"].startswith("counted before images are decoded")
    assert found.facts["sizes"].startswith("estimated by the names of files")
    assert "sizes" not in loaded.facts
    assert len(found.pool) == len(loaded.pool)
    assert abs(len(found.labeled) - len(loaded.labeled)) < 12


def test_other_fractions_deal_anew(copied, tmp_path):
    load(copied, tmp_path / "cache")

    found = load(copied, tmp_path / "cache", validation_fraction=0.3, test_fraction=0.4)

    assert len(found.test) > 15


def test_runs_with_other_fractions_share_a_cache(copied, tmp_path):
    first = load(copied, tmp_path / "cache")
    load(copied, tmp_path / "cache", test_fraction=0.4)
    for number in range(20, 40):
        save(copied / "labeled" / "cat" / f"a{number}.png", number)

    again = load(copied, tmp_path / "cache")

    for part in ("labeled", "validation", "test"):
        assert keys(first.parts()[part]) <= keys(again.parts()[part])


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"labeled": None}, "--config.labeled=DIR"),
        ({"unlabeled": None}, "--config.unlabeled=DIR"),
        ({"unlabeled": "{root}/labeled"}, "are the same"),
        ({"unlabeled": "{root}/labeled/cat"}, "lies in config.labeled"),
        ({"test": "{root}/labeled/cat"}, "lies in config.labeled"),
        ({"labeled": "{root}/nowhere"}, "nowhere"),
        ({"unlabeled": "{cache}"}, "and config.data.cache are the same"),
        ({"labeled": "tfds:x", "unlabeled": "tfds:x"}, "are the same, 'tfds:x'"),
    ],
)
def test_places_that_cannot_be_meant_are_refused(folders, tmp_path, sources, message):
    known = {"root": folders, "cache": tmp_path / "cache"}
    sources = {k: v and v.format(**known) for k, v in sources.items()}

    with pytest.raises(UserError, match=message):
        load(folders, tmp_path / "cache", sources=sources)
    assert not (tmp_path / "cache").exists()


def test_a_home_folder_is_found_before_places_are_compared(
    folders, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(folders))

    with pytest.raises(UserError, match=r"config\.test .* lies in config\.labeled"):
        load(
            folders, tmp_path, sources={"labeled": "~/labeled", "test": "~/labeled/cat"}
        )


def test_the_classes_and_their_sizes_are_said_before_images_are_read(
    copied, tmp_path, capsys
):
    for path in (copied / "labeled" / "cat").iterdir():
        path.write_bytes(b"no image")
    for name in ("cat", "dog"):
        save(copied / "test" / name / "t.png", hash(name) % 1000)

    with pytest.raises(UserError, match="cannot be used"):
        load(copied, tmp_path / "cache", sources={"test": str(copied / "test")})

    assert (
        capsys.readouterr().out
        == "labeled: 60 images of 3 classes: cat 20, dog 20, owl 20\n"
    )


def test_classes_that_a_test_set_lacks_are_said(copied, tmp_path, capsys):
    for number, name in enumerate(("cat", "dog")):
        save(copied / "test" / name / "t.png", 5000 + number)

    load(copied, tmp_path / "cache", sources={"test": str(copied / "test")})

    out = capsys.readouterr().out
    assert "test: 2 images of 2 classes: cat 1, dog 1; none of owl\n" in out
    assert "unlabeled: 30 images\n" in out


def test_parts_that_leave_nothing_to_learn_from_are_refused(folders, tmp_path):
    with pytest.raises(UserError, match="leaves nothing to learn from"):
        load(folders, tmp_path, validation_fraction=0.5, test_fraction=0.5)


def test_without_validation_images_a_class_of_two_is_learned_and_tested(
    copied, tmp_path
):
    for path in sorted((copied / "labeled" / "owl").iterdir())[2:]:
        path.unlink()
    with pytest.raises(UserError, match="have fewer than 3 images"):
        load(copied, tmp_path / "one")

    found = load(copied, tmp_path / "other", validation_fraction=0.0)

    assert found.cross_fitted
    assert found.validation is found.labeled
    assert {*found.parts()} == {"labeled", "pool", "test"}
    assert sum("/owl/" in key for key in keys(found.labeled)) == 1
    assert len(found.labeled) + len(found.test) == 42


def test_validation_images_that_are_given_are_used(folders, copied, tmp_path):
    for number, name in enumerate(CLASSES):
        save(copied / "judges" / name / "v.png", 7000 + number)
    given = {"validation": str(copied / "judges")}

    found = load(copied, tmp_path, validation_fraction=0.0, sources=given)

    assert not found.cross_fitted
    assert len(found.validation) == 3


def test_classes_with_too_few_images_are_named_together(copied, tmp_path):
    for name in ("dog", "owl"):
        folder = copied / "labeled" / name
        for path in sorted(folder.iterdir())[3:]:
            path.unlink()
    shutil.copy(sorted(folder.iterdir())[0], sorted(folder.iterdir())[1])
    sorted((copied / "labeled" / "dog").iterdir())[0].write_bytes(b"no image")

    with pytest.raises(UserError) as caught:
        load(copied, tmp_path / "cache")

    assert str(caught.value) == (
        "2 of 3 classes have fewer than 3 images, one for each of labeled, validation,"
        " test: 'dog' (2 of 3; files that cannot be used: 1), 'owl' (2 of 3;"
        " byte-identical copies of each other: 1); add images to them, leave them out,"
        " or give --config.validation=DIR and --config.test=DIR, so that nothing is"
        " split off"
    )


def test_a_class_made_of_images_that_were_dealt_before_is_named(copied, tmp_path):
    before = load(copied, tmp_path / "cache")
    learned = [key for key in keys(before.labeled) if "/cat/" in key][:3]
    (copied / "labeled" / "kitten").mkdir()
    for key in learned:
        path = copied / key.split(":")[0]
        shutil.move(path, copied / "labeled" / "kitten" / path.name)

    found = load(copied, tmp_path / "cache").facts[LACKING]

    assert found.startswith(
        "an earlier start dealt all images of 'kitten' (no validation and no test"
        " images) to other parts"
    )
    assert "another --config.data.cache" in found
    assert LACKING not in load(copied, tmp_path / "anew").facts


def test_a_damaged_deal_is_refused_and_dealt_by_nobody_again(folders, tmp_path):
    cache = tmp_path / "cache"
    first = load(folders, cache).parts()
    (path,) = cache.glob("splits_*.parquet")
    whole, refused = path.read_bytes(), 0

    for place in np.random.default_rng(0).integers(0, len(whole) * 8, 20):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        try:
            parts = load(folders, cache, look_only=True).parts()
            for name, source in first.items():
                assert parts[name].fingerprint == source.fingerprint, place
        except UserError as error:
            assert f"'{path}' records which images are for testing" in str(error)
            assert "start a new run" in str(error)
            refused += 1

    assert refused > 15


def test_a_deal_of_an_older_version_names_known_parts_only(folders, tmp_path):
    cache = tmp_path / "cache"
    load(folders, cache)
    (path,) = cache.glob("splits_*.parquet")
    table = pq.read_table(path)
    parts = ["tfst", *table["part"].to_pylist()[1:]]
    pq.write_table(table.set_column(1, "part", pa.array(parts)), path)

    with pytest.raises(UserError, match=r"cannot be read \(it names a part 'tfst'\)"):
        load(folders, cache)
