"""Builds the evaluation preprocessing as an ONNX graph, for images of any size.

onnxruntime's antialiased ``Resize`` of uint8 follows Pillow's ``Resample.c``, down to
whole pixels after either pass, but computes the weights in float32: one value in ten
thousand differs by one level of 255, and one in ten million by two.
"""

from typing import Any

import numpy as np

from noisy_student_jax.augment.randaugment_table import FILL
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.images.preprocessing import LETTERBOX, Preprocessing
from noisy_student_jax.interop.export.onnx_graph import Graph

MODES: dict[str, dict[str, Any]] = {
    "bicubic": {"mode": "cubic", "cubic_coeff_a": -0.5},
    "bilinear": {"mode": "linear"},
}

_MORE = 2e-7


def add(graph: Graph, images: str, preprocessing: Preprocessing) -> str:
    """Adds crop, resize and normalization.

    Args:
      graph: the graph to extend.
      images: name of uint8 ``[batch, height, width, 3]``.
      preprocessing: the model's preprocessing.

    Returns:
      The name of float32 ``[batch, 3, side, side]``.

    Raises:
      UserError: the interpolation is not implemented for ONNX.
    """
    pixels = crop_and_resize(graph, images, preprocessing)
    mean, std = (
        graph.constant(
            (np.asarray(value, np.float32) * np.float32(255)).reshape(1, 3, 1, 1)
        )
        for value in (preprocessing.mean, preprocessing.std)
    )
    return graph.node("Div", graph.node("Sub", pixels, mean), std)


def crop_and_resize(graph: Graph, images: str, preprocessing: Preprocessing) -> str:
    """Adds crop and resize; see `add`. The result has whole pixels, 0 to 255."""
    kind = preprocessing.interpolation
    if kind not in MODES:
        raise UserError(
            f"resizing by '{kind}' cannot be put inside an ONNX model: add"
            " --without-preprocessing"
        )
    if preprocessing.framing == LETTERBOX:
        hidden = graph.node("Transpose", images, perm=(0, 3, 1, 2))
        hidden = _letterbox(graph, hidden, preprocessing.resolution, kind)
    else:
        cropped = _crop(graph, images, preprocessing)
        hidden = graph.node("Transpose", cropped, perm=(0, 3, 1, 2))
        hidden = _resize(graph, hidden, preprocessing.resolution, kind)
    return graph.cast(hidden, np.float32)


def _crop(graph: Graph, images: str, preprocessing: Preprocessing) -> str:
    side = preprocessing.resolution
    one = graph.constant([1], np.int64)
    size = graph.node("Shape", images, start=1, end=3)
    short = graph.cast(graph.node("ReduceMin", size, keepdims=1), np.float64)
    fraction = graph.constant(side / (side + preprocessing.crop_padding), np.float64)
    crop = graph.cast(graph.node("Mul", short, fraction), np.int64)
    crop = graph.node("Max", crop, one)
    room = graph.node("Add", graph.node("Sub", size, crop), one)
    start = graph.node("Div", room, graph.constant([2], np.int64))
    end = graph.node("Add", start, crop)
    axes = graph.constant([1, 2], np.int64)
    return graph.node("Slice", images, start, end, axes)


def _resize(graph: Graph, images: str, side: int, kind: str) -> str:
    batch = graph.node("Shape", images, start=0, end=1)
    # All four sizes, as onnxruntime fails on a resize of some axes after a transpose.
    rest = graph.constant([3, side, side], np.int64)
    sizes = graph.node("Concat", batch, rest, axis=0)
    # Pillow's weights add up to 1 at the edges too, which `exclude_outside` gives.
    return graph.node(
        "Resize", images, "", "", sizes, antialias=1, exclude_outside=1, **MODES[kind]
    )


def _letterbox(graph: Graph, images: str, side: int, kind: str) -> str:
    """Adds `images.letterbox` of ``[batch, 3, height, width]``."""
    node = graph.node
    size = node("Shape", images, start=2, end=4)
    longer = node("ReduceMax", size, keepdims=1)
    whole, one = (graph.constant([value], np.int64) for value in (side, 1))
    shown = node("Max", node("Div", node("Mul", size, whole), longer), one)
    # A line of pixels is repeated until it fills one of the square.
    least = node("Add", node("Div", longer, whole), one)
    lacking = node("Sub", node("Max", size, least), size)
    nothing = graph.constant([0] * 6, np.int64)
    images = node("Pad", images, node("Concat", nothing, lacking, axis=0), mode="edge")
    # `sizes` would stretch the shorter axis to whole pixels. `scales` are float32, of
    # which onnxruntime rounds the product with the size down: by `_MORE` it is never
    # a pixel too small, and a pixel too much is cut off.
    scale = graph.constant([side * (1 + _MORE)], np.float64)
    scale = node("Div", scale, graph.cast(longer, np.float64))
    scale = graph.cast(scale, np.float32)
    ones = graph.constant([1, 1], np.float32)
    scales = node("Concat", ones, scale, scale, axis=0)
    resized = node(
        "Resize", images, "", scales, antialias=1, exclude_outside=1, **MODES[kind]
    )
    start, axes = (graph.constant(value, np.int64) for value in ([0, 0], [2, 3]))
    cut = node("Slice", resized, start, shown, axes)
    rest = node("Sub", graph.constant([side, side], np.int64), shown)
    pads = node("Concat", nothing, rest, axis=0)
    return node("Pad", cut, pads, graph.constant(FILL, np.uint8))
