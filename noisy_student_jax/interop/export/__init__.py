"""Weights out: a bundle written for other programs, a module for each format.

A format is a function that takes a bundle and the path to write, and whatever it
wrote has been read again and compared with the bundle before the path is there.
"""
