"""The same pixel on every machine.

Pixels are truncated and coordinates rounded, so the last bit of a float decides now
and then. A compiler may join a product and a sum into one instruction that rounds
once instead of twice, on one device and not on another, inside `jax.lax.map` and not
under `jax.vmap`. What is here keeps it from doing so.
"""

import jax
import jax.numpy as jnp

_FAR = 2.0**24


def rounded(
    product: jax.Array, low: float | jax.Array = -_FAR, high: float | jax.Array = _FAR
) -> jax.Array:
    """Returns a product that is rounded before it is added to anything.

    Clipping to a range that the product never leaves changes nothing, and no compiler
    may move an addition across it.

    Args:
        product: float32 `[...]`.
        low: a bound below every product.
        high: a bound above every product.

    Returns:
        float32 `[...]`, the same values.
    """
    return jnp.clip(product, low, high)
