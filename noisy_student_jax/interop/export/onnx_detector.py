"""Builds `models.fcos` in evaluation mode as an ONNX graph, without decoding."""

import numpy as np

from noisy_student_jax.core.protocols import OnnxOutputs
from noisy_student_jax.core.types import PyTree
from noisy_student_jax.interop.export.onnx_graph import Graph
from noisy_student_jax.interop.export.onnx_network import Network
from noisy_student_jax.models import fcos
from noisy_student_jax.models.fcos import Detector

_GROUP_NORM_EPSILON = 1e-6
"""Flax's."""


def add(
    graph: Graph, module: Detector, variables: PyTree, images: str, side: int
) -> OnnxOutputs:
    """Adds a detector; its outputs have their names in `Detector.__call__`.

    Args:
      graph: the graph to extend.
      module: the detector.
      variables: ``{"params", "batch_stats"}``.
      images: name of normalized images ``[batch, 3, side, side]``.
      side: height and width of the images.

    Returns:
      Dtype and shape of ``logits`` and ``distances``; ``locations`` is a constant.
    """
    views = module.arguments.views
    if views > 1:
        axis, back = (graph.constant([value], np.int64) for value in (3, -1))
        last, whole = (
            graph.constant([value], np.int64) for value in (-1, np.iinfo(np.int64).min)
        )
        mirrored = graph.node("Slice", images, last, whole, axis, back)
        images = graph.node("Concat", images, mirrored, axis=0)
    strides = fcos.levels(module.architecture)
    where = fcos.locations(side, side, strides)
    features = Network(graph, module.networks[0], variables, side).features(images)
    pyramid = _pyramid(graph, variables["params"]["neck"], features, strides, side)
    head = _Head(graph, variables["params"]["detector"])
    found = [
        head(level, number, stride / side)
        for number, (level, stride) in enumerate(zip(pyramid, strides, strict=True))
    ]
    outputs: OnnxOutputs = {}
    for name, parts in zip(
        ("logits", "distances"), zip(*found, strict=True), strict=True
    ):
        channels = module.outputs if name == "logits" else 4
        joined = graph.node("Concat", *parts, axis=1)
        shape = [views, len(where), channels]
        by_view = graph.constant([views, -1, *shape[1:]], np.int64)
        graph.node(
            "Transpose",
            graph.node("Reshape", joined, by_view),
            perm=(1, 0, 2, 3),
            name=name,
        )
        outputs[name] = (np.float32, shape)
    graph.constant(where, np.float32, name="locations")
    return outputs


def _pyramid(
    graph: Graph,
    params: PyTree,
    features: dict[int, str],
    strides: tuple[int, ...],
    side: int,
) -> list[str]:
    """Adds the neck; returns its levels, the finest first."""
    found: list[str] = []
    for level in reversed(range(len(strides))):
        name = f"lateral_{level}_conv"
        finer = _conv(graph, features[strides[level]], params[name], f"neck/{name}")
        if found:
            ratio = strides[level + 1] // strides[level]
            size = -(-side // strides[level])
            finer = graph.node("Add", finer, _enlarged(graph, found[0], ratio, size))
        found.insert(0, finer)
    return found


def _enlarged(graph: Graph, level: str, ratio: int, size: int) -> str:
    """Adds a repetition of every cell, cut to ``[batch, channels, size, size]``."""
    scales = graph.constant([1, 1, ratio, ratio], np.float32)
    repeated = graph.node(
        "Resize",
        level,
        "",
        scales,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    start, end, axes = (
        graph.constant(value, np.int64) for value in ([0, 0], [size, size], [2, 3])
    )
    return graph.node("Slice", repeated, start, end, axes)


def _conv(graph: Graph, hidden: str, params: PyTree, name: str) -> str:
    kernel = np.asarray(params["kernel"])
    size, border = kernel.shape[:2], kernel.shape[0] // 2
    arrays = {"kernel": kernel.transpose(3, 2, 0, 1)}
    if "bias" in params:
        arrays["bias"] = np.asarray(params["bias"])
    constants = [
        graph.constant(value, np.float32, name=f"{name}/{part}")
        for part, value in arrays.items()
    ]
    return graph.node("Conv", hidden, *constants, kernel_shape=size, pads=[border] * 4)


class _Head:
    """Adds the layers that all levels share, for one level after the other."""

    def __init__(self, graph: Graph, params: PyTree):
        self._graph, self._params = graph, params

    def __call__(self, level: str, number: int, stride: float) -> tuple[str, str]:
        """Returns logits and distances, each ``[batch, locations, channels]``."""
        graph, hidden = self._graph, level
        for layer in range(fcos.CONVOLUTIONS):
            hidden = self._conv(hidden, f"conv_{layer}", number)
            hidden = self._group_norm(hidden, f"conv_{layer}_gn", number)
            hidden = graph.node("Mul", hidden, graph.node("Sigmoid", hidden))
        logits = self._conv(hidden, "logits", number)
        reach = graph.node("Softplus", self._conv(hidden, "distances", number))
        scale = stride * np.exp(np.asarray(self._params["scales"])[number])
        distances = graph.node("Mul", reach, graph.constant(scale, np.float32))
        return self._in_a_row(logits), self._in_a_row(distances)

    def _conv(self, hidden: str, name: str, level: int) -> str:
        # Constants are stored once for each level: they are small.
        own = f"detector/{name}_of_level_{level}"
        return _conv(self._graph, hidden, self._params[name], own)

    def _group_norm(self, hidden: str, name: str, level: int) -> str:
        """Adds group norm, as an instance norm of groups."""
        graph, params = self._graph, self._params[name]
        channels = len(params["scale"])
        groups = channels // fcos.CHANNELS_PER_GROUP
        grouped = graph.node(
            "Reshape", hidden, graph.constant([0, groups, -1], np.int64)
        )
        normed = graph.node(
            "InstanceNormalization",
            grouped,
            graph.constant(np.ones(groups), np.float32),
            graph.constant(np.zeros(groups), np.float32),
            epsilon=_GROUP_NORM_EPSILON,
        )
        normed = graph.node("Reshape", normed, graph.node("Shape", hidden))
        scale, bias = (
            graph.constant(
                np.reshape(params[part], (1, channels, 1, 1)),
                np.float32,
                name=f"detector/{name}_of_level_{level}/{part}",
            )
            for part in ("scale", "bias")
        )
        return graph.node("Add", graph.node("Mul", normed, scale), bias)

    def _in_a_row(self, level: str) -> str:
        graph = self._graph
        last = graph.node("Transpose", level, perm=(0, 2, 3, 1))
        channels = graph.node("Shape", last, start=3, end=4)
        rest = graph.constant([0, -1], np.int64)
        return graph.node("Reshape", last, graph.node("Concat", rest, channels, axis=0))
