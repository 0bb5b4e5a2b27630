"""Imports timm without torchvision, which its models do not use."""

import importlib.machinery
import importlib.util
import sys
import types
from typing import Any


def import_timm() -> Any:
    """Returns the module ``timm``, with empty modules in torchvision's place."""
    if not importlib.util.find_spec("torchvision"):
        for name in (
            "torchvision",
            "torchvision.datasets",
            "torchvision.models",
            "torchvision.models.feature_extraction",
            "torchvision.ops",
            "torchvision.ops.misc",
            "torchvision.transforms",
            "torchvision.transforms.functional",
        ):
            stub = _Empty(name)
            stub.__path__ = []
            stub.__spec__ = importlib.machinery.ModuleSpec(name, None)
            sys.modules[name] = stub
            parent, _, own = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], own, stub)
    import timm

    return timm


class _Named(type):
    """A class that has every attribute: its name."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return f"{cls.__name__}.{name}"


class _Empty(types.ModuleType):
    """A module that has every attribute; none does anything."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Named(name, (), {})
