"""Pseudo-labels: the files that a teacher writes, and the selection from them.

`label` predicts the pool, `sidecar` reads and writes the label files, `plan` decides
which records are selected and how often, `selection` writes the result for training,
`radix` finds exact cuts by counting, and `writing` writes files row by row.
"""
