"""Where the policy is written: the settings, and files of rules that they name. What is wrong names its line."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from analytics.policy.reading import ImpossiblePolicy, Key
from flows.setting_sources import dotted, read_file
from flows.settings import Settings
from models.records.errors import ConfigError

_BELOW = ("rulebook", "policy")


class Place(NamedTuple):
    """Where a rule is written: as the so-many-th, from 0, of a file of rules, or of the settings."""

    path: Path | None
    number: int


class Written(NamedTuple):
    """A policy as it is written, whole, and where each of its rules stands."""

    policy: dict[str, Any]
    places: list[Place]


def written(settings: Settings) -> Written:
    """The policy of the settings and, after its rules, those of the files that they name.

    Raises:
        ConfigError: a file that cannot be read, or holds something else.
    """
    policy = dict(settings.rulebook.policy)
    rules = policy.get("rule", [])
    if not isinstance(rules, list):
        return Written(policy, [])
    places = [Place(None, number) for number in range(len(rules))]
    for path in settings.rulebook.policy_files:
        added = _rules(path)
        places += [Place(path, number) for number in range(len(added))]
        rules = [*rules, *added]
    return Written(policy | ({"rule": rules} if rules else {}), places)


def _rules(path: Path) -> list[Any]:
    read = read_file(path)
    other = next((name for name in read if name != "rule"), None)
    if other is not None:
        raise ConfigError(f"{_at(path, (other,))}: there is no such key; a policy file holds [[rule]] tables only")
    rules = read.get("rule", [])
    if not isinstance(rules, list):
        raise ConfigError(f"{_at(path, ('rule',))}: rule: expected [[rule]] tables")
    return rules


def located(error: ImpossiblePolicy, settings: Settings, places: Sequence[Place]) -> ConfigError:
    """What is wrong with the policy, in terms of what the operator wrote: file, line and key."""
    if len(error.key) > 1 and isinstance(number := error.key[1], int) and number < len(places):
        path, number = places[number]
        key = ("rule", number, *error.key[2:])
        if path is not None:
            return ConfigError(f"{_at(path, key)}: {dotted(key)}: {error.what}")
    else:
        key = error.key
    place = _in_settings(settings, key)
    return ConfigError(f"{dotted((*_BELOW, *key))}: {error.what}" + (f" ({place})" if place else ""))


def lines(settings: Settings, places: Sequence[Place]) -> list[str]:
    """File and line of each rule, or the variable that has it."""
    return [
        _in_settings(settings, ("rule", number)) or "" if path is None else _at(path, ("rule", number))
        for path, number in places
    ]


def _in_settings(settings: Settings, key: Key) -> str | None:
    """Where `key` of the settings' own policy was set: with its line, where that is a file."""
    place = settings.place((*_BELOW, *key))
    return _at(Path(place), (*_BELOW, *key)) if place is not None and Path(place).is_file() else place


def _at(path: Path, key: Key) -> str:
    """File and line of `key`, or of the table that it should stand in."""
    text = path.read_text("utf-8")
    for length in range(len(key), 0, -1):
        if (line := line_of(text, key[:length])) is not None:
            return f"{path}:{line}"
    return str(path)


def line_of(text: str, key: Key) -> int | None:
    """The line, from 1, of TOML with which `key` is written; None where it is not.

    tomllib tells no lines. But the part of a file before any of its tables is TOML as well, so the line is the last of
    the shortest part that has the key: parsed again and again, once, when something is wrong anyway.
    """
    lines = text.splitlines(keepends=True)
    for number in range(1, len(lines) + 1):
        try:
            read = tomllib.loads("".join(lines[:number]))
        except tomllib.TOMLDecodeError:
            continue  # in the middle of a value
        if _has(read, key):
            return number
    return None


def _has(value: Any, key: Key) -> bool:  # noqa: ANN401 - a TOML value
    for part in key:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True
