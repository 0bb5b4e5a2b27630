"""Memory, FLOPs and collectives of a run's programs on a TPU slice, without the slice.

Programs are compiled ahead of time for the slice's topology.
"""
