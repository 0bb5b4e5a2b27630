"""The RandAugment table against the figures of the paper's code, written out."""

import itertools
import subprocess
import sys

import pytest

from noisy_student_jax.augment.randaugment_table import (
    BEHAVIORS,
    OPS,
    SVHN_CONSTANTS,
    RandAugmentConstants,
    argument,
    named,
)
from noisy_student_jax.core.errors import UserError

MAGNITUDES = (5, 9, 10, 12, 15, 18, 20, 24, 27)

FIGURES = {
    "Rotate": (15, 27, 30, 36, 45, 54, 60, 72, 81),
    "ShearX": (0.15, 0.27, 0.3, 0.36, 0.45, 0.54, 0.6, 0.72, 0.81),
    "ShearY": (0.15, 0.27, 0.3, 0.36, 0.45, 0.54, 0.6, 0.72, 0.81),
    "TranslateX": (50, 90, 100, 120, 150, 180, 200, 240, 270),
    "TranslateY": (50, 90, 100, 120, 150, 180, 200, 240, 270),
    "Color": (1.0, 1.72, 1.9, 2.26, 2.8, 3.34, 3.7, 4.42, 4.96),
    "Contrast": (1.0, 1.72, 1.9, 2.26, 2.8, 3.34, 3.7, 4.42, 4.96),
    "Brightness": (1.0, 1.72, 1.9, 2.26, 2.8, 3.34, 3.7, 4.42, 4.96),
    "Sharpness": (1.0, 1.72, 1.9, 2.26, 2.8, 3.34, 3.7, 4.42, 4.96),
    # Bits kept: 2, 3, 4, 4, 6, 7, 8, then the wrapped shift, clamped, leaves one.
    "Posterize": (6, 5, 4, 4, 2, 1, 0, 7, 7),
    "Solarize": (128, 230, 0, 51, 128, 204, 0, 102, 179),
    "SolarizeAdd": (55, 99, 110, 132, 165, 198, 220, 264, 297),
    "Cutout": (20, 36, 40, 48, 60, 72, 80, 96, 108),
    "AutoContrast": (None,) * 9,
    "Equalize": (None,) * 9,
    "Invert": (None,) * 9,
}


CLEAN_FIGURES = FIGURES | {
    # Bits kept: 2, 3, 4, 4, 6, 7, and from magnitude 20 on all 8.
    "Posterize": (6, 5, 4, 4, 2, 1, 0, 0, 0),
    "Solarize": (128, 230, 256, 256, 256, 256, 256, 256, 256),
    "SolarizeAdd": (55, 99, 110, 128, 128, 128, 128, 128, 128),
}


def test_sixteen_operations_in_the_papers_order_and_no_identity():
    assert [op.name for op in OPS] == [
        "AutoContrast",
        "Equalize",
        "Invert",
        "Rotate",
        "Posterize",
        "Solarize",
        "Color",
        "Contrast",
        "Brightness",
        "Sharpness",
        "ShearX",
        "ShearY",
        "TranslateX",
        "TranslateY",
        "SolarizeAdd",
        "Cutout",
    ]


def test_only_geometry_has_a_random_sign():
    signed = {op.name for op in OPS if op.signed}
    assert signed == {"Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"}


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("behavior", BEHAVIORS)
def test_arguments_are_the_papers(name, behavior):
    figures = {"reference": FIGURES, "clean": CLEAN_FIGURES}[behavior][name]
    for magnitude, figure in zip(MAGNITUDES, figures, strict=True):
        value = argument(named(name), magnitude, behavior=behavior)
        if figure is None:
            assert value is None
        else:
            assert value == pytest.approx(figure, rel=1e-12), magnitude


def test_integer_arguments_are_integers():
    for name in ("Posterize", "Solarize", "SolarizeAdd", "Cutout"):
        for behavior in BEHAVIORS:
            values = [argument(named(name), m, behavior=behavior) for m in MAGNITUDES]
            assert {type(value) for value in values} == {int}


def test_magnitude_five_blends_by_exactly_one():
    assert argument(named("Color"), 5) == 1.0


def test_posterize_below_two_and_a_half_keeps_one_bit():
    assert [argument(named("Posterize"), m) for m in (0, 2, 2.5)] == [7, 7, 7]
    assert argument(named("Posterize"), 5) == 6


def test_clean_arguments_never_turn_back_as_the_magnitude_grows():
    for op in OPS:
        if argument(op, 1) is not None:
            values = [argument(op, m / 4, behavior="clean") for m in range(121)]
            steps = {b > a for a, b in itertools.pairwise(values) if a != b}
            assert len(steps) == 1, op.name


def test_contrast_is_the_only_function_that_clean_changes():
    assert [op.function("reference") for op in OPS] == [op.name for op in OPS]
    changed = {op.name: op.function("clean") for op in OPS}
    changed = {name: called for name, called in changed.items() if called != name}
    assert changed == {"Contrast": "ContrastFromMean"}


def test_svhn_moves_and_hides_less():
    assert argument(named("TranslateX"), 5, constants=SVHN_CONSTANTS) == 2.0
    assert argument(named("Cutout"), 5, constants=SVHN_CONSTANTS) == 2
    assert argument(named("Cutout"), 9, constants=RandAugmentConstants(cutout=4.5)) == 4


def test_mistakes_are_told():
    with pytest.raises(UserError, match="did you mean 'Rotate'"):
        named("Rotat")
    with pytest.raises(UserError, match=r"magnitude is -1; it must be 0 or more"):
        argument(named("Rotate"), -1)
    says = "behavior is 'cleen', but may only be one of reference, clean; did you mean"
    with pytest.raises(UserError, match=says):
        argument(named("Invert"), 5, behavior="cleen")


def test_the_table_needs_no_framework():
    code = (
        "import sys, noisy_student_jax.augment.randaugment_table\n"
        "assert not {'jax', 'tensorflow', 'flax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
