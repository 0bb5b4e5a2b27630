"""Batched prediction, and statistics of the results."""
