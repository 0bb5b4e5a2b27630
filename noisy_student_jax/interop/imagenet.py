"""The 1000 classes of ILSVRC 2012, which published weights predict."""

import functools
import pathlib

_FILE = pathlib.Path(__file__).with_name("imagenet_classes.txt")


@functools.cache
def classes() -> tuple[str, ...]:
    """Returns the classes in the order of the logits, such as ``n01440764 tench``.

    Ids are included because names are ambiguous: there are two cranes and two maillots.
    """
    lines = _FILE.read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if not line.startswith("#"))


@functools.cache
def synsets() -> tuple[str, ...]:
    """Returns the classes' WordNet ids in the order of the logits."""
    return tuple(name.split(" ")[0] for name in classes())
