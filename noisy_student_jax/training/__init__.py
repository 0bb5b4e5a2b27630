"""The training step: state, optimizer, moving averages, partitioning."""
