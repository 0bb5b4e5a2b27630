"""Builds `models.efficientnet` in evaluation mode as an ONNX graph.

Activations are ``[batch, channels, height, width]``, the layout of ONNX.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from noisy_student_jax.core.types import PyTree
from noisy_student_jax.interop.export.onnx_graph import Graph
from noisy_student_jax.models import concatenated, views
from noisy_student_jax.models.architectures import Stage
from noisy_student_jax.models.concatenated import Affine, Concatenated
from noisy_student_jax.models.efficientnet import EfficientNet
from noisy_student_jax.models.onnx_backbone import FEATURES
from noisy_student_jax.models.padding import same_pads

ACTIVATIONS: dict[Callable[..., jax.Array], str] = {
    jax.nn.swish: "swish",
    jax.nn.relu6: "relu6",
}


def logits(
    graph: Graph,
    module: EfficientNet | Concatenated,
    variables: PyTree,
    images: str,
    side: int,
) -> str:
    """Adds a model to a graph; returns the name of its logits.

    `FEATURES` is the name of the features that its classifier reads.

    Args:
      graph: the graph to extend.
      module: one network, or several with one head.
      variables: ``{"params", "batch_stats"}``.
      images: name of normalized images ``[batch, 3, side, side]``.
      side: height and width of the images.
    """
    count = module.arguments.views
    images = _views(graph, images, side, count)
    if isinstance(module, Concatenated):
        parts = []
        for member, network in zip(module.members, module.networks, strict=True):
            own = concatenated.separate(variables, member)
            given = _changed(graph, images, module.affine(member))
            trunk = Network(graph, network, own, side, prefix=f"{member}/")
            parts.append(trunk.pooled(given))
        pooled = graph.node("Concat", *parts, axis=1)
    else:
        pooled = Network(graph, module, variables, side).pooled(images)
    dense = variables["params"]["classifier"]
    pooled = _mean(graph, pooled, count, len(dense["kernel"]))
    return graph.node(
        "Gemm",
        pooled,
        *(
            graph.constant(dense[name], np.float32, name=f"classifier/{name}")
            for name in ("kernel", "bias")
        ),
        name="logits",
    )


def _views(graph: Graph, images: str, side: int, count: int) -> str:
    """Adds the first views of images, one after the other."""
    if count == 1:
        return images
    enlarging = views.enlarging(side)
    rows, columns = (
        graph.constant(one, np.float32) for one in (enlarging, enlarging.T)
    )
    zoomed = graph.node("MatMul", graph.node("MatMul", rows, images), columns)
    seen = [images, zoomed]
    last, whole, width, back = (
        graph.constant([one], np.int64) for one in (-1, np.iinfo(np.int64).min, 3, -1)
    )
    seen += [graph.node("Slice", one, last, whole, width, back) for one in seen]
    return graph.node("Concat", *seen[:count], axis=0)


def _mean(graph: Graph, pooled: str, count: int, channels: int) -> str:
    """Adds the mean over views, as `FEATURES`."""
    if count == 1:
        return graph.node("Identity", pooled, name=FEATURES)
    by_view = graph.constant([count, -1, channels], np.int64)
    first = graph.constant([0], np.int64)
    return graph.node(
        "ReduceMean",
        graph.node("Reshape", pooled, by_view),
        first,
        keepdims=0,
        name=FEATURES,
    )


def _changed(graph: Graph, images: str, affine: Affine | None) -> str:
    """Adds a scale and an offset of each channel, if any."""
    if affine is None:
        return images
    scale, offset = (
        graph.constant(np.reshape(one, (1, -1, 1, 1)), np.float32) for one in affine
    )
    return graph.node("Add", graph.node("Mul", images, scale), offset)


class Network:
    """Adds a network to a graph; `side` tracks the size of the activations."""

    def __init__(
        self,
        graph: Graph,
        module: EfficientNet,
        variables: PyTree,
        side: int,
        *,
        prefix: str = "",
    ):
        """Adds nothing yet.

        Args:
          graph: the graph to extend.
          module: the network.
          variables: ``{"params", "batch_stats"}``.
          side: height and width of the images.
          prefix: of the names of its constants.
        """
        self.graph = graph
        self.prefix = prefix
        self.module = module
        self.params = variables["params"]
        self.statistics = variables["batch_stats"]
        self.side = side
        self.activation = ACTIVATIONS[module.architecture.activation]

    def pooled(self, images: str) -> str:
        """Adds the network on normalized images, up to its pooled features.

        Args:
          images: name of images ``[batch, 3, side, side]``.

        Returns:
          The name of features ``[batch, channels]``.
        """
        features = self.features(images)
        hidden = self._conv(features[max(features)], "head_conv")
        hidden = self._activate(self._norm(hidden, "head_bn"))
        hidden = self.graph.node("GlobalAveragePool", hidden)
        return self.graph.node("Flatten", hidden)

    def features(self, images: str) -> dict[int, str]:
        """Adds stem and blocks.

        Args:
          images: name of images ``[batch, 3, side, side]``.

        Returns:
          The names of the last activations of each stride.
        """
        architecture = self.module.architecture
        hidden = self._conv(images, "stem_conv", stride=architecture.stem_stride)
        hidden = self._activate(self._norm(hidden, "stem_bn"))
        index, total = 0, architecture.stem_stride
        found = {total: hidden}
        for stage in architecture.stages:
            # Only the first block has a stride and changes the width.
            of_first, of_others = (stage.inputs, stage.stride), (stage.outputs, 1)
            for shape in (of_first, *[of_others] * (stage.repeats - 1)):
                hidden = self._block(hidden, f"blocks_{index}", stage, *shape)
                index += 1
                total *= shape[1]
                found[total] = hidden
        return found

    def _block(
        self, images: str, name: str, stage: Stage, inputs: int, stride: int
    ) -> str:
        def norm(hidden: str, part: str) -> str:
            return self._norm(hidden, f"{name}/{part}")

        hidden, params = images, self.params[name]
        if "expand_conv" in params:
            wide = self._conv(
                hidden, f"{name}/expand_conv", stride=stride if stage.fused else 1
            )
            hidden = self._activate(norm(wide, "expand_bn"))
        if "depthwise_conv" in params:
            deep = self._conv(
                hidden, f"{name}/depthwise_conv", stride=stride, depthwise=True
            )
            hidden = self._activate(norm(deep, "depthwise_bn"))
        if stage.se_ratio:
            gate = self.graph.node("GlobalAveragePool", hidden)
            gate = self._activate(self._one_pixel(gate, f"{name}/se_reduce"))
            gate = self._one_pixel(gate, f"{name}/se_expand")
            gate = self.graph.node("Sigmoid", gate)
            hidden = self.graph.node("Mul", hidden, gate)
        hidden = norm(self._conv(hidden, f"{name}/project_conv"), "project_bn")
        if stride == 1 and inputs == stage.outputs:
            hidden = self.graph.node("Add", hidden, images)
        return hidden

    def _constant(self, values: Any, name: str) -> str:
        return self.graph.constant(values, np.float32, name=self.prefix + name)

    def _conv(
        self, images: str, name: str, *, stride: int = 1, depthwise: bool = False
    ) -> str:
        """Adds a convolution with TensorFlow's SAME padding for this size."""
        kernel = np.asarray(_at(self.params, name)["kernel"])
        size = kernel.shape[:2]
        sides = (self.side, self.side)
        (top, bottom), (left, right) = same_pads(sides, size, stride)
        self.side = -(-self.side // stride)
        # [height, width, inputs of a group, outputs] → [outputs, inputs, h, w]
        weights = self._constant(kernel.transpose(3, 2, 0, 1), f"{name}/kernel")
        return self.graph.node(
            "Conv",
            images,
            weights,
            kernel_shape=size,
            strides=(stride, stride),
            pads=(top, left, bottom, right),
            group=kernel.shape[3] if depthwise else 1,
        )

    def _one_pixel(self, pooled: str, name: str) -> str:
        """Adds a 1×1 convolution with bias on pooled activations."""
        params = _at(self.params, name)
        kernel = np.asarray(params["kernel"]).transpose(3, 2, 0, 1)
        return self.graph.node(
            "Conv",
            pooled,
            self._constant(kernel, f"{name}/kernel"),
            self._constant(params["bias"], f"{name}/bias"),
            kernel_shape=(1, 1),
        )

    def _norm(self, hidden: str, name: str) -> str:
        params, moving = _at(self.params, name), _at(self.statistics, name)
        values = {"scale": params["scale"], "bias": params["bias"]}
        values |= {"mean": moving["mean"], "var": moving["var"]}
        return self.graph.node(
            "BatchNormalization",
            hidden,
            *(self._constant(value, f"{name}/{key}") for key, value in values.items()),
            epsilon=self.module.arguments.batch_norm_epsilon,
        )

    def _activate(self, hidden: str) -> str:
        if self.activation == "relu6":
            low, high = (self.graph.constant(v, np.float32) for v in (0, 6))
            return self.graph.node("Clip", hidden, low, high)
        gate = self.graph.node("Sigmoid", hidden)
        return self.graph.node("Mul", hidden, gate)


def _at(tree: PyTree, name: str) -> PyTree:
    for part in name.split("/"):
        tree = tree[part]
    return tree
