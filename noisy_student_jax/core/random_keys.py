"""Random keys, of one implementation whatever the environment says.

``JAX_DEFAULT_PRNG_IMPL`` would otherwise choose other bits, and the host's draws
(``augment/threefry.py``) would no longer be the device's.
"""

import jax

IMPLEMENTATION = "threefry2x32"


def key(seed: int) -> jax.Array:
    """Returns the key ``[]`` of a seed."""
    return jax.random.key(seed, impl=IMPLEMENTATION)


def wrap(data: jax.Array) -> jax.Array:
    """Returns the keys ``[...]`` whose data, uint32 ``[..., 2]``, are given."""
    return jax.random.wrap_key_data(data, impl=IMPLEMENTATION)
