"""Canonical descriptions of functions, used as cache keys for compiled programs.

A traced function consists of its code and the values it holds: options in a closure,
a module's fields, an optimizer's inner functions. Code of libraries and of this package
is identified by versions and files; the held values are written out here.
User-defined code is unversioned, so it has no description. Monkey-patched library code
is not detected.
"""

import dataclasses
import enum
import functools
import hashlib
import sys
import types
from typing import Any

import flax.linen as nn
import numpy as np

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "chex", "numpy", "ml_dtypes")
"""Packages whose code is identified by a version."""
_PACKAGE = __package__.partition(".")[0]
_KNOWN = {_PACKAGE, *LIBRARIES, *sys.stdlib_module_names}
_CONSTANTS = (type(None), bool, int, float, complex, str, bytes, type(...))


class IndescribableError(TypeError):
    """A value depends on code that has no known version."""


def describe(value: Any) -> str:
    """Describes a value, down to constants and known code.

    Values with equal descriptions behave alike, as long as Python, `LIBRARIES` and the
    files of this package stay the same.

    Args:
      value: a constant, a host array, a container, a dataclass, a Flax module, a
        function or an object of known code, including everything it holds.

    Raises:
      IndescribableError: it holds user-defined code or an unsupported kind of value.
    """
    return _described(value, ())


def _described(value: Any, around: tuple[Any, ...]) -> str:
    for depth, outer in enumerate(reversed(around)):
        if outer is value:
            return f"<{depth} out>"  # a function that calls itself
    if type(value) in _CONSTANTS:
        return f"{type(value).__name__}:{value!r}"
    if isinstance(value, np.dtype) and not value.hasobject:
        return f"{type(value).__name__}:{value!r}"
    if isinstance(value, np.generic) and not value.dtype.hasobject:
        return f"{type(value).__name__}:{value!r}"
    if type(value) is np.ndarray and not value.dtype.hasobject:
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return f"array:{value.dtype}{value.shape}{digest}"
    if (name := _global_name(value)) is not None:
        return name
    kind = _kind(value)
    if isinstance(value, enum.Enum):
        return f"{kind}.{value.name}"
    inner = (*around, value)
    parts = (
        f"{_described(key, inner)}={_described(one, inner)}"
        for key, one in _parts(value)
    )
    return f"{kind}({', '.join(parts)})"


def _global_name(value: Any) -> str | None:
    """Returns the name of a module-level function, class or the like of known code."""
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


def _kind(value: Any) -> str:
    """Names the code behind a value: a function's own, or its class's.

    Raises:
      IndescribableError: it is user-defined, or was created at run time.
    """
    if isinstance(value, types.FunctionType):
        # Not `__module__`, which `functools.wraps` overwrites.
        module = value.__globals__.get("__name__", "")
        _check(module, value.__qualname__)
        return f"{module}.{value.__qualname__}"
    if isinstance(value, types.MethodType):
        return "method"
    # A class created by a function may hold anything.
    if (name := _global_name(type(value))) is None:
        raise IndescribableError(f"{type(value)!r} is not a class of a module")
    for one in type(value).__mro__:
        _check(one.__module__, one.__qualname__)
    return name


def _parts(value: Any) -> list[tuple[Any, Any]]:
    """Returns the parts of a value, by name.

    Raises:
      IndescribableError: its kind is not supported.
    """
    if isinstance(value, dict):
        # In order, since code may depend on it.
        return list(value.items())
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    if isinstance(value, functools.partial):
        return [("of", value.func), ("given", value.args), ("named", value.keywords)]
    if isinstance(value, types.MethodType):
        return [("function", value.__func__), ("of", value.__self__)]
    if isinstance(value, types.FunctionType):
        return _held_by(value)
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        if isinstance(value, nn.Module):
            # The description of the parent covers the position among modules.
            names.remove("parent")
        return [(name, getattr(value, name)) for name in names]
    if type(value).__module__.partition(".")[0] != _PACKAGE:
        raise IndescribableError(f"a {type(value)!r} may hold hidden state")
    return list(vars(value).items())


def _held_by(function: types.FunctionType) -> list[tuple[str, Any]]:
    code, cells = function.__code__, function.__closure__ or ()
    try:
        contents = [cell.cell_contents for cell in cells]
    except ValueError as error:
        raise IndescribableError(
            f"{function.__qualname__} has an empty closure"
        ) from error
    return [
        # Two functions of one file can have one name.
        ("code", _digest(code)),
        ("defaults", function.__defaults__),
        ("named", function.__kwdefaults__),
        *zip(code.co_freevars, contents, strict=True),
    ]


def _digest(code: types.CodeType) -> str:
    digest = hashlib.sha256(code.co_code)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            constant = _digest(constant)
        elif isinstance(constant, frozenset):
            constant = sorted(map(repr, constant))
        digest.update(repr(constant).encode())
    digest.update(repr((code.co_names, code.co_varnames, code.co_freevars)).encode())
    return digest.hexdigest()


def _check(module: str, name: str) -> None:
    if module.partition(".")[0] not in _KNOWN:
        raise IndescribableError(f"{module}.{name} has no known version")
