"""Input noise on many devices: each augments its own examples."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from noisy_student_jax.augment.input_noise import InputNoise
from noisy_student_jax.augment.moved import augment_moved
from noisy_student_jax.augment.noise import augment_batch, example_keys
from noisy_student_jax.core import random_keys, sharding


def augment_moved_spread(
    mesh: Mesh,
    key: jax.Array,
    positions: jax.Array,
    images: jax.Array,
    noise: InputNoise,
    *,
    rows: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Applies noise as `augment_spread` does, with known geometry.

    Returns:
        The images, and their matrices `[batch, 2, 3]`; see `augment_moved`.
    """
    return _spread(augment_moved, mesh, key, positions, images, noise, rows)


def augment_spread(
    mesh: Mesh,
    key: jax.Array,
    positions: jax.Array,
    images: jax.Array,
    noise: InputNoise,
    *,
    rows: jax.Array | None = None,
) -> jax.Array:
    """Applies a stream's input noise to a batch that is sharded over devices.

    Args:
        mesh: devices.
        key: the key data of `stream_key`, uint32 `[2]`, replicated.
        positions: uint32 `[batch, 2]` from `split_positions`, sharded.
        images: `[batch, height, width, channels]`, sharded; or, with `rows`, the whole
            dataset, replicated.
        noise: the noise to apply.
        rows: int32 `[batch]`, sharded: indices into `images`.

    Returns:
        `[batch, height, width, channels]` of the same dtype, sharded.

    Raises:
        UserError: as `augment_batch`.
    """
    return _spread(augment_batch, mesh, key, positions, images, noise, rows)


def _spread(
    augment: Callable[[jax.Array, jax.Array, InputNoise], Any],
    mesh: Mesh,
    key: jax.Array,
    positions: jax.Array,
    images: jax.Array,
    noise: InputNoise,
    rows: jax.Array | None,
) -> Any:
    spread, whole = PartitionSpec(sharding.DATA), PartitionSpec()

    def local(key, positions, images, rows):
        if rows is not None:
            images = images[rows]
        keys = example_keys(random_keys.wrap(key), positions)
        return augment(keys, images, noise)

    # Within `shard_map`, each device may loop over its own examples. The partitioner
    # would pass every image of such a loop through every device.
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(whole, spread, spread if rows is None else whole, spread),
        out_specs=spread,
        check_vma=False,
    )(key, positions, images, rows)
