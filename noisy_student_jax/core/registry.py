"""Finding a model, a data set or a task by name, in the package or outside it."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from noisy_student_jax.core.errors import UserError, nearest, one_line


def find(name: str, table: Mapping[str, str], kind: str) -> Callable[..., Any]:
    """Imports what a name stands for.

    Args:
      name: a key of `table`, or ``package.module:function`` from anywhere.
      table: ``package.module:function`` by name; imported only when asked for.
      kind: what is looked for, as the error says it.

    Raises:
      UserError: no such name, module or function.
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
    """Calls what a name stands for.

    Raises:
      UserError: see `find`; or it is not a function for this kind of thing.
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
