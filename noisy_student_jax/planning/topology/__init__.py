"""Memory and FLOPs of a run's programs on a TPU slice, without the slice.

Programs are compiled ahead of time for the slice's topology.
"""
