"""Pseudo-labels: the sidecar files a teacher writes, and what is chosen from them.

`sidecar` reads and writes the label files, `plan` says who is selected and how often,
`selection` writes that down for the trainer, `radix` finds exact cuts by counting, and
`writing` writes whole files or none.
"""
