"""Calls as decisions hold them."""

from __future__ import annotations

import msgspec
import pytest

from analytics.policy.decide import CaseView, FailedJob, Policy, decide
from models.records.calls import (
    Ambiguous,
    Cancel,
    Done,
    Refusal,
    Refused,
    RerunFailed,
    RerunJob,
    Result,
    RunState,
    Unavailable,
    from_json,
    from_row,
    to_json,
)
from models.records.errors import UnknownSchema
from models.records.event import Outcome

JOB = FailedJob("f", "j1", 0, "s", True, False, False, False, False, 0, 0.9, False)


@pytest.mark.parametrize(("rerun_after", "kind"), [("job", RerunJob), ("run", RerunFailed)])
def test_what_is_decided_is_a_call_to_the_letter(rerun_after: str, kind: type) -> None:
    case = CaseView("circleci", "main", "gh/a/b", "p", "w", 1, rerun_after, Outcome.FAILED, False, (JOB,))
    (row,) = decide(case, Policy()).calls
    call = from_row(row)
    assert type(call) is kind
    assert msgspec.json.decode(to_json(call)) == row
    assert from_json(msgspec.json.encode(row)) == call


@pytest.mark.parametrize(
    "row", [{}, {"call": "explode"}, {"call": "rerun"}, {"call": "cancel", "platform": "hudson", "instance": "i"}]
)
def test_what_is_no_call_is_an_unknown_schema(row: dict[str, str]) -> None:
    with pytest.raises(UnknownSchema):
        from_row(row)
    with pytest.raises(UnknownSchema):
        from_json(msgspec.json.encode(row))


def test_fields_of_a_later_release_are_passed_over() -> None:
    call = Cancel(platform="github", instance="main", repository="a/b", pipeline_id="7")
    assert from_row({**msgspec.to_builtins(call), "later": 1}) == call


@pytest.mark.parametrize(
    "result",
    [Done(attempt=2, already=True), Refused(Refusal.STATE, "x"), Unavailable("x", 7.0), Ambiguous("x")],
    ids=lambda result: type(result).__name__,
)
def test_a_result_says_in_a_row_which_it_is(result: Result) -> None:
    row = msgspec.to_builtins(result)
    assert row["type"] == type(result).__name__.lower()
    assert msgspec.convert(row, Result) == result


def test_a_branch_whose_head_is_not_known_has_not_moved_on() -> None:
    state = RunState(outcome=Outcome.FAILED, attempt=1, commit_sha="a")
    assert not state.overtaken
    assert msgspec.structs.replace(state, head_sha="b").overtaken
    assert not msgspec.structs.replace(state, head_sha="a").overtaken
