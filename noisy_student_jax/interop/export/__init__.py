"""Exports bundles to other programs, with one module per format.

A format is a function of a bundle, the path to write and, for predictions, the bundle's
task. It reads the export again and compares it with the bundle before the path appears.
"""
