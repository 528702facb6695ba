"""What is GitLab's own in acting."""

from __future__ import annotations

import json
from typing import Any

import pytest

from connectors.platforms.acting import Send, Silence
from connectors.platforms.asking import Reply
from connectors.platforms.gitlab import GitLab
from models.records.calls import Ambiguous, Done, Refusal, Refused, RunState
from models.records.event import Outcome
from tests.connectors.platforms.acts import MARKER, NEWER, SHA, all_well, at_the_effect, calls, gitlab_job, hold, says

CALLS = calls("gitlab")
WELL = all_well("gitlab")


def acted(name: str, answering: Any) -> Any:
    talk = GitLab().ask(CALLS[name])
    assert talk is not None
    return hold(talk, answering)


def test_a_retry_makes_a_new_job() -> None:
    held = acted("rerun_job", WELL)
    assert held.ended.job_id == "9002"
    assert held.sent[0].path == "/projects/acme%2Ftools%2Fshop/jobs/9001/retry"


def test_a_job_that_was_retried_already_is_a_matter_of_state() -> None:
    answer = says(403, {"message": "403 Forbidden - Job is not retryable"})
    assert acted("rerun_job", lambda _: answer).ended.refusal is Refusal.STATE
    assert acted("rerun_job", lambda _: says(403, {"message": "403 Forbidden"})).ended.refusal is Refusal.PERMISSION


@pytest.mark.parametrize("name", ["cancel", "cancel_job"])
@pytest.mark.parametrize("status", ["success", "failed"])
def test_what_had_ended_was_not_cancelled_though_it_says_200(name: str, status: str) -> None:
    answer = at_the_effect("gitlab", says(200, {"id": 501, "status": status}))
    assert acted(name, answer).ended == Refused(Refusal.STATE, f"it is {status}")


def test_only_a_job_can_be_cancelled_by_force() -> None:
    assert acted("force_cancel", WELL).sent[0].path.endswith("/pipelines/501/cancel")


def test_caches_are_cleared_by_a_mutation_beside_the_api() -> None:
    held = acted("clear_caches", WELL)
    assert held.ended == Done()
    assert (held.sent[-1].path, held.sent[-1].up) == ("/graphql", 1)
    assert json.loads(held.sent[-1].body)["variables"] == {"p": "gid://gitlab/Project/77"}


@pytest.mark.parametrize(
    ("body", "ended"),
    [
        ({"data": {"runnerCacheClear": {"errors": ["no rights"]}}}, Refused(Refusal.PERMISSION, "no rights")),
        ({"errors": [{"message": "Field is not there"}], "data": None}, Refused(Refusal.INVALID, "Field is not there")),
        ({"data": None}, Ambiguous),
        ({}, Ambiguous),
    ],
)
def test_graphql_says_no_with_200(body: Any, ended: Any) -> None:
    said = acted("clear_caches", at_the_effect("gitlab", says(200, body))).ended
    assert said == ended if isinstance(ended, Refused) else isinstance(said, ended)


def test_a_comment_and_an_issue_that_are_there_are_found() -> None:
    there = [{"id": 4, "iid": 3, "body": f"<!-- {MARKER} -->", "description": f"<!-- {MARKER} -->"}]

    def answering(step: Send) -> Reply:
        return says(200, there) if step.method == "GET" else says(200, {"iid": 3})

    assert acted("comment_on_request", answering).ended == Done(reference="4", already=True)
    held = acted("open_issue", answering)
    assert held.ended == Done(reference="3", already=True)
    assert [step.method for step in held.sent] == ["GET", "PUT"]
    assert "search=guard" in held.sent[0].path


def look(name: str, jobs: list[dict[str, Any]], *, sha: str = SHA) -> RunState:
    def answering(step: Send) -> Reply | Silence:
        if "/jobs?" in step.path:
            return says(200, jobs)
        return says(200, [{"id": 900, "sha": sha}]) if "/pipelines?" in step.path else WELL(step)

    state = hold(GitLab().look(CALLS[name]), answering).ended
    assert isinstance(state, RunState)
    return state


def test_a_retried_job_has_a_newer_one_of_its_name() -> None:
    newer = [gitlab_job(9005, status="running", user={"username": "grace"}), gitlab_job(9003), gitlab_job()]
    state = look("rerun_job", [*newer, gitlab_job(9004, name="lint")])
    assert (state.outcome, state.attempt, state.successor, state.by) == (Outcome.RUNNING, 3, "9005", "grace")
    again = look("rerun_failed", newer)
    assert (again.outcome, again.attempt, again.successor) == (Outcome.FAILED, 3, "9005")


def test_a_newer_pipeline_of_the_ref_overtakes() -> None:
    assert look("rerun_job", [gitlab_job()], sha=NEWER).overtaken
    assert not look("rerun_job", [gitlab_job()]).overtaken
