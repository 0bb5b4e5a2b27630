"""Formats numbers for the report; values that are not numbers become a dash."""

import math
import re
from collections.abc import Sequence
from typing import Any, TypeGuard

from noisy_student_jax.core import console

NOTHING = "–"
_FRACTIONS = re.compile(
    # Of one class, if its name follows.
    r"(top\d+|a[pr]\d*|accuracy|recall|precision)(/.+)?",
    re.IGNORECASE | re.DOTALL,
)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value)


def is_interval(value: Any) -> TypeGuard[Sequence[float]]:
    """Whether a value is a pair of finite numbers."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(map(is_number, value))
    )


def count(value: Any) -> str:
    """Formats 12345 as ``12,345``."""
    return f"{value:,}" if is_number(value) else NOTHING


def resolution(entry: dict[str, Any]) -> str:
    """Formats a model's resolution, preceded by that before FixRes if different."""
    side, before = entry.get("resolution"), entry.get("trained_at")
    if before in (None, side):
        return count(side)
    return f"{count(before)} → {count(side)}"


def percent(value: Any, *, digits: int = 1) -> str:
    """Formats 0.9332 as ``93.3 %``."""
    return f"{_plain(100 * value, digits)} %" if is_number(value) else NOTHING


def hundredths(value: Any) -> str:
    """Formats 0.9332 as ``93.3``."""
    return _plain(100 * value, 1) if is_number(value) else NOTHING


def points(value: Any) -> str:
    """Formats a difference of 0.0033 as ``+0.3``, in percentage points."""
    if not is_number(value):
        return NOTHING
    text = _plain(100 * value, 1)
    return text if text.startswith("−") or float(text) == 0 else f"+{text}"


def interval(value: Any, *, signed: bool = False) -> str:
    """Formats (0.910, 0.951) as ``[91.0, 95.1]``."""
    if not is_interval(value):
        return NOTHING
    low, high = (points(end) if signed else _plain(100 * end, 1) for end in value)
    return f"[{low}, {high}]"


def metric(name: str, value: Any, *, primary: str) -> str:
    """Formats a metric: known fractions in percent, other values unchanged."""
    if not is_number(value):
        return NOTHING
    if name == primary or _FRACTIONS.fullmatch(name):
        return percent(value)
    return _plain(value, 3)


def with_interval(name: str, entry: dict[str, Any], *, primary: str) -> str:
    """Formats a metric of a summary's entry, with its interval if it has one."""
    value = metric(name, (entry.get("metrics") or {}).get(name), primary=primary)
    ends = interval((entry.get("intervals") or {}).get(name))
    return value if ends == NOTHING else f"{value} {ends}"


def seconds(value: Any) -> str:
    """Formats seconds as a duration; short ones with decimals."""
    if not is_number(value):
        return NOTHING
    if value >= 9.95:
        return console.duration(value)
    return f"{value:.1f} s" if value >= 0.95 else f"{value:.2f} s"


def capitalized(text: str) -> str:
    """Capitalizes the first letter only."""
    return text[:1].upper() + text[1:]


def short(text: str, *, length: int) -> str:
    """Cuts a name to a maximum length for charts."""
    text = console.printable(str(text))
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _plain(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    return text.replace("-", "−")
