"""Exports to ONNX, with or without the preprocessing."""

import json
import pathlib
from typing import Any

import numpy as np

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.protocols import OnnxOutputs, Task
from noisy_student_jax.core.types import PyTree
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.interop.export import (
    agreement,
    onnx_detector,
    onnx_network,
    onnx_preprocessing,
)
from noisy_student_jax.interop.export.onnx_graph import Graph, library
from noisy_student_jax.models.bundle import Bundle
from noisy_student_jax.models.concatenated import Concatenated
from noisy_student_jax.models.efficientnet import EfficientNet
from noisy_student_jax.models.fcos import Detector
from noisy_student_jax.models.onnx_backbone import FEATURES

INPUT = "images"
WHAT = "the ONNX model"


def export(
    bundle: Bundle, output: pathlib.Path, *, task: Task, preprocess: bool = True
) -> str:
    """Writes a bundle as an ONNX file, after verification with onnxruntime.

    Args:
      bundle: the bundle to export.
      output: the file to create.
      task: the bundle's task.
      preprocess: whether the model takes uint8 ``[batch, height, width, 3]`` of any
        size, and crops, resizes and normalizes it; otherwise it takes normalized
        float32 ``[batch, 3, side, side]``.

    Returns:
      A description of the verification, for the console.

    Raises:
      UserError: the model is none that graphs are written for, or onnxruntime's
        predictions differ.
    """
    library("onnxruntime")
    data = model_bytes(bundle, task=task, preprocess=preprocess)
    with files.atomic_file(output) as file:
        file.write(data)
        file.flush()
        worst = _verify(bundle, task, file.name, preprocess=preprocess)
    return f"onnxruntime's predictions are the bundle's to {worst:.0e}"


def model_bytes(bundle: Bundle, *, task: Task, preprocess: bool) -> bytes:
    """Returns the content of the ONNX file.

    Raises:
      UserError: graphs are written for no such model or task.
    """
    module = agreement.make_module(bundle)
    if outside := getattr(module, "outside", ()):
        raise UserError(
            f"of '{outside[0]}' there is a program for onnxruntime alone, which is not"
            " joined with another: export a student of the package's own models"
        )
    if not hasattr(task, "onnx_head") or not isinstance(
        module, EfficientNet | Concatenated | Detector
    ):
        raise UserError(
            "ONNX graphs are written for this package's EfficientNets, detectors and"
            f" tasks, and not for '{bundle.architecture}' with task '{bundle.task}':"
            " use --format=savedmodel"
        )
    graph, side = Graph(), bundle.preprocessing.resolution
    images = INPUT
    given: tuple[type[np.generic], list[Any]]
    if preprocess:
        images = onnx_preprocessing.add(graph, INPUT, bundle.preprocessing)
        given = (np.uint8, ["batch", "height", "width", 3])
    else:
        given = (np.float32, ["batch", 3, side, side])
    network = _network(graph, module, bundle.variables, images, side)
    head = task.onnx_head(graph, {name: shape for name, (_, shape) in network.items()})
    return graph.model(
        {INPUT: given},
        {
            name: (dtype, ["batch", *shape])
            for name, (dtype, shape) in (head | network).items()
        },
        {
            "classes": json.dumps(bundle.classes),
            "preprocessing": json.dumps(bundle.preprocessing.to_json()),
            "preprocessing_inside": json.dumps(preprocess),
            "architecture": bundle.architecture,
            "sha256": bundle.sha256,
            "origin": json.dumps(bundle.origin),
        },
    )


def _network(
    graph: Graph,
    module: EfficientNet | Concatenated | Detector,
    variables: PyTree,
    images: str,
    side: int,
) -> OnnxOutputs:
    """Adds a model; returns its outputs by their names in the graph."""
    if isinstance(module, Detector):
        return onnx_detector.add(graph, module, variables, images, side)
    onnx_network.logits(graph, module, variables, images, side)
    width, classes = variables["params"]["classifier"]["kernel"].shape
    return {"logits": (np.float32, [classes]), FEATURES: (np.float32, [width])}


def _verify(bundle: Bundle, task: Task, path: str, *, preprocess: bool) -> float:
    session = _session(path)
    reference = agreement.Reference(bundle, task)
    names = [output.name for output in session.get_outputs()]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {INPUT: images}), strict=True))

    if preprocess:
        worst = 0.0
        for images in agreement.random_pixels(bundle):
            pixels = resized(bundle.preprocessing, images)
            reference.check_pixels(WHAT, pixels, images)
            normalized = reference.normalized(pixels)
            worst = max(worst, reference.check(WHAT, run(images), normalized))
        return worst
    images = agreement.random_normalized(bundle)
    channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return reference.check(WHAT, run(channels_first), images)


def resized(preprocessing: Preprocessing, images: np.ndarray) -> np.ndarray:
    """Runs the graph's crop and resize alone."""
    graph = Graph()
    graph.node(
        "Identity",
        onnx_preprocessing.crop_and_resize(graph, INPUT, preprocessing),
        name="pixels",
    )
    side = preprocessing.resolution
    model = graph.model(
        {INPUT: (np.uint8, ["batch", "height", "width", 3])},
        {"pixels": (np.float32, ["batch", 3, side, side])},
        {},
    )
    return _session(model).run(["pixels"], {INPUT: images})[0].transpose(0, 2, 3, 1)


def _session(model: str | bytes) -> Any:
    runtime = library("onnxruntime")
    return runtime.InferenceSession(model, providers=["CPUExecutionProvider"])
