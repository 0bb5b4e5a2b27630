"""A text for what a function does, by which a program made of it is known again.

A traced function is made of its code and of whatever its code holds: options in a
closure, a module's fields, an optimizer's inner functions. The code is that of
libraries and of this package, which are known by their versions and files; what it
holds is written out here. Whoever brings code of their own gets no text, and no wrong
one.
"""

import dataclasses
import enum
import functools
import hashlib
import sys
import types
from typing import Any

import flax.linen as nn
import jax
import numpy as np

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "chex", "numpy", "ml_dtypes")
"""Whose code is known by a version."""
_KNOWN = (__package__, *LIBRARIES, "builtins", "functools", "operator")
_CONSTANTS = (type(None), bool, int, float, complex, str, bytes, type(...), np.generic)


class IndescribableError(TypeError):
    """There is something of whose code no version is known."""


def describe(value: Any) -> str:
    """Says what a value is made of, down to constants and known code.

    Two values with equal texts do the same, as long as `LIBRARIES` and the files of
    this package are the same.

    Args:
      value: a constant, an array on the host, a container, a dataclass, a Flax module,
        a function or an object of known code, with whatever they hold.

    Raises:
      IndescribableError: it holds somebody's own code, or something of another kind.
    """
    return _described(value, ())


def _described(value: Any, around: tuple[Any, ...]) -> str:
    for depth, outer in enumerate(reversed(around)):
        if outer is value:
            return f"<{depth} out>"  # a function that calls itself
    if isinstance(value, _CONSTANTS):
        return f"{type(value).__name__}:{value!r}"
    if isinstance(value, enum.Enum | np.dtype):
        return repr(value)
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return f"array:{value.dtype}{value.shape}{digest}"
    if (name := _global_name(value)) is not None:
        return name
    parts = _parts(value)
    inner = (*around, value)
    told = (f"{part}={_described(one, inner)}" for part, one in parts.items())
    return f"{_kind(value)}({', '.join(told)})"


def _global_name(value: Any) -> str | None:
    """Returns the name under which known code keeps a function, a class or the like."""
    module, name = (getattr(value, at, None) for at in ("__module__", "__qualname__"))
    if not isinstance(module, str) or not isinstance(name, str):
        return None
    found = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not value:
        return None
    _check(module, name)
    return f"{module}.{name}"


def _parts(value: Any) -> dict[str, Any]:
    """Returns what a value holds, by name.

    Raises:
      IndescribableError: it is of no kind that is known here.
    """
    if isinstance(value, dict):
        return {repr(key): one for key, one in sorted(value.items(), key=repr)}
    if isinstance(value, list | tuple):
        return {str(number): one for number, one in enumerate(value)}
    if isinstance(value, set | frozenset):
        return {str(number): one for number, one in enumerate(sorted(value))}
    if isinstance(value, functools.partial):
        return {"of": value.func, "given": value.args, "named": value.keywords}
    if isinstance(value, types.MethodType):
        return {"of": value.__self__}
    if isinstance(value, types.FunctionType):
        return _held_by(value)
    if isinstance(value, nn.Module):
        # Where it stands among other modules is said by whoever holds it.
        names = [field.name for field in dataclasses.fields(value)]
        return {name: getattr(value, name) for name in names if name != "parent"}
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: getattr(value, name) for name in names}
    if isinstance(value, jax.Array) or not hasattr(value, "__dict__"):
        raise IndescribableError(f"a {type(value).__name__} is of no kind known here")
    return vars(value)


def _held_by(function: types.FunctionType) -> dict[str, Any]:
    code, cells = function.__code__, function.__closure__ or ()
    try:
        contents = [cell.cell_contents for cell in cells]
    except ValueError as error:
        raise IndescribableError(f"{function.__qualname__} is not whole yet") from error
    held = dict(zip(code.co_freevars, contents, strict=True))
    # Lambdas of one function share its name.
    line = {"line": code.co_firstlineno}
    named = function.__kwdefaults__ or {}
    return {**line, "defaults": (function.__defaults__, named), **held}


def _kind(value: Any) -> str:
    """Names the code that a value is of: its own, or its class's.

    Raises:
      IndescribableError: it is somebody's own.
    """
    owner = value
    if not isinstance(value, types.FunctionType | types.MethodType):
        owner = type(value)
    _check(owner.__module__, owner.__qualname__)
    return f"{owner.__module__}.{owner.__qualname__}"


def _check(module: str, name: str) -> None:
    if module.partition(".")[0] not in _KNOWN:
        raise IndescribableError(f"{module}.{name} is nobody's whose version is known")
