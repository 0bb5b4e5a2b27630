"""Which images the contact sheet of a run shows."""

import numpy as np
from PIL import Image

from noisy_student_jax import contact_sheet, showing


def seen(monkeypatch):
    """Keeps the groups that are drawn, instead of drawing them."""
    found = {}

    def draw(groups, **options):
        found.update(options, groups=groups)
        return Image.new("RGB", (4, 4))

    monkeypatch.setattr(showing, "contact_sheet", draw)
    return found


def test_each_class_and_the_pool_are_shown(tiny_student, tmp_path, monkeypatch):
    found, student = seen(monkeypatch), tiny_student(1)

    showing.show_some(student, tmp_path / "sheet.png")

    classes = list(student.run.dataset.classes)
    assert [group.name for group in found["groups"]] == [*classes, "pool"]
    labelled = student.run.dataset.labelled
    for number, group in enumerate(found["groups"][:-1]):
        own = labelled.read(np.flatnonzero(labelled.labels == number)[:2]).images
        np.testing.assert_array_equal(
            group.images, student.preprocessing.apply_all(own)
        )
        assert group.crops is None
    assert found["groups"][-1].stream == "pseudo"
    assert found["noise"]["labelled"].crop_padding == 1
    assert (tmp_path / "sheet.png").is_file()


def test_random_crops_are_shown_as_such(tiny_student, tmp_path, monkeypatch):
    found = seen(monkeypatch)
    student = tiny_student(1, "--config.noise.pseudo.crop_area=0.1")

    showing.show_some(student, tmp_path / "sheet.png")

    *classes, pool = found["groups"]
    assert all(group.crops is None for group in classes)
    assert len(pool.crops) == len(pool.images) > 0
    for image, crops in zip(pool.images, pool.crops, strict=True):
        assert len(crops) == contact_sheet.VERSIONS
        assert any(not np.array_equal(image, crop) for crop in crops)


def test_a_finished_run_has_a_contact_sheet_and_its_report_shows_it(tiny_run):
    with Image.open(tiny_run / showing.CONTACT_SHEET) as sheet:
        assert min(sheet.size) > 300
    report = (tiny_run / "report.html").read_text()
    assert '<figure class="sheet"><img src="data:image/png;base64,' in report
