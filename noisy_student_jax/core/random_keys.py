"""Random keys of a fixed implementation.

``JAX_DEFAULT_PRNG_IMPL`` could otherwise select another one, and random numbers drawn
on the host (``augment/threefry.py``) would differ from the device's.
"""

import jax

IMPLEMENTATION = "threefry2x32"


def key(seed: int) -> jax.Array:
    """Returns the key ``[]`` for a seed."""
    return jax.random.key(seed, impl=IMPLEMENTATION)


def wrap(data: jax.Array) -> jax.Array:
    """Returns the keys ``[...]`` with the given data, uint32 ``[..., 2]``."""
    return jax.random.wrap_key_data(data, impl=IMPLEMENTATION)
