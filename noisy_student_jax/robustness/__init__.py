"""Robustness suites for any bundle or run: ``noisy-student evaluate --suite=…``."""
