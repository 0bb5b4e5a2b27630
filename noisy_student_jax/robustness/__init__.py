"""Robustness: ``noisy-student evaluate --suite=…``, of any bundle or of a run."""
