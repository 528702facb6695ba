"""What happened at GitHub while nobody listened: runs as they stand, and webhooks that were never taken.

A webhook is named as its address in the API is: `repos/acme/shop/hooks/1`, `orgs/acme/hooks/2`, or `app/hook`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final
from urllib.parse import parse_qs, urlsplit

import msgspec

from connectors.platforms.acting import MOST_PAGES, PAGE, Acting, Asking, Send, Talk, answered, conversation
from connectors.platforms.asking import Reply, number, retry_after, segments
from connectors.platforms.calls.github import ACCEPT, get, judge, repository
from connectors.platforms.past import (
    LONGEST_RUN,
    MOST_LISTED,
    UNKNOWN_DEPLOYMENT,
    Delivery,
    Gathering,
    Hook,
    Read,
    Recent,
    Undelivered,
    is_before,
    iso,
)
from connectors.platforms.reading import Fields, decode_objects
from models.records.calls import Done, Result
from models.records.errors import MalformedPayload

_TAKEN: Final = range(200, 400)
_APP: Final = "app/hook"
_MOST_PAGES: Final = 50  # of deliveries
_UNSEEN: Final = frozenset({403, 404})
_FAILED: Final = frozenset({"failure", "timed_out", "startup_failure"})
_PASSED: Final = frozenset({"success", "skipped", "neutral"})
_UNSENT: Final = frozenset({None, "unused", "active", "OK"})  # words of last_response that are no failure


def recent(name: str, since: datetime, read: Read) -> Talk[Recent]:
    """How the runs stand that changed after `since`, with all attempts, and the jobs of those that did not just pass.

    https://docs.github.com/en/rest/actions/workflow-runs#list-workflow-runs-for-a-repository: by when they were created
    https://docs.github.com/en/rest/actions/workflow-jobs#list-jobs-for-a-workflow-run
    A run and a job are there what `workflow_run` and `workflow_job` hold.
    """
    return conversation(_recent(name, since, read), judge)


def _recent(name: str, since: datetime, read: Read) -> Asking[Recent]:
    gathering, home = Gathering(read), repository(name)
    actions = f"{home}/actions/runs"
    runs = yield from _runs(actions, iso(since - LONGEST_RUN))
    gathering.cut = len(runs) >= MOST_LISTED
    runs = [run for run in runs if run.raw("status") != "completed" or not is_before(run, since, "updated_at")]
    if not runs:
        return gathering.all()
    whole = answered((yield get(home)))  # a run names its repository without the default branch
    told: list[Fields] = []
    for run in runs:
        body = {"repository": whole, "sender": run.inner("triggering_actor")}
        attempt = run.count("run_attempt") or 1
        gathering.take("workflow_run", {**body, "workflow_run": run})
        if attempt == 1 and run.raw("conclusion") in _PASSED:
            continue
        one = f"{actions}/{number(run.identity('id'), 'id')}"
        for earlier in range(1, attempt):
            before = answered((yield get(f"{one}/attempts/{earlier}")))
            gathering.take("workflow_run", {**body, "workflow_run": before})
        jobs = yield from _listed(f"{one}/jobs", "jobs", filter="all")
        told += [Fields.of({**body, "workflow_job": job}) for job in jobs]
    failed = [one.inner("workflow_job") for one in told if _is_failed(one)]
    deployments = yield from _deployments(home, {str(job.raw("head_sha")) for job in failed})
    for one_job in told:
        gathering.take("workflow_job", {**one_job.plain(), **_deployment(one_job, deployments)})
    return gathering.all()


def _is_failed(told: Fields) -> bool:
    return told.inner("workflow_job").raw("conclusion") in _FAILED


def _deployments(home: str, shas: Collection[str]) -> Asking[dict[str, object] | None]:
    """The environments that jobs of these commits deployed to, by the job; None where that is not for us to see.

    https://docs.github.com/en/rest/deployments/deployments#list-deployments: webhooks tell, the API's jobs do not. The
    statuses of a deployment have the address of the job that made it.
    """
    found: dict[str, object] = {}
    for sha in sorted(shas):
        reply = yield replace(get(f"{home}/deployments", sha=sha, per_page=PAGE), takes=_is_unseen)
        if _is_unseen(reply):
            return None
        for deployment in decode_objects(reply.body):
            path = f"{home}/deployments/{number(deployment.identity('id'), 'id')}/statuses"
            for status in decode_objects((yield get(path, per_page=PAGE)).body):
                page = status.text("log_url") or status.text("target_url") or ""
                found[page.rpartition("/job/")[2]] = deployment.raw("environment")
    return found


def _is_unseen(reply: Reply) -> bool:
    return reply.status in _UNSEEN and judge(reply) is None and retry_after(reply) is None


def _deployment(told: Fields, deployments: Mapping[str, object] | None) -> Mapping[str, object]:
    """What a webhook says beside a job that deploys."""
    if deployments is None:
        return {"deployment": UNKNOWN_DEPLOYMENT} if _is_failed(told) else {}
    environment = deployments.get(told.inner("workflow_job").maybe_identity("id") or "")
    return {} if environment is None else {"deployment": {"environment": environment}}


def _runs(actions: str, since: str) -> Asking[list[Fields]]:
    """The runs created after `since`, the newest first. A thousand are listed, so what is older is asked for anew."""
    runs: dict[str, Fields] = {}
    until = ""
    while len(runs) < MOST_LISTED:
        some = yield from _listed(actions, "workflow_runs", created=f"{since}..{until}" if until else f">={since}")
        known = len(runs)
        runs |= {run.identity("id"): run for run in some}
        if len(some) < MOST_PAGES * PAGE or len(runs) == known:
            break
        until = iso(some[-1].first_time("created_at"))
    return list(runs.values())


def _listed(path: str, key: str, **query: object) -> Asking[list[Fields]]:
    things: list[Fields] = []
    for page in range(1, MOST_PAGES + 1):
        some = answered((yield get(path, **query, per_page=PAGE, page=page))).each(key)
        things += some
        if len(some) < PAGE:
            break
    return things


def hook(name: str) -> Talk[Hook] | None:
    """How the webhook `name` stands; of an App's own that is not told.

    https://docs.github.com/en/rest/repos/webhooks#get-a-repository-webhook
    """
    return None if name == _APP else conversation(_hook(name), judge)


def _hook(name: str) -> Asking[Hook]:
    told = answered((yield get(_path(name))))
    last = told.inner("last_response")
    failing = last.raw("status") not in _UNSENT or (last.count("code") or 200) not in _TAKEN
    return Hook(told.flag("active") is False, failing, last.text("message") or "" if failing else "")


def undelivered(name: str, since: str) -> Talk[Undelivered]:
    """What was sent by the webhook `name` after `since` (ISO 8601), and whether any attempt at it was taken.

    https://docs.github.com/en/rest/repos/webhooks#list-deliveries-for-a-repository-webhook
    All are asked for, not those of `status=failure`: that leaves out what was never answered.
    """
    return conversation(_undelivered(name, since), judge)


def _undelivered(name: str, since: str) -> Asking[Undelivered]:
    path = f"{_path(name)}/deliveries"
    attempts: list[Delivery] = []
    cursor: dict[str, object] = {}
    for _ in range(_MOST_PAGES):
        reply = yield get(path, per_page=PAGE, **cursor)
        page = _deliveries(reply)
        attempts += page
        following = _cursor(reply.headers.get("link", ""))
        if following is None or not page or page[-1].delivered_at < since:
            break
        cursor = {"cursor": following}
    late = sorted((one for one in attempts if one.delivered_at >= since), key=lambda one: (one.delivered_at, one.id))
    taken = frozenset(one.guid for one in late if one.status_code in _TAKEN)
    return Undelivered([one for one in {one.guid: one for one in late}.values() if one.guid not in taken], taken)


def redeliver(name: str, delivery_id: int) -> Acting:
    """Send it once more: https://docs.github.com/en/rest/repos/webhooks#redeliver-a-delivery-for-a-repository-webhook."""
    return conversation(_redeliver(name, delivery_id), judge)


def _redeliver(name: str, delivery_id: int) -> Asking[Result]:
    path = f"{_path(name)}/deliveries/{number(delivery_id, 'id')}/attempts"
    answered((yield Send("POST", path, ACCEPT, changes=True)))
    return Done()


def _path(name: str) -> str:
    """Where the webhook `name` stands.

    Raises:
        MalformedPayload: it is not the name of one.
    """
    if name == _APP:
        return f"/{_APP}"
    parts = segments(name, "hook", least=4, most=5)
    if (parts[0], len(parts)) not in {("repos", 5), ("orgs", 4)} or parts[-2] != "hooks":
        raise MalformedPayload("hook: repos/OWNER/NAME/hooks/ID, orgs/OWNER/hooks/ID or app/hook was expected")
    return "/" + "/".join([*parts[:-1], number(parts[-1], "hook")])


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
