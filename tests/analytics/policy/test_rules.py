"""Rules: which are for a job, what they come to, and that what is told of them is what counts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from analytics.policy.account import account
from analytics.policy.rules import Policy, Rule, Subject, Terms, of_all, strictest
from tests.analytics.policy.strategies import policies, subjects, terms, when

SUBJECT = Subject(
    platform="github",
    instance="github.com",
    repository="Acme/web",
    branch="main",
    workflow="ci",
    job="test",
    signature="dns_failure",
    category="network",
    action="rerun_failed",
)


def _policy(*rules: tuple[dict[str, Any], dict[str, Any]], **fleet: Any) -> Policy:
    return Policy(rules=tuple(Rule(when=when(**asks), **sets) for asks, sets in rules), **fleet)


def _terms(policy: Policy, **given: Any) -> Terms:
    return policy.terms_of(SUBJECT._replace(**given))


@pytest.mark.parametrize("name", Subject._fields)
def test_a_rule_can_ask_for_each_thing_that_is_known_of_a_job(name: str) -> None:
    value = getattr(SUBJECT, name)
    for patterns, held in (
        (value, True),
        (value.upper(), True),
        (value[:2] + "*", True),
        (("nothing", value), True),
        ("nothing", False),
        ((), False),
    ):
        assert (_terms(_policy(({name: patterns}, {"mode": "act"}))).mode == "act") is held


def test_all_that_a_rule_asks_for_must_be_so() -> None:
    policy = _policy(({"repository": "acme/*", "branch": "main"}, {"mode": "act"}))
    assert _terms(policy).mode == "act"
    assert _terms(policy, branch="next").mode == "observe"
    assert _terms(policy, repository="other/web").mode == "observe"


def test_the_last_word_counts_for_each_value_by_itself() -> None:
    policy = _policy(
        ({"repository": "acme/*"}, {"mode": "act", "backoff_seconds": 5}),
        ({"repository": "acme/web"}, {"mode": "suggest"}),
        ({"repository": "other"}, {"mode": "observe"}),
        least_score=0.7,
    )
    held = _terms(policy)
    assert (held.mode, held.backoff_seconds, held.least_score, held.rules) == ("suggest", 5, 0.7, (1, 2))


def test_nothing_undoes_a_prohibition() -> None:
    policy = _policy(
        ({"branch": "main"}, {"never": True}),
        ({"branch": "main"}, {"mode": "act"}),
        ({"job": "test"}, {"never": False, "mode": "act"}),
    )
    assert _terms(policy).never
    assert not _terms(policy, branch="next").never


@pytest.mark.parametrize("name", ["branch", "job", "instance"])
def test_what_nobody_told_us_counts_against(name: str) -> None:
    policy = _policy(
        ({"repository": "acme/*"}, {"mode": "suggest", "most_attempts": 3}),
        ({name: "x*"}, {"mode": "act", "most_attempts": 2}),
        ({name: "y*", "repository": "other"}, {"mode": "observe"}),
    )
    held = _terms(policy, **{name: None})
    assert (held.mode, held.most_attempts, held.rules) == ("suggest", 2, (1, 2))
    assert _terms(_policy(({name: "x*"}, {"never": True})), **{name: None}).never


@pytest.mark.parametrize("name", ["signature", "category", "workflow"])
def test_what_there_is_not_is_nothing_that_a_rule_asks_for(name: str) -> None:
    assert not _terms(_policy(({name: "*"}, {"never": True})), **{name: None}).never


def test_a_rule_alone_has_no_say_elsewhere() -> None:
    policy = _policy(({"repository": "other"}, {"never": True}))
    assert _terms(policy) == policy.base


def test_of_several_jobs_the_strictest_value_counts() -> None:
    base = Policy().base
    easy = base._replace(mode="act", most_attempts=5, least_score=0.1, forks="approval", backoff_seconds=9, rules=(2,))
    hard = base._replace(mode="suggest", most_attempts=9, least_score=0.3, backoff_seconds=3, rules=(1, 2))
    assert of_all([easy, hard]) == base._replace(
        mode="suggest", most_attempts=5, least_score=0.3, forks="never", backoff_seconds=9, rules=(1, 2)
    )


@given(terms(), terms(), terms())
def test_strictest_does_not_depend_on_the_order(a: Terms, b: Terms, c: Terms) -> None:
    assert strictest(a, b) == strictest(b, a)
    assert strictest(strictest(a, b), c) == strictest(a, strictest(b, c))
    assert strictest(a, a) == a


def _follow(policy: Policy, subject: Subject) -> Terms:
    """The documented rule, word by word."""
    held = policy.base
    for told, rule in zip(account(policy, subject).rules, policy.rules, strict=True):
        if told.held is not False:
            after = held._replace(**rule.sets, rules=(*held.rules, told.number))
            held = after if told.held else strictest(held, after)
    return held


@given(policies(), subjects())
def test_what_is_told_of_the_rules_is_what_counts(policy: Policy, subject: Subject) -> None:
    told = account(policy, subject)
    assert policy.terms_of(subject) == told.terms == _follow(policy, subject)
    assert told.terms.rules == tuple(rule.number for rule in told.rules if rule.held is not False)
    for name, number in told.set_by.items():
        if number == 0:
            assert getattr(told.terms, name) == getattr(policy.base, name)
        else:
            assert name in told.rules[number - 1].sets


def test_an_account_says_which_rule_had_the_last_word_and_on_what() -> None:
    policy = _policy(
        ({"repository": "acme/*", "branch": ("main", "next")}, {"mode": "suggest"}),
        ({"job": "deploy*"}, {"never": True}),
        ({"category": "network"}, {"mode": "act"}),
    )
    told = account(policy, SUBJECT)
    assert [rule.held for rule in told.rules] == [True, False, True]
    assert told.rules[0].conditions[1] == ("branch", ("main", "next"), "main", True)
    assert told.rules[1].conditions == (("job", ("deploy*",), "test", False),)
    assert (told.set_by["mode"], told.set_by["least_score"], told.terms.mode) == (3, 0, "act")
    assert account(policy, SUBJECT._replace(job=None)).rules[1].held is None
    assert account(policy, SUBJECT._replace(job=None)).set_by["never"] == 2
