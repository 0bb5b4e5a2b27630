"""Copies with other bytes: of equal pixels, and near-duplicates, of held-out images."""

import pathlib
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageEnhance, PngImagePlugin
from sklearn.datasets import load_sample_images

from noisy_student_jax import data as datasets
from noisy_student_jax.config import base_config
from noisy_student_jax.core.console import Progress
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.data.near_duplicates import nearest
from noisy_student_jax.images.perceptual import distances

SIDE = 48
CLASSES = ("cat", "dog", "owl")


def picture(number):
    """A part of a photograph, which looks like no other one, ``[80, 60, 3]``."""
    photograph = load_sample_images().images[number % 2]
    top, left = 27 + 80 * (number // 2 % 5), 60 * (number // 10 % 10)
    return Image.fromarray(photograph[top : top + 80, left : left + 60])


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


@pytest.fixture(scope="module")
def prototype(tmp_path_factory):
    root = tmp_path_factory.mktemp("copies")
    for label, name in enumerate(CLASSES):
        for number in range(12):
            save(
                root / "labeled" / name / f"{number}.png", picture(12 * label + number)
            )
        save(root / "test" / name / "t.png", picture(36 + label))
    for number in range(10):
        save(root / "unlabeled" / f"{number}.png", picture(40 + number))
    return root


@pytest.fixture
def folders(prototype, tmp_path):
    return pathlib.Path(shutil.copytree(prototype, tmp_path / "copied"))


def load(root, *, test=True, validation=False, **fields):
    section = base_config().data
    section.update(name="own", cache=str(root / "cache"), side=SIDE, workers=1)
    section.sources.update(
        labeled=str(root / "labeled"), unlabeled=str(root / "unlabeled")
    )
    if test:
        section.sources.test = str(root / "test")
    if validation:
        save(root / "validation" / "cat" / "v.png", picture(39))
        section.sources.validation = str(root / "validation")
    section.update(fields)
    return datasets.load(
        section, seed=0, interruption=Interruption(), progress=Progress()
    )


def paths(source):
    return {source.key(i).rsplit(":", 1)[0] for i in range(len(source))}


def everywhere(found):
    return set().union(*map(paths, found.parts().values()))


def with_metadata(image, path):
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "exported twice")
    save(path.with_suffix(".png"), image, pnginfo=text)


def as_bmp(image, path):
    save(path.with_suffix(".bmp"), image)


def as_tiff(image, path):
    save(path.with_suffix(".tif"), image, compression="tiff_lzw")


def turned_by_exif(image, path):
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = image.transpose(Image.Transpose.ROTATE_180)
    save(path.with_suffix(".png"), turned, exif=exif)


@pytest.mark.parametrize("write", [with_metadata, as_bmp, as_tiff, turned_by_exif])
def test_other_files_of_the_same_pixels_leave_the_labeled_images_and_the_pool(
    folders, write, capsys
):
    write(picture(36), folders / "unlabeled" / "leak")
    write(picture(37), folders / "labeled" / "dog" / "leak")
    write(picture(0), folders / "unlabeled" / "known")
    write(picture(40), folders / "unlabeled" / "again")

    found = load(folders)

    assert not [path for path in everywhere(found) if "leak" in path]
    assert len(found.pool) == 10
    assert "labeled/cat/0.png" in everywhere(found)
    told = {name: count for name, count in found.facts.items() if "copies" in name}
    where = "labeled" if "labeled/cat/0.png" in paths(found.labeled) else "validation"
    assert told == {
        "left out of labeled: pixel-identical copies of test images": 1,
        "left out of unlabeled: pixel-identical copies of test images": 1,
        f"left out of unlabeled: pixel-identical copies of {where} images": 1,
        "left out of unlabeled: pixel-identical copies of each other": 1,
    }
    out = capsys.readouterr().out
    assert "left out of unlabeled: pixel-identical copies of test images: 1" in out
    assert found.alike == ()


def test_pixels_are_compared_as_they_are_cached_so_a_larger_copy_need_not_be_equal(
    folders,
):
    larger = picture(36).resize((120, 160), Image.Resampling.NEAREST)
    save(folders / "unlabeled" / "larger.png", larger)

    found = load(folders)

    assert "unlabeled/larger.png" in paths(found.pool)
    assert not any("identical" in name for name in found.facts)


def test_images_prepared_at_different_sides_are_said_to_be(folders, capsys):
    load(folders, side=56)
    pool = folders / "pool"
    with_metadata(picture(36), pool / "leak")

    sources = {"unlabeled": str(pool)}
    found = load(folders, sources=sources)

    told = found.facts["prepared at different sides"]
    assert told == "labeled 56, test 56, unlabeled 48"
    assert "(labeled 56, test 56, unlabeled 48 pixels)" in capsys.readouterr().out
    assert (
        found.facts["near-duplicates of test or validation images, kept in unlabeled"]
        == 1
    )


def test_one_image_in_two_classes_is_found_by_its_pixels_and_shown(folders, capsys):
    as_bmp(picture(3), folders / "labeled" / "dog" / "x")
    with_metadata(picture(3), folders / "unlabeled" / "y")

    found = load(folders)

    assert found.facts["left out of labeled: one image in two classes"] == 2
    (fact,) = (name for name in found.facts if "identical" in name)
    assert fact == (
        "left out of unlabeled: pixel-identical copies of contradictory labeled images"
    )
    assert not {"labeled/cat/3.png", "labeled/dog/x.bmp"} & everywhere(found)
    assert "2 labeled images are left out, because copies of them lie" in (
        capsys.readouterr().out
    )
    (pair,) = found.alike
    assert [key.rsplit(":", 1)[0] for key in pair.keys] == [
        "labeled/cat/3.png",
        "labeled/dog/x.bmp",
    ]
    assert pair.captions == ("cat", "dog")
    assert pair.distance is None
    first, second = (source.read([0]).images[0] for source in pair.images)
    np.testing.assert_array_equal(first, second)


def test_a_copy_of_a_test_image_with_another_label_is_named_and_shown(folders, capsys):
    as_bmp(picture(36), folders / "labeled" / "dog" / "x")
    shutil.copy(folders / "test" / "dog" / "t.png", folders / "labeled" / "dog")

    found = load(folders)

    out = capsys.readouterr().out
    assert "1 images are copies of test or validation images with another label" in out
    assert "'labeled/dog/x.bmp:" in out and "' of 'test/cat/t.png:" in out
    (pair,) = found.alike
    assert pair.captions == ("dog", "cat")
    assert len(found.test) == 3
    assert not {"labeled/dog/x.bmp", "labeled/dog/t.png"} & everywhere(found)


def test_a_test_image_in_two_classes_is_in_neither(folders, capsys):
    as_bmp(picture(36), folders / "test" / "dog" / "x")
    with_metadata(picture(36), folders / "unlabeled" / "y")

    found = load(folders)

    assert "2 test images are left out, because copies of them lie in other" in (
        capsys.readouterr().out
    )
    assert paths(found.test) == {"test/dog/t.png", "test/owl/t.png"}
    assert found.facts["left out of test: one image in two classes"] == 2
    fact = "left out of unlabeled: pixel-identical copies of contradictory test images"
    assert found.facts[fact] == 1
    (pair,) = found.alike
    assert pair.captions == ("cat", "dog")


def test_copies_within_the_labeled_images_fall_to_one_part(folders):
    for number in range(12):
        as_bmp(picture(number), folders / "labeled" / "cat" / f"a{number}")

    found = load(folders, test=False)

    fact = "left out of labeled: pixel-identical copies of each other"
    assert found.facts[fact] == 12
    assert sum("/cat/" in path for path in everywhere(found)) == 12


def parts_of(found, paths_wanted):
    return {
        path: name
        for name, part in found.parts().items()
        for path in paths(part)
        if path in paths_wanted
    }


def test_a_copy_that_comes_first_later_moves_no_image_to_another_part(folders):
    before = load(folders, test=False)
    for number in range(12):
        as_bmp(picture(number), folders / "labeled" / "cat" / f"0_{number}")

    after = load(folders, test=False)

    for name, part in before.parts().items():
        assert paths(part) == paths(after.parts()[name])


def test_a_copy_takes_the_place_of_an_image_that_is_removed(folders):
    cats = folders / "labeled" / "cat"
    for number in range(12):
        as_bmp(picture(number), cats / f"a{number}")
    before = load(folders, test=False)
    dealt = parts_of(before, {f"labeled/cat/{n}.png" for n in range(12)})
    assert len(dealt) == 12
    for number in range(12):
        (cats / f"{number}.png").unlink()

    after = load(folders, test=False)

    copies = parts_of(after, {f"labeled/cat/a{n}.bmp" for n in range(12)})
    assert copies == {
        path.replace("cat/", "cat/a").replace("png", "bmp"): part
        for path, part in dealt.items()
    }


def test_of_copies_that_an_older_version_dealt_apart_the_test_image_stays(folders):
    for number in range(12):
        as_bmp(picture(number), folders / "labeled" / "cat" / f"a{number}")
    load(folders, test=False)
    # An older version saw other images in the copies, and dealt them by themselves.
    (path,) = (folders / "cache").glob("splits_*.parquet")
    table = pq.read_table(path).to_pylist()
    (cache,) = (folders / "cache").glob("side_*/labeled-*")
    content = {
        row["path"]: row["sha256"]
        for part in cache.glob("part_*.parquet")
        for row in pq.read_table(part).to_pylist()
    }
    for row in table:
        if row["sha256"] == content["cat/5.png"]:
            row["part"] = "labeled"
        if row["sha256"] == content["cat/a5.bmp"]:
            row["part"] = "test"
    pq.write_table(pq.read_table(path).from_pylist(table), path)

    found = load(folders, test=False)

    assert "labeled/cat/a5.bmp" in paths(found.test)
    assert "labeled/cat/5.png" not in everywhere(found)


LOOK_ALIKE = {
    "JPEG": (lambda image: image, {"quality": 60}),
    "resized": (lambda image: image.resize((45, 60), Image.Resampling.LANCZOS), {}),
    "darker": (lambda image: ImageEnhance.Brightness(image).enhance(0.8), {}),
}


@pytest.mark.parametrize("kind", LOOK_ALIKE)
@pytest.mark.parametrize("choice", ["keep", "exclude"])
def test_near_duplicates_are_named_and_kept_or_excluded(folders, kind, choice, capsys):
    change, options = LOOK_ALIKE[kind]
    suffix = "jpg" if options else "png"
    save(folders / "unlabeled" / f"near.{suffix}", change(picture(36)), **options)
    save(folders / "labeled" / "dog" / f"near.{suffix}", change(picture(37)), **options)

    found = load(folders, validation=True, near_duplicates=choice)

    near = {path for path in everywhere(found) if "near" in path}
    told = {name: count for name, count in found.facts.items() if "near" in name}
    if choice == "keep":
        assert near == {f"labeled/dog/near.{suffix}", f"unlabeled/near.{suffix}"}
        assert told == {
            "near-duplicates of test or validation images, kept in labeled": 1,
            "near-duplicates of test or validation images, kept in unlabeled": 1,
        }
    else:
        assert near == set()
        assert told == {
            "left out of labeled: near-duplicates of test or validation images": 1,
            "left out of unlabeled: near-duplicates of test or validation images": 1,
        }
    out = capsys.readouterr().out
    assert "1 of labeled and 1 of unlabeled" in out
    assert f"'unlabeled/near.{suffix}" in out
    assert "like 'test/cat/t.png" in out
    assert {pair.captions for pair in found.alike} == {
        ("labeled", "test"),
        ("unlabeled", "test"),
    }
    assert all(0 <= pair.distance <= 6 for pair in found.alike)


def test_photographs_that_have_nothing_in_common_are_no_near_duplicates(folders):
    found = load(folders)

    assert not any("near" in name for name in found.facts)
    assert found.alike == ()


def test_images_of_nearly_one_color_are_no_near_duplicates(folders):
    save(folders / "test" / "cat" / "dark.png", Image.new("RGB", (60, 80), (9, 9, 9)))
    save(folders / "unlabeled" / "dark.png", Image.new("RGB", (60, 80), (8, 9, 9)))

    found = load(folders)

    assert not any("near" in name for name in found.facts)
    assert "unlabeled/dark.png" in paths(found.pool)


def test_a_class_that_would_lose_its_last_image_is_named(folders):
    for path in (folders / "labeled" / "owl").iterdir():
        path.unlink()
    save(folders / "labeled" / "owl" / "o.png", picture(24))
    save(folders / "test" / "owl" / "o.jpg", picture(24), quality=60)

    with pytest.raises(UserError, match=r"of 1 classes \('owl'\) are near-duplicates"):
        load(folders, validation=True, near_duplicates="exclude")


def test_the_nearest_is_found_as_by_comparing_all():
    rng = np.random.default_rng(0)
    hashes, among = (rng.integers(0, 2**64, size, np.uint64) for size in (900, 700))
    hashes[:600] = among[:600]
    for times in range(10):
        bits = rng.integers(0, 64, 600, np.uint64)
        flipped = np.arange(600) % 10 > times
        hashes[:600] ^= np.where(flipped, np.uint64(1) << bits, np.uint64(0))
    hashes[5], among[7] = 0, 0
    among[650] = among[100]
    everything = distances(hashes[:, None], among[None]).astype(int)
    everything[hashes == 0] = everything[:, among == 0] = 64
    apart = everything.min(1)

    index, found = nearest(hashes, among)

    near = apart <= 6
    assert 300 < near.sum() < 600
    np.testing.assert_array_equal(index, np.where(near, everything.argmin(1), -1))
    np.testing.assert_array_equal(found, np.where(near, apart, 64))
    assert nearest(hashes, among[:0])[0].max() == -1
    assert len(nearest(hashes[:0], among)[0]) == 0


def test_copies_by_the_thousand_take_little_memory(monkeypatch):
    same = np.full(3000, 12345, np.uint64)
    monkeypatch.setattr("noisy_student_jax.data.near_duplicates._AT_ONCE", 64)

    index, apart = nearest(np.r_[same, same[:1] ^ np.uint64(3)], same)

    assert set(index.tolist()) == {0}
    assert apart.tolist() == [0] * 3000 + [2]
