"""Facts about folders with boxes, from which a detector's settings follow."""

import pytest
from drawn_boxes import save, write_yolo
from support import ROOT

from noisy_student_jax import config as configs
from noisy_student_jax.config.load import _execute
from noisy_student_jax.planning import auto_config

IMAGES, BARE = 10, 2


@pytest.fixture
def look(tmp_path):
    """Looks at ten images with a box, and two of which no file tells anything."""
    labeled, pool = tmp_path / "labeled", tmp_path / "pool"
    write_yolo(labeled, [[(0.0, 0.0, 12.0, 12.0)]] * IMAGES, [[0]] * IMAGES, ("cell",))
    for number in range(BARE):
        save(labeled / "images" / f"bare_{number}.jpg", 50 + number)
    for number in range(7):
        save(pool / f"{number}.jpg", 100 + number)

    def found(*overrides):
        given = [f"--config.labeled={labeled}", "--config.test=none", *overrides]
        given = [one.replace("POOL", str(pool)) for one in given]
        config = configs.complete(_execute(ROOT / "configs/boxes.py"), overrides=given)
        return auto_config.look(config, tmp_path / "run")

    return found


def test_sizes_of_boxes_are_in_units_of_the_longer_side(look):
    assert look("--config.unlabeled=POOL").small_box == pytest.approx(12 / 40)


@pytest.mark.parametrize(
    ("overrides", "labeled", "pool"),
    [
        # A test fraction of 0.1, and 0.2 for validation.
        (["--config.unlabeled=POOL"], 7, 7 + BARE),
        ([], 7, BARE),
        (["--config.data.labels_per_class=4"], 4, 3 + BARE),
        (["--config.data.labels_per_class=4", "--config.unlabeled=POOL"], 4, 7 + BARE),
    ],
)
def test_images_without_boxes_are_of_the_pool(look, overrides, labeled, pool):
    facts = look(*overrides)

    assert (facts.labeled, facts.pool) == (labeled, pool)
