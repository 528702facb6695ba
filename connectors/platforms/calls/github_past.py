"""What happened at GitHub while nobody listened: runs as they stand, and webhooks that were never taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import parse_qs, urlsplit

import msgspec

from connectors.platforms.acting import MOST_PAGES, PAGE, Acting, Asking, Send, Talk, answered, conversation
from connectors.platforms.asking import Reply, number
from connectors.platforms.calls.github import ACCEPT, get, judge, repository
from connectors.platforms.reading import Fields
from models.records.calls import Done, Result
from models.records.errors import MalformedPayload
from models.records.event import Event

_TAKEN: Final = range(200, 400)
_FAILED: Final = frozenset({"failure", "timed_out", "startup_failure"})


class Delivery(msgspec.Struct, frozen=True):
    """One attempt to deliver a webhook. Attempts with the same `guid` tried to deliver the same."""

    id: int
    guid: str
    delivered_at: str
    status_code: int  # 0 where there was no answer in time
    event: str


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
        some = answered((yield get(path, **query, per_page=PAGE, page=page))).each(key)
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
        reply = yield get(path, per_page=PAGE, **cursor)
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
    answered((yield Send("POST", path, ACCEPT, changes=True)))
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
