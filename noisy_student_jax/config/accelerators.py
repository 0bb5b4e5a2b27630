"""Peak performance and memory of accelerators, from their vendors' data sheets."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """An accelerator.

    Attributes:
      name: display name.
      peak_flops: dense bfloat16 FLOP/s.
      memory: bytes.
    """

    name: str
    peak_flops: float
    memory: float


CHIPS = {
    # https://cloud.google.com/tpu/docs/v3 and its neighbors; a v3 chip has two cores.
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
"""Accelerators by their name in ``config.plan.chip``."""
