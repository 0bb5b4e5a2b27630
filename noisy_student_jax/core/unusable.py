"""Handling of unusable records: a warning, or an error if there are too many."""

import itertools
import pathlib
from collections.abc import Collection

from noisy_student_jax.core.console import printable, warn
from noisy_student_jax.core.errors import UserError

Unusable = Collection[tuple[str, str]]
"""Key and reason of each unusable record."""

_NAMED = 3


def tell(
    unusable: Unusable,
    total: int,
    what: str,
    *,
    most: float,
    listed: pathlib.Path | None = None,
) -> None:
    """Warns about unusable records that are left out.

    Args:
      unusable: the unusable records.
      total: the number of records, usable or not.
      what: the kind of record, such as ``test images``.
      most: the fraction of records that may be unusable.
      listed: a file that lists the unusable records.

    Raises:
      UserError: too many records are unusable.
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
    """Raises UserError if too many records are unusable.

    Args:
      unusable: the unusable records.
      total: the number of records, usable or not.
      what: the kind of record, such as ``test images``.
      most: the fraction of records that may be unusable; None if none may be.
      listed: a file that lists the unusable records.
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
