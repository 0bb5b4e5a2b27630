"""Single-label classification; targets are class probabilities."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from noisy_student_jax.core import types
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.protocols import (
    Arrays,
    LossOptions,
    OnnxOutputs,
    ReportContext,
)
from noisy_student_jax.core.sections import Section
from noisy_student_jax.core.types import Batch, PerStream, PyTree
from noisy_student_jax.evaluation import resampling
from noisy_student_jax.evaluation.statistics import calibration_error
from noisy_student_jax.interop.export.onnx_graph import Graph
from noisy_student_jax.tasks import confusion

FEW_CLASSES = 128
"""Up to this many classes a sidecar stores all probabilities; above, the top k."""
DEFAULT_TOP_K = 10


class Classification:
    """Softmax classification (paper §2)."""

    name = "classification"
    primary_metric = "top1"
    hub_task, hub_metrics = "image-classification", ("accuracy",)

    def __init__(self, classes: tuple[str, ...]):
        """Takes the class names in index order.

        Raises:
          UserError: fewer than two classes.
        """
        if len(classes) < 2:
            raise UserError(
                f"classification needs at least two classes, got {len(classes)}"
            )
        self.classes = tuple(classes)
        self.outputs = len(classes)

    def targets(self, labels: np.ndarray) -> np.ndarray:
        """Converts classes ``[images]`` to one-hot float32 ``[images, classes]``."""
        return np.eye(self.outputs, dtype=np.float32)[np.asarray(labels, np.int64)]

    def check_labels(self, labels: np.ndarray, part: str) -> None:
        """Checks that labels are one class an image.

        Raises:
          UserError: they are not, as boxes.
        """
        if np.ndim(labels) != 1:
            raise UserError(
                f"the {part} images have labels of another kind than one class each,"
                f" which task '{self.name}' needs: from boxes, configs/boxes.py learns"
            )

    def check_model(self, model: Mapping[str, Any], outputs: PyTree) -> None:
        """Checks that a model has one output a class.

        Raises:
          UserError: it has not, as a detector.
        """
        logits = outputs.get("logits") if isinstance(outputs, Mapping) else None
        if logits is None or logits.shape[1:] != (self.outputs,):
            raise UserError(
                f"model {model['name']!r} does not tell classes of whole images, as"
                f" task '{self.name}' needs: choose another, such as"
                " --config.model.name=efficientnet_lite0"
            )

    def loss(
        self, outputs: PyTree, batch: Batch, options: LossOptions
    ) -> dict[str, PerStream]:
        """Returns cross-entropy and agreement; label smoothing as in `LossOptions`.

        The authors' ``main.py`` smooths hard targets alone, too.
        """
        target = training_target(batch["target"], batch["stream"], options)
        log_p = jax.nn.log_softmax(outputs["logits"].astype(jnp.float32))
        cross_entropy = -jnp.sum(target * log_p, axis=-1)
        agrees = jnp.argmax(log_p, -1) == jnp.argmax(batch["target"], -1)
        by_stream = {"stream": batch["stream"], "weight": batch["weight"]}
        return {
            "loss": PerStream.of(cross_entropy, **by_stream),
            "agreement": PerStream.of(agrees.astype(jnp.float32), **by_stream),
        }

    def predict(self, outputs: PyTree) -> dict[str, jax.Array]:
        """Returns ``probabilities`` and ``logits``, float32 ``[images, classes]``."""
        logits = outputs["logits"].astype(jnp.float32)
        return {"probabilities": jax.nn.softmax(logits), "logits": logits}

    def onnx_head(self, graph: Graph, shapes: dict[str, list[int]]) -> OnnxOutputs:
        """Adds ``probabilities``, of ``logits``."""
        graph.node("Softmax", "logits", axis=1, name="probabilities")
        return {"probabilities": (np.float32, shapes["logits"])}

    def bucket(self, predictions: Arrays) -> np.ndarray:
        """Returns the most probable class."""
        return predictions["probabilities"].argmax(axis=1).astype(np.int32)

    def score(self, predictions: Arrays) -> np.ndarray:
        """Returns the probability of the most probable class."""
        return predictions["probabilities"].max(axis=1).astype(np.float32)

    def columns(self, predictions: Arrays, *, top_k: int | None) -> dict[str, pa.Array]:
        """Returns all probabilities in half precision, or the top k with their ids.

        Args:
          predictions: the result of `predict`.
          top_k: number of probabilities to store; None to store all of up to
            `FEW_CLASSES` classes, and otherwise the top `DEFAULT_TOP_K`.
        """
        p = predictions["probabilities"]
        if top_k is None and self.outputs <= FEW_CLASSES:
            return {"probabilities": _list_array(p.astype(np.float16))}
        k = min(top_k or DEFAULT_TOP_K, self.outputs)
        ids = np.argsort(-p, axis=1, kind="stable")[:, :k].astype(np.int32)
        top = np.take_along_axis(p, ids, axis=1).astype(np.float16)
        return {"top_ids": _list_array(ids), "top_probabilities": _list_array(top)}

    def record_bytes(self, *, top_k: int | None) -> int:
        """Returns the bytes per record of `columns`."""
        if top_k is None and self.outputs <= FEW_CLASSES:
            return 2 * self.outputs
        return (4 + 2) * min(top_k or DEFAULT_TOP_K, self.outputs)

    def stored_targets(self, rows: pa.RecordBatch) -> Arrays:
        """Converts the list columns to arrays ``[images, k]``."""
        names = set(rows.schema.names)
        wanted = (
            ("probabilities",)
            if "probabilities" in names
            else ("top_ids", "top_probabilities")
        )
        return {name: _matrix(rows.column(name)) for name in wanted}

    def pseudo_targets(self, stored: dict[str, jax.Array]) -> jax.Array:
        """Returns probabilities, renormalized after half precision.

        The mass that the top k leave is spread evenly over the other classes.
        """
        if "probabilities" in stored:
            p = stored["probabilities"].astype(jnp.float32)
            return p / p.sum(axis=-1, keepdims=True)
        top = stored["top_probabilities"].astype(jnp.float32)
        rest = jnp.clip(1 - top.sum(axis=-1, keepdims=True), 0, 1)
        others = max(self.outputs - top.shape[-1], 1)
        dense = jnp.broadcast_to(rest / others, (top.shape[0], self.outputs))
        rows = jnp.arange(top.shape[0])[:, None]
        dense = dense.at[rows, stored["top_ids"]].set(top)
        return dense / dense.sum(axis=-1, keepdims=True)

    def taught_targets(self, predictions: dict[str, jax.Array]) -> jax.Array:
        """Returns all probabilities, however many a sidecar would store."""
        return predictions["probabilities"]

    def statistics(self, predictions: Arrays, labels: np.ndarray) -> pa.Array:
        """Returns 1 where the most probable class is correct, and 0 elsewhere."""
        return pa.array((self.bucket(predictions) == labels).astype(np.float64))

    def primary(
        self, statistics: pa.Array, draws: np.ndarray | None = None
    ) -> np.ndarray:
        """Returns the share of correct images."""
        return resampling.mean(statistics, draws)

    def metrics(self, predictions: Arrays, labels: np.ndarray) -> dict[str, float]:
        """Returns ``top1``, ``top5`` (above five classes), ``nll`` and ``ece``."""
        p = predictions["probabilities"].astype(np.float64)
        right = resampling.numbers(self.statistics(predictions, labels))
        own = p[np.arange(len(labels)), labels]
        metrics = {"top1": float(right.mean())}
        if self.outputs > 5:
            top5 = np.argsort(-p, axis=1, kind="stable")[:, :5]
            metrics["top5"] = float((top5 == labels[:, None]).any(axis=1).mean())
        metrics["nll"] = float(-np.log(np.maximum(own, 1e-12)).mean())
        metrics["ece"] = calibration_error(p.max(axis=1), right)
        return metrics

    def report_sections(self, context: ReportContext) -> list[Section]:
        """Returns the confusion of classes."""
        return [confusion.mistakes(context, self.classes)]


def training_target(
    target: jax.Array, stream: jax.Array, options: LossOptions
) -> jax.Array:
    """Applies temperature or hardening to pseudo-labels, and smoothing to hard targets.

    Args:
      target: float32 ``[batch, classes]``.
      stream: int32 ``[batch]``.
      options: see `LossOptions`.

    Returns:
      float32 ``[batch, classes]``, each row summing to one.
    """
    classes = target.shape[-1]
    smoothing = options.label_smoothing
    smooth = (1 - smoothing) * target + smoothing / classes
    if options.targets == "hard":
        hard = jax.nn.one_hot(jnp.argmax(target, axis=-1), classes)
        pseudo = (1 - smoothing) * hard + smoothing / classes
    elif options.temperature != 1.0:
        # q ∝ p^(1/T), which equals softmax(logits / T).
        pseudo = jax.nn.softmax(
            jnp.log(jnp.maximum(target, 1e-12)) / options.temperature
        )
    else:
        pseudo = target
    return jnp.where((stream == types.PSEUDO)[:, None], pseudo, smooth)


def _list_array(matrix: np.ndarray) -> pa.Array:
    width = matrix.shape[1]
    offsets = np.arange(0, (len(matrix) + 1) * width, width, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(matrix.reshape(-1)))


def _matrix(column: pa.ListArray) -> np.ndarray:
    values = column.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(column), -1)
