"""Each operation against an implementation that shares nothing with it.

Pillow where its arithmetic is the same, NumPy taken literally from the authors' code
elsewhere; and Pillow again, loosely, for the operations where it computes otherwise.
Both backends, the device's and the host's, and both behaviors go through the same.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from noisy_student_jax.augment import color
from noisy_student_jax.augment import randaugment as backend
from noisy_student_jax.augment.input_noise import InputNoise
from noisy_student_jax.augment.randaugment_table import (
    BEHAVIORS,
    OPS,
    SVHN_CONSTANTS,
    argument,
    named,
)
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data.streaming import noise as tensorflow
from noisy_student_jax.data.streaming import tf

MAGNITUDES = (5, 10, 15, 20, 27)
SHAPES = ((8, 8), (32, 32), (19, 26))
# 4 pixels at magnitude 10 instead of 100, so that something is left of a small image.
CONSTANTS = SVHN_CONSTANTS
GEOMETRY = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
BLENDS = ("Color", "Contrast", "Brightness", "Sharpness")


def pictures(height, width):
    """Noise, dim noise, one gray, a gradient: uint8 `[4, height, width, 3]`."""
    rng = np.random.default_rng(0)
    column = np.arange(width)[None, :, None] * 255 // (width - 1)
    row = np.arange(height)[:, None, None] * np.array([3, 5, 1])
    gradient = (column + row) % 256
    return np.stack(
        [
            rng.integers(0, 256, (height, width, 3)),
            rng.integers(90, 130, (height, width, 3)),
            np.full((height, width, 3), 77),
            gradient,
        ]
    ).astype(np.uint8)


def calls(op, behavior, magnitudes=MAGNITUDES):
    """Yields (function, argument, sign) of what a row calls."""
    for magnitude in (5,) if argument(op, 5) is None else magnitudes:
        value = argument(op, magnitude, constants=CONSTANTS, behavior=behavior)
        for sign in (1, -1) if op.signed else (1,):
            yield op.function(behavior), value, sign


def all_calls():
    """Says of each different call which row it is of."""
    return {call: op for b in BEHAVIORS for op in OPS for call in calls(op, b)}


@functools.cache
def on_device(shape):
    """Everything for one shape in one program: (function, argument, sign) → images."""

    def call(op, image, name, value, negative):
        if op.name == "Cutout":
            return backend.cutout(image, 2 * value, row=3, column=5)
        function = backend.FUNCTIONS[name]
        if op.signed:
            return function(image, value, negative=negative)
        return function(image) if value is None else function(image, value)

    def everything(image):
        return [
            call(op, image, name, value, jnp.asarray(sign < 0))
            for (name, value, sign), op in all_calls().items()
        ]

    done = jax.device_get(jax.jit(jax.vmap(everything))(pictures(*shape)))
    return dict(zip(all_calls(), done, strict=True))


@functools.cache
def in_tensorflow(shape):
    """The same, operation by operation."""

    def call(op, name, value, negative):
        behavior = "reference" if name == op.name else "clean"
        images = tf.constant(pictures(*shape))
        where = {"row": tf.fill([len(images)], 3), "column": tf.fill([len(images)], 5)}
        negative = tf.fill([len(images)], negative)
        return tensorflow.apply(
            op, images, value, behavior=behavior, negative=negative, **where
        ).numpy()

    return {
        (name, value, sign): call(op, name, value, sign < 0)
        for (name, value, sign), op in all_calls().items()
    }


@pytest.fixture(params=BEHAVIORS)
def behavior(request):
    return request.param


@pytest.fixture(params=[on_device, in_tensorflow])
def cases(request, behavior):
    """Yields (argument, sign, input image, result) over magnitudes, signs, images."""

    def of(name, magnitudes=MAGNITUDES):
        for shape in SHAPES:
            results = request.param(shape)
            for call in calls(named(name), behavior, magnitudes):
                _, value, sign = call
                for image, result in zip(pictures(*shape), results[call], strict=True):
                    assert result.dtype == np.uint8
                    assert result.shape == image.shape
                    yield value, sign, image, result

    return of


def assert_same(result, expected):
    np.testing.assert_array_equal(result, np.asarray(expected))


def test_invert_is_pillows(cases):
    for _, _, image, result in cases("Invert", (5,)):
        assert_same(result, ImageOps.invert(Image.fromarray(image)))


def test_equalize_is_pillows(cases):
    for _, _, image, result in cases("Equalize", (5,)):
        assert_same(result, ImageOps.equalize(Image.fromarray(image)))


def test_autocontrast_is_the_authors_and_pillows_within_one(cases):
    for _, _, image, result in cases("AutoContrast", (5,)):
        expected = image.copy()
        for channel in range(3):
            values = image[..., channel].astype(np.float32)
            low, high = values.min(), values.max()
            if high > low:
                scale = np.float32(255) / (high - low)
                stretched = values * scale + -low * scale
                expected[..., channel] = np.clip(stretched, 0, 255).astype(np.uint8)
        assert_same(result, expected)
        pillow = np.asarray(ImageOps.autocontrast(Image.fromarray(image)))
        assert np.abs(result.astype(int) - pillow).max() <= 1


def test_every_stretch_is_rounded_as_a_division():
    spans = np.arange(256, dtype=np.uint8)
    expected = np.float32(255) / np.maximum(spans, 1).astype(np.float32)
    assert_same(jax.jit(color._stretch)(spans), expected)


def test_posterize_is_pillows(cases):
    for shift, _, image, result in cases("Posterize"):
        assert_same(result, ImageOps.posterize(Image.fromarray(image), 8 - shift))


def test_solarize_is_pillows(cases):
    for threshold, _, image, result in cases("Solarize"):
        assert_same(result, ImageOps.solarize(Image.fromarray(image), threshold))


def test_solarize_takes_256_for_nothing_at_all():
    image = pictures(8, 8)[0]
    assert_same(color.solarize(jnp.asarray(image), 256), image)


def test_solarize_add_is_the_authors(cases):
    for addition, _, image, result in cases("SolarizeAdd"):
        added = np.clip(image.astype(np.int64) + addition, 0, 255)
        assert_same(result, np.where(image < 128, added, image))


def blend(degenerate, image, factor):
    """The authors' `blend`, one float32 rounding per step."""
    base = degenerate.astype(np.float32)
    scaled = np.float32(factor) * (image.astype(np.float32) - base)
    return np.clip(base + scaled, 0, 255).astype(np.uint8)


def gray(image):
    """``tf.image.rgb_to_grayscale``, as it computes it."""
    unit = image.astype(np.float32) * np.float32(1 / 255)
    weights = np.float32([0.2989, 0.5870, 0.1140])
    total = unit[..., 0] * weights[0] + unit[..., 1] * weights[1]
    total = total + unit[..., 2] * weights[2]
    return (total * np.float32(255.5)).astype(np.uint8)[..., None]


def smooth(image):
    """Pillow's 3 × 3 kernel, moved from rounding to truncating; it keeps the border."""
    weights = [1, 1, 1, 1, 5, 1, 1, 1, 1]
    kernel = ImageFilter.Kernel((3, 3), weights, scale=13, offset=1 / 26 - 0.5)
    return np.asarray(Image.fromarray(image).filter(kernel))


def level(image):
    """The authors' "mean": pixels over the 256 bins of the histogram."""
    height, width, _ = image.shape
    return np.full_like(image, int(min(height * width / 256, 255)))


def mean_level(image):
    """The mean of the gray image, rounded, as Pillow rounds its own."""
    return np.full_like(image, int(gray(image).mean(dtype=np.float64) + 0.5))


DEGENERATE = {
    "Color": gray,
    "Contrast": level,
    "ContrastFromMean": mean_level,
    "Brightness": np.zeros_like,
    "Sharpness": smooth,
}


@pytest.mark.parametrize("name", BLENDS)
def test_blends_are_the_authors_and_pillows(cases, behavior, name):
    make = DEGENERATE[named(name).function(behavior)]
    for factor, _, image, result in cases(name):
        degenerate = np.broadcast_to(make(image), image.shape)
        assert_same(result, blend(degenerate, image, factor))
        ends = Image.fromarray(np.ascontiguousarray(degenerate)), Image.fromarray(image)
        assert_same(result, Image.blend(*ends, factor))


@pytest.mark.parametrize("name", BLENDS)
def test_magnitude_five_changes_nothing(cases, name):
    for _, _, image, result in cases(name, (5,)):
        assert_same(result, image)


@pytest.mark.parametrize(
    ("name", "behavior"),
    [
        ("Color", "reference"),
        ("Sharpness", "reference"),
        # The reference's is no gray of the image.
        ("Contrast", "clean"),
    ],
)
def test_pillows_own_grays_differ_by_one_before_the_blend(cases, name):
    for factor, _, image, result in cases(name):
        pillow = getattr(ImageEnhance, name)(Image.fromarray(image)).enhance(factor)
        difference = np.abs(result.astype(int) - np.asarray(pillow))
        assert difference.max() <= np.ceil(abs(1 - factor))


def test_brightness_is_pillows(cases):
    for factor, _, image, result in cases("Brightness"):
        assert_same(
            result, ImageEnhance.Brightness(Image.fromarray(image)).enhance(factor)
        )


def test_contrast_is_measured_from_the_number_of_pixels():
    black = jnp.zeros((32, 32, 3), jnp.uint8)
    assert int(color.contrast(black, 0.0)[0, 0, 0]) == 4
    large = jnp.zeros((224, 224, 3), jnp.uint8)
    assert int(color.contrast(large, 0.0)[0, 0, 0]) == 196
    huge = jnp.zeros((260, 256, 3), jnp.uint8)
    assert int(color.contrast(huge, 0.0)[0, 0, 0]) == 255


def test_clean_contrast_is_measured_from_the_mean_of_the_gray_image():
    # Half of the pixels 10, half 201: the mean is 105.5, and halves go up.
    for shape in ((32, 32, 3), (300, 256, 3), (2, 2, 1)):
        image = np.full(shape, 10, np.uint8)
        image[shape[0] // 2 :] = 201
        assert (np.asarray(color.contrast_from_mean(image, 0.0)) == 106).all()
    light = np.full((1200, 1300, 3), 255, np.uint8)
    assert (np.asarray(color.contrast_from_mean(light, 0.0)) == 255).all()


def coefficients(name, value, height, width):
    """``contrib_image``'s matrices, float32: output (x, y) → input (x, y)."""
    value = np.float32(value)
    if name == "Rotate":
        angle = value * np.float32(np.pi / 180)
        cos, sin = np.cos(angle), np.sin(angle)
        right, bottom = np.float32(width - 1), np.float32(height - 1)
        c = (right - (cos * right - sin * bottom)) / np.float32(2)
        f = (bottom - (sin * right + cos * bottom)) / np.float32(2)
        return np.float32([cos, -sin, c, sin, cos, f])
    return np.float32(
        {
            "ShearX": [1, value, 0, 0, 1, 0],
            "ShearY": [1, 0, 0, value, 1, 0],
            "TranslateX": [1, 0, value, 0, 1, 0],
            "TranslateY": [1, 0, 0, 0, 1, value],
        }[name]
    )


def sources(matrix, height, width):
    """Where each output pixel comes from, before rounding: float32 x and y."""
    a, b, c, d, e, f = matrix
    y, x = np.meshgrid(
        np.arange(height, dtype=np.float32),
        np.arange(width, dtype=np.float32),
        indexing="ij",
    )
    return (a * x + b * y) + c, (d * x + e * y) + f


@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_is_the_authors_pixel_for_pixel(cases, name):
    for value, sign, image, result in cases(name):
        height, width, _ = image.shape
        matrix = coefficients(name, sign * value, height, width)
        expected = np.full_like(image, 128)
        from_x, from_y = sources(matrix, height, width)
        for y in range(height):
            for x in range(width):
                # C's round(): halves go away from zero.
                column = int(
                    np.copysign(np.floor(abs(from_x[y, x]) + 0.5), from_x[y, x])
                )
                row = int(np.copysign(np.floor(abs(from_y[y, x]) + 0.5), from_y[y, x]))
                if 0 <= row < height and 0 <= column < width:
                    expected[y, x] = image[row, column]
        assert_same(result, expected)


@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_is_pillows_with_centers_at_halves(cases, name):
    gray_fill = (128, 128, 128)
    for value, sign, image, result in cases(name):
        height, width, _ = image.shape
        a, b, c, d, e, f = (
            float(v) for v in coefficients(name, sign * value, height, width)
        )
        picture = Image.fromarray(image)
        if name == "Rotate":
            pillow = picture.rotate(sign * value, fillcolor=gray_fill)
        else:
            moved = (a, b, c + (1 - a - b) / 2, d, e, f + (1 - d - e) / 2)
            pillow = picture.transform(
                picture.size, Image.Transform.AFFINE, moved, fillcolor=gray_fill
            )
        # Halfway between two pixels, Pillow's fixed point decides either way.
        distance = [
            np.abs(s - np.floor(s) - 0.5)
            for s in sources((a, b, c, d, e, f), height, width)
        ]
        clear = np.minimum(*distance) > 1e-3
        assert clear.mean() > 0.4
        assert_same(result[clear], np.asarray(pillow)[clear])


def test_a_shear_keeps_the_first_row_and_a_rotation_the_center():
    image = jnp.asarray(pictures(19, 27)[0])
    sheared = backend.FUNCTIONS["ShearX"](image, 0.81)
    assert_same(sheared[0], image[0])
    turned = backend.FUNCTIONS["Rotate"](image, 81.0)
    assert_same(turned[9, 13], image[9, 13])


def test_cutout_is_the_authors(cases):
    for half, _, image, result in cases("Cutout"):
        height, width, _ = image.shape
        expected = image.copy()
        top, left = max(0, 3 - half), max(0, 5 - half)
        expected[top : min(height, 3 + half), left : min(width, 5 + half)] = 128
        assert_same(result, expected)


def test_any_size_works_and_every_row_of_the_table_is_called():
    for shape in ((1, 1, 3), (2, 5, 3), (1, 7, 1)):
        image = jnp.asarray(np.random.default_rng(1).integers(0, 256, shape), jnp.uint8)

        def all_ops(image):
            def one(op):
                draws = backend.Draws(op, op > 0, op * 0, op * 0)
                return backend.apply(image, draws, magnitude=9)

            return jax.lax.map(one, jnp.arange(len(OPS))[:, None])

        out = np.asarray(jax.jit(all_ops)(image))
        assert out.shape == (16, *shape)
        assert_same(out[2], 255 - image)
        assert (out[15] == 128).all()


@functools.cache
def drawn_on_device(behavior):
    def one(image, op):
        draws = backend.Draws(*(jnp.array([v]) for v in (op, False, 3, 5)))
        return backend.apply(
            image, draws, magnitude=27, constants=CONSTANTS, behavior=behavior
        )

    def all_ops(image):
        return jax.lax.map(lambda op: one(image, op), jnp.arange(len(OPS)))

    return np.asarray(jax.jit(jax.vmap(all_ops))(pictures(*SHAPES[-1])))


@functools.cache
def drawn_in_tensorflow(behavior):
    noise = InputNoise(
        randaugment_layers=1,
        randaugment_magnitude=27,
        randaugment_behavior=behavior,
        constants=CONSTANTS,
    )

    def one(op):
        images = tf.constant(pictures(*SHAPES[-1]))
        ones = np.ones((len(images), 1), np.int32)
        draws = {
            "randaugment_op": op * ones,
            "randaugment_negative": ones == 0,
            "randaugment_row": 3 * ones,
            "randaugment_column": 5 * ones,
        }
        draws = {name: tf.constant(drawn) for name, drawn in draws.items()}
        return tensorflow.augment(images, draws, noise).numpy()

    return np.stack([one(op) for op in range(len(OPS))], axis=1)


@pytest.mark.parametrize("drawn", [drawn_on_device, drawn_in_tensorflow])
@pytest.mark.parametrize("number", range(len(OPS)), ids=[op.name for op in OPS])
def test_what_is_drawn_is_called_as_its_behavior_says(drawn, number, behavior):
    (call, *_) = calls(OPS[number], behavior, (27,))
    assert_same(drawn(behavior)[:, number], on_device(SHAPES[-1])[call])


def test_what_cannot_be_augmented_is_refused():
    draws = backend.draw(jax.random.key(0), layers=1, height=4, width=4)
    with pytest.raises(UserError, match="uint8"):
        backend.apply(jnp.zeros((4, 4, 3)), draws, magnitude=9)
    with pytest.raises(UserError, match="1 or 3 channels, not 4"):
        color.color(jnp.zeros((4, 4, 4), jnp.uint8), 1.9)
