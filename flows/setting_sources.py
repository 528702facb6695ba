"""Where settings come from, and how what is wrong with them is said: the key, the place it was set, never the value."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from flows.setting_values import FILE_MARK, VariableText
from models.records.errors import ConfigError

PREFIX: Final = "GUARD_"
PATH_VARIABLE: Final = "GUARD_SETTINGS"
NOT_SETTINGS: Final = frozenset({PATH_VARIABLE, "GUARD_FIXTURES", "GUARD_DATA"})  # the last two say where test data is

Key = tuple[str | int, ...]


def dotted(key: Key) -> str:
    """`key` as people write it: receiver.sources.acme.secrets[0].value."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).removeprefix(".")


def read_file(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ConfigError: it cannot be read, or is not TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_variables(environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[Key, str]]:
    """What GUARD_* variables set, nested as a file is, and the variable behind each key.

    Raises:
        ConfigError: one variable sets a whole table and another one a key in it.
    """
    nested: dict[str, Any] = {}
    names: dict[Key, str] = {}
    for name in sorted(n for n in environ if n.startswith(PREFIX) and n not in NOT_SETTINGS):
        *tables, last = (p.lower() if p == p.upper() else p for p in name.removeprefix(PREFIX).split("__"))
        table = nested
        for part in tables:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{name}: another variable sets the whole of {part}")
        if last in table:
            raise ConfigError(f"{name}: another variable sets the same key, or a key in it")
        table[last] = VariableText(environ[name])
        names[*tables, last] = name
    return nested, names


def leaves(value: object, key: Key = ()) -> Iterator[tuple[Key, object]]:
    """Every value below tables and lists, with its key; an empty table or list is a value itself."""
    inner: Iterable[tuple[str | int, object]] = ()
    if isinstance(value, Mapping):
        inner = value.items()
    elif isinstance(value, (list, tuple)):
        inner = enumerate(value)
    below = [leaf for part, item in inner for leaf in leaves(item, (*key, part))]
    yield from below or [(key, value)]


@dataclass
class Origins:
    """Where each key was set, in words. What is noted later takes the place of what was noted before."""

    _places: dict[Key, str] = field(default_factory=dict)

    def note(self, values: Mapping[str, object], place: str, names: Mapping[Key, str] | None = None) -> None:
        """Remember that `values` were set at `place`, or each by its own name."""
        for key, value in leaves(values) if values else ():
            where = (names or {}).get(key, place)
            if isinstance(value, str) and value.startswith(FILE_MARK):
                where = f"{value.removeprefix(FILE_MARK)}, named by {where}"
            self._places = {k: p for k, p in self._places.items() if k[: len(key)] != key}
            self._places[key] = where

    def of(self, key: Key) -> str | None:
        """Where `key` was set, or the table or list it stands in, or something in it; None for a default."""
        for length in range(len(key), 0, -1):
            if key[:length] in self._places:
                return self._places[key[:length]]
        return next((place for k, place in self._places.items() if k[: len(key)] == key), None)


def problems(error: ValidationError, origins: Origins, known: Iterable[str]) -> str:
    """All that pydantic found wrong, a line for each: key, what is wrong with it, where it was set."""
    names = list(known)
    lines = []
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        key = tuple(part for part in item["loc"] if part != "[key]")  # pydantic's word for the name itself
        message = item["msg"].removeprefix("Value error, ")
        place = origins.of(key)
        if item["type"] == "extra_forbidden":
            close = difflib.get_close_matches(dotted(key).replace("_", "."), names, n=1)
            message = "there is no such key" + (f"; did you mean {close[0]}?" if close else "")
        elif item["type"] == "missing":
            message = "must be set"
            place = origins.of(key[:-1])
        lines.append(f"{dotted(key)}: {message}" + (f" ({place})" if place else ""))
    return "\n".join(lines)
