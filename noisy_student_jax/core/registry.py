"""Lookup of models, datasets and tasks by name, inside or outside the package."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from noisy_student_jax.core.errors import UserError, nearest, one_line


def find(name: str, table: Mapping[str, str], kind: str) -> Callable[..., Any]:
    """Imports the function registered under a name.

    Args:
      name: a key of `table`, or any ``package.module:function``.
      table: ``package.module:function`` by name, imported lazily.
      kind: the kind of object, for error messages.

    Raises:
      UserError: the name, module or function does not exist.
    """
    place = table.get(name, name)
    module_name, colon, attribute = place.partition(":")
    if not colon:
        raise UserError(
            f"no {kind} is called '{name}'{nearest(name, list(table))} (known:"
            f" {', '.join(table)}; or give package.module:function)"
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{kind} '{name}': cannot import '{error.name}'; is it installed, or on"
            " PYTHONPATH?"
        ) from error
    except Exception as error:
        raise UserError(f"{kind} '{name}': {one_line(error)}") from error
    if not callable(getattr(module, attribute, None)):
        raise UserError(
            f"{kind} '{name}': module {module_name} has no function '{attribute}'"
        )
    return getattr(module, attribute)


def make(
    name: str,
    table: Mapping[str, str],
    kind: str,
    *arguments: Any,
    **options: Any,
) -> Any:
    """Calls the function registered under a name.

    Raises:
      UserError: see `find`; or a function outside the table raised an exception.
    """
    function = find(name, table, kind)
    try:
        return function(*arguments, **options)
    except UserError:
        raise
    except Exception as error:
        if name in table:
            raise
        raise UserError(f"{kind} '{name}' failed: {one_line(error)}") from error
