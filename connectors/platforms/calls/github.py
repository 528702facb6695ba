"""What GitHub's API does for us: https://docs.github.com/en/rest, by the API version that GitHub.api_headers names."""

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
from connectors.platforms.asking import Reply, number, retry_after, segments, until
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
    Rerun,
    RerunFailed,
    RerunJob,
    Result,
    RunState,
    Unavailable,
)
from models.records.event import Outcome

ACCEPT: Final = {"accept": "application/vnd.github+json"}
_LIMITED: Final = frozenset({403, 429})
_FORBIDDEN: Final = 403
_NOT_FOUND: Final = 404
_NO_SUCH_RUN: Final = frozenset({404, 409, 422})
_SECONDARY_LIMIT_SECONDS: Final = 60.0
_DIGITS: Final = 10  # of Unix seconds, for a while

# What it says with a 403 where it is not a matter of rights. Seen at the API; its description names none of them.
_FORBIDDEN_WORDS: Final = {
    "already running": Refusal.STATE,
    "cannot be retried": Refusal.LIMIT,  # its logs are gone, or no job of it ever began
    "unable to retry": Refusal.LIMIT,  # "... because it was created over a month ago"
}


# https://docs.github.com/en/rest/authentication/permissions-required-for-github-apps: of fine-grained tokens as well.
NEEDS: Final[Needs] = {
    READ: frozenset({"actions=read"}),
    **dict.fromkeys(("rerun", "rerun_failed", "rerun_job", "cancel", "clear_caches"), frozenset({"actions=write"})),
    "comment": frozenset({"contents=read", "pull_requests=write"}),
    "open_issue": frozenset({"issues=write"}),
    "reconcile": frozenset({"repository_hooks=write"}),
    "reconcile_organisation": frozenset({"organization_hooks=write"}),
}
# https://docs.github.com/en/apps/oauth-apps/building-oauth-apps/scopes-for-oauth-apps: of classic tokens.
_SCOPES: Final = {
    "repo": frozenset().union(*(needs for call, needs in NEEDS.items() if call != "reconcile_organisation")),
    "admin:repo_hook": NEEDS["reconcile"],
    "admin:org_hook": NEEDS["reconcile_organisation"],
}


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


def rights(name: str, calls: Collection[str]) -> Asked:
    """What a token lacks to do `calls` in the repository `name`.

    https://docs.github.com/en/rest/using-the-rest-api/troubleshooting-the-rest-api: an answer names the scopes of a
    classic token, and a refusal the permissions that would have been accepted. What a fine-grained token may is not
    told before. So reading is tried, and stopping a run that there is not: who may not is refused before that shows.
    """
    return conversation(_rights(name, needed(NEEDS, (READ, *calls))), judge)


def _rights(name: str, wanted: frozenset[str]) -> Asking[Rights]:
    actions = f"{repository(name)}/actions/runs"
    reply = yield replace(get(actions, per_page=1), takes=_is_forbidden)
    scopes = reply.headers.get("x-oauth-scopes")
    if scopes is not None:
        given = [scope.strip() for scope in scopes.split(",")]
        missing = lacking(wanted, given, implied=_SCOPES)
        return Rights(missing=(f"repo, for {', '.join(missing)}",) if missing else ())
    missing = [*_accepted(reply)]
    if "actions=write" in wanted and not missing:
        reply = yield Send("POST", f"{actions}/0/cancel", ACCEPT, takes=_is_forbidden_or_gone)
        missing += _accepted(reply)
    unproven = sorted(wanted - {"actions=read", "actions=write"})
    return Rights(missing=tuple(missing), unproven=tuple(unproven))


def _is_forbidden(reply: Reply) -> bool:
    return reply.status == _FORBIDDEN and judge(reply) is None and retry_after(reply) is None


def _is_forbidden_or_gone(reply: Reply) -> bool:
    return _is_forbidden(reply) or reply.status in _NO_SUCH_RUN


def _accepted(reply: Reply) -> list[str]:
    """What a refusal says would have been accepted: `actions=write`, of which one after `;` would do as well."""
    if reply.status != _FORBIDDEN:
        return []
    named = reply.headers.get("x-accepted-github-permissions", "").partition(";")[0]
    return [part.strip() for part in named.split(",") if part.strip()] or [message(reply) or "some permission"]


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


def get(path: str, **query: object) -> Send:
    """Ask for what stands at `path`."""
    return Send("GET", f"{path}?{urlencode(query)}" if query else path, ACCEPT)


def _write(method: str, path: str, **fields: object) -> Send:
    return Send(method, path, {**ACCEPT, **JSON}, encoded(**fields), changes=True)


def _rerun(call: Call, kind: str, number_: str | None, verb: str) -> Asking[Result]:
    # https://docs.github.com/en/rest/actions/workflow-runs#re-run-a-workflow and
    # https://docs.github.com/en/rest/actions/workflow-jobs#re-run-a-job-from-a-workflow-run
    path = f"{repository(call.repository)}/actions/{kind}/{number(number_, 'id')}/{verb}"
    answered((yield Send("POST", path, ACCEPT, changes=True)))
    return Done(attempt=call.attempt + 1)


def _cancel(call: Cancel) -> Asking[Result]:
    # https://docs.github.com/en/rest/actions/workflow-runs#cancel-a-workflow-run; 409 where it has ended
    verb = "force-cancel" if call.force else "cancel"
    path = f"{repository(call.repository)}/actions/runs/{number(call.pipeline_id, 'pipeline_id')}/{verb}"
    answered((yield Send("POST", path, ACCEPT, changes=True)))
    return Done()


def _clear(call: ClearCaches) -> Asking[Result]:
    # https://docs.github.com/en/rest/actions/cache: always the first page, for what is deleted makes room
    path = f"{repository(call.repository)}/actions/caches"
    narrowed = {name: value for name, value in (("key", call.key_prefix), ("ref", call.ref)) if value is not None}
    for _ in range(MOST_PAGES):
        reply = yield get(path, **narrowed, per_page=PAGE)
        caches = answered(reply).each("actions_caches")
        for cache in caches:
            one = f"{path}/{number(cache.identity('id'), 'id')}"
            yield Send("DELETE", one, ACCEPT, changes=True, takes=_is_gone)
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
        things = decode_objects((yield get(path, **query, per_page=PAGE, page=page)).body)
        for thing in things:
            if mark in (thing.text("body", None) or ""):
                return thing
        if len(things) < PAGE:
            break
    return None


def _look(call: Call, outcomes: Mapping[str, Outcome]) -> Asking[RunState]:
    # https://docs.github.com/en/rest/actions/workflow-runs#get-a-workflow-run: a rerun keeps the id, raises the attempt
    actions = f"{repository(call.repository)}/actions/runs"
    run = answered((yield get(f"{actions}/{number(call.pipeline_id, 'pipeline_id')}", exclude_pull_requests="true")))
    attempt, branch = run.count("run_attempt") or 1, run.text("head_branch")
    newest = run
    if branch is not None:
        reply = yield get(actions, branch=branch, per_page=20, exclude_pull_requests="true")
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
