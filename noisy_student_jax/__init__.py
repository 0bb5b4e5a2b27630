"""Noisy Student Training (Xie et al., CVPR 2020) in JAX and Flax."""

__version__ = "0.1.0"
