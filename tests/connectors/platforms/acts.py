"""Conversations about calls: whoever asks is a platform file, whoever answers is a test."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from connectors.platforms.acting import Send, Silence, Talk
from connectors.platforms.asking import Pause, Reply
from models.records.calls import Call, Cancel, ClearCaches, Comment, Notify, OpenIssue, Rerun, RerunFailed, RerunJob
from tests.connectors.platforms.logs import AT

SHA, NEWER = "a" * 40, "b" * 40
MARKER = "guard:6f1c0a52-0d8e-5f6b-9d52-4f8b8f9a7c11"

TARGETS: dict[str, dict[str, Any]] = {
    "github": {"repository": "acme/shop", "pipeline_id": "17001", "job_id": "29001", "attempt": 2},
    "gitlab": {"repository": "acme/tools/shop", "pipeline_id": "501", "job_id": "9001"},
    "jenkins": {"repository": "acme/shop/feature%2Fx", "pipeline_id": "45", "job_id": None},
    "circleci": {"repository": "gh/acme/shop", "pipeline_id": "p1", "workflow_id": "w1", "job_id": "j1"},
}


def target(platform: str, **changes: Any) -> dict[str, Any]:
    """What a call of `platform` is about."""
    return {"platform": platform, "instance": "main", **TARGETS[platform], **changes}


def calls(platform: str) -> dict[str, Call]:
    """Calls of every kind, by a name."""
    job, run = target(platform), target(platform, job_id=None)
    return {
        "rerun": Rerun(**run),
        "rerun_failed": RerunFailed(**run),
        "rerun_job": RerunJob(**job),
        "cancel": Cancel(**run),
        "cancel_job": Cancel(**job),
        "force_cancel": Cancel(**run, force=True),
        "clear_caches": ClearCaches(**run),
        "clear_some_caches": ClearCaches(**run, ref="refs/heads/main", key_prefix="npm-"),
        "comment_on_commit": Comment(**run, body="It was the registry.", marker=MARKER, commit_sha=SHA),
        "comment_on_request": Comment(**run, body="It was the registry.", marker=MARKER, pull_request=7),
        "open_issue": OpenIssue(**run, title="test is flaky", body="Again.", marker=MARKER, labels=("flaky",)),
        "notify": Notify(**run, title="Held", body="The registry is down."),
    }


POSSIBLE = {
    "github": set(calls("github")) - {"cancel_job", "notify"},
    "gitlab": set(calls("gitlab")) - {"rerun", "clear_some_caches", "notify"},
    "jenkins": {"rerun", "rerun_failed", "rerun_job", "cancel", "cancel_job", "force_cancel", "clear_caches"},
    "circleci": {"rerun", "rerun_failed", "rerun_job", "cancel", "cancel_job", "force_cancel"},
}
"""What each platform can do: of a build of Jenkins, job and run are one."""


@dataclass(frozen=True)
class Held:
    """A conversation that was held: what was asked, and how it ended."""

    asked: list[Send | Pause]
    ended: Any

    @property
    def sent(self) -> list[Send]:
        """The requests of it."""
        return [step for step in self.asked if isinstance(step, Send)]

    @property
    def changes(self) -> list[Send]:
        """The requests that have an effect."""
        return [step for step in self.sent if step.changes]


Answering = Callable[[Send], Reply | Silence]


def hold(talk: Talk[Any], answering: Answering, *, most: int = 60) -> Held:
    """Let a platform file ask, and `answering` answer, until it ends."""
    asked: list[Send | Pause] = []
    try:
        step = next(talk)
        while True:
            asked.append(step)
            assert len(asked) <= most
            step = talk.send(answering(step) if isinstance(step, Send) else Reply(0, {}))
    except StopIteration as ended:
        return Held(asked, ended.value)


def says(status: int = 200, body: Any = None, **headers: str) -> Reply:
    """An answer with `body` as JSON, or as it is where it is bytes; header names are written with underscores."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, AT, body=data)


def all_well(platform: str) -> Answering:
    """What `platform` answers when all goes well."""
    return ANSWERS[platform]


def at_the_effect(platform: str, answer: Reply | Silence) -> Answering:
    """All goes well, until something is to be changed: that is answered by `answer`."""
    return lambda step: answer if step.changes else ANSWERS[platform](step)


def _github(step: Send) -> Reply:
    path = urlsplit(step.path).path
    tail = path.removeprefix("/repos/acme/shop/")
    if step.method == "GET":
        return says(200, GITHUB.get(tail, []))
    if tail.endswith(("/cancel", "/force-cancel")):
        return says(202, {})
    if step.method == "DELETE":
        return says(204)
    return says(201, {"id": 5, "number": 6, "html_url": "https://github.com/acme/shop/issues/6"} if step.body else {})


def _run(number: int = 17001, **changes: Any) -> dict[str, Any]:
    run = {"id": number, "status": "completed", "conclusion": "failure", "run_attempt": 2, "head_sha": SHA}
    actor, source = {"login": "ada"}, {"full_name": "acme/shop"}
    return {**run, "head_branch": "main", "triggering_actor": actor, "head_repository": source, **changes}


GITHUB: dict[str, Any] = {
    "actions/runs/17001": _run(),
    "actions/runs": {"workflow_runs": [_run(), _run(16000, head_sha="c" * 40)]},
    "actions/caches": {"total_count": 2, "actions_caches": [{"id": 71}, {"id": 72}]},
}
github_run = _run


def _gitlab(step: Send) -> Reply:
    path = urlsplit(step.path).path.removeprefix("/projects/acme%2Ftools%2Fshop")
    if path == "/graphql":
        return says(200, {"data": {"runnerCacheClear": {"errors": []}}})
    if step.method == "GET":
        return says(200, GITLAB.get(path, []))
    if path == "/pipelines/501/cancel":
        return says(200, {"id": 501, "status": "canceled"})
    if path == "/pipelines/501/retry":
        return says(201, {"id": 501, "status": "running"})
    if path == "/jobs/9001/cancel":
        return says(201, {"id": 9001, "status": "canceled"})
    return says(201, {"id": 9002, "iid": 3, "web_url": "https://gitlab.com/acme/tools/shop/-/jobs/9002"})


def gitlab_job(number: int = 9001, **changes: Any) -> dict[str, Any]:
    """A job as GitLab shows it."""
    return {"id": number, "name": "unit", "status": "failed", "user": {"username": "ada"}, **changes}


GITLAB: dict[str, Any] = {
    "": {"id": 77},
    "/pipelines/501": {"id": 501, "status": "failed", "sha": SHA, "ref": "main", "user": {"username": "ada"}},
    "/pipelines/501/jobs": [gitlab_job(9000, name="lint", status="success"), gitlab_job()],
    "/pipelines": [{"id": 501, "sha": SHA}],
}


def _jenkins(step: Send) -> Reply:
    path = urlsplit(step.path).path
    if step.method == "GET":
        return says(200, JENKINS[path])
    return says(302, b"", location="http://ci.example/job/acme/job/shop/job/feature%252Fx/", x_jenkins="2.516")


def jenkins_build(number: int = 45, **changes: Any) -> dict[str, Any]:
    """A build as Jenkins shows it."""
    revision = {"SHA1": SHA, "branch": [{"name": "origin/main"}]}
    actions = [{"causes": [{"userId": "ada", "shortDescription": "Started by ada"}]}, {"lastBuiltRevision": revision}]
    return {"number": number, "result": "FAILURE", "building": False, "actions": actions, **changes}


JENKINS: dict[str, Any] = {
    "/job/acme/job/shop/job/feature%252Fx/api/json": {"inQueue": False, "builds": [jenkins_build(), jenkins_build(44)]},
    "/job/acme/job/shop/job/feature%252Fx/45/api/json": jenkins_build(),
}


def _circleci(step: Send) -> Reply:
    path = urlsplit(step.path).path.removeprefix("/api/v2")
    if step.method == "GET":
        return says(200, CIRCLECI[path])
    if path.endswith("/rerun"):
        return says(202, {"workflow_id": "w2"})
    return says(202, {"message": "Accepted."})


def circleci_workflow(uid: str = "w1", **changes: Any) -> dict[str, Any]:
    """A workflow as CircleCI shows it."""
    workflow = {"id": uid, "name": "ci", "status": "failed", "created_at": "2026-04-01T10:00:00Z"}
    return {**workflow, "started_by": "ada", **changes}


_PIPELINE = {"id": "p1", "number": 12, "vcs": {"revision": SHA, "branch": "main"}}
CIRCLECI: dict[str, Any] = {
    "/pipeline/p1": _PIPELINE,
    "/pipeline/p1/workflow": {"items": [circleci_workflow()], "next_page_token": None},
    "/project/gh/acme/shop/pipeline": {"items": [_PIPELINE], "next_page_token": None},
    "/workflow/w1/job": {"items": [{"id": "j1", "job_number": 731}], "next_page_token": None},
}

ANSWERS: dict[str, Answering] = {
    "github": _github,
    "gitlab": _gitlab,
    "jenkins": _jenkins,
    "circleci": _circleci,
}
