"""Input noise on the device: RandAugment and its companions, in JAX."""
