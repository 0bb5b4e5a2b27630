"""The RandAugment table: sixteen operations and their magnitudes.

The table is independent of JAX. A backend supplies one function per row, looked up by
`Op.function`, and gets its argument from `argument`, so backends can differ only in
their pixel arithmetic.

The order and the constants are those of the authors' ``randaugment.py``: magnitudes are
never clipped, and casts to integers truncate. There is no identity operation and no
probability: every drawn operation is applied.

There are two behaviors. ``reference`` reproduces the authors' code, including its bugs.
``clean`` fixes four rows and keeps the other twelve:

- *Contrast* blends away from the mean of the gray image, not from its number of pixels
  over 256.
- *Solarize* holds its threshold at 256, where it inverts nothing, instead of letting it
  wrap to 0, where it inverts everything.
- *Posterize* keeps 1 to 8 bits; above 8 it does not fall back to one bit.
- *SolarizeAdd* adds 128 at most, the bound that the authors' comment gives.

With ``clean``, no row jumps as the magnitude grows. Solarize and Posterize weaken with
it, following their formulas, and do nothing from magnitudes 10 and 20 on: making them
stronger instead would define different operations.
"""

from collections.abc import Callable
from dataclasses import dataclass

from noisy_student_jax.core.errors import UserError, nearest

FILL = 128
"""Fill value for pixels outside an image: mid-gray, in every channel."""

SOLARIZE_ADD_BELOW = 128
"""SolarizeAdd adds to pixels below this value."""

BEHAVIORS = ("reference", "clean")
"""The authors' code as it runs, or with its bugs fixed."""

_MAX_LEVEL = 10.0
_LARGEST_SHIFT = 7


@dataclass(frozen=True)
class RandAugmentConstants:
    """Constants that depend on the dataset.

    Attributes:
        translate: shift of TranslateX and TranslateY at magnitude 10, in pixels.
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
        reference: maps the level, magnitude/10, to the argument, as in the authors'
            code.
        clean: the fixed mapping; None where `reference` is right.
        clean_function: the name of the fixed operation; None where the operation is
            right.
        signed: whether the argument is negated with probability 1/2.
    """

    name: str
    reference: Rule
    clean: Rule | None = None
    clean_function: str | None = None
    signed: bool = False

    def function(self, behavior: str) -> str:
        """Returns the name of the backend function for a behavior."""
        if behavior == "clean" and self.clean_function:
            return self.clean_function
        return self.name


def _nothing(level: float, constants: RandAugmentConstants) -> None:
    """Returns None: the operation takes no argument."""


def _degrees(level: float, constants: RandAugmentConstants) -> float:
    return level * 30.0


def _slope(level: float, constants: RandAugmentConstants) -> float:
    return level * 0.3


def _pixels(level: float, constants: RandAugmentConstants) -> float:
    """Returns pixels, independent of the image's resolution."""
    return level * float(constants.translate)


def _factor(level: float, constants: RandAugmentConstants) -> float:
    """Returns 1, the identity, at magnitude 5; above it, the blend extrapolates."""
    return level * 1.8 + 0.1


def _shift(level: float, constants: RandAugmentConstants) -> int:
    """Returns the number of dropped bits: 8 − bits, clamped to 0–7 as in TensorFlow.

    From magnitude 22.5 up 8 − bits is negative; as a uint8 it wraps to about 254, and
    TensorFlow's kernel clamps that to 7, which leaves one bit. Below 2.5 it is 8, which
    becomes 7 too.
    """
    return min((8 - int(level * 4)) % 256, _LARGEST_SHIFT)


def _clean_shift(level: float, constants: RandAugmentConstants) -> int:
    return 8 - min(max(int(level * 4), 1), 8)


def _threshold(level: float, constants: RandAugmentConstants) -> int:
    """Returns the least inverted value; a uint8 that wraps from magnitude 10 on."""
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
"""The table, in the paper's order: the drawn number is the row's index."""


def named(name: str) -> Op:
    """Returns the row with the given name.

    Args:
        name: one of the sixteen names, as spelled in the paper.

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
    """Returns the argument of an operation, before any random sign.

    Args:
        op: a row of the table.
        magnitude: the paper's M, at least 0; it is not clipped.
        constants: the dataset-dependent constants.
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
    """Checks that a behavior is one of `BEHAVIORS`.

    Raises:
        UserError: there is no such behavior.
    """
    if behavior not in BEHAVIORS:
        raise UserError(
            f"RandAugment's behavior is '{behavior}', but may only be one of "
            f"{', '.join(BEHAVIORS)}{nearest(behavior, BEHAVIORS)}."
        )
