"""Which device holds what: a mesh with one axis, examples spread along it."""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from noisy_student_jax.types import PyTree

DATA = "data"
LARGE = 4096
"""Elements from which an array of a sharded state is split: 16 kB of float32."""
_PARTS, _COPIES = "parts", "copies"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Makes the mesh of the given (default: all) devices."""
    devices = list(jax.devices() if devices is None else devices)
    # Auto: under Explicit, a Linen step with batch norm and dropout does not trace.
    return Mesh(np.asarray(devices), (DATA,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole."""
    return NamedSharding(mesh, PartitionSpec())


def along_batch(mesh: Mesh) -> NamedSharding:
    """Every device holds an equal run of examples."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def state_sharding(state: PyTree, mesh: Mesh, *, sharded: bool) -> PyTree:
    """Says where each array of a training state lives.

    Args:
      state: arrays, or their shapes.
      mesh: devices.
      sharded: whether each device keeps a part of every large array (weights, their
        average, the optimizer's copies), as in ZeRO and FSDP, and the partitioner
        gathers it where it is used. Otherwise every device holds the whole.

    Returns:
      A tree like `state`, of shardings.
    """
    return jax.tree.map(
        lambda array: split(array.shape, mesh) if sharded else replicated(mesh), state
    )


def split(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Splits a large array along one axis into as many parts as divide evenly.

    The channels of a network are seldom a multiple of a large slice: of 256 devices, a
    kernel of 8,256 channels is split into 64 parts, each held by four of them.
    """
    if math.prod(shape) < LARGE:
        return replicated(mesh)
    # The last of the axes that are split best: outputs rather than inputs.
    parts, axis = max((math.gcd(n, mesh.size), axis) for axis, n in enumerate(shape))
    if parts == 1:
        return replicated(mesh)
    # The same devices in the same order, so that both meshes go into one program.
    folded = Mesh(
        mesh.devices.reshape(-1, parts),
        (_COPIES, _PARTS),
        axis_types=(AxisType.Auto, AxisType.Auto),
    )
    names = [None] * axis + [_PARTS]
    return NamedSharding(folded, PartitionSpec(*names))


def local_rows(mesh: Mesh, count: int) -> slice:
    """Returns which of `count` global examples this host has to provide."""
    share = count // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def put_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """Places this host's part of a batch, NumPy ``[local batch, …]``, on the mesh."""
    sharding = along_batch(mesh)
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    return jax.tree.map(
        lambda array: jax.make_array_from_process_local_data(sharding, array), batch
    )
