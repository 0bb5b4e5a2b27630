"""Weights out: a bundle written for other programs, a module for each format.

A format is a function that takes a bundle, the path to write and, where it predicts,
the bundle's task. Whatever it wrote has been read again and compared with the bundle
before the path is there.
"""
