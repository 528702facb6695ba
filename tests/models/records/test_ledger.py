"""An act has one id, whoever asks for it."""

from __future__ import annotations

from typing import Any

import pytest

from models.records.acted import ActResult
from models.records.ledger import ActState, HoldRules, Standing, Why, act_id, ahead, goes_on

ABOUT: dict[str, Any] = {
    "instance": "hub",
    "repository": "acme/shop",
    "pipeline_id": "7",
    "workflow_id": None,
    "attempt": 1,
    "target": "run",
    "action": "rerun",
}


def test_the_same_thing_has_the_same_id() -> None:
    assert act_id(**ABOUT) == act_id(**ABOUT) == "c39bd276-c4c3-5036-bc20-ece282e0a7a2"


@pytest.mark.parametrize("name", ABOUT)
def test_whatever_differs_makes_another_act(name: str) -> None:
    assert act_id(**ABOUT | {name: 2 if name == "attempt" else "other"}) != act_id(**ABOUT)


def test_a_shard_is_told_of_every_state_but_the_intent() -> None:
    assert {state.value for state in ActState} - {"intent"} == {result.value for result in ActResult}


def test_words_are_told_apart_by_what_they_say() -> None:
    assert len({word.value for word in Why}) == len(Why)
    assert {"waiting", "proposed", "taken", "finished", "refused"} == {word.value for word in Standing}


@pytest.mark.parametrize(
    ("newest", "is_none"),
    [
        ("ff", False),
        ("fff", True),
        ("fffp", True),
        ("ffpp", False),
        ("ffffffpp", True),
        ("fffffppp", False),
        ("ppffffff", True),
        ("pppppppp" + "f" * 99, False),
        ("f..f.f..", False),  # what fails ends sooner than what will pass
        ("." * 300 + "pf" * 6 + "f" * 12, True),
        ("." * 300 + "ppf" * 6 + "f" * 12, False),
        ("." * 5 + "fff.fffffff.f" + "p" * 9, True),
        ("", False),
    ],
)
def test_an_end_is_none_when_nearly_all_of_a_dozen_fail(newest: str, is_none: bool) -> None:
    assert goes_on([{"p": True, "f": False, ".": None}[one] for one in newest], HoldRules()) is is_none


@pytest.mark.parametrize(
    ("oldest_first", "count"),
    [("", 0), ("p", 1), ("f", 0), ("ffffpp", 2), ("pf", 0), ("pfp", 1), ("ppfpfp", 2), ("ppff" + "p" * 3, 3)],
)
def test_probes_are_ahead_by_as_many_as_passed_more_than_failed_lately(oldest_first: str, count: int) -> None:
    assert ahead([one == "p" for one in reversed(oldest_first)]) == count
