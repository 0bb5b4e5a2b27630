"""Views of images: the clean one, and noised ones that belong to the image.

A noised view is the image under a stream's input noise, drawn from a key of the image's
content and of the view's number: it is the same in every run, and so are its features.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from noisy_student_jax.augment.crops import crop_boxes
from noisy_student_jax.augment.input_noise import InputNoise
from noisy_student_jax.augment.noise import (
    augment_batch,
    example_keys,
    split_positions,
    stream_key,
)
from noisy_student_jax.core.protocols import Examples, Source
from noisy_student_jax.core.types import LABELED
from noisy_student_jax.data.sources import known_labels
from noisy_student_jax.images.preprocessing import Preprocessing, compiled_bicubic

_SEED = 0
"""Views depend on no run's seed."""


@dataclasses.dataclass(frozen=True)
class View:
    """One view of all images.

    Attributes:
      number: 0 for the clean view, whose images are preprocessed as in evaluation.
      noise: the noise of a noised view.
    """

    number: int = 0
    noise: InputNoise = dataclasses.field(default_factory=InputNoise)

    @property
    def identity(self) -> dict[str, Any] | None:
        """The fields that its pixels depend on; None for the clean view."""
        if not self.number:
            return None
        fields = dataclasses.asdict(self.noise)
        del fields["form"]  # the pixels are the same
        if not self.noise.randaugment_layers:
            fields = {
                name: value
                for name, value in fields.items()
                if name != "constants" and not name.startswith("randaugment")
            }
        return {"number": self.number, **fields}


CLEAN = View()


def views(noised: int, noise: InputNoise) -> list[View]:
    """Returns the clean view and `noised` others; only the clean one without noise."""
    if noise.is_off and not noise.crop_area:
        return [CLEAN]
    return [CLEAN, *(View(number, noise) for number in range(1, noised + 1))]


class Viewed:
    """A source of the images of another, preprocessed and noised as in a view."""

    def __init__(
        self, source: Source, ids: np.ndarray, view: View, preprocessing: Preprocessing
    ):
        """Reads nothing yet.

        Args:
          source: source of images.
          ids: uint64 ``[records]``, a number of each record's content.
          view: a noised view.
          preprocessing: gives the side of the images.
        """
        self._source, self._view, self._preprocessing = source, view, preprocessing
        # Positions in an order are signed.
        self._positions = (ids >> np.uint64(1)).astype(np.int64)
        self._bicubic = compiled_bicubic()
        self.key, self.labels = source.key, known_labels(source)

    @staticmethod
    def preprocessing(of_images: Preprocessing) -> Preprocessing:
        """Returns the preprocessing of its images, which are left as they are."""
        return dataclasses.replace(of_images, crop_padding=0, interpolation="bicubic")

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: Sequence[int]) -> Examples:
        """See `Source`; images are uint8 ``[side, side, 3]``."""
        examples = self._source.read(indices)
        positions = self._positions[np.asarray(indices, np.int64)]
        sizes = [(1, 1) if i is None else i.shape[:2] for i in examples.images]
        boxes = crop_boxes(
            _SEED,
            self._view.number,
            LABELED,
            positions,
            np.array(sizes),
            self._view.noise.crop_area,
        )
        cropped = np.stack(
            [
                self._preprocessing.blank()
                if image is None
                else self._preprocessing.apply_crop(image, box, bicubic=self._bicubic)
                for image, box in zip(examples.images, boxes.tolist(), strict=True)
            ]
        )
        noised = np.asarray(
            _noised(cropped, split_positions(positions), view=self._view)
        )
        images = [
            None if image is None else own
            for image, own in zip(examples.images, noised, strict=True)
        ]
        return dataclasses.replace(examples, images=images)


def _noised(images: np.ndarray, positions: np.ndarray, *, view: View) -> np.ndarray:
    """Applies a view's noise to images of one size, in a program of fixed shape."""
    count = len(images)
    whole = 1 << max(3, (count - 1).bit_length())
    fill = [(0, whole - count)]
    images = np.pad(images, [*fill, (0, 0), (0, 0), (0, 0)])
    positions = np.pad(positions, [*fill, (0, 0)])
    return np.asarray(_program(view)(images, positions))[:count]


@functools.cache
def _program(view: View) -> jax.stages.Wrapped:
    def noised(images: jax.Array, positions: jax.Array) -> jax.Array:
        key = stream_key(_SEED, view.number, LABELED)
        return augment_batch(example_keys(key, positions), images, view.noise)

    return jax.jit(noised)
