"""The classification head as a module, for training on precomputed features."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from noisy_student_jax.models import layers


class Head(nn.Module):
    """Dropout and classifier, with the variable names of the whole model.

    Attributes:
      outputs: number of logits.
      dropout_rate: before the classifier.
    """

    outputs: int
    dropout_rate: float = 0.2

    @nn.compact
    def __call__(
        self,
        features: jax.Array,
        train: bool = False,
        noise: dict[str, jax.Array] | None = None,
    ) -> dict[str, jax.Array]:
        """Returns the logits of features.

        Training needs the PRNG stream "dropout".

        Args:
          features: float32 ``[batch, 1, 1, channels]``, images of one pixel.
          train: whether to use dropout.
          noise: as in the whole model.

        Returns:
          ``{"logits": float32 [batch, outputs]}``.
        """
        pooled = features.mean((1, 2), dtype=jnp.float32)
        rate = self.dropout_rate if train else 0.0
        key = self.make_rng("dropout") if rate else None
        logits = layers.classify(
            pooled, self.outputs, rate=rate, key=key, noise=(noise or {}).get("dropout")
        )
        return {"logits": logits}
