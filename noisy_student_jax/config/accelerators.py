"""Accelerators, as their makers describe them."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """An accelerator.

    Attributes:
      name: for people.
      peak_flops: a second, dense, in bfloat16.
      memory: bytes.
    """

    name: str
    peak_flops: float
    memory: float


CHIPS = {
    # https://cloud.google.com/tpu/docs/v3 and its neighbors; two cores a v3 chip.
    "tpu_v3_core": Chip("TPU v3 core", 61.5e12, 16 * 2**30),
    "tpu_v4": Chip("TPU v4", 275e12, 32 * 2**30),
    "tpu_v5e": Chip("TPU v5e", 197e12, 16e9),
    "tpu_v5p": Chip("TPU v5p", 459e12, 95e9),
    "tpu_v6e": Chip("TPU v6e", 918e12, 32e9),
    "tpu_7x": Chip("TPU7x", 2307e12, 192e9),
    # NVIDIA's data sheets, of the SXM modules with 80 GB, without sparsity.
    "a100": Chip("A100", 312e12, 80e9),
    "h100": Chip("H100", 989e12, 80e9),
}
"""By the name that ``config.plan.chip`` gives them."""
