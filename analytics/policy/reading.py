"""A policy from its document, and what is refused of it: what does not exist, and what nobody can have meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, get_args

import msgspec

from analytics.actions.action import found
from analytics.policy.glob import glob
from analytics.policy.rules import Policy, Rule, Subject, patterns_of
from models.records.errors import ConfigError
from models.records.event import PlatformName
from models.records.outputs import Category

Key = tuple[str | int, ...]


class ImpossiblePolicy(ConfigError):
    """A policy that cannot be meant. `key` says where: ("rule", 1, "when", "branch") is in the second rule."""

    def __init__(self, key: Key, what: str) -> None:
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
        super().__init__(f"rulebook.policy: {what} - at `${path}`")
        self.key: Final = key
        self.what: Final = what


def read(body: Mapping[str, Any]) -> Policy:
    """The policy of a rulebook.

    Raises:
        ImpossiblePolicy: a key or a value that there is not.
    """
    try:
        return msgspec.convert(body, Policy)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        key = _key_of(path.removesuffix("`"))
        if "unknown field `" in what:
            key = (*key, what.split("`")[1])
        raise ImpossiblePolicy(key, what) from None


def _key_of(path: str) -> Key:
    """The key that msgspec writes as `.rule[1].when.branch`."""
    parts = path.replace("[", ".").replace("]", "").split(".")[1:]
    return tuple(int(part) if part.isdecimal() else part for part in parts)


_LIMITS: Final[dict[str, tuple[float, float]]] = {
    "await_log_seconds": (0, 3600),
    "most_attempts": (0, 50),  # GitHub takes no more reruns than that
    "most_native_retries": (0, 50),
    "most_failed_jobs": (0, 10_000),
    "least_score": (0, 1),
    "backoff_seconds": (0, 7 * 86_400),
    "backoff_factor": (1, 10),
    "longest_backoff_seconds": (0, 7 * 86_400),
    "outage_backoff_seconds": (0, 7 * 86_400),
    "quarantine_days": (1, 90),
}


_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "platform": get_args(PlatformName),
    "category": tuple(Category),
    "action": tuple(found()),
}
"""The words that there are for a condition: a pattern that matches none of them is a slip of the pen."""


def check(policy: Policy, *, signatures: Iterable[str]) -> None:
    """Refuse what is written as a policy is and can have no effect, or none that anybody wants.

    `signatures` are the names that there are. A policy that is in force already is not asked: what could be read once
    stays readable.

    Raises:
        ImpossiblePolicy: the first thing that is wrong.
    """
    _within_limits((), {name: getattr(policy, name) for name in _LIMITS})
    if policy.protected_environments:
        _written(("protected_environments",), policy.protected_environments)
    words = {**_WORDS, "signature": tuple(signatures)}
    _meant(("actions",), policy.actions, "action", words)
    for i, rule in enumerate(policy.rules):
        _check_rule(("rule", i), rule, words)


def _check_rule(key: Key, rule: Rule, words: Mapping[str, Sequence[str]]) -> None:
    if not rule.conditions:
        raise ImpossiblePolicy((*key, "when"), "names nothing; what holds for every job stands above the rules")
    if not rule.sets:
        raise ImpossiblePolicy(key, f"changes nothing; a rule can set {', '.join(rule.__struct_fields__[1:])}")
    if rule.never and len(rule.sets) > 1:
        raise ImpossiblePolicy((*key, "never"), "nothing else that the rule sets can have an effect")
    _within_limits(key, rule.sets)
    for name in Subject._fields:
        patterns = patterns_of(rule.when, name)
        if patterns is None:
            continue
        _written((*key, "when", name), patterns)
        if name in words:
            _meant((*key, "when", name), patterns, name, words)


def _meant(key: Key, patterns: Sequence[str], name: str, words: Mapping[str, Sequence[str]]) -> None:
    for pattern in patterns:
        if not any(map(glob(pattern), map(str.lower, words[name]))):
            raise ImpossiblePolicy(key, f"there is no {name} that {pattern!r} means")


def _within_limits(key: Key, values: Mapping[str, Any]) -> None:
    for name, (least, most) in _LIMITS.items():
        if name in values and not least <= values[name] <= most:
            raise ImpossiblePolicy((*key, name), f"expected {least} to {most}, got {values[name]}")


def _written(key: Key, patterns: Sequence[str]) -> None:
    if not patterns:
        raise ImpossiblePolicy(key, "no pattern; leave it out where it may be anything")
    if not all(pattern.strip() == pattern != "" for pattern in patterns):
        raise ImpossiblePolicy(key, "a pattern is empty, or has blanks around it")
