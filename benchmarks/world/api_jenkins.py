"""A Jenkins' API, as far as it is asked here: https://www.jenkins.io/doc/book/using/remote-access-api/."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from benchmarks.world.records import Attempt, Ending, Workflow
from benchmarks.world.sim import ALL
from benchmarks.world.site import GUARD, Question, Route, Site, said
from benchmarks.world.web import Answer

CRUMB: Final = "6f1c0a520d8e5f6b"
SESSION: Final = "JSESSIONID.world=node01"
_WORDS: Final = {
    Ending.PASSED: "SUCCESS",
    Ending.FAILED: "FAILURE",
    Ending.TIMED_OUT: "ABORTED",
    Ending.CANCELLED: "ABORTED",
    Ending.SKIPPED: "NOT_BUILT",
}
_JOB: Final = "/job/{owner}/job/{repo}/job/{workflow}"
_BUILD: Final = f"{_JOB}/{{build_number}}"
_TREE: Final = frozenset({"tree"})
_REPLAY: Final = "org.jenkinsci.plugins.workflow.cps.replay.ReplayCause"
_MOST_BUILDS: Final = 50


def refused(status: int, message: str) -> Answer:
    """How Jenkins says no: with a page."""
    page = f"<html><head><title>Error {status} {message}</title></head><body><h2>HTTP ERROR {status}</h2></body></html>"
    return Answer(status, page.encode(), {"content-type": "text/html;charset=utf-8"})


def no_crumb() -> Answer:
    """How it says that a crumb is missing."""
    return refused(403, "No valid crumb was included in the request")


def _attempts(site: Site, asked: Question) -> tuple[Workflow | None, list[Attempt]]:
    """The builds of a job, the oldest first."""
    repository = site.repository("jenkins", f"{asked.named['owner']}/{asked.named['repo']}")
    workflows = repository.workflows if repository is not None else ()
    workflow = next((one for one in workflows if one.name == asked.named["workflow"]), None)
    if repository is None or workflow is None:
        return None, []
    runs = [run for run in site.runs(repository, asked.at) if run.workflow is workflow]
    attempts = [attempt for run in runs for attempt in site.attempts(run, asked.at)]
    return workflow, sorted(attempts, key=lambda attempt: attempt.build)


def _build(site: Site, attempt: Attempt, at: float, before: Attempt | None) -> dict[str, Any]:
    run, clock = attempt.run, site.clock
    commit, ended = run.commit, attempt.ended(at)
    path = f"job/{run.repository.owner}/job/{run.repository.name}/job/{run.workflow.name}"
    lasted = (attempt.finished_at or at) - attempt.started_at
    cause: dict[str, Any] = {"userId": attempt.actor.login, "shortDescription": f"Started by {attempt.actor.name}"}
    causes = [cause]
    if before is not None and attempt.actor is GUARD:
        causes.append({"_class": _REPLAY, "shortDescription": f"Replayed #{before.build}"})
    actions: list[dict[str, Any]] = [{"_class": "hudson.model.CauseAction", "causes": causes}]
    if attempt.started_at <= at:
        branch = [{"SHA1": commit.sha, "name": f"origin/{commit.branch}"}]
        actions.append({"lastBuiltRevision": {"SHA1": commit.sha, "branch": branch}})
    return {
        "_class": "org.jenkinsci.plugins.workflow.job.WorkflowRun",
        "number": attempt.build,
        "url": f"https://jenkins.example.com/{path}/{attempt.build}/",
        "displayName": f"#{attempt.build}",
        "timestamp": clock.milliseconds(attempt.started_at),
        "duration": round(1000 * clock.length(lasted)) if ended else 0,
        "culprits": [{"fullName": commit.author.login}],
        "artifacts": [],
        "building": not ended,
        "result": _WORDS[attempt.ending] if ended and attempt.ending else None,
        "actions": actions,
    }


def _before(attempt: Attempt, attempts: list[Attempt]) -> Attempt | None:
    same = [one for one in attempts if one.run is attempt.run and one.number == attempt.number - 1]
    return same[0] if same else None


def _get_job(site: Site, asked: Question) -> Answer:
    workflow, attempts = _attempts(site, asked)
    if workflow is None:
        return refused(404, "Not Found")
    shown = [_build(site, one, asked.at, _before(one, attempts)) for one in reversed(attempts[-_MOST_BUILDS:])]
    named = {"_class": "WorkflowJob", "name": workflow.name, "displayName": workflow.name}
    return said(200, {**named, "inQueue": False, "queueItem": None, "builds": shown})


def _on_build(then: Callable[[Site, Question, Attempt], Answer]) -> Callable[[Site, Question], Answer]:
    """A handler of what is asked of a build."""

    def handle(site: Site, asked: Question) -> Answer:
        _, attempts = _attempts(site, asked)
        found = next((one for one in attempts if str(one.build) == asked.named["build_number"]), None)
        return refused(404, "Not Found") if found is None else then(site, asked, found)

    return handle


def _get_build(site: Site, asked: Question, attempt: Attempt) -> Answer:
    attempts = site.attempts(attempt.run, asked.at)
    return said(200, _build(site, attempt, asked.at, _before(attempt, attempts)))


def _back(asked: Question) -> Answer:
    path = _JOB.format(**asked.named)
    return Answer(302, b"", {"location": f"https://jenkins.example.com{path}/"})


def _rebuild(site: Site, asked: Question, attempt: Attempt) -> Answer:
    latest = site.attempts(attempt.run, asked.at)[-1]
    if not latest.ended(asked.at):  # of this world: a Pipeline may forbid concurrent builds
        return refused(409, f"{asked.named['workflow']} is not buildable")
    site.rerun(latest, ALL, asked.at)
    return _back(asked)


def _stop(site: Site, asked: Question, attempt: Attempt) -> Answer:
    if not attempt.ended(asked.at):
        site.cancel(attempt, asked.at)
    return _back(asked)


def _crumb(_site: Site, _asked: Question) -> Answer:
    body = {"_class": "hudson.security.csrf.DefaultCrumbIssuer", "crumb": CRUMB, "crumbRequestField": "Jenkins-Crumb"}
    return said(200, body, set_cookie=f"{SESSION}; Path=/; HttpOnly")


def _who_am_i(_site: Site, _asked: Question) -> Answer:
    return said(200, {"anonymous": False, "authenticated": True, "name": GUARD.login, "authorities": ["authenticated"]})


ROUTES: Final = (
    Route("GET", "/whoAmI/api/json", _who_am_i),
    Route("GET", f"{_JOB}/api/json", _get_job, _TREE),
    Route("GET", f"{_BUILD}/api/json", _on_build(_get_build), _TREE),
    Route("POST", f"{_BUILD}/replay/rebuild", _on_build(_rebuild)),
    Route("POST", f"{_BUILD}/stop", _on_build(_stop)),
    Route("POST", f"{_BUILD}/term", _on_build(_stop)),
    Route("GET", "/crumbIssuer/api/json", _crumb),
)
