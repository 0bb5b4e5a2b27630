"""The RandAugment table: sixteen operations, and what a magnitude means to each.

Written once, without any framework. A backend supplies one function per row, looked
up by the row's name, and asks `argument` what to hand to it; two backends that read
this table can differ only in their arithmetic on pixels.

The order and the constants are those of the authors' ``randaugment.py``: a magnitude is
used as it is, never clipped, and casts to integers truncate. There is no identity, and
no probability: every drawn operation is applied.

The rows behave in one of two ways. ``reference`` is the authors' code as it runs, its
mistakes included. ``clean`` mends four rows and leaves the other twelve alone:

- *Contrast* blends away from the mean of the gray image, not from its number of pixels
  over 256.
- *Solarize* holds its threshold at 256, where it inverts nothing, instead of letting it
  wrap to 0, where it inverts everything.
- *Posterize* keeps 1 to 8 bits; above 8 it does not fall back to one bit.
- *SolarizeAdd* adds 128 at most, the bound that the authors' comment gives.

So in ``clean`` no row jumps when the magnitude grows. Solarize and Posterize weaken
with it, as their formulas say, and do nothing from magnitudes 10 and 20 on: a row that
grew stronger instead would be another operation, not a mended one.
"""

from collections.abc import Callable
from dataclasses import dataclass

from noisy_student_jax.core.errors import UserError, nearest

FILL = 128
"""What is put where an image has no pixels: mid-gray, in every channel."""

SOLARIZE_ADD_BELOW = 128
"""SolarizeAdd adds to pixels below this value."""

BEHAVIORS = ("reference", "clean")
"""How the rows behave: as the authors' code runs, or with its mistakes mended."""

_MAX_LEVEL = 10.0
_LARGEST_SHIFT = 7


@dataclass(frozen=True)
class RandAugmentConstants:
    """What one unit of level is worth, where it depends on the data set.

    Attributes:
        translate: pixels that TranslateX and TranslateY move at magnitude 10.
        cutout: half the side of Cutout's square, in pixels, at magnitude 10.
    """

    translate: float = 100.0
    cutout: float = 40.0


IMAGENET_CONSTANTS = RandAugmentConstants()
"""The defaults of the authors' code."""

SVHN_CONSTANTS = RandAugmentConstants(translate=4.0, cutout=4.0)
"""The authors' ``preprocessing.py`` takes an eighth of the 32-pixel side."""

Argument = float | int | None
Rule = Callable[[float, RandAugmentConstants], Argument]


@dataclass(frozen=True)
class Op:
    """One row of the table.

    Attributes:
        name: the operation's name.
        reference: how the level, magnitude/10, gives the argument, in the authors'
            code.
        clean: the same where that is mended; None where it is right.
        clean_function: the name of what is called in its place, where the operation
            itself is mended.
        signed: whether the argument is negated half of the time.
    """

    name: str
    reference: Rule
    clean: Rule | None = None
    clean_function: str | None = None
    signed: bool = False

    def function(self, behavior: str) -> str:
        """Returns the name by which backends find the function of a behavior."""
        if behavior == "clean" and self.clean_function:
            return self.clean_function
        return self.name


def _nothing(level: float, constants: RandAugmentConstants) -> None:
    """The operation takes no argument."""


def _degrees(level: float, constants: RandAugmentConstants) -> float:
    return level * 30.0


def _slope(level: float, constants: RandAugmentConstants) -> float:
    return level * 0.3


def _pixels(level: float, constants: RandAugmentConstants) -> float:
    """Pixels, whatever the resolution of the image."""
    return level * float(constants.translate)


def _factor(level: float, constants: RandAugmentConstants) -> float:
    """1, which changes nothing, at magnitude 5; above it, the blend extrapolates."""
    return level * 1.8 + 0.1


def _shift(level: float, constants: RandAugmentConstants) -> int:
    """How many low bits are lost: 8 − bits, held to 0–7 as TensorFlow's kernel does.

    From magnitude 22.5 up 8 − bits is negative; as a uint8 it wraps to 254 or so, and
    the kernel clamps that to 7, which leaves one bit. Below 2.5 it is 8, which becomes
    7 too.
    """
    return min((8 - int(level * 4)) % 256, _LARGEST_SHIFT)


def _clean_shift(level: float, constants: RandAugmentConstants) -> int:
    return 8 - min(max(int(level * 4), 1), 8)


def _threshold(level: float, constants: RandAugmentConstants) -> int:
    """Pixels at or above it are inverted; a uint8, so from magnitude 10 on it wraps."""
    return int(level * 256) % 256


def _clean_threshold(level: float, constants: RandAugmentConstants) -> int:
    return min(int(level * 256), 256)


def _addition(level: float, constants: RandAugmentConstants) -> int:
    return int(level * 110)


def _clean_addition(level: float, constants: RandAugmentConstants) -> int:
    return min(int(level * 110), 128)


def _half_side(level: float, constants: RandAugmentConstants) -> int:
    return int(level * constants.cutout)


OPS: tuple[Op, ...] = (
    Op("AutoContrast", _nothing),
    Op("Equalize", _nothing),
    Op("Invert", _nothing),
    Op("Rotate", _degrees, signed=True),
    Op("Posterize", _shift, clean=_clean_shift),
    Op("Solarize", _threshold, clean=_clean_threshold),
    Op("Color", _factor),
    Op("Contrast", _factor, clean_function="ContrastFromMean"),
    Op("Brightness", _factor),
    Op("Sharpness", _factor),
    Op("ShearX", _slope, signed=True),
    Op("ShearY", _slope, signed=True),
    Op("TranslateX", _pixels, signed=True),
    Op("TranslateY", _pixels, signed=True),
    Op("SolarizeAdd", _addition, clean=_clean_addition),
    Op("Cutout", _half_side),
)
"""The table, in the paper's order: operation i is drawn by the number i."""


def named(name: str) -> Op:
    """Returns the row of that name.

    Args:
        name: one of the sixteen names, as the paper writes them.

    Raises:
        UserError: there is no such operation.
    """
    for op in OPS:
        if op.name == name:
            return op
    hint = nearest(name, [op.name for op in OPS])
    raise UserError(f"RandAugment has no operation '{name}'{hint}.")


def argument(
    op: Op,
    magnitude: float,
    *,
    constants: RandAugmentConstants = IMAGENET_CONSTANTS,
    behavior: str = "reference",
) -> Argument:
    """Returns what an operation is called with, before any random sign.

    Args:
        op: a row of the table.
        magnitude: the paper's M, at least 0; it is not clipped.
        constants: the data set's constants.
        behavior: one of `BEHAVIORS`.

    Returns:
        Degrees (Rotate), slope (Shear), pixels (Translate), blending factor (Color,
        Contrast, Brightness, Sharpness), lost bits 0–7 (Posterize), threshold 0–256
        (Solarize), amount added (SolarizeAdd), half the side in pixels (Cutout), or
        None where the operation takes no argument.

    Raises:
        UserError: the magnitude is negative or not finite, or there is no such
            behavior.
    """
    check_behavior(behavior)
    if not 0 <= magnitude < float("inf"):
        raise UserError(
            f"RandAugment's magnitude is {magnitude}; it must be 0 or more, "
            "usually between 5 and 30."
        )
    mended = op.clean if behavior == "clean" else None
    return (mended or op.reference)(magnitude / _MAX_LEVEL, constants)


def check_behavior(behavior: str) -> None:
    """Refuses what is none of `BEHAVIORS`.

    Raises:
        UserError: there is no such behavior.
    """
    if behavior not in BEHAVIORS:
        raise UserError(
            f"RandAugment's behavior is '{behavior}', but may only be one of "
            f"{', '.join(BEHAVIORS)}{nearest(behavior, BEHAVIORS)}."
        )
