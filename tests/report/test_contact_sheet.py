"""The contact sheet: what is on it, for few, many, small and large images."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from noisy_student_jax.augment.noise import InputNoise
from noisy_student_jax.images import lettering
from noisy_student_jax.report import contact_sheet as sheets
from noisy_student_jax.report.contact_sheet import Group, contact_sheet

NOTHING = {"labeled": InputNoise(), "pseudo": InputNoise()}


def images(count, side=8, seed=0):
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def found(sheet, image, *, factor):
    """Counts the places where an image stands, enlarged by a whole factor."""
    big = np.asarray(image).repeat(factor, 0).repeat(factor, 1)
    pixels = np.asarray(sheet)
    side = len(big)
    rows, columns = (n - side + 1 for n in pixels.shape[:2])
    places = np.ones((rows, columns), bool)
    for y, x in [(0, 0), (0, side - 1), (side // 2, side // 2), (side - 1, 0)]:
        part = pixels[y : y + rows, x : x + columns]
        places &= (part == big[y, x]).all(axis=-1)
    return sum(
        np.array_equal(pixels[y : y + side, x : x + side], big)
        for y, x in np.argwhere(places)
    )


def test_an_image_stands_beside_its_noised_versions():
    (one,) = images(1)
    sheet = contact_sheet([Group("a", [one])], noise=NOTHING, title="t")
    assert sheet.mode == "RGB"
    # Without noise all of them are alike.
    assert found(sheet, one, factor=12) == 1 + sheets.VERSIONS


def test_each_stream_is_shown_with_its_own_noise():
    labeled, pool = images(2)
    noise = {"labeled": InputNoise(), "pseudo": InputNoise(flip=True)}
    groups = [Group("a", [labeled]), Group("pool", [pool], "pseudo")]
    sheet = contact_sheet(groups, noise=noise, title="t", seed=3)
    assert found(sheet, labeled, factor=12) == 1 + sheets.VERSIONS
    flipped = found(sheet, pool[:, ::-1], factor=12)
    assert 0 < flipped < sheets.VERSIONS
    assert found(sheet, pool, factor=12) == 1 + sheets.VERSIONS - flipped
    assert found(sheet, labeled[:, ::-1], factor=12) == 0


def test_the_images_of_a_group_have_noise_of_their_own():
    (one,) = images(1)
    noise = {"labeled": InputNoise(crop_padding=7)}
    sheet = contact_sheet([Group("a", [one, one])], noise=noise, title="t")
    pixels = np.asarray(sheet)
    (row,) = {y for y, _ in corners(pixels, one)}
    step = pixels[row : row + 96]
    lefts = [x for _, x in corners(pixels, one)]
    assert len(lefts) == 2
    first, second = (
        step[:, x : x + sheets.VERSIONS * (96 + 6) + 96] for x in sorted(lefts)
    )
    assert not np.array_equal(first, second)


def corners(pixels, image):
    """Finds where an image stands, by all of its pixels."""
    big = image.repeat(12, 0).repeat(12, 1)
    starts = np.argwhere((pixels[:-96, :-96] == big[0, 0]).all(axis=-1))
    return [
        (int(y), int(x))
        for y, x in starts
        if np.array_equal(pixels[y : y + 96, x : x + 96], big)
    ]


def test_the_same_seed_gives_the_same_sheet():
    groups = [Group("a", images(2)), Group("pool", images(3, seed=1), "pseudo")]
    noise = {"labeled": InputNoise(crop_padding=3), "pseudo": InputNoise(flip=True)}
    drawn = [
        contact_sheet(groups, noise=noise, title="t", seed=seed).tobytes()
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_of_many_classes_the_first_are_shown_and_the_rest_counted(monkeypatch):
    told = []
    text = sheets.ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        sheets.ImageDraw.ImageDraw,
        "text",
        lambda self, at, line, *more: told.append(line) or text(self, at, line, *more),
    )
    shown = [Group(f"class {k}", images(5, seed=k)) for k in range(10)]
    # Nobody has to read the images that there is no room for.
    rest = [Group(f"class {k}", None) for k in range(10, 1000)]
    pool = Group("pool", images(9, seed=99), "pseudo")
    sheet = contact_sheet([*shown, *rest, pool], noise=NOTHING, title="many")
    assert "class 9" in told and "class 10" not in told
    assert "and 990 more that are not shown" in told
    per_image = 1 + sheets.VERSIONS
    for group, number in ((shown[9], 2), (pool, 6)):
        for image in group.images[:number]:
            assert found(sheet, image, factor=12) == per_image
        assert found(sheet, group.images[number], factor=12) == 0


@pytest.mark.parametrize(
    ("side", "tile"), [(1, 96), (5, 95), (64, 64), (65, 65), (96, 96), (300, 96)]
)
def test_small_images_are_enlarged_and_large_ones_made_smaller(side, tile):
    gray = [np.full((side, side, 3), 77, np.uint8)]
    sheet = contact_sheet([Group("a", gray)], noise=NOTHING, title="t")
    pixels = (np.asarray(sheet) == 77).all(axis=-1)
    assert pixels.sum() == (1 + sheets.VERSIONS) * tile**2
    assert sheet.width < 1300


def test_images_of_600_pixels_are_shown_with_noise():
    noise = {"labeled": InputNoise(flip=True, crop_padding=40, cutout_size=80)}
    group = Group("large", images(1, side=600))
    sheet = contact_sheet([group], noise=noise, title="large")
    assert sheet.width < 1300 and sheet.height < 400


NAMES = {
    "none": "",
    "long": "a class with a name of many words " * 5,
    "one long word": "x" * 500,
    "control characters": "a\nb\x1b[31m",
    "accents": "fée, Ångström, ½",
    "another script": "猫と犬 ἵππος",
    "an emoji": "\U0001f600",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_any_name_can_be_written(name):
    plain = contact_sheet([Group("cat", images(1))], noise=NOTHING, title="cat")
    sheet = contact_sheet([Group(name, images(1))], noise=NOTHING, title="cat")
    assert sheet.size == plain.size
    # It is kept out of the images.
    (left,) = {x for _, x in corners(np.asarray(plain), images(1)[0])[:1]}
    both = [np.asarray(one)[:, left - 1 :] for one in (plain, sheet)]
    assert np.array_equal(*both)
    contact_sheet([Group("cat", images(1))], noise=NOTHING, title=name)


def test_what_the_font_has_not_is_written_with_what_it_has():
    assert lettering.in_font("fée ½ \n猫") == "fee 12 \\n\\u732b"


def test_a_group_without_images_is_named_all_the_same(tmp_path):
    groups = [Group("none", []), Group("pool", np.stack(images(2)), "pseudo")]
    sheet = contact_sheet(groups, noise=NOTHING, title="t")
    sheet.save(tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as again:
        assert again.size == sheet.size
    contact_sheet([Group("none", [])], noise=NOTHING, title="nothing at all")


def test_the_noise_is_said_in_the_words_of_the_config():
    noise = InputNoise(2, 10.0, flip=True, crop_padding=2)
    assert sheets._says(noise) == (
        "randaugment_layers=2, randaugment_magnitude=10, flip=True, crop_padding=2,"
        " randaugment_translate=100, randaugment_cutout=40,"
        " randaugment_behavior=reference"
    )
    assert sheets._says(InputNoise()) == "no input noise"
    crop = sheets._says(InputNoise(crop_area=0.08))
    assert crop == "crop_area=0.08"


def test_where_images_are_cropped_at_random_the_crops_are_noised():
    one, *crops = images(1 + sheets.VERSIONS)
    noise = {"labeled": InputNoise(crop_area=0.1)}
    sheet = contact_sheet(
        [Group("a", [one], crops=[crops])], noise=noise, title="t", seed=0
    )
    assert found(sheet, one, factor=12) == 1
    assert [found(sheet, crop, factor=12) for crop in crops] == [1] * sheets.VERSIONS


# --- which images of a run it shows ---------------------------------------------


def seen(monkeypatch):
    """Keeps the groups that are drawn, instead of drawing them."""
    found = {}

    def draw(groups, **options):
        found.update(options, groups=groups)
        return Image.new("RGB", (4, 4))

    monkeypatch.setattr(sheets, "contact_sheet", draw)
    return found


def test_each_class_and_the_pool_are_shown(tiny_student, tmp_path, monkeypatch):
    found, student = seen(monkeypatch), tiny_student(1)

    sheets.write_contact_sheet(student, tmp_path / "sheet.png")

    classes = list(student.run.dataset.classes)
    assert [group.name for group in found["groups"]] == [*classes, "pool"]
    labeled = student.run.dataset.labeled
    for number, group in enumerate(found["groups"][:-1]):
        own = labeled.read(np.flatnonzero(labeled.labels == number)[:2]).images
        np.testing.assert_array_equal(
            group.images, student.spec.model.preprocessing.apply_all(own)
        )
        assert group.crops is None
    assert found["groups"][-1].stream == "pseudo"
    assert found["noise"]["labeled"].crop_padding == 1
    assert (tmp_path / "sheet.png").is_file()


def test_random_crops_are_shown_as_such(tiny_student, tmp_path, monkeypatch):
    found = seen(monkeypatch)
    student = tiny_student(1, "--config.noise.pseudo.crop_area=0.1")

    sheets.write_contact_sheet(student, tmp_path / "sheet.png")

    *classes, pool = found["groups"]
    assert all(group.crops is None for group in classes)
    assert len(pool.crops) == len(pool.images) > 0
    for image, crops in zip(pool.images, pool.crops, strict=True):
        assert len(crops) == sheets.VERSIONS
        assert any(not np.array_equal(image, crop) for crop in crops)


def test_a_finished_run_has_a_contact_sheet_and_its_report_shows_it(tiny_run):
    with Image.open(tiny_run / sheets.CONTACT_SHEET) as sheet:
        assert min(sheet.size) > 300
    report = (tiny_run / "report.html").read_text()
    assert '<figure class="sheet"><img src="data:image/png;base64,' in report


class Dotted:
    """A task whose targets are places (x, y), and are drawn as a white pixel."""

    def moved(self, targets, matrices):
        there = matrices[:, :, :2] @ targets[:, :, None]
        return there[..., 0] + matrices[:, :, 2]

    def drawn(self, images, targets):
        images = images.copy()
        for image, (x, y) in zip(images, np.asarray(targets), strict=True):
            image[int(y * len(image)), int(x * len(image))] = 255
        return images


def test_targets_are_drawn_where_the_noise_moves_them():
    images = np.zeros((2, 8, 8, 3), np.uint8)
    images[0, 1, 2], images[1, 6, 3] = 100, 100
    targets = np.array([[2.5, 1.5], [3.5, 6.5]], np.float32) / 8
    group = sheets.Group("spots", list(images), targets=targets)
    noise = InputNoise(flip=True, turns=True)

    seen = sheets._noised([group], noise, 0, "labeled", Dotted())[0]
    without = dataclasses.replace(group, targets=None)
    plain = sheets._noised([without], noise, 0, "labeled", Dotted())[0]

    for drawn, bare in zip(np.stack(seen), np.stack(plain), strict=True):
        assert drawn.shape == (sheets.VERSIONS, 8, 8, 3)
        np.testing.assert_array_equal(drawn == 255, bare == 100)
    assert len({version.tobytes() for one in seen for version in one}) > 2
    evaluated = sheets._drawn(group, Dotted()).images
    np.testing.assert_array_equal(np.stack(evaluated) == 255, images == 100)
    assert sheets._drawn(group, None) is group


def test_targets_are_drawn_on_larger_tiles_one_image_a_row():
    class Dots:
        def drawn(self, images, targets):
            marked = images.copy()
            marked[:, 0, 0] = targets[:, None]
            return marked

    pair = images(2)
    plain = contact_sheet([Group("a", pair)], noise=NOTHING, title="t")
    group = Group("a", pair, targets=np.array([7, 9]))
    sheet = contact_sheet([group], noise=NOTHING, title="t", task=Dots())
    assert sheet.height > 2 * 200 > plain.height
    for image, value in zip(pair, (7, 9), strict=True):
        marked = image.copy()
        marked[0, 0] = value
        assert found(sheet, marked, factor=25) == 1


def test_labels_that_are_no_classes_are_one_group_with_more_images():
    some = images(9)
    sheet = contact_sheet([Group("labeled", some)], noise=NOTHING, title="t")
    for image in some[: sheets.IMAGES_SHOWN["pseudo"]]:
        assert found(sheet, image, factor=12) == 1 + sheets.VERSIONS
    assert found(sheet, some[6], factor=12) == 0
