"""What is CircleCI's own in acting."""

from __future__ import annotations

import json
from typing import Any

import pytest

from connectors.platforms.acting import Send, Silence
from connectors.platforms.asking import Reply
from connectors.platforms.circleci import CircleCI
from models.records.calls import Ambiguous, Done, Refusal, Refused, Rerun, RunState
from models.records.event import Outcome
from tests.connectors.platforms.acts import NEWER, all_well, calls, circleci_workflow, hold, says, target

CALLS = calls("circleci")
WELL = all_well("circleci")


def acted(name: str, answering: Any) -> Any:
    talk = CircleCI().ask(CALLS[name])
    assert talk is not None
    return hold(talk, answering)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("rerun", {}),
        ("rerun_failed", {"from_failed": True}),
        ("rerun_job", {"jobs": ["j1"], "sparse_tree": True}),
    ],
)
def test_a_rerun_makes_a_new_workflow(name: str, body: Any) -> None:
    held = acted(name, WELL)
    assert held.ended == Done(pipeline_id="p1", workflow_id="w2")
    assert [step.path for step in held.sent] == ["/api/v2/workflow/w1/rerun"]
    assert json.loads(held.sent[0].body) == body


def test_a_rerun_that_names_no_workflow_is_ambiguous() -> None:
    assert isinstance(acted("rerun", lambda _: says(202, {"message": "Accepted."})).ended, Ambiguous)


def test_without_its_workflow_nothing_is_asked() -> None:
    talk = CircleCI().ask(Rerun(**target("circleci", workflow_id=None)))
    assert talk is not None
    held = hold(talk, WELL)
    assert held.ended.refusal is Refusal.INVALID
    assert not held.sent


def test_what_is_no_fault_of_the_request_is_a_matter_of_state() -> None:
    answer = says(400, {"message": "The workflow is not rerunnable."})
    assert acted("rerun", lambda _: answer).ended == Refused(Refusal.STATE, "HTTP 400: The workflow is not rerunnable.")
    assert acted("rerun", lambda _: says(400, {"message": "what?"})).ended.refusal is Refusal.INVALID


def test_a_job_is_cancelled_by_its_number() -> None:
    held = acted("cancel_job", WELL)
    assert [step.path for step in held.sent] == [
        "/api/v2/workflow/w1/job",
        "/api/v2/project/gh/acme/shop/job/731/cancel",
    ]
    gone = acted("cancel_job", lambda _: says(200, {"items": [{"id": "j9"}]}))
    assert gone.ended == Refused(Refusal.NOT_FOUND, "the workflow has no such job")


def look(*workflows: dict[str, Any], newest: str | None = None) -> Any:
    def answering(step: Send) -> Reply | Silence:
        if "/workflow" in step.path:
            first = "page-token" not in step.path
            return says(
                200, {"items": workflows[:1] if first else workflows[1:], "next_page_token": "t" if first else None}
            )
        if newest is not None and "/project/" in step.path:
            return says(200, {"items": [{"id": "p2", "number": 13, "vcs": {"revision": newest, "branch": "main"}}]})
        return WELL(step)

    return hold(CircleCI().look(CALLS["rerun"]), answering).ended


def test_a_rerun_is_a_newer_workflow_of_the_same_name() -> None:
    newer = circleci_workflow("w2", status="failing", created_at="2026-04-01T10:20:00Z", started_by="bot")
    state = look(circleci_workflow(), newer, circleci_workflow("w3", name="deploy", created_at="2026-04-01T11:00:00Z"))
    assert isinstance(state, RunState)
    assert (state.outcome, state.attempt, state.successor, state.by) == (Outcome.RUNNING, 2, "w2", "bot")


def test_a_newer_pipeline_of_the_branch_overtakes() -> None:
    assert look(circleci_workflow(), newest=NEWER).overtaken
    assert not look(circleci_workflow()).overtaken


def test_a_workflow_that_its_pipeline_does_not_have_is_not_found() -> None:
    assert look(circleci_workflow("w9")).refusal is Refusal.NOT_FOUND
