"""Why a job has the terms it has: every rule in order, what it asked for and found, and which had the last word."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from analytics.policy.rules import Policy, Rule, Subject, Terms, fulfilled, patterns_of


class Condition(NamedTuple):
    """One thing that a rule asks for, and what there is. `held` is None where nobody can tell."""

    name: str
    patterns: tuple[str, ...]
    value: str | None
    held: bool | None


class RuleAccount(NamedTuple):
    """One rule: whether it is for this job. None: nobody can tell, and it counts as far as it is stricter."""

    number: int  # from 1
    held: bool | None
    conditions: tuple[Condition, ...]
    sets: dict[str, Any]


class Account(NamedTuple):
    """All rules, what they come to, and for each value the number of the rule that set it; 0 is none of them."""

    rules: tuple[RuleAccount, ...]
    terms: Terms
    set_by: dict[str, int]


def account(policy: Policy, subject: Subject) -> Account:
    """How `policy` comes to what holds for `subject`."""
    terms, set_by, told = policy.base, dict.fromkeys(Terms._fields[:-1], 0), []
    for number, rule in enumerate(policy.rules, 1):
        conditions = tuple(_conditions(rule, subject))
        held = _all(conditions)
        if held is not False:
            after = rule.over(terms, number, sure=held is True)
            names = rule.sets if held else [name for name in rule.sets if getattr(after, name) != getattr(terms, name)]
            set_by |= dict.fromkeys(names, number)
            terms = after
        told.append(RuleAccount(number, held, conditions, rule.sets))
    return Account(tuple(told), terms, set_by)


def _conditions(rule: Rule, subject: Subject) -> Iterator[Condition]:
    for name, globs in rule.conditions.items():
        value: str | None = getattr(subject, name)
        held = fulfilled(name, globs, value and value.lower())
        yield Condition(name, patterns_of(rule.when, name) or (), value, held)


def _all(conditions: tuple[Condition, ...]) -> bool | None:
    """Whether all hold: no, if one does not; else nobody can tell, if of one nobody can."""
    held = {condition.held for condition in conditions}
    return False if False in held else None if None in held else True
