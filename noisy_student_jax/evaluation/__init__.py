"""Predicting with a model, and judging what it predicts."""
