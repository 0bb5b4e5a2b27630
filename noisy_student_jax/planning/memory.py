"""What a training step takes of a device's memory: estimated, and as compiled.

The estimate costs nothing and may be made for a machine that is not here. What the
compiler says of the program is what it will take: on CPU, the peak of a running step
was within a few per cent of it (``benchmarks/memory.py``).
"""

import dataclasses

import jax

from noisy_student_jax.core import sharding
from noisy_student_jax.models.efficientnet import EfficientNet
from noisy_student_jax.models.stem import patch_bytes
from noisy_student_jax.runs.run import Generation

FLOAT32 = 4
STATE_COPIES = {"rmsprop": 4, "sgd": 3, "adamw": 4}
"""Weights, their average, and the optimizer's copies of them."""
GATHERED = 2
"""Whole copies beside a sharded state, at the worst: weights in use, and gradients."""
HELD = 1.2
"""Bytes that a step holds for each byte that differentiation keeps: the compiler spares
some, where it fuses, and needs others while it works a layer backwards. On CPU, 1.05
(large images) to 1.24 for the models of this package: ``benchmarks/memory.py``."""
CONVERTED = 1.17
"""Times as much with ``model.dtype=bfloat16`` on CPU, where XLA computes in float32 all
the same: copies in both types stand beside one another."""


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """What a compiled training step takes on each device.

    Attributes:
      fixed: bytes, whatever the batch: the state, its gradient, workspace.
      per_image: bytes for each image that a device works on at once.
      gradient: bytes of a copy of the gradient.
      accumulates: whether the step adds gradients up over microbatches.
    """

    fixed: float
    per_image: float
    gradient: int
    accumulates: bool

    def at(self, student: Generation, *, devices: int) -> int:
        """Returns the bytes for a student that differs in nothing but its batch."""
        more = 0
        if student.spec.config.train.microbatches > 1 and not self.accumulates:
            more = self.gradient
        return int(self.fixed + self.per_image * at_once(student, devices) + more)


def of_program(compiled: jax.stages.Compiled) -> int:
    """Returns the most that a compiled program holds on a device, in bytes.

    Its arguments, among them what it is given to write over, what it makes beside
    them, and what it needs meanwhile. 0 where the compiler does not tell.
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
    """Reads off a student's compiled training step what it takes at any batch.

    Args:
      compiled: the program.
      student: whose it is.
      devices: that its batch is spread over.

    Returns:
      None where the compiler does not tell.
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
    """Estimates, without compiling, the bytes that a student's step takes per device.

    Counted are the state, its gradient (twice, where microbatches add theirs up), and
    `HELD` times what differentiation keeps of the images that a device works on at
    once.
    Where the step would run on CPU, that is float32 whatever ``model.dtype`` says
    (`CONVERTED`), ``model.remat`` spares nothing, as XLA undoes the computing again,
    and the patches of the stem come in addition: they need the images alone, so that
    XLA makes them early and holds them to the end.
    """
    per_image = HELD * student.cost.activation_bytes
    if jax.default_backend() == "cpu" and student.run.config.plan.chip is None:
        per_image = _held_on_cpu(student)
    return state_bytes(student, devices) + int(per_image * at_once(student, devices))


def _held_on_cpu(student: Generation) -> float:
    """Returns the bytes that an image takes in a step on CPU."""
    config = student.spec.config.copy_and_resolve_references()
    config.model.update(dtype="float32", remat=False)
    plain = student.changed(config)
    held = HELD * plain.cost.activation_bytes
    if student.spec.config.model.dtype == "bfloat16":
        held *= CONVERTED
    module = plain.spec.model.module
    own = isinstance(module, EfficientNet) and module.arguments.layers == "own"
    if own and module.frozen_blocks < 0:
        stride = module.architecture.stem_stride
        held += patch_bytes(plain.spec.model.resolution, stride=stride)
    return held


def state_bytes(student: Generation, devices: int) -> int:
    """Returns what weights, averages, optimizer and gradients take of a device."""
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
    """Returns how many images each device works on at once."""
    images = student.spec.layout.total // student.spec.config.train.microbatches
    return -(-images // devices)
