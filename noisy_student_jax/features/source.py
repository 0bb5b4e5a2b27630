"""A source of features, which the rest of the package reads as images of one pixel."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from noisy_student_jax.core.protocols import Examples, Resize, Source
from noisy_student_jax.data.sources import known_labels


@dataclasses.dataclass(frozen=True)
class OnePixel:
    """The preprocessing of features, which leaves them unchanged. See `Preprocessing`.

    Attributes:
      channels: number of channels of the features.
      resolution: height and width of a feature image: 1.
      mean: see `Preprocessing`.
      std: see `Preprocessing`.
    """

    channels: int
    resolution: int = 1
    mean: tuple[float, ...] = (0.0,)
    # On the 0–255 scale this is 1: normalization leaves features unchanged.
    std: tuple[float, ...] = (1 / 255,)
    dtype = np.float32

    def apply_all(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """See `Preprocessing`."""
        return np.stack(list(images))

    apply_all_to_train_on = apply_all

    def blank(self) -> np.ndarray:
        """See `Preprocessing`."""
        return np.zeros((1, 1, self.channels), np.float32)

    def apply_crop(
        self,
        image: np.ndarray,
        box: tuple[int, int, int, int],
        *,
        bicubic: Resize | None = None,
    ) -> np.ndarray:
        """See `Preprocessing`."""
        del box, bicubic
        return image


class FeatureSource:
    """A source whose images are features ``[1, 1, channels]``, float32.

    Attributes:
      status: ``ok``, or why a record has no features.
      labels: labels of the records, if the source of images holds any.
      widths: number of channels of each backbone.
    """

    def __init__(
        self,
        source: Source,
        chunks: list[np.ndarray],
        places: np.ndarray,
        status: list[str],
    ):
        """Wraps a source of images with the features of each record.

        Args:
          source: source of images.
          chunks: float32 ``[rows, channels]`` each; may be memory-mapped.
          places: int64 ``[records, 2]``, the chunk and row of each record.
          status: ``ok``, or why a record has no features.
        """
        self._source, self._chunks, self._places = source, chunks, places
        self.key, self.status = source.key, status
        self.labels = known_labels(source)
        self.widths = [chunks[0].shape[1]]

    def __len__(self) -> int:
        return len(self._source)

    @property
    def bytes_per_record(self) -> int:
        """See `Source`."""
        return sum(self.widths) * np.dtype(np.float32).itemsize

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Returns features, float32 ``[indices, channels]``; zeros where not ``ok``."""
        places = self._places[np.asarray(indices, np.int64)]
        found = np.empty((len(places), self._chunks[0].shape[1]), np.float32)
        for number in np.unique(places[:, 0]).tolist():
            here = np.flatnonzero(places[:, 0] == number)
            found[here] = self._chunks[number][places[here, 1]]
        return found

    def read(self, indices: Iterable[int]) -> Examples:
        """See `Source`."""
        indices = np.fromiter(indices, np.int64)
        status = [self.status[index] for index in indices.tolist()]
        images = [
            features[None, None] if why == "ok" else None
            for features, why in zip(self.rows(indices), status, strict=True)
        ]
        labels = None if self.labels is None else self.labels[indices]
        return Examples(images, status, labels)


class _Several(FeatureSource):
    """Several features of the same images."""

    def __init__(self, parts: Sequence[FeatureSource]):
        """Takes the parts; a record is usable where it is in all of them."""
        self._parts = list(parts)
        first = self._parts[0]
        self._source, self.key, self.labels = first._source, first.key, first.labels
        self.widths = first.widths
        self.status = [
            next((why for why in each if why != "ok"), "ok")
            for each in zip(*(part.status for part in parts), strict=True)
        ]


class MeanOfViews(_Several):
    """A source of features averaged over views of the same images."""

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """See `FeatureSource`."""
        total = self._parts[0].rows(indices)
        for view in self._parts[1:]:
            total += view.rows(indices)
        return total / np.float32(len(self._parts))


class Joined(_Several):
    """A source of the features of several backbones, one after the other."""

    def __init__(self, parts: Sequence[FeatureSource]):
        """See `FeatureSource`."""
        super().__init__(parts)
        self.widths = [width for part in parts for width in part.widths]

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """See `FeatureSource`."""
        return np.concatenate([part.rows(indices) for part in self._parts], axis=1)
