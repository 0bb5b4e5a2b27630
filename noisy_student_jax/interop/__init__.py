"""Weights in from other programs, and models out to them."""
