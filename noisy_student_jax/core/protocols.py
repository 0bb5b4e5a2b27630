"""Protocols of data sources, preprocessing and tasks."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from noisy_student_jax.core import sections

if TYPE_CHECKING:
    # Decoding workers and selection import this file and run without JAX.
    import jax

    from noisy_student_jax.core.types import Batch, PerStream, PyTree

Arrays = dict[str, np.ndarray]
OnnxOutputs = dict[str, tuple[type[np.generic], list[int]]]
"""Dtype and shape of an example's outputs, by name."""
Resize = Callable[
    [np.ndarray, int, tuple[float, float, float, float] | None], np.ndarray
]
"""Maps an image, the side of the resized square, and a box of the image or None for
all of it, to the resized image."""


@dataclasses.dataclass(frozen=True)
class Examples:
    """Records as read from a source.

    Attributes:
      images: uint8 ``[height, width, 3]`` each; None where `status` is not ``ok``.
      status: ``ok``, or the reason why the record is unusable.
      labels: ``[records, …]``; None for a source without labels.
    """

    images: list[np.ndarray | None]
    status: list[str]
    labels: np.ndarray | None


class Source(Protocol):
    """A random-access source of records.

    Optional attributes, used by `data.sources` where present: ``labels`` of all
    records, ``[records, …]``; ``fingerprint``, a string that changes with the records;
    ``bytes_per_record``, the size of one image in memory.
    """

    def __len__(self) -> int:
        """Number of records."""

    def key(self, index: int) -> str:
        """Returns a stable name of the record, unique in the dataset."""

    def read(self, indices: Sequence[int]) -> Examples:
        """Reads records in the order of `indices`."""


class DivisibleSource(Source, Protocol):
    """A source whose subsets are sources."""

    def subset(self, indices: np.ndarray, *, labeled: bool = True) -> Source:
        """Returns the source of the records at `indices`, int64 ``[records]``."""


class Preprocessor(Protocol):
    """Turns images of a source into model inputs ``[height, width, channels]``."""

    @property
    def resolution(self) -> int:
        """Height and width of the model input."""

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean per channel on the 0–1 scale, subtracted on the device."""

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation per channel on the 0–1 scale, divided by on the device."""

    @property
    def dtype(self) -> type[np.generic]:
        """The dtype of `apply_all`'s result."""

    def apply_all(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """Returns evaluation inputs, `dtype` ``[images, height, width, channels]``."""

    def apply_all_to_train_on(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """Returns training inputs before augmentation, of the same shape."""

    def apply_crop(
        self,
        image: np.ndarray,
        box: tuple[int, int, int, int],
        *,
        bicubic: Resize | None = None,
    ) -> np.ndarray:
        """Returns a training crop of one image, ``[height, width, channels]``.

        Args:
          image: ``[height, width, channels]``.
          box: top, left, height and width; height 0 selects the evaluation crop.
          bicubic: a resize function to use instead of Pillow's, with equal results.
        """

    def blank(self) -> np.ndarray:
        """Returns a placeholder image, ``[height, width, channels]``."""


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """Options of the targets in a loss.

    Attributes:
      label_smoothing: for true labels and hard pseudo-labels; never for soft ones.
      targets: ``soft`` or ``hard`` pseudo-labels.
      temperature: T of ``q ∝ p^(1/T)`` for soft pseudo-labels.
    """

    label_smoothing: float = 0.0
    targets: str = "soft"
    temperature: float = 1.0

    @classmethod
    def from_config(cls, train: Mapping[str, Any]) -> LossOptions:
        """Takes the fields from a generation's ``train`` section."""
        return cls(**{f.name: train[f.name] for f in dataclasses.fields(cls)})


class Chooser(Protocol):
    """Chooses what is learned from within each record that selection takes.

    Everything is a function of additive counts over the pool and of single records, so
    the number of shards does not matter.

    Attributes:
      facts: what was chosen and why, by name, in the order to show it: texts, numbers,
        or such values by class name. Kept in ``selection.json``, printed and shown in
        the report.
      warnings: sentences to check before a student is trained, in place of those on the
        classes of whole records.
    """

    facts: dict[str, Any]
    warnings: Sequence[str]

    def targets(self, rows: pa.RecordBatch) -> Arrays:
        """Returns the arrays of `Task.stored_targets`, as far as they are chosen."""

    def copies(self, rows: pa.RecordBatch) -> np.ndarray:
        """Returns how many draws each draw of the plan becomes.

        Args:
          rows: selected records, with all columns of the sidecar.

        Returns:
          int64 ``[rows]``, 1 or more.
        """


class ReportContext(Protocol):
    """What a task reports about. Images may be unavailable by then.

    Attributes:
      models: the generations in order, and the baselines.
      best: the model in ``best/``.
    """

    @property
    def models(self) -> Sequence[sections.Model]:
        """See above."""

    @property
    def best(self) -> sections.Model:
        """See above."""

    def part(self, name: str) -> Source:
        """Returns a part of the dataset: ``labeled``, ``pool`` or ``test``.

        Raises:
          UserError: the dataset is not there.
        """


class Task(Protocol):
    """A task: its targets, loss, predictions and metrics.

    Arrays of many images have the axis ``[images]`` first.

    Attributes:
      name: the task's name in configs.
      classes: names of the classes, which selection balances.
      outputs: number of outputs of the model's head.
      primary_metric: key of `metrics` by which generations are compared, from 0 to 1;
        larger is better. `primary` computes it from `statistics`.
      decide: optional, of the class: maps a config and `config.decisions.Facts` to
        decisions on all fields that the config leaves open. Without it, they are those
        for images of one class each.
      hub_task, hub_metrics: optional: what the Hugging Face Hub calls the task, and its
        metrics.
    """

    name: str
    classes: tuple[str, ...]
    outputs: int
    primary_metric: str

    def targets(self, labels: np.ndarray) -> PyTree:
        """Converts a source's labels to training targets."""

    def check_model(self, model: Mapping[str, Any], outputs: PyTree) -> None:
        """Checks that a model suits the task, before any training.

        Without this method, every model does.

        Args:
          model: the ``model`` section of the model's config.
          outputs: shapes and dtypes of its outputs for one image.

        Raises:
          UserError: it does not.
        """

    def check_labels(self, labels: np.ndarray, part: str) -> None:
        """Checks that labels suit the task, and warns of what they lack.

        Called before any training. Without this method, all labels suit the task.

        Args:
          labels: of all records of the part, ``[records, …]``.
          part: ``labeled``, ``validation`` or ``test``.

        Raises:
          UserError: nothing can be learned from them, or measured by them.
        """

    def check_selection(self, options: Any) -> None:
        """Checks a student's `SelectionOptions`, before any training.

        Without this method, all of them suit the task.

        Raises:
          UserError: they do not.
        """

    def loss(
        self, outputs: PyTree, batch: Batch, options: LossOptions
    ) -> dict[str, PerStream]:
        """Returns ``loss`` and other quantities to log, per stream."""

    def predict(self, outputs: PyTree) -> dict[str, jax.Array]:
        """Converts the model's outputs to predictions of static shapes."""

    def onnx_head(self, graph: Any, shapes: dict[str, list[int]]) -> OnnxOutputs:
        """Adds the operations of `predict` to an ONNX graph, for one view or several.

        A task without this method is not exported to ONNX.

        Args:
          graph: an `interop.export.onnx_graph.Graph` that has values with the names of
            the model's outputs, float32 ``[batch, …]``.
          shapes: shapes of these outputs without the batch.

        Returns:
          Dtype and shape without the batch of each prediction, by name.
        """

    def bucket(self, predictions: Arrays) -> np.ndarray:
        """Returns int32 ``[images]``: the class that selection balances."""

    def score(self, predictions: Arrays) -> np.ndarray:
        """Returns float32 ``[images]``: the confidence that selection thresholds."""

    def columns(self, predictions: Arrays, *, top_k: int | None) -> dict[str, pa.Array]:
        """Returns the task's own sidecar columns."""

    def record_bytes(self, *, top_k: int | None) -> int:
        """Returns the bytes per record of the sidecar columns, for estimates.

        Without this method, two bytes per class are assumed.
        """

    def stored_targets(self, rows: pa.RecordBatch) -> Arrays:
        """Reads the sidecar columns as fixed-width arrays, for memory mapping."""

    def chooser(
        self,
        batches: Callable[[], Iterator[pa.RecordBatch]],
        labels: np.ndarray,
        options: Any,
    ) -> Chooser:
        """Returns the choice within records, made once before targets are written.

        Without this method, targets are `stored_targets`, each draw is one draw, and
        ``min_score`` is of records. With it, ``min_score`` is the chooser's, and every
        labeled record passes.

        Args:
          batches: reads the pool's labeled records, with all columns of the sidecar; it
            can be called several times.
          labels: labels of the labeled records, ``[records, …]``.
          options: the `SelectionOptions`.
        """

    def repeats(self, labels: np.ndarray, keys: Sequence[str]) -> np.ndarray:
        """Returns how often each labeled record is drawn in an epoch.

        Without this method, each is drawn once.

        Args:
          labels: of the labeled records, ``[records, …]``.
          keys: the records' keys.

        Returns:
          int64 ``[records]``, 1 or more.
        """

    def pseudo_targets(self, stored: dict[str, jax.Array]) -> PyTree:
        """Converts stored targets to training targets, on the device."""

    def taught_targets(self, predictions: dict[str, jax.Array]) -> PyTree:
        """Converts a teacher's predictions to training targets, within the step.

        Equals storing them and calling `pseudo_targets`, up to rounding. A task without
        this method does not support ``labels.mode='on_the_fly'``.
        """

    def moved(self, targets: PyTree, matrices: jax.Array) -> PyTree:
        """Moves training targets with the content of their noised images.

        Runs on the device, for streams with input noise. A task without this method has
        targets that stay; its images are then noised without zoom and turns.

        Args:
          targets: the task's targets, ``[images, …]``.
          matrices: float32 ``[images, 2, 3]``: they map a place (x, y, 1) of an image
            to its place in the noised image, in units of the side, from the top left.
        """

    def drawn(self, images: np.ndarray, targets: PyTree) -> np.ndarray:
        """Draws targets on images of the contact sheet; an optional method.

        Args:
          images: uint8 ``[images, side, side, 3]``.
          targets: their targets, moved with them.

        Returns:
          uint8 of the same shape.
        """

    def statistics(self, predictions: Arrays, labels: np.ndarray) -> pa.Array:
        """Returns what `primary` needs to know of each image, ``[images]``.

        Floating-point statistics are the metric of each image, and the primary metric
        is their mean (`evaluation.resampling.mean`). For a metric that is no mean over
        images they are of any other type that Parquet stores.
        """

    def primary(
        self, statistics: pa.Array, draws: np.ndarray | None = None
    ) -> np.ndarray:
        """Computes the primary metric of resampled images.

        Args:
          statistics: those of images, maybe of several parts of a dataset.
          draws: int64 ``[resamples, images]``, how often each image was drawn; None for
            one resample with each image once.

        Returns:
          float64 ``[resamples]``; NaN where a resample has nothing to measure.
        """

    def resampled(
        self, statistics: pa.Array, draws: np.ndarray | None = None
    ) -> Arrays:
        """Computes several metrics of resampled images, each as `primary` computes one.

        Without this method, the primary metric alone has an interval.

        Returns:
          By their keys in `metrics`, float64 ``[resamples]`` each.
        """

    def metrics(self, predictions: Arrays, labels: np.ndarray) -> dict[str, float]:
        """Returns the task's metrics over the images.

        A metric is NaN if the images have nothing by which to measure it.
        """

    def report_sections(self, context: ReportContext) -> Sequence[sections.Section]:
        """Returns what the task adds to the report.

        Without this method, the report has what all tasks have.
        """

    prediction_formats: Sequence[str]
    """Formats of `written`."""

    def described(
        self,
        predictions: Arrays,
        sizes: Sequence[tuple[int, int]],
        *,
        min_score: float | None,
    ) -> list[dict[str, Any]]:
        """Returns what ``predict`` says of each image, JSON-serializable.

        Without this method it says `bucket` and `score`, and the methods below are not
        needed.

        Args:
          predictions: of the images.
          sizes: width and height of each image as people see it, in pixels.
          min_score: what has a lower score is left out; None for the task's default.
        """

    def told(self, row: Mapping[str, Any]) -> str:
        """Says in a line what `described` says of an image."""

    def pictured(self, image: np.ndarray, row: Mapping[str, Any]) -> np.ndarray:
        """Draws what `described` says of an image.

        Args:
          image: uint8 ``[height, width, 3]``, maybe reduced.
          row: of `described`.

        Returns:
          uint8 of the same shape.
        """

    def written(
        self, form: str, folder: pathlib.Path, rows: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Writes what `described` says for other programs.

        Args:
          form: one of `prediction_formats`.
          folder: where to.
          rows: of `described`, by the path of the image below a folder of all images.
        """

    def labeled_source(
        self, place: pathlib.Path, *, side: int, decoding: Any
    ) -> Source:
        """Opens labeled images of people, to evaluate a model on.

        Without this method, they are a folder for each class.

        Args:
          place: the folder.
          side: shorter side of images that suffices, in pixels.
          decoding: how images are decoded, an `images.decode.Decoding`.

        Raises:
          UserError: the labels are unusable.
        """
