"""Types shared by the whole package.

A *batch* is a dictionary with the same keys for every task:

- ``image``: uint8 or float32 ``[batch, height, width, channels]``, values 0–255;
- ``target``: the task's pytree, leading axis ``[batch]``. Pseudo-labels and true
  labels have the same type. Where the second axis of an array differs between the
  streams (the most boxes of an image), the shorter one is filled up with zeros;
- ``weight``: float32 ``[batch]``, 0 for padding;
- ``stream``: int32 ``[batch]``, `LABELED` or `PSEUDO`;
- ``noise``: ``{"dropout", "stochastic_depth"}``, each float32 ``[batch]``, 1 where
  this model noise applies to the example, 0 where it does not;
- ``teacher_image``, if the teacher labels within the step: uint8 ``[pseudo, side, side,
  channels]``, the clean image of each pseudo-labeled example, in their order. It is
  split over devices and microbatches like the rest.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

LABELED = 0
PSEUDO = 1
STREAMS = ("labeled", "pseudo")

Batch = dict[str, Any]
PyTree = Any


@flax.struct.dataclass
class PerStream:
    """A quantity summed over the examples of each stream, and its normalizer.

    Attributes:
      total: float32 ``[streams]``.
      normalizer: float32 ``[streams]``.
    """

    total: jax.Array
    normalizer: jax.Array

    @classmethod
    def of(
        cls, values: jax.Array, *, stream: jax.Array, weight: jax.Array
    ) -> "PerStream":
        """Returns the weighted sums per stream of values ``[batch]``."""
        member = jax.nn.one_hot(stream, len(STREAMS), dtype=jnp.float32)
        weighted = member * weight[:, None]
        return cls(total=values @ weighted, normalizer=weighted.sum(axis=0))

    def means(self) -> tuple[jax.Array, ...]:
        """Returns each stream's mean; 0 for a stream without examples."""
        mean = self.total / jnp.maximum(self.normalizer, 1e-12)
        return tuple(mean[number] for number in range(len(STREAMS)))
