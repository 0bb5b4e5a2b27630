"""Object detection with a few classes, as a task."""

import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import pyarrow as pa

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.protocols import (
    Arrays,
    LossOptions,
    OnnxOutputs,
    ReportContext,
    Source,
)
from noisy_student_jax.core.sections import Section
from noisy_student_jax.core.types import Batch, PerStream, PyTree
from noisy_student_jax.images.decode import Decoding
from noisy_student_jax.interop.export.onnx_graph import Graph
from noisy_student_jax.pseudo_labels.plan import SelectionOptions
from noisy_student_jax.tasks.detection import (
    average_precision,
    decode,
    described,
    drawing,
    labeled,
    loss,
    moved,
    onnx_head,
    repeats,
    report,
    selection,
    settings,
    sidecar,
    targets,
)


class Detection:
    """Boxes of objects and their classes, in units of an image's longer side.

    The model is a detector of `models.fcos`. Nothing here knows a pixel: images are
    seen in a letterbox, so that boxes have the same numbers in the model's input and,
    times the longer side, in the image.
    """

    name = "detection"
    primary_metric = "AP"
    prediction_formats = described.FORMATS
    hub_task, hub_metrics = "object-detection", ("mean_average_precision",)
    decide = staticmethod(settings.decide)

    def __init__(self, classes: tuple[str, ...]):
        """Takes the class names in index order.

        Raises:
          UserError: there is no class.
        """
        if not classes:
            raise UserError("detection needs at least one class, got none")
        self.classes = tuple(classes)
        self.outputs = len(classes)

    def targets(self, labels: np.ndarray) -> Arrays:
        """See `targets.targets`."""
        return targets.targets(labels)

    def moved(self, target: PyTree, matrices: jax.Array) -> PyTree:
        """See `moved.moved`."""
        return moved.moved(target, matrices)

    def drawn(self, images: np.ndarray, target: Arrays) -> np.ndarray:
        """See `drawing.on_inputs`."""
        return drawing.on_inputs(images, target, self.classes)

    def check_labels(self, labels: np.ndarray, part: str) -> None:
        """See `labeled.check_labels`."""
        labeled.check_labels(labels, part, self.classes)

    def check_model(self, model: Mapping[str, Any], outputs: PyTree) -> None:
        """See `settings.check_model`."""
        settings.check_model(model, outputs)

    def check_selection(self, options: SelectionOptions) -> None:
        """See `selection.check`."""
        selection.check(options)

    def loss(
        self, outputs: PyTree, batch: Batch, options: LossOptions
    ) -> dict[str, PerStream]:
        """See `loss.loss`."""
        return loss.loss(outputs, batch, options)

    def predict(self, outputs: PyTree) -> dict[str, jax.Array]:
        """See `decode.decode`."""
        return decode.decode(outputs)

    def onnx_head(self, graph: Graph, shapes: dict[str, list[int]]) -> OnnxOutputs:
        """See `onnx_head.onnx_head`."""
        return onnx_head.onnx_head(graph, shapes)

    def bucket(self, predictions: Arrays) -> np.ndarray:
        """See `sidecar.bucket`."""
        return sidecar.bucket(predictions)

    def score(self, predictions: Arrays) -> np.ndarray:
        """See `sidecar.score`."""
        return sidecar.score(predictions)

    def columns(self, predictions: Arrays, *, top_k: int | None) -> dict[str, pa.Array]:
        """See `sidecar.columns`."""
        return sidecar.columns(predictions, top_k=top_k)

    def record_bytes(self, *, top_k: int | None) -> int:
        """See `sidecar.record_bytes`."""
        return sidecar.record_bytes(top_k=top_k)

    def stored_targets(self, rows: pa.RecordBatch) -> Arrays:
        """See `sidecar.stored_targets`."""
        return sidecar.stored_targets(rows)

    def chooser(
        self,
        batches: Callable[[], Iterator[pa.RecordBatch]],
        labels: np.ndarray,
        options: SelectionOptions,
    ) -> selection.BoxChooser:
        """See `selection.BoxChooser`."""
        return selection.BoxChooser(batches, labels, options, classes=self.classes)

    def repeats(self, labels: np.ndarray, keys: Sequence[str]) -> np.ndarray:
        """See `repeats.repeats`."""
        return repeats.repeats(labels, keys, self.outputs)

    def pseudo_targets(self, stored: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """See `targets.pseudo_targets`."""
        return targets.pseudo_targets(stored)

    def statistics(self, predictions: Arrays, labels: np.ndarray) -> pa.StructArray:
        """See `average_precision.statistics`."""
        return average_precision.statistics(predictions, labels, classes=self.outputs)

    def primary(
        self, statistics: pa.StructArray, draws: np.ndarray | None = None
    ) -> np.ndarray:
        """See `average_precision.primary`."""
        return average_precision.primary(statistics, draws)

    def resampled(
        self, statistics: pa.StructArray, draws: np.ndarray | None = None
    ) -> Arrays:
        """See `average_precision.metrics`."""
        return average_precision.metrics(statistics, self.classes, draws)

    def metrics(self, predictions: Arrays, labels: np.ndarray) -> dict[str, float]:
        """Returns ``AP``, ``AP50``, ``AP75``, ``AR100`` and the AP of each class."""
        found = self.resampled(self.statistics(predictions, labels))
        return {name: float(value[0]) for name, value in found.items()}

    def report_sections(self, context: ReportContext) -> list[Section]:
        """See `report.sections`."""
        return report.sections(context, self.classes)

    def described(
        self,
        predictions: Arrays,
        sizes: Sequence[tuple[int, int]],
        *,
        min_score: float | None,
    ) -> list[dict[str, Any]]:
        """See `described.rows`."""
        return described.rows(predictions, sizes, self.classes, min_score=min_score)

    def told(self, row: Mapping[str, Any]) -> str:
        """See `described.text`."""
        return described.text(row, self.classes)

    def pictured(self, image: np.ndarray, row: Mapping[str, Any]) -> np.ndarray:
        """See `described.pictured`."""
        return described.pictured(image, row, self.classes)

    def written(
        self, form: str, folder: pathlib.Path, rows: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """See `described.written`."""
        described.written(form, folder, rows, self.classes)

    def labeled_source(
        self, place: pathlib.Path, *, side: int, decoding: Decoding
    ) -> Source:
        """See `labeled.source`."""
        return labeled.source(place, self.classes, side=side, decoding=decoding)
