"""Durations as people write them in settings and rulebooks: 90, "90s", "30m", "1h30m", "14d"."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

_UNITS: Final = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}
_EXPECTED: Final = 'expected a duration: seconds as a number, or text such as "90s", "30m", "1h30m" or "14d"'


def duration(value: object) -> timedelta:
    """The duration that `value` says: a timedelta, a number of seconds, or numbers with the units d, h, m, s and ms.

    Raises:
        ValueError: anything else; the message says what was expected and never repeats the value.
    """
    if isinstance(value, timedelta):
        return value
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return timedelta(seconds=value)
        if isinstance(value, str):
            return _from_text(value.strip())
    except (ArithmeticError, ValueError, KeyError):
        pass
    raise ValueError(_EXPECTED)


def _from_text(text: str) -> timedelta:
    if text.replace(".", "", 1).isdecimal():
        return timedelta(seconds=float(text))
    total, rest = timedelta(), text
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        letters = len(rest[digits:]) - len(rest[digits:].lstrip("dhms"))
        total += float(rest[:digits]) * _UNITS[rest[digits : digits + letters]]
        rest = rest[digits + letters :]
    if not text:
        raise ValueError(_EXPECTED)
    return total


def duration_text(value: timedelta) -> str:
    """`value` in the same form, from which `duration` reads the same value again."""
    if value < timedelta():
        raise ValueError("a duration is not negative")
    parts, rest = [], value
    for name, unit in _UNITS.items():
        count, rest = divmod(rest, unit)
        if count:
            parts.append(f"{count}{name}")
    if rest:
        return f"{value.total_seconds():.6f}"
    return "".join(parts) or "0s"
