"""Streams of training examples: images, targets, data order and noise."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from noisy_student_jax.augment.input_noise import InputNoise
from noisy_student_jax.core.protocols import Source
from noisy_student_jax.core.types import PyTree
from noisy_student_jax.data.order.block_shuffle import Lanes
from noisy_student_jax.images.preprocessing import Preprocessing


@dataclasses.dataclass(frozen=True)
class Noise:
    """The noise of one stream.

    Attributes:
      input: noise of the images.
      dropout: whether the model's dropout applies.
      stochastic_depth: whether the model's stochastic depth applies.
    """

    input: InputNoise
    dropout: bool = True
    stochastic_depth: bool = True


@dataclasses.dataclass(frozen=True)
class Stream:
    """One of the two streams of a batch.

    Attributes:
      source: source of the images.
      picks: int64 ``[draws, 2]``, the record of `source` and the row of `targets` for
        each draw of an epoch.
      targets: a tree of stored arrays ``[rows, …]``.
      to_target: converts rows of `targets` to the task's targets, on the device.
      noise: the stream's noise.
      lanes: block-wise shuffling of an epoch's draws; None for one permutation.
      teacher: the teacher's preprocessing, if it labels the images in the step.
      moved: moves the task's targets ``[examples, …]`` with their images, by matrices
        ``[examples, 2, 3]`` (`Task.moved`); None for targets that stay.
    """

    source: Source
    picks: np.ndarray
    targets: PyTree
    to_target: Callable[[PyTree], PyTree]
    noise: Noise
    lanes: Lanes | None = None
    teacher: Preprocessing | None = None
    moved: Callable[[PyTree, jax.Array], PyTree] | None = None

    @property
    def moves(self) -> bool:
        """Whether its noise moves targets."""
        return self.moved is not None and not self.noise.input.is_off
