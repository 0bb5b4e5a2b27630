"""Which device holds what: a mesh with one axis, examples spread along it."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from noisy_student_jax.types import PyTree

DATA = "data"


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
