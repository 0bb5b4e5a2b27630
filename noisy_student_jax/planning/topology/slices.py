"""Slices of TPU chips, as the compiler describes them: no chip has to be here."""

import contextlib
import dataclasses
import importlib.util
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from noisy_student_jax.config.accelerators import CHIPS, Chip
from noisy_student_jax.core import devices
from noisy_student_jax.core.errors import UserError, one_line

KINDS = {
    "TPU v3": "tpu_v3_core",
    "TPU v4": "tpu_v4",
    "TPU v5 lite": "tpu_v5e",
    "TPU v5": "tpu_v5p",
    "TPU v6 lite": "tpu_v6e",
    "TPU7x": "tpu_7x",
}
"""Names in `CHIPS`, by what the compiler calls a device."""
EXAMPLES = ("v3:8x8", "v4:4x4x4", "v5e:16x16", "v5p:4x4x8", "v6e:16x16", "tpu7x:4x4x4")
NO_HARDWARE = {
    # Or libtpu asks the metadata server of a cloud machine what it is attached to ...
    "TPU_SKIP_MDS_QUERY": "1",
    # ... and complains of the answers that it did not get.
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    # It holds no chip, so that several processes may compile at once.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""The environment in which libtpu only compiles; what is set already stays."""


@dataclasses.dataclass(frozen=True)
class Slice:
    """Devices to compile for.

    Attributes:
      name: as it was asked for.
      devices: all, in the order of the mesh.
      chip: what they are; None where it is not known.
      memory: bytes of a device; 0 where it is not known.
      host: devices of one host: labeling is each host's own. For others than all of
        a slice libtpu does not compile, so that they are those of a slice of one host.
    """

    name: str
    devices: tuple[jax.Device, ...]
    chip: str | None
    memory: float
    host: tuple[jax.Device, ...]

    @property
    def kind(self) -> str:
        """What a device is, for people."""
        return CHIPS[self.chip].name if self.chip else self.devices[0].device_kind

    @property
    def section(self) -> dict[str, Any]:
        """What a config's ``plan`` section says of it."""
        # With half a chip a device, hours of a chip would be told wrongly.
        known = self.chip and self.memory == CHIPS[self.chip].memory
        return {"devices": len(self.devices), "chip": self.chip if known else None}


def only_compile() -> None:
    """Has libtpu look for no hardware; to be called before JAX looks for devices."""
    if not any(map(pathlib.Path.exists, devices.TPU)):
        for name, value in NO_HARDWARE.items():
            os.environ.setdefault(name, value)


def find(name: str) -> Slice:
    """Returns the slice of a name that `jax.experimental.topologies` knows.

    Args:
      name: kind of chip, and how many each way, as in ``v5e:16x16``.

    Raises:
      UserError: there is no such slice, or no libtpu to compile for it.
    """
    if not (importlib.util.find_spec("libtpu") or os.environ.get("TPU_LIBRARY_PATH")):
        raise UserError(
            f"--topology={name} compiles with libtpu, which is not installed: install"
            " the tpu extra (pip install 'noisy-student-jax[tpu]'); no TPU is needed"
        )
    only_compile()
    try:
        found = of_devices(_devices(name), name=name)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        told = re.sub(r"^[A-Z_]+: ", "", one_line(error)).rstrip(".")
        raise UserError(
            f"--topology={name} is no slice that libtpu can compile for ({told}): give"
            " a kind of chip and how many of them each way, as in"
            f" {', '.join(EXAMPLES)}"
        ) from None
    # Without such a slice, compiling the labels tells what is wrong.
    with contextlib.suppress(RuntimeError, ValueError, NotImplementedError):
        found = dataclasses.replace(found, host=_devices(_of_one_host(found)))
    return found


def _devices(name: str) -> tuple[jax.Device, ...]:
    found = topologies.get_topology_desc(platform="tpu", topology_name=name)
    return tuple(found.devices)


def _of_one_host(whole: Slice) -> str:
    """Returns the name of a slice of one host with chips as these."""
    kind, _, sides = whole.name.partition(":")
    places = zip(*(device.coords for device in whole.host), strict=True)
    extents = [max(axis) - min(axis) + 1 for axis in places]
    return f"{kind}:{'x'.join(map(str, extents[: sides.count('x') + 1]))}"


def of_devices(devices: Sequence[jax.Device], *, name: str) -> Slice:
    """Returns a slice of given devices, also of those that are here.

    Args:
      devices: in the order of the mesh.
      name: for people.
    """
    key = KINDS.get(devices[0].device_kind)
    memory = _memory(CHIPS[key], devices) if key else 0
    first = devices[0].process_index
    host = tuple(one for one in devices if one.process_index == first)
    return Slice(name, tuple(devices), key, memory, host)


def _memory(chip: Chip, devices: Sequence[jax.Device]) -> float:
    """Returns the memory of a device, of which a chip may be several."""
    if chip is CHIPS["tpu_v3_core"]:
        return chip.memory
    places = {tuple(device.coords) for device in devices}
    return chip.memory * len(places) / len(devices)
