"""What is each platform's own in telling what happened of late; tests/contracts/test_platform_past.py has the rest."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from connectors.platforms import PLATFORMS
from connectors.platforms.acting import Send
from connectors.platforms.asking import Reply
from connectors.platforms.calls import gitlab_past
from connectors.platforms.past import Hook
from models.records.calls import Refused
from models.records.event import Event, Outcome
from tests.connectors.platforms.acts import SHA, Held, hold, says

SINCE = datetime(2026, 4, 1, 12, tzinfo=UTC)
PROJECT = "/projects/acme%2Ftools%2Fshop"


def asked(platform: str, name: str, answers: dict[str, Any]) -> Held:
    """Asks what happened of late; `answers` are by the path asked for."""

    def answering(step: Send) -> Reply:
        body = answers.get(urlsplit(step.path).path)
        return says(404) if body is None else says(200, body)

    return hold(PLATFORMS[platform].recent(name, SINCE, "main"), answering)


def pipeline(number: int, **changes: Any) -> dict[str, Any]:
    times = {"created_at": "2026-04-01T12:00:00Z", "updated_at": "2026-04-01T12:09:00Z"}
    ended = {"finished_at": "2026-04-01T12:09:00Z", "duration": 60, "queued_duration": 2.5, "tag": False}
    return {"id": number, "status": "failed", "ref": "main", "sha": SHA, "source": "push", **times, **ended, **changes}


def job(number: int, **changes: Any) -> dict[str, Any]:
    times = {"started_at": "2026-04-01T12:01:00Z", "finished_at": "2026-04-01T12:02:00Z", "duration": 60.0}
    named = {"id": number, "name": "test", "stage": "test", "status": "failed", "created_at": "2026-04-01T12:00:00Z"}
    said = {"failure_reason": "runner_system_failure", "tag_list": ["linux"], "runner": {"description": "r1"}}
    return {**named, **times, **said, "commit": {"author_name": "Ada"}, **changes}


def gitlab(request: Any = None, deployments: Any = (), **changes: Any) -> tuple[list[Event], Held]:
    """What is told of one pipeline that was retried; `changes` are of it, `request` is its merge request."""
    answers = {
        PROJECT: {
            "id": 7,
            "path_with_namespace": "acme/tools/shop",
            "default_branch": "main",
            "web_url": "https://g/x",
        },
        f"{PROJECT}/pipelines": [pipeline(5, **changes)],
        f"{PROJECT}/pipelines/5": pipeline(5, **changes),
        f"{PROJECT}/pipelines/5/jobs": [job(11), job(10), job(9, started_at=None, status="skipped")],
        f"{PROJECT}/merge_requests/3": request,
        f"{PROJECT}/deployments": None if deployments is None else list(deployments),
    }
    held = asked("gitlab", "acme/tools/shop", answers)
    return held.ended.events, held


def test_a_pipeline_of_a_merge_request_has_its_branch_and_tells_a_fork() -> None:
    request = {"iid": 3, "source_branch": "fix", "source_project_id": 8, "target_project_id": 7}
    events, held = gitlab(request, ref="refs/merge-requests/3/head", source="merge_request_event")
    assert {event.metadata.branch for event in events} == {"fix"}
    assert events[0].metadata.is_fork is True
    assert sum("merge_requests" in step.path for step in held.sent) == 1


def test_a_merge_request_that_cannot_be_seen_counts_as_a_forks() -> None:
    events, _ = gitlab(None, ref="refs/merge-requests/3/head", source="merge_request_event")
    assert events[0].metadata.is_fork is True
    assert {event.metadata.branch for event in events} == {None}


def test_a_pipeline_of_a_branch_is_no_forks() -> None:
    events, held = gitlab()
    assert events[0].metadata.is_fork is False
    assert {event.metadata.branch for event in events} == {"main"}
    assert parse_qs(urlsplit(held.sent[0].path).query)["updated_after"] == ["2026-04-01T12:00:00Z"]


def test_executions_of_a_job_are_counted_as_gitlab_counts_its_retries() -> None:
    events, _ = gitlab()
    retries = {event.job_id: event.metadata.native_retries for event in events if event.job_id}
    assert retries == {"9": 0, "10": 0, "11": 1}
    assert {event.metadata.outcome for event in events if event.job_id in {"10", "11"}} == {Outcome.ERRORED}


def test_whether_a_job_deploys_is_told_by_the_deployments() -> None:
    events, _ = gitlab(deployments=[{"environment": {"name": "live"}, "deployable": {"id": 11}}])
    told = {event.job_id: (event.metadata.is_deploy, event.metadata.environment) for event in events if event.job_id}
    assert told == {"9": (False, None), "10": (False, None), "11": (True, "live")}
    assert events[0].metadata.is_deploy is True, "so does the pipeline"


def test_where_deployments_cannot_be_seen_what_failed_counts_as_one() -> None:
    events, _ = gitlab(deployments=None)
    assert {event.job_id: event.metadata.is_deploy for event in events if event.job_id} == {
        "9": False,
        "10": True,
        "11": True,
    }


@pytest.mark.parametrize(
    ("told", "stands"),
    [
        ({"alert_status": "executable", "disabled_until": None}, Hook(False, False)),
        ({}, Hook(False, False)),  # older ones say nothing
        ({"alert_status": "disabled"}, Hook(True, False, "disabled")),
        (
            {"alert_status": "temporarily_disabled", "disabled_until": "2026-04-01T12:00:00Z"},
            Hook(False, True, "temporarily_disabled, until 2026-04-01T12:00:00Z"),
        ),
    ],
)
def test_how_a_hook_of_gitlab_stands(told: dict[str, Any], stands: Hook) -> None:
    held = hold(gitlab_past.hook("projects/acme/tools/shop/hooks/3"), lambda _: says(200, told))
    assert held.ended == stands
    assert [step.path for step in held.sent] == [f"{PROJECT}/hooks/3"]
    assert (
        hold(gitlab_past.hook("groups/acme/hooks/3"), lambda _: says(200, told)).sent[0].path == "/groups/acme/hooks/3"
    )


@pytest.mark.parametrize("name", ["", "repos/acme/shop/hooks/3", "projects/acme/hooks/x", "projects/a/../hooks/3"])
def test_what_names_no_hook_of_gitlab_is_asked_for_nowhere(name: str) -> None:
    held = hold(gitlab_past.hook(name), lambda _: says(200, {}))
    assert isinstance(held.ended, Refused)
    assert held.sent == []


def test_builds_are_told_as_the_notification_plugin_tells_them() -> None:
    at = int(SINCE.timestamp() * 1000)
    revision = {"lastBuiltRevision": {"SHA1": SHA, "branch": [{"name": "refs/remotes/origin/main"}]}}
    ended = {"building": False, "result": "FAILURE", "duration": 60_000, "culprits": [{"fullName": "ada"}]}
    builds = [
        {"number": 9, "building": True, "result": None, "timestamp": at - 10**9, "url": "https://j/job/a/job/b/9/"},
        {"number": 8, **ended, "timestamp": at - 59_000, "actions": [{}, revision, {"failCount": 3}]},
        {"number": 7, **ended, "timestamp": at - 61_000},
        {**ended, "timestamp": at},
    ]
    held = asked("jenkins", "a/b%2Fc", {"/job/a/job/b%252Fc/api/json": {"name": "b", "builds": builds}})
    running, failed = held.ended.events
    assert held.ended.unreadable == 1
    assert (running.pipeline_id, running.metadata.outcome, running.repository) == ("9", Outcome.RUNNING, "a/b%2Fc")
    assert (failed.pipeline_id, failed.metadata.branch, failed.metadata.author) == ("8", "main", "ada")
    assert failed.timestamp.timestamp() * 1000 == at + 1000
    assert failed.failure_context is not None
    assert failed.failure_context.tests_failed == 3


def test_what_only_the_api_calls_otherwise_has_the_webhooks_name() -> None:
    path = "/api/v2/project/gh/acme/shop/pipeline"
    ended = {"created_at": "2026-04-01T11:59:00Z", "stopped_at": "2026-04-01T12:09:00Z"}
    times = {"started_at": "2026-04-01T12:00:00Z", "stopped_at": "2026-04-01T12:01:00Z", "type": "build"}
    words = ["timedout", "infrastructure_fail", "canceled", "running", "blocked", "not_run", "on_hold", "failed"]
    jobs = [{"id": f"j{i}", "name": w, "job_number": i, "status": w, **times} for i, w in enumerate(words)]
    answers = {
        path: {"items": [{"id": "p1", "number": 3, "created_at": "2026-04-01T11:58:00Z", "vcs": {"revision": SHA}}]},
        "/api/v2/pipeline/p1/workflow": {"items": [{"id": "w1", "name": "ci", "status": "failing", **ended}]},
        "/api/v2/workflow/w1/job": {"items": [*jobs, {**jobs[0], "id": "a1", "type": "approval"}]},
    }
    held = asked("circleci", "gh/acme/shop", answers)
    over = [
        (e.job_id, e.metadata.vendor_status) for e in held.ended.events if e.metadata.outcome is not Outcome.RUNNING
    ]
    assert over == [("j0", "failed"), ("j1", "failed"), ("j2", "canceled"), ("j7", "failed")]


def test_pages_of_pipelines_are_turned_down_to_those_that_are_too_old() -> None:
    def answering(step: Send) -> Reply:
        page = int(parse_qs(urlsplit(step.path).query).get("page-token", ["0"])[0])
        created = f"2026-0{4 if page < 2 else 3}-01T12:00:00Z"
        return says(200, {"items": [{"id": f"p{page}", "created_at": created}], "next_page_token": str(page + 1)})

    def quiet(step: Send) -> Reply:
        return says(200, {"items": []}) if step.path.endswith("/workflow") else answering(step)

    held = hold(PLATFORMS["circleci"].recent("gh/acme/shop", SINCE, "main"), quiet)
    assert [step.path.rpartition("/")[2] for step in held.sent] == [
        "pipeline",
        "pipeline?page-token=1",
        "pipeline?page-token=2",
        "workflow",
        "workflow",
    ]


def test_more_builds_than_are_listed_are_said_to_be_missing() -> None:
    at = int(SINCE.timestamp() * 1000)
    builds = [{"number": n, "building": True, "result": None, "timestamp": at + n} for n in range(100)]

    def cut(some: Any) -> bool:
        return bool(asked("jenkins", "a/b", {"/job/a/job/b/api/json": {"name": "b", "builds": some}}).ended.cut)

    assert cut(builds)
    assert not cut(builds[:99])
    assert not cut([*builds[:99], {**builds[99], "timestamp": at - 1}])
