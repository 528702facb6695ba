"""What CircleCI's API v2 does for us: https://circleci.com/docs/api/v2/.

Not v3: a rerun there takes `from_failed`, does not know it, and runs everything.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import urlencode

from connectors.platforms.acting import (
    JSON,
    MOST_PAGES,
    Acting,
    Asking,
    Looking,
    Send,
    Stop,
    answered,
    conversation,
    encoded,
    message,
    words,
)
from connectors.platforms.asking import Reply, number, segments
from connectors.platforms.reading import Fields
from connectors.platforms.rights import READ, Asked, Needs, Rights, needed
from models.records.calls import Call, Cancel, Done, Refusal, Refused, Rerun, RerunFailed, RerunJob, Result, RunState
from models.records.event import Outcome

_BAD_REQUEST: Final = 400
_NOT_FOUND: Final = 404
# https://support.circleci.com: what it says with a 400 where nothing is wrong with the request.
_STATE_WORDS: Final = ("not rerunnable", "still running", "cannot be rerun", "cannot be canceled", "too old", "90 days")

# https://circleci.com/docs/guides/toolkit/managing-api-tokens/: a person's token, which may what the person may.
NEEDS: Final[Needs] = {
    READ: frozenset({"a person who may read the project"}),
    **dict.fromkeys(("rerun", "rerun_failed", "rerun_job", "cancel"), frozenset({"a person who may write there"})),
}


def ask(call: Call) -> Acting | None:
    """How `call` is carried out."""
    asking = _asking(call)
    return None if asking is None else conversation(asking, judge)


def _asking(call: Call) -> Asking[Result] | None:
    match call:
        case Rerun():
            return _rerun(call)
        case RerunFailed():
            return _rerun(call, from_failed=True)
        case RerunJob():
            return _rerun_job(call)
        case Cancel():
            return _cancel(call)
    return None  # caches cannot be cleared, only given other keys; and there is nothing to say anything under


def rights(name: str, calls: Collection[str]) -> Asked:
    """Whose a token is, and whether that person sees the project `name`; what else the person may is not told.

    https://circleci.com/docs/api/v2/#operation/getCurrentUser and #operation/getProjectBySlug
    """
    return conversation(_rights(name, needed(NEEDS, (READ, *calls))), judge)


def _rights(name: str, wanted: frozenset[str]) -> Asking[Rights]:
    person = answered((yield _get("/me")))
    slug = "/".join(segments(name, "repository", least=3, most=3))
    reply = yield replace(_get(f"/project/{slug}"), takes=lambda reply: reply.status == _NOT_FOUND)
    missing = NEEDS[READ] if reply.status == _NOT_FOUND else frozenset()
    return Rights(person.text("login"), tuple(missing), tuple(sorted(wanted - NEEDS[READ])))


def look(call: Call, outcomes: Mapping[str, Outcome]) -> Looking:
    """How the workflow that `call` is about stands."""
    return conversation(_look(call, outcomes), judge)


def judge(reply: Reply) -> Stop | None:
    """What is CircleCI's own in an answer that says no."""
    said = message(reply).lower()
    if reply.status == _BAD_REQUEST and any(part in said for part in _STATE_WORDS):
        return Refused(Refusal.STATE, words(reply))
    return None


def _get(path: str, **query: object) -> Send:
    return Send("GET", f"/api/v2{path}?{urlencode(query)}" if query else f"/api/v2{path}")


def _post(path: str, **fields: object) -> Send:
    return Send("POST", f"/api/v2{path}", JSON, encoded(**fields), changes=True)


def _id(value: str | None, name: str) -> str:
    """Raises MalformedPayload where there is none."""
    return segments(value or "", name, most=1)[0]


def _workflow(call: Call) -> str:
    return f"/workflow/{_id(call.workflow_id, 'workflow_id')}"


def _rerun(call: Call, **how: object) -> Asking[Result]:
    # https://circleci.com/docs/api/v2/#operation/rerunWorkflow: a new workflow, in the same pipeline
    said = answered((yield _post(f"{_workflow(call)}/rerun", **how)))
    return Done(pipeline_id=call.pipeline_id, workflow_id=said.identity("workflow_id"))


def _rerun_job(call: RerunJob) -> Asking[Result]:
    _id(call.job_id, "job_id")
    return (yield from _rerun(call, jobs=[call.job_id], sparse_tree=True))


def _cancel(call: Cancel) -> Asking[Result]:
    # https://circleci.com/docs/api/v2/#operation/cancelWorkflow and #operation/cancelJobByJobNumber
    if call.job_id is None:
        answered((yield _post(f"{_workflow(call)}/cancel")))
        return Done()
    jobs = yield from _items(f"{_workflow(call)}/job")
    found = next((job for job in jobs if job.identity("id") == call.job_id), None)
    if found is None:
        return Refused(Refusal.NOT_FOUND, "the workflow has no such job")
    name = number(found.maybe_identity("job_number"), "job_number")
    answered((yield _post(f"/project/{_slug(call)}/job/{name}/cancel")))
    return Done()


def _slug(call: Call) -> str:
    return "/".join(segments(call.repository, "repository", least=3, most=3))


def _items(path: str, **query: object) -> Asking[list[Fields]]:
    """All that is listed at `path`, page by page."""
    items: list[Fields] = []
    token: str | None = None
    for _ in range(MOST_PAGES):
        said = answered((yield _get(path, **query, **({"page-token": token} if token else {}))))
        items += said.each("items")
        token = said.text("next_page_token")
        if token is None:
            break
    return items


def _look(call: Call, outcomes: Mapping[str, Outcome]) -> Asking[RunState | Refused]:
    # https://circleci.com/docs/api/v2/#operation/listWorkflowsByPipelineId: a rerun is one more, of the same name
    pipeline_path = f"/pipeline/{_id(call.pipeline_id, 'pipeline_id')}"
    pipeline = answered((yield _get(pipeline_path)))
    workflows = yield from _items(f"{pipeline_path}/workflow")
    own = next((one for one in workflows if one.identity("id") == call.workflow_id), None)
    if own is None:
        return Refused(Refusal.NOT_FOUND, "the pipeline does not list the workflow")
    newer = [one for one in workflows if one.text("name") == own.text("name") and _created(one) > _created(own)]
    newest = max(newer, key=_created, default=own)
    head, branch = pipeline, pipeline.inner("vcs").text("branch")
    if branch is not None:
        listed = answered((yield _get(f"/project/{_slug(call)}/pipeline", branch=branch))).each("items")
        head = max((pipeline, *listed), key=lambda one: one.integer("number") or 0)
    return RunState(
        outcome=outcomes.get(newest.text("status") or "", Outcome.UNKNOWN),
        attempt=1 + len(newer),
        successor=None if newest is own else newest.identity("id"),
        by=newest.text("started_by"),
        commit_sha=pipeline.inner("vcs").maybe_identity("revision"),
        head_sha=head.inner("vcs").maybe_identity("revision"),
    )


def _created(workflow: Fields) -> float:
    return workflow.first_time("created_at").timestamp()
