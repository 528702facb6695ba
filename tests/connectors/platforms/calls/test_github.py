"""What is GitHub's own in acting, and that it is asked only what its official description has."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from connectors.platforms.acting import Send
from connectors.platforms.asking import Reply
from connectors.platforms.calls import github_past as github
from connectors.platforms.github import GitHub
from connectors.platforms.past import Hook, Recent, iso
from models.records.calls import Ambiguous, Comment, Done, Refusal, Refused, RunState, Unavailable
from models.records.event import EventType, Outcome
from tests.connectors.platforms.acts import (
    MARKER,
    NEWER,
    SHA,
    all_well,
    at_the_effect,
    calls,
    github_run,
    hold,
    says,
    target,
)
from tests.connectors.platforms.logs import AT

WELL = all_well("github")
CALLS = calls("github")
ASKED = GitHub()


def acted(name: str, answering: Any) -> Any:
    talk = ASKED.ask(CALLS[name])
    assert talk is not None
    return hold(talk, answering)


@pytest.mark.parametrize(
    ("status", "said", "ended"),
    [
        (403, "This workflow is already running", Refusal.STATE),
        (403, "This workflow run cannot be retried", Refusal.LIMIT),
        (403, "Unable to retry this workflow run because it was created over a month ago", Refusal.LIMIT),
        (403, "Must have admin rights to Repository.", Refusal.PERMISSION),
        (403, "Resource not accessible by integration", Refusal.PERMISSION),
        (409, "Cannot cancel a workflow run that is completed.", Refusal.STATE),
    ],
)
def test_why_it_says_no_is_told_apart(status: int, said: str, ended: Refusal) -> None:
    answer = says(status, {"message": said, "documentation_url": "https://docs.github.com/rest"})
    assert acted("rerun_failed", lambda _: answer).ended == Refused(ended, f"HTTP {status}: {said}")


@pytest.mark.parametrize("status", [403, 429])
def test_a_rate_limit_says_when_to_come_again(status: int) -> None:
    def ended(body: Any = None, **headers: str) -> Any:
        return acted("rerun_job", lambda _: says(status, body, **headers)).ended

    assert ended(x_ratelimit_remaining="0", x_ratelimit_reset=str(int(AT) + 90)).retry_after == 90.0
    assert ended(x_ratelimit_remaining="0", x_ratelimit_reset="soon").retry_after is None
    assert ended({"message": "You have exceeded a secondary rate limit"}).retry_after == 60.0
    assert ended({"message": "You have exceeded a secondary rate limit"}, retry_after="5").retry_after == 5.0
    assert all(isinstance(one, Unavailable) for one in (ended(x_ratelimit_remaining="0"), ended(retry_after="1")))


def test_a_comment_that_is_there_is_not_made_again() -> None:
    mine = {"id": 9, "body": f"Said before.\n\n<!-- {MARKER} -->", "html_url": "https://github.com/x"}
    pages = [[{"id": i, "body": "else"} for i in range(100)], [{"id": 8, "body": None}, mine]]

    def answering(step: Send) -> Reply:
        return says(200, pages[int(parse_qs(urlsplit(step.path).query)["page"][0]) - 1])

    held = acted("comment_on_request", answering)
    assert held.ended == Done(reference="9", url="https://github.com/x", already=True)
    assert len(held.sent) == 2


def test_an_issue_that_is_open_is_brought_up_to_date() -> None:
    there = {"id": 1, "number": 6, "body": f"<!-- {MARKER} -->"}
    held = acted("open_issue", lambda step: says(200, there if step.method == "PATCH" else [there]))
    assert held.ended == Done(reference="6", already=True)
    assert [step.method for step in held.sent] == ["GET", "PATCH"]
    assert MARKER in json.loads(held.sent[-1].body)["body"]


def test_a_marker_that_could_show_is_refused() -> None:
    call = Comment(**target("github"), body="x", marker="--> <script>", commit_sha=SHA)
    talk = ASKED.ask(call)
    assert talk is not None
    assert hold(talk, WELL).ended == Refused(
        Refusal.INVALID, "marker: letters, digits and single hyphens were expected"
    )


def test_caches_are_cleared_page_by_page_and_what_is_gone_is_gone() -> None:
    left = [{"id": i} for i in range(130)]

    def answering(step: Send) -> Reply:
        if step.method == "GET":
            return says(200, {"total_count": len(left), "actions_caches": left[:100]})
        gone = int(step.path.rpartition("/")[2])
        left[:] = [cache for cache in left if cache["id"] != gone]
        return says(204 if gone % 2 else 404, None if gone % 2 else {"message": "Not Found"})

    held = hold(ASKED.ask(CALLS["clear_some_caches"]) or iter(()), answering, most=200)  # type: ignore[arg-type]
    assert held.ended == Done()
    assert not left
    assert parse_qs(urlsplit(held.sent[0].path).query)["ref"] == ["refs/heads/main"]


def test_caches_of_which_one_stays_are_ambiguous_and_may_be_cleared_again() -> None:
    assert isinstance(acted("clear_caches", at_the_effect("github", says(502))).ended, Ambiguous)
    assert CALLS["clear_caches"].repeatable


def look(run: dict[str, Any], *others: dict[str, Any]) -> RunState:
    def answering(step: Send) -> Reply:
        return says(200, run if "/17001" in step.path else {"workflow_runs": [run, *others]})

    state = hold(ASKED.look(CALLS["rerun"]), answering).ended
    assert isinstance(state, RunState)
    return state


def test_a_rerun_keeps_the_run_and_raises_the_attempt() -> None:
    state = look(github_run(status="in_progress", conclusion="failure", run_attempt=3))
    assert (state.outcome, state.attempt, state.successor) == (Outcome.RUNNING, 3, "3")


def test_a_newer_commit_of_the_branch_overtakes_and_a_fork_with_such_a_branch_does_not() -> None:
    assert look(github_run(), github_run(18000, head_sha=NEWER)).overtaken
    assert not look(
        github_run(), github_run(18000, head_sha=NEWER, head_repository={"full_name": "eve/shop"})
    ).overtaken
    assert not look(github_run(head_branch=None)).overtaken


def _delivery(number: int, guid: str, code: int, minute: int) -> dict[str, Any]:
    at = f"2026-04-01T10:{minute:02}:00Z"
    return {"id": 2**60 + number, "guid": guid, "delivered_at": at, "status_code": code, "event": "workflow_job"}


def test_deliveries_that_were_never_taken_are_found() -> None:
    first = [_delivery(5, "c", 0, 9), _delivery(4, "a", 200, 8), _delivery(3, "b", 502, 7)]
    second = [_delivery(2, "b", 0, 6), _delivery(1, "a", 500, 5), _delivery(0, "old", 500, 1)]
    link = '<https://api.github.com/x?per_page=100&cursor=v1_7>; rel="next", <https://api.github.com/x>; rel="prev"'

    def answering(step: Send) -> Reply:
        return says(200, second) if "cursor=v1_7" in step.path else says(200, first, link=link)

    held = hold(github.undelivered("repos/acme/shop/hooks/3", "2026-04-01T10:02:00Z"), answering)
    assert [(one.guid, one.id - 2**60) for one in held.ended.failed] == [("b", 3), ("c", 5)]
    assert held.ended.taken == {"a"}
    assert len(held.sent) == 2
    assert not held.changes


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'[{"id": "x"}]'])
def test_deliveries_that_are_none_are_no_answer(body: bytes) -> None:
    assert isinstance(hold(github.undelivered("orgs/acme/hooks/3", ""), lambda _: says(200, body)).ended, Unavailable)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("repos/acme/shop/hooks/3", "/repos/acme/shop/hooks/3"),
        ("orgs/acme/hooks/3", "/orgs/acme/hooks/3"),
        ("app/hook", "/app/hook"),
    ],
)
def test_a_delivery_is_asked_for_again(name: str, path: str) -> None:
    held = hold(github.redeliver(name, 2**60), lambda _: says(202, {}))
    assert held.ended == Done()
    assert held.sent[0].path == f"{path}/deliveries/{2**60}/attempts"


@pytest.mark.parametrize(
    "name",
    ["", "repos/acme/hooks/3", "orgs/acme/shop/hooks/3", "repos/acme/shop/hooks/x", "app", "repos/../../hooks/3"],
)
def test_what_names_no_hook_is_asked_for_nowhere(name: str) -> None:
    held = hold(github.redeliver(name, 1), lambda _: says(202, {}))
    assert isinstance(held.ended, Refused)
    assert held.sent == []


@pytest.mark.parametrize(
    ("told", "stands"),
    [
        ({"active": True, "last_response": {"code": None, "status": "unused", "message": None}}, Hook(False, False)),
        ({"active": True, "last_response": {"code": 202, "status": "active", "message": "OK"}}, Hook(False, False)),
        ({"active": True}, Hook(False, False)),
        ({"active": False}, Hook(True, False)),
        (
            {"active": True, "last_response": {"code": 0, "status": "timeout", "message": "timed out"}},
            Hook(False, True, "timed out"),
        ),
        ({"active": True, "last_response": {"code": 503, "status": "active"}}, Hook(False, True)),
    ],
)
def test_how_a_hook_stands(told: dict[str, Any], stands: Hook) -> None:
    talk = github.hook("repos/acme/shop/hooks/3")
    assert talk is not None
    held = hold(talk, lambda _: says(200, told))
    assert held.ended == stands
    assert [step.path for step in held.sent] == ["/repos/acme/shop/hooks/3"]
    assert github.hook("app/hook") is None


def _recent_run(number: int, conclusion: str | None, **changes: Any) -> dict[str, Any]:
    repository = {"id": 1, "name": "shop", "full_name": "acme/shop", "url": "https://api.github.com/repos/acme/shop"}
    at = "2026-04-01T10:00:00Z"
    times = {"created_at": at, "run_started_at": at, "updated_at": "2026-04-01T10:05:00Z"}
    status = "in_progress" if conclusion is None else "completed"
    run = github_run(number, status=status, conclusion=conclusion, name="ci", event="push", **times)
    return {**run, "repository": repository, **changes}


def _job(number: int, attempt: int, conclusion: str) -> dict[str, Any]:
    job = {"id": number, "run_id": 1, "run_attempt": attempt, "status": "completed", "conclusion": conclusion}
    times = {"started_at": "2026-04-01T10:01:00Z", "completed_at": "2026-04-01T10:04:00Z"}
    return {**job, **times, "name": "test", "head_sha": SHA}


def test_what_happened_of_late_is_told_as_the_webhooks_tell_it() -> None:
    runs = [
        _recent_run(1, "failure", run_attempt=2),
        _recent_run(2, "success", run_attempt=1),
        _recent_run(3, None, run_attempt=1, updated_at="2026-03-30T00:00:00Z"),
        _recent_run(4, "success", name=7, run_attempt=1),
        _recent_run(5, "failure", updated_at="2026-03-31T23:59:59Z"),
    ]
    home = "/repos/acme/shop"
    first = _recent_run(1, "failure", run_attempt=1)
    jobs = {"jobs": [_job(29001, 1, "failure"), _job(29002, 2, "failure")]}
    answers: dict[str, Any] = {
        home: {"full_name": "acme/shop", "default_branch": "main"},
        f"{home}/actions/runs": {"workflow_runs": runs},
        f"{home}/actions/runs/1/attempts/1": first,
        f"{home}/actions/runs/1/jobs": jobs,
        f"{home}/actions/runs/3/jobs": {"jobs": []},
        f"{home}/deployments": [{"id": 9, "environment": "production"}],
        f"{home}/deployments/9/statuses": [{"log_url": "https://github.com/acme/shop/actions/runs/1/job/29002"}, {}],
    }
    since = datetime(2026, 4, 1, tzinfo=UTC)
    talk = ASKED.recent("acme/shop", since, "main")
    held = hold(talk, lambda step: says(200, answers[step.path.partition("?")[0]]))
    assert held.ended.unreadable == 1
    assert [(e.pipeline_id, e.job_id, e.metadata.attempt, e.event_type) for e in held.ended.events] == [
        ("1", None, 2, EventType.FAILED),
        ("1", None, 1, EventType.FAILED),
        ("2", None, 1, EventType.COMPLETED),
        ("3", None, 1, EventType.STARTED),
        ("1", "29001", 1, EventType.FAILED),
        ("1", "29002", 2, EventType.FAILED),
    ]
    assert parse_qs(urlsplit(held.sent[0].path).query)["created"] == [">=2026-03-31T00:00:00Z"]
    assert parse_qs(urlsplit(held.sent[3].path).query)["filter"] == ["all"]
    assert len(held.sent) == 7
    deploys = {event.job_id: event.metadata.is_deploy for event in held.ended.events if event.job_id}
    assert deploys == {"29001": False, "29002": True}
    assert {event.metadata.environment for event in held.ended.events} == {None, "production"}


def test_where_nothing_ran_one_question_is_enough() -> None:
    talk = ASKED.recent("acme/shop", datetime(2026, 4, 1, tzinfo=UTC), "main")
    held = hold(talk, lambda _: says(200, {"workflow_runs": []}))
    assert held.ended == Recent([], 0)
    assert len(held.sent) == 1


def test_more_runs_than_are_listed_are_asked_for_by_when_they_were_created() -> None:
    first = datetime(2026, 4, 1, tzinfo=UTC)
    runs = [_recent_run(n, "success", run_attempt=1, created_at=iso(first + timedelta(minutes=n))) for n in range(2500)]
    asked: list[str] = []

    def answering(step: Send) -> Reply:
        query = parse_qs(urlsplit(step.path).query)
        if "created" not in query:
            return says(200, {"full_name": "acme/shop", "default_branch": "main"})
        page, (created,) = int(query["page"][0]), query["created"]
        if page == 1:
            asked.append(created)
        since, _, until = created.removeprefix(">=").partition("..")
        some = [run for run in reversed(runs) if since <= run["created_at"] <= (until or "9")]
        return says(200, {"workflow_runs": some[:1000][100 * (page - 1) : 100 * page]})

    talk = ASKED.recent("acme/shop", first, "main")
    held = hold(talk, answering, most=200)
    assert {event.pipeline_id for event in held.ended.events} == {str(n) for n in range(2500)}
    assert not held.ended.cut
    last = [iso(first + timedelta(minutes=n)) for n in (1500, 501)]
    assert asked == [">=2026-03-31T00:00:00Z", *(f"2026-03-31T00:00:00Z..{at}" for at in last)]


@pytest.mark.parametrize(
    ("answer", "deploys"),
    [(says(200, []), False), (says(403), True), (says(404), True)],
    ids=["none", "forbidden", "not there"],
)
def test_a_failed_job_deploys_where_nobody_may_see_whether_it_does(answer: Reply, deploys: bool) -> None:
    def answering(step: Send) -> Reply:
        if "/deployments" in step.path:
            return answer
        jobs = [_job(29001, 1, "failure"), _job(29002, 1, "success")]
        runs = [_recent_run(1, "failure", run_attempt=1)]
        return says(200, {"workflow_runs": runs, "jobs": jobs, "full_name": "acme/shop"})

    held = hold(ASKED.recent("acme/shop", datetime(2026, 4, 1, tzinfo=UTC), "main"), answering)
    told = {event.job_id: event.metadata.is_deploy for event in held.ended.events if event.job_id}
    assert told == {"29001": deploys, "29002": False}


def test_a_rate_limit_is_no_answer_to_what_deploys() -> None:
    def answering(step: Send) -> Reply:
        if "/deployments" in step.path:
            return says(403, {"message": "API rate limit exceeded"}, x_ratelimit_remaining="0")
        jobs = [_job(29001, 1, "failure")]
        runs = [_recent_run(1, "failure", run_attempt=1)]
        return says(200, {"workflow_runs": runs, "jobs": jobs, "full_name": "acme/shop"})

    held = hold(ASKED.recent("acme/shop", datetime(2026, 4, 1, tzinfo=UTC), "main"), answering)
    assert isinstance(held.ended, Unavailable)
