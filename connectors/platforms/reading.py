"""Foreign JSON, read field by field. Nothing here knows a vendor.

What is wrong is named by the path of its field and what was expected there, never by its value: that may be a secret.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from models.records.errors import MalformedPayload

MAX_DEPTH: Final = 64
MAX_INTEGER: Final = 2**53  # beyond it, readers that keep numbers as doubles would see another number
MAX_COUNT: Final = 2**31 - 1
MAX_NAME_BYTES: Final = 512  # as models.records.columns allows for what becomes part of a key
MAX_URL_BYTES: Final = 2048

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_CONTAINERS: Final = frozenset({dict, list})
_DATE_LENGTH: Final = len("2026-01-01")


def decode_object(body: bytes) -> Fields:
    """The JSON object in `body`, as UTF-8.

    Raises:
        MalformedPayload: not JSON or not an object, a key twice in one object, a whole number beyond 2^53, NaN or an
            infinity, or more than 64 levels.
    """
    value = _decode(body)
    if not isinstance(value, dict):
        raise MalformedPayload(f"the body is {_kind(value)}; an object was expected")
    if _deeper_than(value, MAX_DEPTH):
        raise MalformedPayload(f"the body has more than {MAX_DEPTH} levels")
    return Fields(value)


def decode_objects(body: bytes) -> list[Fields]:
    """The objects in the JSON array in `body`, as UTF-8.

    Raises:
        MalformedPayload: as `decode_object` does.
    """
    value = _decode(body)
    if not isinstance(value, list):
        raise MalformedPayload(f"the body is {_kind(value)}; an array was expected")
    outer = {"": value}
    if _deeper_than(outer, MAX_DEPTH):
        raise MalformedPayload(f"the body has more than {MAX_DEPTH} levels")
    return Fields(outer).each("")


def _decode(body: bytes) -> Any:  # noqa: ANN401 - any JSON
    try:
        return json.loads(
            body.decode(), object_pairs_hook=_unique, parse_int=_integer, parse_float=_finite, parse_constant=_refuse
        )
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MalformedPayload(f"the body is not JSON in UTF-8, at {_position(error)}") from None
    except RecursionError:
        raise MalformedPayload(f"the body has more than {MAX_DEPTH} levels") from None


def _position(error: json.JSONDecodeError | UnicodeDecodeError) -> str:
    return f"byte {error.start}" if isinstance(error, UnicodeDecodeError) else f"character {error.pos}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise MalformedPayload("the body has an object with the same key twice")
    return values


def _integer(text: str) -> int:
    if len(text) > len(str(-MAX_INTEGER)) or abs(int(text)) > MAX_INTEGER:
        raise MalformedPayload("the body has a whole number beyond 2^53")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise MalformedPayload("the body has a number too large to hold")
    return value


def _refuse(text: str) -> None:
    raise MalformedPayload(f"the body has {text}, which is not JSON")


def _deeper_than(value: dict[str, Any], levels: int) -> bool:
    layer: list[Any] = [value]
    for _ in range(levels):
        inner: list[Any] = []
        for outer in layer:
            inner += [item for item in (outer.values() if type(outer) is dict else outer) if type(item) in _CONTAINERS]
        if not inner:
            return False
        layer = inner
    return True


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    names = {str: "text", int: "a whole number", float: "a fraction", list: "an array", dict: "an object"}
    return names[type(value)]


def clean(text: str) -> str:
    """`text` without what no store takes: NUL characters and halves of surrogate pairs become question marks."""
    if text.isascii() and "\x00" not in text:
        return text
    return text.replace("\x00", "?").encode("utf-8", "replace").decode()


def head(text: str, most: int) -> str:
    """The beginning of `text`, at most `most` bytes of UTF-8, cut between characters."""
    return text if len(text) * 4 <= most else text.encode()[:most].decode("utf-8", "ignore")


def tail(text: str, most: int) -> str:
    """The end of `text`, at most `most` bytes of UTF-8, cut between characters."""
    return text if len(text) * 4 <= most else text.encode()[-most:].decode("utf-8", "ignore")


def read_time(value: str | int) -> datetime | None:
    """The moment that `value` names, in UTC, or None for a moment before 1970 (Go writes "no time" as the year 1).

    Text in ISO 8601, `2026-01-02 03:04:05 UTC`, `2026-01-02 03:04:05 +0200` or Go's
    `2026-01-02 03:04:05.123456789 +0000 UTC`; or a whole number of milliseconds since 1970.

    Raises:
        ValueError: none of these, without an offset from UTC, or beyond the year 9999.
    """
    try:
        if isinstance(value, int):
            moment = _EPOCH + timedelta(milliseconds=value)
        else:
            moment = datetime.fromisoformat(_as_iso(value)).astimezone(UTC)
    except OverflowError:
        raise ValueError("beyond the year 9999") from None
    return moment if moment >= _EPOCH else None


def _as_iso(text: str) -> str:
    day, between, rest = text[:_DATE_LENGTH], text[_DATE_LENGTH : _DATE_LENGTH + 1], text[_DATE_LENGTH + 1 :]
    if between not in {"T", " "}:
        raise ValueError("a date and a time were expected")
    clock, *zone = rest.split(" ")
    if zone:
        clock += "+00:00" if zone[0] == "UTC" else zone[0]
    if not clock.endswith("Z") and "+" not in clock and "-" not in clock:
        raise ValueError("an offset from UTC was expected")
    return f"{day}T{clock}"


def milliseconds(start: datetime | None, end: datetime | None) -> int | None:
    """How long it took; None where an end is not known, or the two stand the wrong way round."""
    if start is None or end is None or end < start:
        return None
    return (end - start) // timedelta(milliseconds=1)


def _plain(value: object) -> object:
    if isinstance(value, Fields):
        return value.plain()
    return {key: _plain(inner) for key, inner in value.items()} if isinstance(value, dict) else value


class Fields:
    """One JSON object of a payload, read by field. A null reads like an absent field.

    Every reader raises MalformedPayload, with the path, for a value of another kind than it reads.
    """

    __slots__ = ("_path", "_values")

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        self._values = values
        self._path = path

    @classmethod
    def of(cls, objects: Mapping[str, object]) -> Fields:
        """An object made of `objects`, in which others may stand at any depth."""
        return cls({key: _plain(value) for key, value in objects.items()})

    def __bool__(self) -> bool:
        return bool(self._values)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def plain(self) -> Mapping[str, Any]:
        """All of it, as it is."""
        return self._values

    def raw(self, key: str) -> object:
        """What stands at `key`, whatever it is."""
        return self._values.get(key)

    def malformed(self, key: str, expected: str) -> MalformedPayload:
        """The error that says what was expected at `key` and what stands there."""
        found = _kind(self._values[key]) if key in self._values else "missing"
        return MalformedPayload(f"{self._path}{key}: {expected} was expected, it is {found}")

    def text(self, key: str, most: int | None = MAX_NAME_BYTES) -> str | None:
        """Text, its beginning where it has more than `most` bytes; None where it is empty."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.malformed(key, "text")
        value = clean(value)
        return (value if most is None else head(value, most)) or None

    def url(self, key: str) -> str | None:
        """An address; None where it is too long to be one."""
        value = self.text(key, MAX_URL_BYTES + 1)
        return value if value is None or len(value.encode()) <= MAX_URL_BYTES else None

    def identity(self, key: str) -> str:
        """Text or a whole number that names something, as text; it must be there, and whole."""
        value = self._values.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or not value:
            raise self.malformed(key, "an id")
        if clean(value) != value or len(value.encode()) > MAX_NAME_BYTES:
            raise self.malformed(key, f"an id of at most {MAX_NAME_BYTES} storable bytes")
        return value

    def maybe_identity(self, key: str) -> str | None:
        """As `identity`, or None where there is none."""
        return None if self._values.get(key) in (None, "") else self.identity(key)

    def count(self, key: str) -> int | None:
        """A whole number from 0 that fits 32 bits."""
        value = self.integer(key)
        if value is not None and not 0 <= value <= MAX_COUNT:
            raise self.malformed(key, "a count")
        return value

    def integer(self, key: str) -> int | None:
        """A whole number."""
        value = self._values.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise self.malformed(key, "a whole number")
        return value

    def number(self, key: str) -> float | None:
        """A number, whole or not, within what a double counts exactly."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, (int, float)) or isinstance(value, bool) or abs(value) > MAX_INTEGER:
            raise self.malformed(key, "a number")
        return value

    def duration_ms(self, key: str, *, unit_ms: int) -> int | None:
        """A duration in units of `unit_ms` milliseconds, in milliseconds; None where it is negative."""
        value = self.number(key)
        return None if value is None or value < 0 else min(round(value * unit_ms), MAX_INTEGER)

    def flag(self, key: str) -> bool | None:
        """A boolean."""
        value = self._values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.malformed(key, "a boolean")
        return value

    def time(self, key: str) -> datetime | None:
        """A moment in any of the forms of `read_time`; None also where it is empty text."""
        value = self._values.get(key)
        if value is None or value == "":
            return None
        wrong = self.malformed(key, "a time with its offset from UTC")
        if not isinstance(value, (str, int)) or isinstance(value, bool):
            raise wrong
        try:
            return read_time(value)
        except ValueError:
            raise wrong from None

    def first_time(self, *keys: str) -> datetime:
        """The first moment that stands under any of `keys`; there must be one."""
        for key in keys:
            moment = self.time(key)
            if moment is not None:
                return moment
        raise self.malformed(keys[0], "a time")

    def inner(self, key: str) -> Fields:
        """The object at `key`, empty where there is none."""
        value = self._values.get(key)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self.malformed(key, "an object")
        return Fields(value, f"{self._path}{key}.")

    def required(self, key: str) -> Fields:
        """The object at `key`, which must be there."""
        if self._values.get(key) is None:
            raise self.malformed(key, "an object")
        return self.inner(key)

    def _items(self, key: str) -> list[Any]:
        value = self._values.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.malformed(key, "an array")
        return value

    def each(self, key: str) -> list[Fields]:
        """The objects in the array at `key`; none where there is no array."""
        items = self._items(key)
        if not all(isinstance(item, dict) for item in items):
            raise self.malformed(key, "an array of objects")
        return [Fields(item, f"{self._path}{key}[{index}].") for index, item in enumerate(items)]

    def texts(self, key: str) -> list[str]:
        """The texts in the array at `key`; none where there is no array."""
        items = self._items(key)
        if not all(isinstance(item, str) for item in items):
            raise self.malformed(key, "an array of texts")
        return [head(clean(item), MAX_NAME_BYTES) for item in items]
