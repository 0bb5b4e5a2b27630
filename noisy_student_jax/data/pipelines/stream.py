"""A stream of examples: whose images, which targets, how often, with which noise."""

import dataclasses
from collections.abc import Callable

import numpy as np

from noisy_student_jax.augment.input_noise import InputNoise
from noisy_student_jax.core.protocols import Source
from noisy_student_jax.core.types import PyTree
from noisy_student_jax.data.order.block_shuffle import Lanes
from noisy_student_jax.images.preprocessing import Preprocessing


@dataclasses.dataclass(frozen=True)
class Noise:
    """All noise of one stream.

    Attributes:
      input: what is done to its images.
      dropout: whether the model's dropout applies to it.
      stochastic_depth: whether the model's stochastic depth applies to it.
    """

    input: InputNoise
    dropout: bool = True
    stochastic_depth: bool = True


@dataclasses.dataclass(frozen=True)
class Stream:
    """One of the two streams of a batch.

    Attributes:
      source: of the images.
      picks: int64 ``[draws, 2]``: for each draw of an epoch, the record of `source`
        and the row of `targets`.
      targets: a tree of arrays ``[rows, …]``, as they are stored.
      to_target: makes the task's target of rows of `targets`, on the device.
      noise: of this stream.
      lanes: how the draws of an epoch are dealt out; None for one permutation.
      teacher: how the teacher sees the images, if it labels them in the step.
    """

    source: Source
    picks: np.ndarray
    targets: PyTree
    to_target: Callable[[PyTree], PyTree]
    noise: Noise
    lanes: Lanes | None = None
    teacher: Preprocessing | None = None
