"""Which device holds what: a mesh with one axis, examples spread along it."""

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
"""Elements from which an array of a sharded state is split: 16 kB of float32."""
_PARTS, _COPIES = "parts", "copies"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Makes the mesh of the given (default: all) devices."""
    devices = list(jax.devices() if devices is None else devices)
    # Auto: under Explicit, a Linen step with batch norm and dropout does not trace.
    return Mesh(np.asarray(devices), (DATA,), axis_types=(AxisType.Auto,))


def compiler_options(mesh: Mesh) -> dict[str, Any]:
    """Says how a large program is compiled for the devices of a mesh.

    On CPU XLA's lesser effort compiles a step in four fifths of the time, and it is as
    fast: most of it are loops over large arrays, and matrix products from a library.
    Without an analysis of regions it copies most arrays of a donated state.
    """
    if mesh.devices.flat[0].platform != "cpu":
        return {}
    return {
        "xla_backend_optimization_level": 1,
        "xla_cpu_copy_insertion_use_region_analysis": True,
    }


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
        average, the optimizer's copies), as in ZeRO and FSDP, and the step gathers
        what it computes with (`Sharing`). Otherwise every device holds the whole.

    Returns:
      A tree like `state`, of shardings; one for all where it is not sharded.
    """
    if not sharded:
        return replicated(mesh)
    return jax.tree.map(lambda array: split(array.shape, mesh), state)


@dataclasses.dataclass(frozen=True)
class Sharing:
    """What a step does with a state that devices share.

    Left to itself, the partitioner takes the splitting of the weights over to the
    activations: a step of EfficientNet-L2 then asked for 87 GiB of temporaries a chip.

    Attributes:
      whole: gathers arrays, so that every device has all of them.
      shared: has each device keep its share of the gradients.
    """

    whole: Callable[[PyTree], PyTree]
    shared: Callable[[PyTree], PyTree]

    @classmethod
    def of(cls, params: PyTree, mesh: Mesh) -> "Sharing":
        """Returns that of weights with these shardings.

        Args:
          params: of `state_sharding`.
          mesh: devices.
        """

        def whole(tree: PyTree) -> PyTree:
            return jax.lax.with_sharding_constraint(tree, replicated(mesh))

        # Summed first: so that no device computes a share of a gradient of all images.
        return cls(
            whole,
            lambda tree: jax.lax.with_sharding_constraint(whole(tree), params),
        )


NOT_SHARED = Sharing(lambda tree: tree, lambda tree: tree)
"""What a step does with a state that every device holds."""


def split(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Places an array of a sharded state: see `parts`."""
    count, axis = parts(shape, mesh.size)
    if count == 1:
        return replicated(mesh)
    # The same devices in the same order, so that both meshes go into one program.
    folded = Mesh(
        mesh.devices.reshape(-1, count),
        (_COPIES, _PARTS),
        axis_types=(AxisType.Auto, AxisType.Auto),
    )
    return NamedSharding(folded, PartitionSpec(*[None] * axis, _PARTS))


def parts(shape: tuple[int, ...], devices: int) -> tuple[int, int]:
    """Says how an array of a sharded state is split: one axis, evenly.

    The channels of a network are seldom a multiple of a large slice: of 256 devices, a
    kernel of 8,256 channels is split into 64 parts, each held by four of them.

    Args:
      shape: of the array.
      devices: in the mesh.

    Returns:
      The number of parts, 1 for an array that stays whole, and the axis.
    """
    # Vectors are small, and needed everywhere at once: batch norm's statistics too.
    if len(shape) < 2 or math.prod(shape) < LARGE:
        return 1, 0
    # The last of the axes that are split best: outputs rather than inputs.
    return max((math.gcd(n, devices), axis) for axis, n in enumerate(shape))


def elements_held(shapes: PyTree, devices: int, *, sharded: bool) -> int:
    """Returns how many elements of arrays (or their shapes) a device holds."""
    return sum(
        leaf.size // (parts(leaf.shape, devices)[0] if sharded else 1)
        for leaf in jax.tree.leaves(shapes)
    )


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
