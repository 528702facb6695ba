"""What GitLab's API does for us: https://docs.gitlab.com/api/rest/."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import urlencode

from connectors.platforms.acting import (
    JSON,
    MOST_PAGES,
    PAGE,
    Acting,
    Asking,
    Looking,
    Send,
    Stop,
    answered,
    conversation,
    encoded,
    hidden,
    marked,
    message,
    words,
)
from connectors.platforms.asking import Reply, number, segments
from connectors.platforms.reading import Fields, decode_objects
from connectors.platforms.rights import READ, Asked, Needs, Rights, lacking, needed
from models.records.calls import (
    Call,
    Cancel,
    ClearCaches,
    Comment,
    Done,
    OpenIssue,
    Refusal,
    Refused,
    RerunFailed,
    RerunJob,
    Result,
    RunState,
)
from models.records.event import Outcome

_FORBIDDEN, _NOT_FOUND = 403, 404
_DEVELOPER: Final = 30
_CANCELLED: Final = frozenset({"canceled", "canceling"})
# https://docs.gitlab.com/api/graphql/reference/#mutationrunnercacheclear; REST has no such thing.
_CLEAR: Final = "mutation($p: ProjectID!){ runnerCacheClear(input:{projectId:$p}){ errors } }"

# https://docs.gitlab.com/user/profile/personal_access_tokens/#personal-access-token-scopes, and besides them a role:
# https://docs.gitlab.com/user/permissions/#cicd
NEEDS: Final[Needs] = {
    READ: frozenset({"read_api"}),
    **dict.fromkeys(
        ("rerun_failed", "rerun_job", "cancel", "clear_caches", "comment", "open_issue"), frozenset({"api"})
    ),
}


def ask(call: Call) -> Acting | None:
    """How `call` is carried out."""
    asking = _asking(call)
    return None if asking is None else conversation(asking, judge)


def _asking(call: Call) -> Asking[Result] | None:
    match call:
        case RerunFailed():
            return _retry_failed(call)
        case RerunJob():
            return _retry(call)
        case Cancel():
            return _cancel(call)
        case ClearCaches(ref=None, key_prefix=None):
            return _clear(call)
        case Comment():
            return _comment(call)
        case OpenIssue():
            return _issue(call)
    return None  # a pipeline cannot be run again whole, and caches cannot be told apart


def rights(name: str, calls: Collection[str]) -> Asked:
    """What a token lacks to do `calls` in the project `name`: scopes, and the role of Developer.

    https://docs.gitlab.com/api/personal_access_tokens/#get-details-on-the-token
    https://docs.gitlab.com/api/members/#roles
    """
    return conversation(_rights(name, needed(NEEDS, (READ, *calls))), judge)


def _rights(name: str, wanted: frozenset[str]) -> Asking[Rights]:
    token = answered((yield _get("/personal_access_tokens/self")))
    missing = lacking(wanted, token.texts("scopes"), implied={"api": ("read_api",)})
    if token.flag("active") is False or token.flag("revoked"):
        missing.append("a token that is active")
    seen = yield replace(_get(project(name)), takes=lambda reply: reply.status == _NOT_FOUND)
    if seen.status == _NOT_FOUND:
        missing.append("to see the project")
    elif "api" in wanted and _level(answered(seen).inner("permissions")) < _DEVELOPER:
        missing.append("the role Developer")
    return Rights(token.text("name"), tuple(missing), (), token.text("expires_at"))


def _level(permissions: Fields) -> int:
    """The higher of what one is in the project and in its group."""
    return max(permissions.inner(where).count("access_level") or 0 for where in ("project_access", "group_access"))


def look(call: Call, outcomes: Mapping[str, Outcome]) -> Looking:
    """How the job stands that `call` is about, or the pipeline where it is about no single job."""
    return conversation(_look(call, outcomes), judge)


def judge(reply: Reply) -> Stop | None:
    """What is GitLab's own in an answer that says no: https://docs.gitlab.com/api/jobs/#retry-a-job."""
    if reply.status == _FORBIDDEN and "not retryable" in message(reply).lower():
        return Refused(Refusal.STATE, words(reply))
    return None


def project(name: str) -> str:
    """Where everything of the project `group/name` stands."""
    return "/projects/{}".format("%2F".join(segments(name, "repository", least=2)))


def _get(path: str, **query: object) -> Send:
    return Send("GET", f"{path}?{urlencode(query)}" if query else path)


def _write(method: str, path: str, **fields: object) -> Send:
    return Send(method, path, JSON, encoded(**fields), changes=True)


def _job(call: Call) -> str:
    return f"{project(call.repository)}/jobs/{number(call.job_id, 'job_id')}"


def _pipeline(call: Call) -> str:
    return f"{project(call.repository)}/pipelines/{number(call.pipeline_id, 'pipeline_id')}"


def _retry(call: RerunJob) -> Asking[Result]:
    # https://docs.gitlab.com/api/jobs/#retry-a-job: a new job, in the same pipeline
    job = answered((yield Send("POST", f"{_job(call)}/retry", changes=True)))
    return Done(pipeline_id=call.pipeline_id, job_id=job.identity("id"), url=job.url("web_url"))


def _retry_failed(call: RerunFailed) -> Asking[Result]:
    # https://docs.gitlab.com/api/pipelines/#retry-jobs-in-a-pipeline
    pipeline = answered((yield Send("POST", f"{_pipeline(call)}/retry", changes=True)))
    return Done(pipeline_id=pipeline.identity("id"), url=pipeline.url("web_url"))


def _cancel(call: Cancel) -> Asking[Result]:
    # https://docs.gitlab.com/api/jobs/#cancel-a-job and https://docs.gitlab.com/api/pipelines/#cancel-all-jobs-for-a-pipeline
    # A pipeline answers 200 also where there was nothing to cancel: what it is now says which.
    path = _pipeline(call) if call.job_id is None else _job(call)
    forced = "?force=true" if call.force and call.job_id is not None else ""
    thing = answered((yield Send("POST", f"{path}/cancel{forced}", changes=True)))
    status = thing.text("status")
    if status not in _CANCELLED:
        return Refused(Refusal.STATE, f"it is {status}")
    return Done(url=thing.url("web_url"))


def _clear(call: ClearCaches) -> Asking[Result]:
    identity = answered((yield _get(project(call.repository)))).identity("id")
    variables = {"p": f"gid://gitlab/Project/{number(identity, 'id')}"}
    body = encoded(query=_CLEAR, variables=variables)
    said = answered((yield Send("POST", "/graphql", JSON, body, changes=True, up=1)))
    if said.each("errors"):
        return Refused(Refusal.INVALID, said.each("errors")[0].text("message") or "GraphQL has errors")
    errors = said.required("data").required("runnerCacheClear").texts("errors")
    return Refused(Refusal.PERMISSION, errors[0]) if errors else Done()


def _comment(call: Comment) -> Asking[Result]:
    # https://docs.gitlab.com/api/notes/#merge-requests and https://docs.gitlab.com/api/commits/#post-comment-to-commit
    if call.pull_request is not None:
        path, field = (
            f"{project(call.repository)}/merge_requests/{number(call.pull_request, 'pull_request')}/notes",
            "body",
        )
    else:
        (sha,) = segments(call.commit_sha or "", "commit_sha", most=1)
        path, field = f"{project(call.repository)}/repository/commits/{sha}/comments", "note"
    found = yield from _find(path, field, call.marker)
    if found is not None:
        return Done(reference=found.maybe_identity("id"), already=True)
    made = answered((yield _write("POST", path, **{field: marked(call.body, call.marker)})))
    return Done(reference=made.maybe_identity("id"))  # a comment on a commit has none


def _issue(call: OpenIssue) -> Asking[Result]:
    # https://docs.gitlab.com/api/issues/
    path = f"{project(call.repository)}/issues"
    text = marked(call.body, call.marker)
    found = yield from _find(
        path, "description", call.marker, state="opened", search=call.marker, **{"in": "description"}
    )
    if found is None:
        labels = ",".join(call.labels)
        made = answered((yield _write("POST", path, title=call.title, description=text, labels=labels)))
        return Done(reference=made.identity("iid"), url=made.url("web_url"))
    one = f"{path}/{number(found.identity('iid'), 'iid')}"
    made = answered((yield _write("PUT", one, description=text)))
    return Done(reference=made.identity("iid"), url=made.url("web_url"), already=True)


def _find(path: str, field: str, marker: str, **query: object) -> Asking[Fields | None]:
    """What has `marker` in its `field`, among what is listed at `path`."""
    mark = hidden(marker)
    for thing in (yield from _listed(path, **query)):
        if mark in (thing.text(field, None) or ""):
            return thing
    return None


def _listed(path: str, **query: object) -> Asking[list[Fields]]:
    # https://docs.gitlab.com/api/rest/#offset-based-pagination
    things: list[Fields] = []
    for page in range(1, MOST_PAGES + 1):
        some = decode_objects((yield _get(path, **query, per_page=PAGE, page=page)).body)
        things += some
        if len(some) < PAGE:
            break
    return things


def _look(call: Call, outcomes: Mapping[str, Outcome]) -> Asking[RunState]:
    # https://docs.gitlab.com/api/jobs/#list-all-jobs-by-pipeline: a retried job stays, and a new one has its name
    pipeline = answered((yield _get(_pipeline(call))))
    jobs = sorted((yield from _listed(f"{_pipeline(call)}/jobs", include_retried="true")), key=_number)
    own = next((job for job in jobs if job.identity("id") == call.job_id), None)
    names = [job.text("name") for job in jobs]
    if own is None:  # the pipeline: whatever took the place of any job
        newer = [job for i, job in enumerate(jobs) if job.text("name") in names[:i]]
        about, attempt = pipeline, max((names.count(name) for name in names), default=1)
    else:
        newer = [job for job in jobs if job.text("name") == own.text("name") and _number(job) > _number(own)]
        about, attempt = (newer[-1] if newer else own), 1 + len(newer)
    head = pipeline
    if pipeline.text("ref") is not None:
        query = _get(f"{project(call.repository)}/pipelines", ref=pipeline.text("ref"), per_page=1)
        head = next(iter(decode_objects((yield query).body)), pipeline)
    return RunState(
        outcome=outcomes.get(about.text("status") or "", Outcome.UNKNOWN),
        attempt=attempt,
        successor=newer[-1].identity("id") if newer else None,
        by=(newer[-1] if newer else about).inner("user").text("username"),
        commit_sha=pipeline.maybe_identity("sha"),
        head_sha=head.maybe_identity("sha"),
    )


def _number(job: Fields) -> int:
    return int(number(job.identity("id"), "id"))
