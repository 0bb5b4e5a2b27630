"""Device memory of a training step: estimated, or reported by the compiler.

The estimate needs no compilation and can be made for another machine. The compiler's
figure is accurate: on CPU, the peak of a running step was within a few per cent of it
(``benchmarks/memory.py``).
"""

import dataclasses

import jax

from noisy_student_jax.config import ConfigDict
from noisy_student_jax.core import sharding
from noisy_student_jax.models.concatenated import networks
from noisy_student_jax.models.layers import chosen
from noisy_student_jax.models.stem import patch_bytes
from noisy_student_jax.runs.run import Generation

FLOAT32 = 4
STATE_COPIES = {"rmsprop": 4, "sgd": 3, "adamw": 4, "lbfgs": 1}
"""Copies of the weights by optimizer: weights, their average, optimizer state."""
GATHERED = 2
"""Full copies beside a sharded state, at worst: gathered weights and gradients."""
HELD = 1.2
"""Bytes that a step holds per byte of stored activations: the compiler saves some by
fusion and needs others in the backward pass of a layer. On CPU, 1.05 (large images) to
1.24 for the models of this package: ``benchmarks/memory.py``."""
CONVERTED = 1.17
"""Factor for ``model.dtype=bfloat16`` on CPU, where XLA computes in float32 anyway and
holds copies in both types."""


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Memory of a compiled training step on each device.

    Attributes:
      fixed: bytes independent of the batch: state, gradient and workspace.
      per_image: bytes for each image that a device processes at once.
      gradient: bytes of a copy of the gradient.
      accumulates: whether the step accumulates gradients over microbatches.
    """

    fixed: float
    per_image: float
    gradient: int
    accumulates: bool

    def at(self, student: Generation, *, devices: int) -> int:
        """Returns the bytes for the same student with another batch."""
        more = 0
        if student.spec.config.train.microbatches > 1 and not self.accumulates:
            more = self.gradient
        return int(self.fixed + self.per_image * at_once(student, devices) + more)


def of_program(compiled: jax.stages.Compiled) -> int:
    """Returns the peak memory of a compiled program on a device, in bytes.

    Counts arguments, including donated ones, outputs beyond them, and temporaries. 0
    where the compiler reports nothing.
    """
    told = compiled.memory_analysis()
    if told is None:
        return 0
    return (
        told.argument_size_in_bytes
        + told.output_size_in_bytes
        - told.alias_size_in_bytes
        + told.temp_size_in_bytes
    )


def of_step(
    compiled: jax.stages.Compiled, student: Generation, *, devices: int
) -> StepMemory | None:
    """Derives a training step's memory at any batch from one compiled step.

    Args:
      compiled: the compiled step.
      student: its student.
      devices: number of devices that share its batch.

    Returns:
      The memory of the step; None where the compiler reports nothing.
    """
    told = compiled.memory_analysis()
    if told is None or not (held := of_program(compiled)):
        return None
    temporary = told.temp_size_in_bytes
    microbatches = student.spec.config.train.microbatches
    gradient = student.cost.parameters * FLOAT32
    images = at_once(student, devices)
    aside = gradient * (2 if microbatches > 1 else 1)
    per_image = max(0, temporary - aside) / images
    return StepMemory(held - per_image * images, per_image, gradient, microbatches > 1)


def estimated(student: Generation, *, devices: int) -> int:
    """Estimates, without compiling, the bytes of a student's step per device.

    Counts the state, its gradient (twice, if microbatches accumulate it), and `HELD`
    times the stored activations of the images that a device processes at once.

    On CPU, activations are float32 whatever ``model.dtype`` is (`CONVERTED`),
    ``model.remat`` saves nothing, as XLA undoes the recomputation, and the patches of
    the stem are added: they depend on the images alone, so that XLA makes them early
    and holds them to the end.
    """
    if student.run.config.plan.chip is not None:
        config = student.spec.config.copy_and_resolve_references()
        for_accelerator(config)
        per_image = HELD * student.changed(config).cost.activation_bytes
    elif jax.default_backend() == "cpu":
        per_image = _held_on_cpu(student)
    else:
        per_image = HELD * student.cost.activation_bytes
    return state_bytes(student, devices) + int(per_image * at_once(student, devices))


def for_accelerator(owner: ConfigDict) -> None:
    """Sets layers left open to an accelerator's, which this machine need not have."""
    if owner.model.layers == "auto":
        owner.model.layers = "flax"


def _held_on_cpu(student: Generation) -> float:
    """Returns the bytes per image of a step on CPU."""
    config = student.spec.config.copy_and_resolve_references()
    config.model.update(dtype="float32", remat=False)
    plain = student.changed(config)
    held = HELD * plain.cost.activation_bytes
    if student.spec.config.model.dtype == "bfloat16":
        held *= CONVERTED
    for network in networks(plain.spec.model.module):
        own = chosen(network.arguments.layers) == "own"
        if own and network.frozen_blocks < 0:
            stride = network.architecture.stem_stride
            held += patch_bytes(plain.spec.model.resolution, stride=stride)
    return held


def state_bytes(student: Generation, devices: int) -> int:
    """Returns the bytes of weights, averages, optimizer state and gradients per device.

    Args:
      student: the student.
      devices: number of devices that share a sharded state.
    """
    train = student.spec.config.train
    copies = STATE_COPIES[train.optimizer] + 1 + (train.microbatches > 1)
    floats = copies * sharding.elements_held(
        student.cost.shapes, devices, sharded=train.shard_state
    )
    if train.shard_state:
        whole = sharding.elements_held(student.cost.shapes, 1, sharded=False)
        floats += GATHERED * whole
    return floats * FLOAT32


def at_once(student: Generation, devices: int) -> int:
    """Returns the number of images that each device processes at once."""
    images = student.spec.layout.total // student.spec.config.train.microbatches
    return -(-images // devices)
