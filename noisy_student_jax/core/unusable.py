"""What is done with records that cannot be used: counted, named, too many refused."""

import itertools
import pathlib
from collections.abc import Collection

from noisy_student_jax.core.console import printable, warn
from noisy_student_jax.core.errors import UserError

Unusable = Collection[tuple[str, str]]
"""The key of each, and why it cannot be used."""

_NAMED = 3


def tell(
    unusable: Unusable,
    total: int,
    what: str,
    *,
    most: float,
    listed: pathlib.Path | None = None,
) -> None:
    """Warns of records that cannot be used and are left out.

    Args:
      unusable: those records.
      total: how many there are, usable or not.
      what: they are, such as ``test images``.
      most: the fraction of them that may be unusable.
      listed: a file that names all that are.

    Raises:
      UserError: there are too many.
    """
    refuse(unusable, total, what, most=most, listed=listed)
    if unusable:
        all_named = f"; '{listed}' names all" if listed else ""
        warn(
            f"{len(unusable):,} of {total:,} {what} cannot be used and are left out,"
            f" {_named(unusable)}{all_named}"
        )


def refuse(
    unusable: Unusable,
    total: int,
    what: str,
    *,
    most: float | None = None,
    listed: pathlib.Path | None = None,
) -> None:
    """Raises UserError if too many records cannot be used.

    Args:
      unusable: those records.
      total: how many there are, usable or not.
      what: they are, such as ``test images``.
      most: the fraction of them that may be unusable; None where none may be.
      listed: a file that names all that are.
    """
    if len(unusable) <= (most or 0) * total:
        return
    limit, more = "", ""
    if most is not None:
        limit = f" more than config.data.max_quarantined={most:g} of them,"
        more = ", or allow more"
    see = f"see '{listed}', then " if listed else ""
    raise UserError(
        f"{len(unusable):,} of {total:,} {what} cannot be used,{limit}"
        f" {_named(unusable)}: {see}repair, replace or remove them{more}"
    )


def _named(unusable: Unusable) -> str:
    first = ", ".join(
        f"'{printable(key)}' ({printable(reason)})"
        for key, reason in itertools.islice(unusable, _NAMED)
    )
    return f"the first being {first}"
