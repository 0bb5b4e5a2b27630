"""The scale of images of more than 8 bits is given for a run, or observed and said."""

import numpy as np
import pytest
from people import line
from PIL import Image
from support import mistake

from noisy_student_jax.cli.main import main


@pytest.fixture(scope="module")
def twelve_bits(tmp_path_factory):
    """Folders of 16-bit files whose largest value is 2,047."""
    root = tmp_path_factory.mktemp("twelve_bits")
    rng = np.random.default_rng(0)
    for number in range(36):
        pixels = rng.integers(0, 2048, (8, 8)).astype(np.uint16)
        pixels[0, :2] = 0, 2047
        place = f"labeled/{number % 2}" if number < 24 else "unlabeled"
        path = root / place / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return root


def brightest(workdir) -> int:
    """Returns the largest value of the prepared pixels."""
    parts = workdir.glob("prepared/*/*/*.bin")
    return np.concatenate([np.fromfile(path, np.uint8) for path in parts]).max()


def test_a_given_scale_is_used(twelve_bits, tmp_path):
    given = "--config.data.scale=(0,4095)"

    assert main(line("prepare", twelve_bits, tmp_path, given)) == 0

    assert brightest(tmp_path) == 127


def test_without_one_it_is_observed_and_said(twelve_bits, tmp_path, capsys):
    assert main(line("prepare", twelve_bits, tmp_path)) == 0

    assert brightest(tmp_path) == 255
    assert "2,047" in capsys.readouterr().out


def test_a_scale_is_two_values_in_order(twelve_bits, tmp_path, capsys):
    def refused(value):
        given = f"--config.data.scale={value}"
        return mistake(capsys, *line("prepare", twelve_bits, tmp_path, given))

    assert "config.data.scale is (0, 1, 2), but has to be two" in refused("(0,1,2)")
    assert "config.data.scale is (9, 3), but has to be two" in refused("(9,3)")
