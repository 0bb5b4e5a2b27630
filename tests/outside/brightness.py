"""A classifier that can be foretold: it names the band that an image's mean is in."""

import flax.linen as nn
import jax.numpy as jnp


class Brightness(nn.Module):
    """With n outputs, n bands of equal width; the nearer the likelier."""

    outputs: int = 6

    @nn.compact
    def __call__(self, images, *, train):
        gain = self.param("gain", nn.initializers.constant(20.0), ())
        centers = (jnp.arange(self.outputs, dtype=jnp.float32) + 0.5) / self.outputs
        mean = images.mean(axis=(1, 2, 3))[:, None]
        return {"logits": -gain * jnp.abs(mean - centers[None])}
