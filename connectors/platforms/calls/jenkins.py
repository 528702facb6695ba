"""What a Jenkins does for us: https://www.jenkins.io/doc/book/using/remote-access-api/.

Answers to what changes something are redirects, made for browsers. None is followed: where it leads says what happened.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import quote, urlencode, urlsplit

from connectors.platforms.acting import Acting, Asking, Looking, Send, answered, conversation, words
from connectors.platforms.asking import Reply, number, segments
from connectors.platforms.reading import Fields
from connectors.platforms.rights import READ, Asked, Needs, Rights, needed
from models.records.calls import (
    Call,
    Cancel,
    ClearCaches,
    Done,
    Refusal,
    Refused,
    Rerun,
    RerunFailed,
    RerunJob,
    Result,
    RunState,
)
from models.records.errors import MalformedPayload
from models.records.event import Outcome

_FORM: Final = {"content-type": "application/x-www-form-urlencoded"}
_FOUND: Final = frozenset({302, 303})
_FORBIDDEN, _NOT_FOUND = 403, 404
_NOT_SEEN: Final = frozenset({_FORBIDDEN, _NOT_FOUND})
_NO_CRUMB: Final = b"No valid crumb"
_MOST_BUILDS: Final = 30

_BUILD: Final = "number,result,building,actions[causes[userId,shortDescription],lastBuiltRevision[SHA1,branch[name]]]"
_AGAIN: Final = ("ReplayCause", "RebuildCause")

# https://www.jenkins.io/doc/book/security/access-control/permissions/
NEEDS: Final[Needs] = {
    READ: frozenset({"Job/Read"}),
    **dict.fromkeys(("rerun", "rerun_failed", "rerun_job"), frozenset({"Job/Build"})),
    "cancel": frozenset({"Job/Cancel"}),
    "clear_caches": frozenset({"Job/Workspace"}),
}


def ask(call: Call) -> Acting | None:
    """How `call` is carried out."""
    asking = _asking(call)
    return None if asking is None else conversation(asking)


def _asking(call: Call) -> Asking[Result] | None:
    match call:
        case Rerun() | RerunFailed() | RerunJob(job_id=None):
            return _rebuild(call)
        case Cancel(job_id=None):
            return _stop(call)
        case ClearCaches(ref=None, key_prefix=None):
            return _wipe(call)
    return None  # nothing can be said there, and a build has no jobs


def rights(name: str, calls: Collection[str]) -> Asked:
    """Whether a login is somebody at all, and sees the job `name`; what else it may there is not told.

    https://www.jenkins.io/doc/book/security/access-control/
    """
    return conversation(_rights(name, needed(NEEDS, (READ, *calls))))


def _rights(name: str, wanted: frozenset[str]) -> Asking[Rights]:
    somebody = answered((yield Send("GET", "/whoAmI/api/json")))
    anonymous = somebody.flag("anonymous") or not somebody.flag("authenticated")
    missing = ["a login that Jenkins knows"] if anonymous else []
    reply = yield replace(_get(job(name), "name"), takes=lambda reply: reply.status in _NOT_SEEN)
    missing += NEEDS[READ] if reply.status in _NOT_SEEN else ()
    return Rights(somebody.text("name"), tuple(missing), tuple(sorted(wanted - NEEDS[READ])))


def look(call: Call, outcomes: Mapping[str, Outcome]) -> Looking:
    """How the build that `call` is about stands, and those after it."""
    return conversation(_look(call, outcomes))


def job(name: str) -> str:
    """Where everything of the job `Folder/Name` stands."""
    return "".join(f"/job/{part}" for part in segments(name, "repository"))


def _build(call: Call) -> str:
    return f"{job(call.repository)}/{number(call.pipeline_id, 'pipeline_id')}"


def _rebuild(call: Call) -> Asking[Result]:
    """As it was, where it is a Pipeline; else built anew with the same parameters.

    https://github.com/jenkinsci/workflow-cps-plugin/blob/master/plugin/src/main/java/org/jenkinsci/plugins/workflow/cps/replay/ReplayAction.java
    """
    reply = yield from _post(f"{_build(call)}/replay/rebuild", takes=_FOUND | {_NOT_FOUND})
    if reply.status == _NOT_FOUND:
        return (yield from _build_again(call))
    return _sent_on(reply, job(call.repository))


def _build_again(call: Call) -> Asking[Result]:
    # https://github.com/jenkinsci/jenkins/blob/master/core/src/main/java/jenkins/model/ParameterizedJobMixIn.java
    build = answered((yield _get(_build(call), "actions[parameters[name,value]]")))
    given = [one for action in build.each("actions") for one in action.each("parameters")]
    if not all("value" in one for one in given):
        return Refused(Refusal.IMPOSSIBLE, "a parameter does not show its value")
    form = urlencode([(one.text("name") or "", _value(one)) for one in given]).encode()
    path = f"{job(call.repository)}/{'buildWithParameters' if given else 'build'}"
    reply = yield from _post(path, form, takes=_FOUND)
    location = _path(reply.headers.get("location", "")).rstrip("/")
    if "/queue/item/" in location:
        return Done(reference=location.rpartition("/")[2])
    return Refused(Refusal.STATE, f"{words(reply)}: its queue did not take it")


def _value(parameter: Fields) -> str:
    """As a form holds it."""
    try:
        return str(bool(parameter.flag("value"))).lower() if parameter.flag("value") is not None else ""
    except MalformedPayload:
        return parameter.text("value", None) or ""


def _stop(call: Cancel) -> Asking[Result]:
    # https://www.jenkins.io/doc/book/using/aborting-a-build/: asynchronous; a build that has ended is left as it is
    verb = "term" if call.force else "stop"
    return _sent_on((yield from _post(f"{_build(call)}/{verb}", takes=_FOUND)), job(call.repository))


def _wipe(call: ClearCaches) -> Asking[Result]:
    # https://github.com/jenkinsci/jenkins/blob/master/core/src/main/java/hudson/model/AbstractProject.java; no Pipeline
    path = job(call.repository)
    return _sent_on((yield from _post(f"{path}/doWipeOutWorkspace", takes=_FOUND)), path)


def _sent_on(reply: Reply, to: str) -> Result:
    """Done, if the answer leads back to the job; an answer that leads to the login page is how Jenkins says 401.

    Raises:
        MalformedPayload: it leads nowhere.
    """
    location = reply.headers.get("location", "")
    path = _path(location)
    if reply.status not in _FOUND or not location:
        raise MalformedPayload("an answer that is no redirect: not of Jenkins")
    if f"{to}/" in f"{path}/" or location.startswith("."):
        return Done()
    if path.rstrip("/").endswith("/login") or "/securityRealm/" in path:
        return Refused(Refusal.LOGIN, f"{words(reply)}: sent to the login page")
    return Refused(Refusal.MOVED, words(reply))


def _path(location: str) -> str:
    try:
        return urlsplit(location).path
    except ValueError:
        return ""


def _post(path: str, body: bytes = b"", *, takes: frozenset[int]) -> Asking[Reply]:
    """What a POST is answered; with a crumb, and the cookie of its session, where Jenkins wants one.

    https://www.jenkins.io/doc/book/security/csrf-protection/: who comes with an API token needs none.
    """
    headers = _FORM if body else {}

    def wanted(reply: Reply) -> bool:
        return reply.status in takes or _wants_crumb(reply)

    reply = yield Send("POST", path, headers, body, changes=True, takes=wanted)
    if not _wants_crumb(reply):
        return reply
    said = yield Send("GET", "/crumbIssuer/api/json")
    extra = {**headers, **_crumb(said)}
    return (yield Send("POST", path, extra, body, changes=True, takes=lambda reply: reply.status in takes))


def _wants_crumb(reply: Reply) -> bool:
    return reply.status == _FORBIDDEN and _NO_CRUMB in reply.body


def _crumb(reply: Reply) -> dict[str, str]:
    """The headers that a crumb makes.

    Raises:
        MalformedPayload: it is none, or one that cannot stand in a header.
    """
    said = answered(reply)
    name, crumb = said.identity("crumbRequestField"), said.identity("crumb")
    cookie = reply.headers.get("set-cookie", "").partition(";")[0]
    if not all(text.isascii() and text.isprintable() and " " not in text for text in (name, crumb, cookie)):
        raise MalformedPayload("crumb: it cannot stand in a header")
    return {name.lower(): crumb, **({"cookie": cookie} if cookie else {})}


def _get(path: str, tree: str) -> Send:
    return Send("GET", f"{path}/api/json?tree={quote(tree, safe=',')}")


def _look(call: Call, outcomes: Mapping[str, Outcome]) -> Asking[RunState]:
    tree = f"inQueue,queueItem[id],builds[{_BUILD}]{{0,{_MOST_BUILDS}}}"
    of_job = answered((yield _get(job(call.repository), tree)))
    ours = answered((yield _get(_build(call), _BUILD)))
    sha, branch = _revision(ours)
    builds = [build for build in of_job.each("builds") if _number(build) > int(call.pipeline_id)]
    again = [build for build in builds if _repeats(build, call.pipeline_id) or _revision(build)[0] == sha is not None]
    same_branch = [build for build in builds if _revision(build)[0] and _revision(build)[1] == branch]
    newest = max(again, key=_number, default=ours)
    queued = of_job.flag("inQueue") and not again
    successor = None if newest is ours else str(_number(newest))
    if queued:
        successor = f"queue {of_job.inner('queueItem').maybe_identity('id') or ''}".strip()
    return RunState(
        outcome=Outcome.QUEUED if queued else _outcome(newest, outcomes),
        attempt=1 + len(again) + bool(queued),
        successor=successor,
        by=_user(newest),
        commit_sha=sha,
        head_sha=_revision(max(same_branch, key=_number, default=ours))[0],
    )


def _outcome(build: Fields, outcomes: Mapping[str, Outcome]) -> Outcome:
    if build.flag("building"):
        return Outcome.RUNNING
    return outcomes.get(build.text("result") or "", Outcome.UNKNOWN)


def _revision(build: Fields) -> tuple[str | None, str | None]:
    """Commit and branch that were built; not known before the checkout."""
    for action in build.each("actions"):
        revision = action.inner("lastBuiltRevision")
        if revision:
            branches = revision.each("branch")
            return revision.text("SHA1"), branches[0].text("name") if branches else None
    return None, None


def _causes(build: Fields) -> list[Fields]:
    return [cause for action in build.each("actions") for cause in action.each("causes")]


def _user(build: Fields) -> str | None:
    """Who set a build off."""
    return next((cause.text("userId") for cause in _causes(build) if cause.text("userId")), None)


def _repeats(build: Fields, number_: str) -> bool:
    """Whether a build says that it repeats build `number_`: "Replayed #41", "Rebuilds build #41"."""
    causes = [cause for cause in _causes(build) if (cause.text("_class") or "").endswith(_AGAIN)]
    return any(f"#{number_}" in (cause.text("shortDescription") or "").split() for cause in causes)


def _number(build: Fields) -> int:
    return int(number(build.identity("number"), "number"))
