"""The head of a model by itself, for training on features computed once."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from noisy_student_jax.models import layers


class Head(nn.Module):
    """Dropout and classifier; its variables are named as in the whole model.

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
        """Returns logits of features, as the whole model does of images.

        In training it needs the random stream "dropout".

        Args:
          features: float32 ``[batch, 1, 1, channels]``: an image of one pixel.
          train: whether dropout is on.
          noise: as the whole model takes it.

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
