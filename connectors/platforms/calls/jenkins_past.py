"""What happened at Jenkins while nobody listened: the builds of a job as they stand."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from urllib.parse import urlencode

from connectors.platforms.acting import Asking, Send, Talk, answered, conversation
from connectors.platforms.calls.jenkins import job as job_path
from connectors.platforms.past import Gathering, Read, Recent
from connectors.platforms.reading import Fields

_LISTED: Final = 100
_TREE: Final = (
    "name,displayName,builds[number,url,displayName,building,result,timestamp,duration,culprits[fullName],"
    f"actions[lastBuiltRevision[SHA1,branch[name]],failCount],artifacts[fileName]]{{0,{_LISTED}}}"
)


def recent(name: str, since: datetime, read: Read) -> Talk[Recent]:
    """How the builds of the job `name` stand that go on, or ended after `since`: of the last hundred.

    https://www.jenkins.io/doc/book/using/remote-access-api/
    A build is told as the Notification plugin tells it: STARTED, or COMPLETED with its result.
    """
    return conversation(_recent(name, since, read))


def _recent(name: str, since: datetime, read: Read) -> Asking[Recent]:
    gathering, path = Gathering(read), job_path(name)
    job = answered((yield Send("GET", f"{path}/api/json?{urlencode({'tree': _TREE})}")))
    since_ms = int(since.timestamp() * 1000)
    builds = job.each("builds")
    gathering.cut = len(builds) >= _LISTED and (builds[-1].integer("timestamp") or 0) >= since_ms
    for build in builds:
        ended = build.flag("building") is False and build.text("result") is not None
        at_ms = (build.integer("timestamp") or 0) + ((build.integer("duration") or 0) if ended else 0)
        if not ended or at_ms >= since_ms:
            body = {"name": job.raw("name"), "display_name": job.raw("displayName"), "url": f"{path[1:]}/"}
            gathering.take("build", {**body, "build": _build(build, at_ms, ended=ended)})
    return gathering.all()


def _build(build: Fields, at_ms: int, *, ended: bool) -> dict[str, object]:
    actions = build.each("actions")
    revision = next((one for action in actions if (one := action.inner("lastBuiltRevision"))), Fields({}))
    branch = next((one.text("name") for one in revision.each("branch")), None)
    failed = next((action.count("failCount") for action in actions if "failCount" in action), None)
    scm = {"commit": revision.raw("SHA1"), "branch": branch.removeprefix("refs/remotes/") if branch else None}
    return {
        "full_url": build.raw("url"),
        "number": build.raw("number"),
        "phase": "COMPLETED" if ended else "STARTED",
        "status": build.raw("result") if ended else None,
        "timestamp": at_ms,
        "duration": build.raw("duration") if ended else 0,
        "scm": {**scm, "culprits": [one.text("fullName") or "" for one in build.each("culprits")]},
        "test_summary": {"failed": failed},
        "artifacts": {"any": {}} if build.each("artifacts") else {},
    }
