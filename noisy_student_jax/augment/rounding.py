"""Reproducible float rounding, for the same pixels on every device.

Pixels are truncated and coordinates rounded, so the last bit of a float can decide. A
compiler may fuse a product and a sum into one instruction that rounds once instead of
twice, on some devices only, or inside `jax.lax.map` but not under `jax.vmap`. This
module prevents that.
"""

import jax
import jax.numpy as jnp

_FAR = 2.0**24


def rounded(
    product: jax.Array, low: float | jax.Array = -_FAR, high: float | jax.Array = _FAR
) -> jax.Array:
    """Returns a product that the compiler cannot fuse into a following addition.

    Clipping to a range that contains the product preserves its value, and the compiler
    must not move an addition across it.

    Args:
        product: float32 `[...]`.
        low: a bound below every product.
        high: a bound above every product.

    Returns:
        float32 `[...]`, the same values.
    """
    return jnp.clip(product, low, high)
