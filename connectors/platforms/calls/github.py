"""What GitHub's API does for us: https://docs.github.com/en/rest, by the API version that GitHub.api_headers names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec

from connectors.platforms.acting import (
    JSON,
    MOST_PAGES,
    PAGE,
    Acting,
    Asking,
    Looking,
    Send,
    Stop,
    Talk,
    answered,
    conversation,
    encoded,
    hidden,
    marked,
    message,
    words,
)
from connectors.platforms.asking import Reply, number, segments, until
from connectors.platforms.reading import Fields, decode_objects
from models.records.calls import (
    Call,
    Cancel,
    ClearCaches,
    Comment,
    Done,
    OpenIssue,
    Refusal,
    Refused,
    Rerun,
    RerunFailed,
    RerunJob,
    Result,
    RunState,
    Unavailable,
)
from models.records.errors import MalformedPayload
from models.records.event import Event, Outcome

_ACCEPT: Final = {"accept": "application/vnd.github+json"}
_LIMITED: Final = frozenset({403, 429})
_FORBIDDEN: Final = 403
_NOT_FOUND: Final = 404
_SECONDARY_LIMIT_SECONDS: Final = 60.0
_TAKEN: Final = range(200, 400)
_FAILED: Final = frozenset({"failure", "timed_out", "startup_failure"})
_DIGITS: Final = 10  # of Unix seconds, for a while

# What it says with a 403 where it is not a matter of rights. Seen at the API; its description names none of them.
_FORBIDDEN_WORDS: Final = {
    "already running": Refusal.STATE,
    "cannot be retried": Refusal.LIMIT,  # its logs are gone, or no job of it ever began
    "unable to retry": Refusal.LIMIT,  # "... because it was created over a month ago"
}


class Delivery(msgspec.Struct, frozen=True):
    """One attempt to deliver a webhook. Attempts with the same `guid` tried to deliver the same."""

    id: int
    guid: str
    delivered_at: str
    status_code: int  # 0 where there was no answer in time
    event: str


def ask(call: Call) -> Acting | None:
    """How `call` is carried out."""
    asking = _asking(call)
    return None if asking is None else conversation(asking, judge)


def _asking(call: Call) -> Asking[Result] | None:
    match call:
        case Rerun():
            return _rerun(call, "runs", call.pipeline_id, "rerun")
        case RerunFailed():
            return _rerun(call, "runs", call.pipeline_id, "rerun-failed-jobs")
        case RerunJob():
            return _rerun(call, "jobs", call.job_id, "rerun")
        case Cancel(job_id=None):
            return _cancel(call)
        case ClearCaches():
            return _clear(call)
        case Comment():
            return _comment(call)
        case OpenIssue():
            return _issue(call)
    return None  # of a run, no single job can be cancelled


def look(call: Call, outcomes: Mapping[str, Outcome]) -> Looking:
    """How the run that `call` is about stands."""
    return conversation(_look(call, outcomes), judge)


def judge(reply: Reply) -> Stop | None:
    """What is GitHub's own in an answer that says no.

    https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api: 403 or 429; the primary limit says
    when it ends, the secondary one asks for a minute at least where it does not.
    """
    if reply.status not in _LIMITED:
        return None
    if reply.headers.get("x-ratelimit-remaining") == "0":
        reset = reply.headers.get("x-ratelimit-reset", "")
        known = reset.isascii() and reset.isdigit() and len(reset) <= _DIGITS
        return Unavailable(words(reply), until(float(reset) if known else None, reply))
    said = message(reply).lower()
    if "rate limit" in said and "retry-after" not in reply.headers:
        return Unavailable(words(reply), _SECONDARY_LIMIT_SECONDS)
    if reply.status == _FORBIDDEN:
        refusal = next((why for part, why in _FORBIDDEN_WORDS.items() if part in said), None)
        return None if refusal is None else Refused(refusal, words(reply))
    return None


def repository(name: str) -> str:
    """Where everything of the repository `owner/name` stands."""
    return "/repos/{}/{}".format(*segments(name, "repository", least=2, most=2))


def _get(path: str, **query: object) -> Send:
    return Send("GET", f"{path}?{urlencode(query)}" if query else path, _ACCEPT)


def _write(method: str, path: str, **fields: object) -> Send:
    return Send(method, path, {**_ACCEPT, **JSON}, encoded(**fields), changes=True)


def _rerun(call: Call, kind: str, number_: str | None, verb: str) -> Asking[Result]:
    # https://docs.github.com/en/rest/actions/workflow-runs#re-run-a-workflow and
    # https://docs.github.com/en/rest/actions/workflow-jobs#re-run-a-job-from-a-workflow-run
    path = f"{repository(call.repository)}/actions/{kind}/{number(number_, 'id')}/{verb}"
    answered((yield Send("POST", path, _ACCEPT, changes=True)))
    return Done(attempt=call.attempt + 1)


def _cancel(call: Cancel) -> Asking[Result]:
    # https://docs.github.com/en/rest/actions/workflow-runs#cancel-a-workflow-run; 409 where it has ended
    verb = "force-cancel" if call.force else "cancel"
    path = f"{repository(call.repository)}/actions/runs/{number(call.pipeline_id, 'pipeline_id')}/{verb}"
    answered((yield Send("POST", path, _ACCEPT, changes=True)))
    return Done()


def _clear(call: ClearCaches) -> Asking[Result]:
    # https://docs.github.com/en/rest/actions/cache: always the first page, for what is deleted makes room
    path = f"{repository(call.repository)}/actions/caches"
    narrowed = {name: value for name, value in (("key", call.key_prefix), ("ref", call.ref)) if value is not None}
    for _ in range(MOST_PAGES):
        reply = yield _get(path, **narrowed, per_page=PAGE)
        caches = answered(reply).each("actions_caches")
        for cache in caches:
            one = f"{path}/{number(cache.identity('id'), 'id')}"
            yield Send("DELETE", one, _ACCEPT, changes=True, takes=_is_gone)
        if len(caches) < PAGE:
            break
    return Done()


def _is_gone(reply: Reply) -> bool:
    return reply.status == _NOT_FOUND


def _comment(call: Comment) -> Asking[Result]:
    # https://docs.github.com/en/rest/commits/comments and, for pull requests, which are issues,
    # https://docs.github.com/en/rest/issues/comments
    if call.pull_request is not None:
        path = f"{repository(call.repository)}/issues/{number(call.pull_request, 'pull_request')}/comments"
    else:
        (sha,) = segments(call.commit_sha or "", "commit_sha", most=1)
        path = f"{repository(call.repository)}/commits/{sha}/comments"
    found = yield from _find(path, call.marker)
    if found is not None:
        return _made(found, already=True)
    return _made(answered((yield _write("POST", path, body=marked(call.body, call.marker)))))


def _issue(call: OpenIssue) -> Asking[Result]:
    # https://docs.github.com/en/rest/issues/issues. Labels are no way to find it: who may not set them loses them.
    path = f"{repository(call.repository)}/issues"
    body = marked(call.body, call.marker)
    found = yield from _find(path, call.marker, state="open")
    if found is None:
        made = answered((yield _write("POST", path, title=call.title, body=body, labels=call.labels)))
        return _made(made, name="number")
    one = f"{path}/{number(found.identity('number'), 'number')}"
    return _made(answered((yield _write("PATCH", one, body=body))), name="number", already=True)


def _made(thing: Fields, *, name: str = "id", already: bool = False) -> Done:
    return Done(reference=thing.identity(name), url=thing.url("html_url"), already=already)


def _find(path: str, marker: str, **query: object) -> Asking[Fields | None]:
    """What has `marker` in its body, among the first thousand that are listed at `path`."""
    mark = hidden(marker)
    for page in range(1, MOST_PAGES + 1):
        things = decode_objects((yield _get(path, **query, per_page=PAGE, page=page)).body)
        for thing in things:
            if mark in (thing.text("body", None) or ""):
                return thing
        if len(things) < PAGE:
            break
    return None


def _look(call: Call, outcomes: Mapping[str, Outcome]) -> Asking[RunState]:
    # https://docs.github.com/en/rest/actions/workflow-runs#get-a-workflow-run: a rerun keeps the id, raises the attempt
    actions = f"{repository(call.repository)}/actions/runs"
    run = answered((yield _get(f"{actions}/{number(call.pipeline_id, 'pipeline_id')}", exclude_pull_requests="true")))
    attempt, branch = run.count("run_attempt") or 1, run.text("head_branch")
    newest = run
    if branch is not None:
        reply = yield _get(actions, branch=branch, per_page=20, exclude_pull_requests="true")
        newest = _newest(run, answered(reply).each("workflow_runs"))
    status, conclusion = run.text("status"), run.text("conclusion")
    word = conclusion if status == "completed" else status
    return RunState(
        outcome=outcomes.get(word or "", Outcome.UNKNOWN),
        attempt=attempt,
        successor=str(attempt) if attempt > call.attempt else None,
        by=run.inner("triggering_actor").text("login"),
        commit_sha=run.maybe_identity("head_sha"),
        head_sha=newest.maybe_identity("head_sha"),
    )


def _newest(run: Fields, others: list[Fields]) -> Fields:
    """The latest run of the same branch of the same repository: a fork may have a branch of that name too."""
    source = run.inner("head_repository").text("full_name")
    same = [other for other in others if other.inner("head_repository").text("full_name") == source]
    return max((run, *same), key=lambda one: int(number(one.identity("id"), "id")))


class Recent(NamedTuple):
    """What happened of late, as the webhooks would have told it; `unreadable` counts what could not be read."""

    events: list[Event]
    unreadable: int


Read: TypeAlias = Callable[[str, Fields], Sequence[Event]]
"""The events of a webhook of this kind and body."""


def recent(name: str, since: str, read: Read) -> Talk[Recent]:
    """How the runs stand that were created after `since` (ISO 8601), with the jobs of those that failed.

    https://docs.github.com/en/rest/actions/workflow-runs#list-workflow-runs-for-a-repository: a thousand at most.
    https://docs.github.com/en/rest/actions/workflow-jobs#list-jobs-for-a-workflow-run-attempt
    A run and a job are there what `workflow_run` and `workflow_job` hold.
    """
    return conversation(_recent(name, since, read), judge)


def _recent(name: str, since: str, read: Read) -> Asking[Recent]:
    actions = f"{repository(name)}/actions/runs"
    events: list[Event] = []
    unreadable = 0
    for run in (yield from _listed(actions, "workflow_runs", created=f">={since}")):
        bodies = [("workflow_run", run)]
        if run.text("conclusion") in _FAILED:
            attempt = f"{actions}/{number(run.identity('id'), 'id')}/attempts/{run.count('run_attempt') or 1}"
            bodies += [("workflow_job", job) for job in (yield from _listed(f"{attempt}/jobs", "jobs"))]
        for kind, body in bodies:
            try:
                events += read(kind, Fields.of({kind: body, "repository": run.inner("repository")}))
            except MalformedPayload:
                unreadable += 1
    return Recent(events, unreadable)


def _listed(path: str, key: str, **query: object) -> Asking[list[Fields]]:
    things: list[Fields] = []
    for page in range(1, MOST_PAGES + 1):
        some = answered((yield _get(path, **query, per_page=PAGE, page=page))).each(key)
        things += some
        if len(some) < PAGE:
            break
    return things


def undelivered(name: str, hook_id: int, since: str) -> Talk[list[Delivery]]:
    """Of each webhook that was sent after `since` and never taken, the last attempt; the oldest first.

    https://docs.github.com/en/rest/repos/webhooks#list-deliveries-for-a-repository-webhook
    All are asked for, not those of `status=failure`: that leaves out what was never answered.
    """
    return conversation(_undelivered(f"{_hook(name, hook_id)}/deliveries", since), judge)


def _undelivered(path: str, since: str) -> Asking[list[Delivery]]:
    attempts: list[Delivery] = []
    cursor: dict[str, object] = {}
    for _ in range(MOST_PAGES):
        reply = yield _get(path, per_page=PAGE, **cursor)
        page = _deliveries(reply)
        attempts += page
        following = _cursor(reply.headers.get("link", ""))
        if following is None or not page or page[-1].delivered_at < since:
            break
        cursor = {"cursor": following}
    late = sorted((one for one in attempts if one.delivered_at >= since), key=lambda one: (one.delivered_at, one.id))
    taken = {one.guid for one in late if one.status_code in _TAKEN}
    return [one for one in {one.guid: one for one in late}.values() if one.guid not in taken]


def redeliver(name: str, hook_id: int, delivery_id: int) -> Acting:
    """Send it once more: https://docs.github.com/en/rest/repos/webhooks#redeliver-a-delivery-for-a-repository-webhook."""
    return conversation(_redeliver(f"{_hook(name, hook_id)}/deliveries/{number(delivery_id, 'id')}/attempts"), judge)


def _redeliver(path: str) -> Asking[Result]:
    answered((yield Send("POST", path, _ACCEPT, changes=True)))
    return Done()


def _hook(name: str, hook_id: int) -> str:
    return f"{repository(name)}/hooks/{number(hook_id, 'hook_id')}"


def _deliveries(reply: Reply) -> list[Delivery]:
    try:  # their ids may be beyond 2^53
        return msgspec.json.decode(reply.body, type=list[Delivery])
    except msgspec.MsgspecError as error:
        raise MalformedPayload(f"deliveries: {error}") from None


def _cursor(link: str) -> str | None:
    """Where the next page begins: https://docs.github.com/en/rest/using-the-rest-api/using-pagination-in-the-rest-api."""
    for part in link.split(","):
        address, _, relation = part.partition(";")
        if 'rel="next"' in relation:
            try:
                query = urlsplit(address.strip(" <>")).query
            except ValueError:
                return None
            return next(iter(parse_qs(query).get("cursor", [])), None)
    return None
