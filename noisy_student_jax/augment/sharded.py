"""Input noise on many devices: each adds it to its own examples."""

import jax
from jax.sharding import Mesh, PartitionSpec

from noisy_student_jax.augment.input_noise import InputNoise
from noisy_student_jax.augment.noise import augment_batch, example_keys
from noisy_student_jax.core import random_keys, sharding


def augment_spread(
    mesh: Mesh,
    key: jax.Array,
    positions: jax.Array,
    images: jax.Array,
    noise: InputNoise,
    *,
    rows: jax.Array | None = None,
) -> jax.Array:
    """Adds a stream's input noise to a batch that is spread over devices.

    Args:
        mesh: devices.
        key: the data of the stream's key, uint32 `[2]`, as `stream_key` gives it.
        positions: uint32 `[batch, 2]`, as `split_positions` gives them; spread.
        images: `[batch, height, width, channels]`, spread; or, with `rows`, all images
            that there are, whole on every device.
        noise: what to add.
        rows: int32 `[batch]`, spread: which of `images` to take.

    Returns:
        `[batch, height, width, channels]` of the same dtype, spread.

    Raises:
        UserError: as `augment_batch`.
    """
    spread, whole = PartitionSpec(sharding.DATA), PartitionSpec()

    def local(key, positions, images, rows):
        if rows is not None:
            images = images[rows]
        keys = example_keys(random_keys.wrap(key), positions)
        return augment_batch(keys, images, noise)

    # On its own device each example may be taken one by one; left to the partitioner,
    # a loop over examples would pass every image through every device.
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(whole, spread, spread if rows is None else whole, spread),
        out_specs=spread,
        check_vma=False,
    )(key, positions, images, rows)
