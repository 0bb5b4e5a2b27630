"""Builds the evaluation preprocessing as an ONNX graph, for images of any size.

Pillow resizes with weights of 22 fractional bits, sums in integers, and rounds to whole
pixels after the horizontal and after the vertical pass (``Resample.c``). The graph
computes the weights from the image size, and each pass is a matrix product in float64,
which holds those integers exactly.
"""

import numpy as np

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.interop.export.onnx_graph import Graph

SUPPORT = {"bicubic": 2.0, "bilinear": 1.0}
PRECISION = 2.0**22


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
    kind = preprocessing.interpolation
    if kind not in (*SUPPORT, "nearest"):
        raise UserError(
            f"resizing by '{kind}' cannot be put inside an ONNX model: add"
            " --without-preprocessing"
        )
    cropped, crop = _crop(graph, images, preprocessing)
    hidden = graph.node("Transpose", cropped, perm=(0, 3, 1, 2))
    side = preprocessing.resolution
    if kind == "nearest":
        hidden = graph.cast(_nearest(graph, hidden, crop, side), np.float32)
    else:
        hidden = _weighted(graph, hidden, crop, side, kind)
    mean, std = (
        graph.constant(
            (np.asarray(value, np.float32) * np.float32(255)).reshape(1, 3, 1, 1)
        )
        for value in (preprocessing.mean, preprocessing.std)
    )
    return graph.node("Div", graph.node("Sub", hidden, mean), std)


def _crop(graph: Graph, images: str, preprocessing: Preprocessing) -> tuple[str, str]:
    """Adds the evaluation crop; returns it and its side, int64 ``[1]``."""
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
    return graph.node("Slice", images, start, end, axes), crop


def _scale(graph: Graph, crop: str, side: int) -> str:
    """Adds the ratio of the crop's side to the result's."""
    exact = graph.cast(crop, np.float64)
    return graph.node("Div", exact, graph.constant(side, np.float64))


def _nearest(graph: Graph, images: str, crop: str, side: int) -> str:
    scale = _scale(graph, crop, side)
    # Pillow accumulates the position pixel by pixel, with rounding.
    steps = graph.constant([0.5] + [1.0] * (side - 1), np.float64)
    axis = graph.constant(0, np.int64)
    places = graph.node("CumSum", graph.node("Mul", steps, scale), axis)
    places = graph.cast(places, np.int64)
    rows = graph.node("Gather", images, places, axis=2)
    return graph.node("Gather", rows, places, axis=3)


def _weighted(graph: Graph, images: str, crop: str, side: int, kind: str) -> str:
    weights = _weights(graph, crop, side, kind)
    hidden = graph.cast(images, np.float64)
    across = graph.node("Transpose", weights, perm=(1, 0))
    hidden = _whole_pixels(graph, graph.node("MatMul", hidden, across))
    hidden = _whole_pixels(graph, graph.node("MatMul", weights, hidden))
    return graph.cast(hidden, np.float32)


def _whole_pixels(graph: Graph, sums: str) -> str:
    half, unit, black, white = (
        graph.constant(value, np.float64)
        for value in (PRECISION / 2, 1 / PRECISION, 0, 255)
    )
    shifted = graph.node("Mul", graph.node("Add", sums, half), unit)
    return graph.node("Clip", graph.node("Floor", shifted), black, white)


def _weights(graph: Graph, crop: str, side: int, kind: str) -> str:
    """Adds the integer weights of one pass, float64 ``[side, crop]``."""

    def number(value: float | np.ndarray) -> str:
        return graph.constant(value, np.float64)

    scale = _scale(graph, crop, side)
    stretch = graph.node("Max", scale, number(1))
    reach = graph.node("Mul", stretch, number(SUPPORT[kind]))
    middles = number((np.arange(side) + 0.5)[:, None])
    middles = graph.node("Mul", middles, scale)

    zero, one = (graph.constant(value, np.int64) for value in (0, 1))
    scalar = graph.node("Squeeze", crop)
    pixels = graph.cast(graph.node("Range", zero, scalar, one), np.float64)

    def edge(operation: str) -> str:
        moved = graph.node(operation, middles, reach)
        moved = graph.node("Add", moved, number(0.5))
        return graph.cast(graph.cast(moved, np.int64), np.float64)

    inside = graph.node(
        "And",
        graph.node("GreaterOrEqual", pixels, edge("Sub")),
        graph.node("Less", pixels, edge("Add")),
    )
    away = graph.node("Add", graph.node("Sub", pixels, middles), number(0.5))
    away = graph.node("Mul", away, graph.node("Div", number(1), stretch))
    curve = _curve(graph, graph.node("Abs", away), kind)
    weights = graph.node("Where", inside, curve, number(0))
    axes = graph.constant([1], np.int64)
    total = graph.node("ReduceSum", weights, axes, keepdims=1)
    weights = graph.node("Div", weights, total)
    # Halves are rounded away from zero.
    magnitude = graph.node("Mul", graph.node("Abs", weights), number(PRECISION))
    magnitude = graph.node("Floor", graph.node("Add", magnitude, number(0.5)))
    return graph.node("Mul", graph.node("Sign", weights), magnitude)


def _curve(graph: Graph, away: str, kind: str) -> str:
    """Adds the filter: bilinear, or Keys's bicubic with a = −0.5, as in Pillow."""

    def number(value: float) -> str:
        return graph.constant(value, np.float64)

    def polynomial(*coefficients: float) -> str:
        value = number(coefficients[0])
        for coefficient in coefficients[1:]:
            value = graph.node("Mul", value, away)
            if coefficient:
                value = graph.node("Add", value, number(coefficient))
        return value

    near = graph.node("Less", away, number(1))
    if kind == "bilinear":
        return graph.node("Where", near, polynomial(-1, 1), number(0))
    tail = graph.node(
        "Where",
        graph.node("Less", away, number(2)),
        polynomial(-0.5, 2.5, -4, 2),
        number(0),
    )
    return graph.node("Where", near, polynomial(1.5, -2.5, 0, 1), tail)
