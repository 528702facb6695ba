"""Rulebooks for people: what one says, and what tells two of them apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec
from rich.console import RenderableType

from analytics.policy.rules import patterns_of
from analytics.rulebook import Rulebook
from flows.tables import facts, table
from models.records.duration import duration_text


def shown(rulebook: Rulebook) -> list[RenderableType]:
    """All that `rulebook` says, for a terminal."""
    head = [("digest", rulebook.digest), ("scorer", f"{rulebook.scorer.model} {rulebook.scorer.version}")]
    signatures = [
        (
            s.name,
            s.category.value,
            "never again" if s.hard_stop else "again" if s.transient else "no",
            s.priority,
            s.cause,
        )
        for s in rulebook.catalogue.signatures
    ]
    rules = list(_rules(rulebook))
    return [
        facts("rulebook", head),
        facts("policy", ((n, ", ".join(v) if isinstance(v, tuple) else v) for n, v in _fleet(rulebook).items())),
        *([table("rules of the policy, the last word counts", ("#rule", "when", "sets"), rules)] if rules else []),
        facts("fleet", msgspec.structs.asdict(rulebook.fleet).items()),
        table("detectors", ("detector", "parameter", "value"), _parameters(rulebook)),
        table("signatures", ("signature", "category", "rerun", "#priority", "cause"), signatures),
    ]


def _fleet(rulebook: Rulebook) -> dict[str, object]:
    """What the policy says of all jobs."""
    return {name: value for name, value in msgspec.structs.asdict(rulebook.policy).items() if name != "rules"}


def _rules(rulebook: Rulebook) -> Iterator[tuple[object, ...]]:
    for number, rule in enumerate(rulebook.policy.rules, 1):
        asked = "; ".join(f"{name} {' or '.join(patterns_of(rule.when, name) or ())}" for name in rule.conditions)
        yield number, asked, ", ".join(f"{name} = {value}" for name, value in rule.sets.items())


def _parameters(rulebook: Rulebook) -> Iterator[tuple[str, str, object]]:
    for detector in rulebook.detectors:
        for field in dataclasses.fields(detector):
            yield type(detector).__name__, field.name, _written(getattr(detector, field.name))


def _written(value: object) -> object:
    return duration_text(value) if isinstance(value, timedelta) else value


def in_full(rulebook: Rulebook) -> dict[str, Any]:
    """All that decides, with the defaults that the document leaves out; the scorer by its version."""
    detectors: dict[str, dict[str, object]] = {type(d).__name__: {} for d in rulebook.detectors}
    for name, parameter, value in _parameters(rulebook):
        detectors[name][parameter] = value
    return {
        "detectors": detectors,
        "policy": {**_fleet(rulebook), "rule": [msgspec.to_builtins(rule) for rule in rulebook.policy.rules]},
        "fleet": msgspec.structs.asdict(rulebook.fleet),
        "signatures": {s.name: msgspec.to_builtins(s) for s in rulebook.catalogue.signatures},
        "scorer": {"version": rulebook.scorer.version},
    }


def difference(before: Rulebook, after: Rulebook) -> list[str]:
    """What changed, a line each: JSON path, the value before, the value after."""
    return list(_changes("$", in_full(before), in_full(after)))


def _changes(path: str, before: Any, after: Any) -> Iterator[str]:  # noqa: ANN401 - JSON values
    if before == after:
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted({*before, *after}):
            below = f"{path}.{key}"
            if key not in before:
                yield f"{below}: + {_json(after[key])}"
            elif key not in after:
                yield f"{below}: - {_json(before[key])}"
            else:
                yield from _changes(below, before[key], after[key])
    elif _are_lists(before, after) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _changes(f"{path}[{index}]", old, new)
    else:
        yield f"{path}: {_json(before)} -> {_json(after)}"


def _are_lists(*values: object) -> bool:
    return all(isinstance(value, Sequence) and not isinstance(value, str) for value in values)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
