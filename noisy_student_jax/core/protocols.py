"""What every source of records and every task answers; nobody asks which it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    # Decoding workers and selection stand on this file, and run without JAX.
    import jax

    from noisy_student_jax.core.types import Batch, PerStream, PyTree

Arrays = dict[str, np.ndarray]
Resize = Callable[
    [np.ndarray, int, tuple[float, float, float, float] | None], np.ndarray
]
"""Of an image, the side of the square to make, and a box of the image or None."""


@dataclasses.dataclass(frozen=True)
class Examples:
    """Records as read.

    Attributes:
      images: uint8 ``[height, width, 3]`` each; None where `status` is not ``ok``.
      status: ``ok``, or why the record cannot be used.
      labels: what the source knows of each record, ``[records, …]``; None for a
        source without labels.
    """

    images: list[np.ndarray | None]
    status: list[str]
    labels: np.ndarray | None


class Source(Protocol):
    """Addressable records.

    A source may have more, which `data.sources` asks for where it is of use: ``labels``
    of all records, ``[records, …]``; ``fingerprint``, a text that changes with them;
    ``bytes_per_record``, of one image in memory.
    """

    def __len__(self) -> int:
        """Number of records."""

    def key(self, index: int) -> str:
        """A name of the record that is unique in the data set and never changes."""

    def read(self, indices: Sequence[int]) -> Examples:
        """Reads records in the order asked for."""


class DivisibleSource(Source, Protocol):
    """A source that can give some of its records as a source."""

    def subset(self, indices: np.ndarray, *, labeled: bool = True) -> Source:
        """Returns the records of int64 ``[records]``, without labels if not asked."""


class Preprocessor(Protocol):
    """Makes what a model reads, ``[height, width, channels]``, of a source's images."""

    @property
    def resolution(self) -> int:
        """Height and width of what the model reads."""

    @property
    def mean(self) -> tuple[float, ...]:
        """Per channel, on the 0–1 scale; the model's program subtracts it."""

    @property
    def std(self) -> tuple[float, ...]:
        """Per channel, on the 0–1 scale; the model's program divides by it."""

    @property
    def dtype(self) -> type[np.generic]:
        """Of what `apply_all` returns."""

    def apply_all(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """Makes what is evaluated: `dtype` ``[images, height, width, channels]``."""

    def apply_all_to_train_on(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """Makes what is noised and learned from, of the same shape."""

    def apply_crop(
        self,
        image: np.ndarray,
        box: tuple[int, int, int, int],
        *,
        bicubic: Resize | None = None,
    ) -> np.ndarray:
        """Makes a crop of one image to learn from, ``[height, width, channels]``.

        Args:
          image: ``[height, width, channels]``.
          box: top, left, height and width; of height 0 for evaluation's crop.
          bicubic: of the same pixels as Pillow's, to be used in its place.
        """

    def blank(self) -> np.ndarray:
        """Returns what stands in for one image, ``[height, width, channels]``."""


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """How targets are softened or hardened.

    Attributes:
      label_smoothing: of true labels and of hard pseudo-labels; never of soft ones.
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


class Task(Protocol):
    """A task. Arrays of many images have the axis ``[images]`` first.

    Attributes:
      name: as configs say it.
      classes: names of the classes (of what selection balances).
      outputs: width of the model's head.
      primary_metric: key of `metrics` that generations are compared by; a mean over
        images of `primary`, larger is better.
    """

    name: str
    classes: tuple[str, ...]
    outputs: int
    primary_metric: str

    def targets(self, labels: np.ndarray) -> PyTree:
        """Turns a source's labels into targets, as training takes them."""

    def loss(
        self, outputs: PyTree, batch: Batch, options: LossOptions
    ) -> dict[str, PerStream]:
        """Returns ``loss`` and whatever else is worth logging, by stream."""

    def predict(self, outputs: PyTree) -> dict[str, jax.Array]:
        """Turns the model's outputs into predictions of static shapes."""

    def bucket(self, predictions: Arrays) -> np.ndarray:
        """Returns int32 ``[images]``: the class that selection balances."""

    def score(self, predictions: Arrays) -> np.ndarray:
        """Returns float32 ``[images]``: the confidence that selection thresholds."""

    def columns(self, predictions: Arrays, *, top_k: int | None) -> dict[str, pa.Array]:
        """Returns the task's own sidecar columns."""

    def record_bytes(self, *, top_k: int | None) -> int:
        """Returns how many bytes a record takes in those columns, for plans.

        A task that lacks it is taken to keep two bytes for each class.
        """

    def stored_targets(self, rows: pa.RecordBatch) -> Arrays:
        """Reads its columns back as arrays of fixed width, for memory maps."""

    def pseudo_targets(self, stored: dict[str, jax.Array]) -> PyTree:
        """Turns stored targets into targets, on the device."""

    def taught_targets(self, predictions: dict[str, jax.Array]) -> PyTree:
        """Turns a teacher's predictions into targets, on the device, in the step.

        What `pseudo_targets` makes of them when they have been stored, to rounding. A
        task that lacks it cannot have ``labels.mode='on_the_fly'``.
        """

    def primary(self, predictions: Arrays, labels: np.ndarray) -> np.ndarray:
        """Returns float64 ``[images]``: what the primary metric averages."""

    def metrics(self, predictions: Arrays, labels: np.ndarray) -> dict[str, float]:
        """Returns the task's metrics on these images."""
