"""Ids and shards are for ever: what was computed once is computed again."""

from __future__ import annotations

import uuid
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.records.event import NAMESPACE, SHARDS, Outcome, case_id, event_id, shard_of, uuid5_text

RUN = {"instance": "github.com", "repository": "org/repo", "pipeline_id": "42", "workflow_id": None, "attempt": 1}


def _id(outcome: Outcome, vendor_status: str | None = None, **changed: object) -> str:
    return event_id(**{**RUN, "job_id": "7", **changed}, outcome=outcome, vendor_status=vendor_status)  # type: ignore[arg-type]  # keys by name


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (_id(Outcome.FAILED), "f9f872f3-a48f-5ede-8f00-25b69b3b6061"),
        (_id(Outcome.FAILED, job_id=None), "e6986180-eb3f-5295-813c-1d788efa6fe8"),
        (_id(Outcome.UNKNOWN, "stale"), "6763119e-6320-51fb-8bc3-301eec0e1d27"),
        (_id(Outcome.PASSED, workflow_id="wf", repository="Ünï/côde"), "1d3604f0-b696-5d9c-acad-5876cd193f45"),
        (
            case_id(instance="github.com", repository="org/repo", pipeline_id="42", workflow_id=None, attempt=1),
            "abc16a8e-8e01-5298-8154-25dcf8e3556d",
        ),
    ],
)
def test_ids_are_for_ever(made: str, expected: str) -> None:
    assert made == expected


SHARD_VECTORS = [5, 3, 5, 3, 4, 10, 8, 6, 3, 1, 9, 7, 9, 11, 0, 10, 0, 6, 7, 1, 2, 8, 6, 4]


def test_shards_are_for_ever() -> None:
    assert [shard_of("github.com", f"org/repo-{i}") for i in range(24)] == SHARD_VECTORS
    assert shard_of("gitlab.example.org", "Ünï/côde") == 2


def test_repositories_are_spread_evenly_over_the_shards() -> None:
    counts = Counter(shard_of("github.com", f"org-{i % 97}/repo-{i}") for i in range(12_000))
    assert set(counts) == set(range(SHARDS))
    assert min(counts.values()) > 850
    assert max(counts.values()) < 1150


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=5))
def test_an_id_is_the_uuid5_of_its_parts(parts: list[str]) -> None:
    assert uuid5_text(*parts) == str(uuid.uuid5(NAMESPACE, "\x1f".join(parts)))


def test_the_same_fact_has_one_id_and_another_fact_another() -> None:
    ids = [
        _id(Outcome.FAILED),
        _id(Outcome.PASSED),
        _id(Outcome.FAILED, job_id=None),
        _id(Outcome.FAILED, attempt=2),
        _id(Outcome.FAILED, pipeline_id="43"),
        _id(Outcome.FAILED, repository="org/other"),
        _id(Outcome.FAILED, instance="other"),
        _id(Outcome.FAILED, workflow_id="wf"),
        _id(Outcome.UNKNOWN, "stale"),
        _id(Outcome.UNKNOWN, "odd"),
    ]
    assert len(set(ids)) == len(ids)
    assert _id(Outcome.FAILED, "failure") == _id(Outcome.FAILED, "error"), "the word matters only where it is unknown"


def test_a_lone_surrogate_has_an_id_and_a_shard() -> None:
    assert uuid.UUID(_id(Outcome.FAILED, repository="\ud800")).version == 5
    assert 0 <= shard_of("x", "\ud800") < SHARDS
