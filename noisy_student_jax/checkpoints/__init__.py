"""Checkpoints of a training run, and bundles: weights with how to use them."""
