"""Sharding of batches and training state over a mesh with one axis."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from noisy_student_jax.core.types import PyTree

DATA = "data"
LARGE = 4096
"""Minimum number of elements of an array that is sharded: 16 kB of float32."""
_PARTS, _COPIES = "parts", "copies"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Creates the mesh of the given devices (default: all)."""
    devices = list(jax.devices() if devices is None else devices)
    # Auto: under Explicit, a Linen step with batch norm and dropout does not trace.
    return Mesh(np.asarray(devices), (DATA,), axis_types=(AxisType.Auto,))


def compiler_options(mesh: Mesh) -> dict[str, Any]:
    """Returns XLA options for compiling a large program for a mesh.

    On CPU, XLA's lower optimization level takes four fifths of the compile time, and
    the step is as fast: it mostly consists of loops over large arrays and matrix
    products from a library. Without region analysis, XLA copies most arrays of a
    donated state.
    """
    if mesh.devices.flat[0].platform != "cpu":
        return {}
    return {
        "xla_backend_optimization_level": 1,
        "xla_cpu_copy_insertion_use_region_analysis": True,
    }


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds completely."""
    return NamedSharding(mesh, PartitionSpec())


def along_batch(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits the batch axis evenly over devices."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def state_sharding(state: PyTree, mesh: Mesh, *, sharded: bool) -> PyTree:
    """Returns the shardings of a training state.

    Args:
      state: arrays, or their shapes.
      mesh: devices.
      sharded: whether each device holds a shard of every large array (weights, their
        moving average, the optimizer's buffers), as in ZeRO and FSDP, and the step
        gathers the weights it computes with (`Sharing`). Otherwise the state is
        replicated.

    Returns:
      A tree of shardings like `state`; a single sharding if it is replicated.
    """
    if not sharded:
        return replicated(mesh)
    return jax.tree.map(lambda array: split(array.shape, mesh), state)


@dataclasses.dataclass(frozen=True)
class Sharing:
    """Sharding constraints within a step on a sharded state.

    Without them, the partitioner propagates the sharding of the weights to the
    activations: a step of EfficientNet-L2 then needed 87 GiB of temporaries per chip.

    Attributes:
      whole: gathers arrays, so every device has all of them.
      shared: reduces gradients, so each device keeps its shard.
    """

    whole: Callable[[PyTree], PyTree]
    shared: Callable[[PyTree], PyTree]

    @classmethod
    def of(cls, params: PyTree, mesh: Mesh) -> "Sharing":
        """Returns the constraints for weights with the given shardings.

        Args:
          params: shardings of the weights, from `state_sharding`.
          mesh: devices.
        """

        def whole(tree: PyTree) -> PyTree:
            return jax.lax.with_sharding_constraint(tree, replicated(mesh))

        # Sum first: otherwise a device may compute its shard over the whole batch.
        return cls(
            whole,
            lambda tree: jax.lax.with_sharding_constraint(whole(tree), params),
        )


NOT_SHARED = Sharing(lambda tree: tree, lambda tree: tree)
"""No constraints, for a replicated state."""


def split(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Returns the sharding of one array of a sharded state; see `parts`."""
    count, axis = parts(shape, mesh.size)
    if count == 1:
        return replicated(mesh)
    # The same devices in the same order, so one program can use both meshes.
    folded = Mesh(
        mesh.devices.reshape(-1, count),
        (_COPIES, _PARTS),
        axis_types=(AxisType.Auto, AxisType.Auto),
    )
    return NamedSharding(folded, PartitionSpec(*[None] * axis, _PARTS))


def parts(shape: tuple[int, ...], devices: int) -> tuple[int, int]:
    """Returns how an array of a sharded state is split: evenly, along one axis.

    Channel counts are seldom a multiple of the size of a large slice: on 256 devices, a
    kernel with 8,256 channels is split into 64 parts, each held by four devices.

    Args:
      shape: of the array.
      devices: number of devices in the mesh.

    Returns:
      The number of parts, 1 for an array that is not split, and the axis.
    """
    # Vectors, batch statistics among them, are small and needed on every device.
    if len(shape) < 2 or math.prod(shape) < LARGE:
        return 1, 0
    # The last axis wins a tie: outputs rather than inputs.
    return max((math.gcd(n, devices), axis) for axis, n in enumerate(shape))


def elements_held(shapes: PyTree, devices: int, *, sharded: bool) -> int:
    """Returns the number of elements of arrays (or their shapes) per device."""
    return sum(
        leaf.size // (parts(leaf.shape, devices)[0] if sharded else 1)
        for leaf in jax.tree.leaves(shapes)
    )


def local_rows(mesh: Mesh, count: int) -> slice:
    """Returns the range of the `count` global examples that this host provides."""
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
