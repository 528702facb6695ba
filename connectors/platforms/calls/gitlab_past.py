"""What happened at GitLab while nobody listened: pipelines and jobs as they stand, and how a webhook does.

A webhook is named as its address in the API is: `projects/acme/shop/hooks/1` or `groups/acme/hooks/2`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final
from urllib.parse import urlencode

from connectors.platforms.acting import PAGE, Asking, Send, Talk, answered, conversation
from connectors.platforms.asking import number, segments
from connectors.platforms.calls.gitlab import judge, project
from connectors.platforms.past import LONGEST_RUN, MOST_LISTED, UNKNOWN_DEPLOYMENT, Gathering, Hook, Read, Recent, iso
from connectors.platforms.reading import Fields, decode_objects
from models.records.errors import MalformedPayload

_UNSEEN: Final = frozenset({403, 404})
_REQUEST: Final = "refs/merge-requests/"
_JOB: Final = {
    **{f"build_{name}": name for name in ("name", "stage", "status", "failure_reason", "allow_failure")},
    **{f"build_{name}": name for name in ("id", "created_at", "started_at", "finished_at", "duration")},
    "build_queued_duration": "queued_duration",
    "tag": "tag",
    "user": "user",
}


def recent(name: str, since: datetime, read: Read) -> Talk[Recent]:
    """How the pipelines stand that changed after `since`, and every execution of their jobs.

    https://docs.gitlab.com/api/pipelines/#list-project-pipelines: `updated_after`
    https://docs.gitlab.com/api/jobs/#list-all-jobs-by-pipeline
    """
    return conversation(_recent(name, since, read), judge)


def _recent(name: str, since: datetime, read: Read) -> Asking[Recent]:
    gathering, home = Gathering(read), project(name)
    pipelines = yield from _listed(f"{home}/pipelines", updated_after=iso(since), order_by="updated_at")
    gathering.cut = len(pipelines) >= MOST_LISTED
    if not pipelines:
        return gathering.all()
    whole = answered((yield _get(home)))
    requests: dict[str, Fields | None] = {}
    deployments = yield from _deployments(home, since)
    for listed in pipelines:
        path = f"{home}/pipelines/{number(listed.identity('id'), 'id')}"
        pipeline = answered((yield _get(path)))
        asked = _request_number(pipeline)
        if asked is not None and asked not in requests:
            requests[asked] = yield from _request(f"{home}/merge_requests/{asked}")
        told = _Told(whole, pipeline, of_request=asked is not None, request=requests.get(asked or ""))
        jobs = yield from _listed(f"{path}/jobs", include_retried="true")
        jobs = [Fields({**job.plain(), "environment": _environment(job, deployments)}) for job in jobs]
        gathering.take("pipeline", told.pipeline(jobs))
        for job, retries in _with_retries(jobs):
            gathering.take("build", told.job(job, retries))
    return gathering.all()


class _Told:
    """What the webhooks of one pipeline share. Of one for a merge request the API has the ref, they the branch."""

    def __init__(self, whole: Fields, pipeline: Fields, *, of_request: bool, request: Fields | None) -> None:
        self._whole = whole
        self._pipeline = pipeline
        self._ref = pipeline.raw("ref")
        self._request: object = request
        if of_request:
            self._ref = request.raw("source_branch") if request is not None else None
            # Its merge request tells whether it comes from a fork; where nobody may see that, it counts as one.
            self._request = request or {"source_project_id": None, "target_project_id": whole.raw("id")}

    def pipeline(self, jobs: Collection[Fields]) -> dict[str, object]:
        pipeline = self._pipeline
        names = ("id", "name", "tag", "sha", "status", "source", "created_at", "finished_at", "duration")
        attributes = {name: pipeline.raw(name) for name in (*names, "queued_duration")}
        author = next((job.inner("commit").raw("author_name") for job in jobs), None)
        return {
            "object_attributes": {**attributes, "ref": self._ref, "url": pipeline.raw("web_url")},
            "project": self._whole,
            "user": pipeline.inner("user"),
            "commit": {"author": {"name": author}},
            "builds": [job.plain() for job in jobs],
            "merge_request": self._request,
        }

    def job(self, job: Fields, retries: int) -> dict[str, object]:
        commit, runner = job.inner("commit"), job.inner("runner")
        author = {"author_name": commit.raw("author_name"), "author_email": commit.raw("author_email")}
        return {
            **{ours: job.raw(theirs) for ours, theirs in _JOB.items()},
            "ref": self._ref,
            "sha": self._pipeline.raw("sha"),
            "pipeline_id": self._pipeline.raw("id"),
            "retries_count": retries,
            "project_id": self._whole.raw("id"),
            "project": self._whole,
            "commit": {"name": self._pipeline.raw("name"), **author},
            "runner": {"description": runner.raw("description"), "tags": job.raw("tag_list")} if runner else None,
            "environment": job.raw("environment"),
        }


def _deployments(home: str, since: datetime) -> Asking[dict[str, object] | None]:
    """The environments that jobs deployed to of late, by the job; None where that is not for us to see.

    https://docs.gitlab.com/api/deployments/#list-project-deployments: the API's jobs do not tell, those of webhooks do
    """
    query = {"updated_after": iso(since - LONGEST_RUN), "order_by": "updated_at", "per_page": PAGE}
    found: dict[str, object] = {}
    for page in range(1, MOST_LISTED // PAGE + 1):
        ask = _get(f"{home}/deployments", {**query, "page": page})
        reply = yield replace(ask, takes=lambda reply: reply.status in _UNSEEN)
        if reply.status in _UNSEEN:
            return None
        some = decode_objects(reply.body)
        for one in some:
            found[one.inner("deployable").maybe_identity("id") or ""] = one.inner("environment").raw("name")
        if len(some) < PAGE:
            break
    return found


def _environment(job: Fields, deployments: Mapping[str, object] | None) -> object:
    """What a webhook would name as the environment of a job."""
    if deployments is None:
        return UNKNOWN_DEPLOYMENT if job.raw("status") == "failed" else None
    name = deployments.get(job.maybe_identity("id") or "")
    return None if name is None else {"name": name, "action": "start"}


def _with_retries(jobs: Collection[Fields]) -> list[tuple[Fields, int]]:
    """Every execution with how many of the same job began before it; the newest has the highest id."""
    before: Counter[object] = Counter()
    told = []
    for job in sorted(jobs, key=lambda one: int(number(one.identity("id"), "id"))):
        told.append((job, before[job.raw("name")]))
        before[job.raw("name")] += job.raw("started_at") is not None
    return told


def _request_number(pipeline: Fields) -> str | None:
    """Of which merge request a pipeline is, if of any."""
    ref = pipeline.text("ref") or ""
    return number(ref.removeprefix(_REQUEST).partition("/")[0], "ref") if ref.startswith(_REQUEST) else None


def _request(path: str) -> Asking[Fields | None]:
    reply = yield replace(_get(path), takes=lambda reply: reply.status in _UNSEEN)
    return None if reply.status in _UNSEEN else answered(reply)


def _get(path: str, query: Mapping[str, object] | None = None) -> Send:
    return Send("GET", f"{path}?{urlencode(query)}" if query else path)


def _listed(path: str, **query: object) -> Asking[list[Fields]]:
    things: list[Fields] = []
    for page in range(1, MOST_LISTED // PAGE + 1):
        some = decode_objects((yield _get(path, {**query, "per_page": PAGE, "page": page})).body)
        things += some
        if len(some) < PAGE:
            break
    return things


def hook(name: str) -> Talk[Hook]:
    """How the webhook `name` stands: https://docs.gitlab.com/api/project_webhooks/ and group_webhooks."""
    return conversation(_hook(name), judge)


def _hook(name: str) -> Asking[Hook]:
    told = answered((yield _get(_path(name))))
    status = told.text("alert_status") or ""
    until = told.text("disabled_until")
    why = f"{status}, until {until}" if until else status
    return Hook(status == "disabled", status == "temporarily_disabled", why if status != "executable" else "")


def _path(name: str) -> str:
    """Where the webhook `name` stands.

    Raises:
        MalformedPayload: it is not the name of one.
    """
    parts = segments(name, "hook", least=4)
    if parts[0] not in {"projects", "groups"} or parts[-2] != "hooks":
        raise MalformedPayload("hook: projects/GROUP/NAME/hooks/ID or groups/GROUP/hooks/ID was expected")
    return f"/{parts[0]}/{'%2F'.join(parts[1:-2])}/hooks/{number(parts[-1], 'hook')}"
