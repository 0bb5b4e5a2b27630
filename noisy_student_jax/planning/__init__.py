"""Estimates the cost of a run, and chooses settings that fit it."""
