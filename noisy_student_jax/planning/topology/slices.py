"""Slices of TPU chips, as the compiler describes them; no chip need be attached."""

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
"""Names in `CHIPS`, by the compiler's name of a device."""
EXAMPLES = ("v3:8x8", "v4:4x4x4", "v5e:16x16", "v5p:4x4x8", "v6e:16x16", "tpu7x:4x4x4")
NO_HARDWARE = {
    # Otherwise libtpu queries the metadata server of a cloud machine ...
    "TPU_SKIP_MDS_QUERY": "1",
    # ... and complains about the missing answers.
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    # No chip is held, so that several processes may compile at once.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""Environment in which libtpu only compiles; variables that are set are kept."""


@dataclasses.dataclass(frozen=True)
class Slice:
    """Devices to compile for.

    Attributes:
      name: name given on the command line.
      devices: all devices, in the order of the mesh.
      chip: name in `CHIPS`; None if unknown.
      memory: bytes of memory per device; 0 if unknown.
      host: devices of one host, for labeling, which each host runs on its own. libtpu
        compiles for whole slices only, so they belong to a slice of one host.
    """

    name: str
    devices: tuple[jax.Device, ...]
    chip: str | None
    memory: float
    host: tuple[jax.Device, ...]

    @property
    def kind(self) -> str:
        """Kind of the devices, for reports."""
        return CHIPS[self.chip].name if self.chip else self.devices[0].device_kind

    @property
    def section(self) -> dict[str, Any]:
        """Fields of the config's ``plan`` section for this slice."""
        # If a device is half a chip, chip-hours would be wrong.
        known = self.chip and self.memory == CHIPS[self.chip].memory
        return {"devices": len(self.devices), "chip": self.chip if known else None}


def only_compile() -> None:
    """Keeps libtpu from looking for hardware. Call before JAX looks for devices."""
    if not any(map(pathlib.Path.exists, devices.TPU)):
        for name, value in NO_HARDWARE.items():
            os.environ.setdefault(name, value)


def find(name: str) -> Slice:
    """Returns a slice by its name in `jax.experimental.topologies`.

    Args:
      name: kind of chip and number along each axis, as in ``v5e:16x16``.

    Raises:
      UserError: there is no such slice, or libtpu is not installed.
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
    # Without a slice of one host, compiling the labeling program reports the error.
    with contextlib.suppress(RuntimeError, ValueError, NotImplementedError):
        found = dataclasses.replace(found, host=_devices(_of_one_host(found)))
    return found


def _devices(name: str) -> tuple[jax.Device, ...]:
    found = topologies.get_topology_desc(platform="tpu", topology_name=name)
    return tuple(found.devices)


def _of_one_host(whole: Slice) -> str:
    """Returns the name of a slice of one host with the same chips."""
    kind, _, sides = whole.name.partition(":")
    places = zip(*(device.coords for device in whole.host), strict=True)
    extents = [max(axis) - min(axis) + 1 for axis in places]
    return f"{kind}:{'x'.join(map(str, extents[: sides.count('x') + 1]))}"


def of_devices(devices: Sequence[jax.Device], *, name: str) -> Slice:
    """Returns a slice of the given devices, which may be attached.

    Args:
      devices: devices in the order of the mesh.
      name: name for reports.
    """
    key = KINDS.get(devices[0].device_kind)
    memory = _memory(CHIPS[key], devices) if key else 0
    first = devices[0].process_index
    host = tuple(one for one in devices if one.process_index == first)
    return Slice(name, tuple(devices), key, memory, host)


def _memory(chip: Chip, devices: Sequence[jax.Device]) -> float:
    """Returns the memory of a device, several of which may form a chip."""
    if chip is CHIPS["tpu_v3_core"]:
        return chip.memory
    places = {tuple(device.coords) for device in devices}
    return chip.memory * len(places) / len(devices)
