"""The layout of a batch of labeled and pseudo-labeled examples.

The batch is a sequence of equal *groups*, each holding labeled and
pseudo-labeled examples in the configured ratio. Devices and microbatches take
whole groups, so each sees the configured ratio (one forward pass and one set of batch
statistics over both streams), and the order of examples does not depend on the number
of devices.
"""

import dataclasses
import math

import numpy as np

from noisy_student_jax.core import types
from noisy_student_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class BatchLayout:
    """The numbers of labeled and pseudo-labeled examples in a batch.

    Attributes:
      labeled: labeled examples in the global batch (the paper's B_l).
      pseudo: pseudo-labeled examples in the global batch.

    Example:
      Two groups, each with one labeled and two pseudo-labeled images:

      >>> layout = BatchLayout.from_ratio(2, 2.0)
      >>> layout.groups, layout.stream().tolist()
      (2, [0, 1, 1, 0, 1, 1])
    """

    labeled: int
    pseudo: int

    @classmethod
    def from_ratio(cls, labeled: int, ratio: float) -> "BatchLayout":
        """Sets B_u = ceil(ratio · B_l) (authors' ``data_input.py``)."""
        return cls(labeled, math.ceil(ratio * labeled))

    @property
    def total(self) -> int:
        """The number of examples in the global batch."""
        return self.labeled + self.pseudo

    @property
    def groups(self) -> int:
        """The largest number of equal parts that each keep the ratio."""
        return math.gcd(self.labeled, self.pseudo) if self.pseudo else self.labeled

    def stream(self) -> np.ndarray:
        """Returns the stream of each example in the batch, int32 ``[batch]``."""
        group = [types.LABELED] * (self.labeled // self.groups)
        group += [types.PSEUDO] * (self.pseudo // self.groups)
        return np.tile(np.array(group, np.int32), self.groups)

    def check(self, *, devices: int, microbatches: int = 1) -> None:
        """Checks that the groups divide evenly over devices and microbatches.

        Raises:
          UserError: they do not.
        """
        parts = devices * microbatches
        if self.groups % parts:
            raise UserError(
                f"a batch of {self.labeled} labeled + {self.pseudo} pseudo-labeled"
                f" images cannot give each of {devices} devices × {microbatches}"
                f" microbatches the same mix: make config.train.batch (and batch ×"
                f" ratio) a multiple of {parts}"
            )

    def interleave(self, labeled, pseudo):
        """Interleaves arrays ``[labeled, …]`` and ``[pseudo, …]`` into one batch."""
        if not self.pseudo:
            return labeled
        xp = _array_module(labeled)
        shape = labeled.shape[1:]
        parts = [part.reshape(self.groups, -1, *shape) for part in (labeled, pseudo)]
        return xp.concatenate(parts, axis=1).reshape(self.total, *shape)


def _array_module(array):
    if isinstance(array, np.ndarray):
        return np
    import jax.numpy as jnp

    return jnp
