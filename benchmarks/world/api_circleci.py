"""CircleCI's API v2, as far as it is asked here: https://circleci.com/docs/api/v2/."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from benchmarks.world.records import Attempt, Ending, JobRun, Run
from benchmarks.world.sim import ALL, FAILED
from benchmarks.world.site import GUARD, Question, Route, Site, said
from benchmarks.world.web import Answer

_WORDS: Final = {
    Ending.PASSED: "success",
    Ending.FAILED: "failed",
    Ending.TIMED_OUT: "failed",
    Ending.CANCELLED: "canceled",
    Ending.SKIPPED: "not_run",
}
_API: Final = "/api/v2"
_TOKEN: Final = frozenset({"page-token"})
_PAGE: Final = 20


def refused(status: int, message: str) -> Answer:
    """How CircleCI says no."""
    return said(status, {"message": message})


def _status(attempt: Attempt, at: float) -> str:
    if attempt.ended(at) and attempt.ending is not None:
        return _WORDS[attempt.ending]
    failed = any(job.ended(at) and job.ending is Ending.FAILED for job in attempt.jobs)
    return "failing" if failed else "running"


def _job_number(job: JobRun) -> int:
    return job.number % 10**7


def _workflow(attempt: Attempt, site: Site, at: float) -> dict[str, Any]:
    return {
        "id": attempt.uid,
        "pipeline_id": attempt.run.uid,
        "pipeline_number": attempt.run.number,
        "project_slug": f"gh/{attempt.run.repository.full_name}",
        "name": attempt.run.workflow.name,
        "status": _status(attempt, at),
        "started_by": attempt.actor.login,
        "stopped_at": _moment(site, attempt.finished_at if attempt.ended(at) else None),
        "created_at": site.clock.iso_ms(attempt.queued_at),
    }


def _moment(site: Site, at: float | None) -> str | None:
    return None if at is None else site.clock.iso_ms(at)


def _pipeline(run: Run, site: Site) -> dict[str, Any]:
    page = f"https://github.com/{run.repository.full_name}"
    return {
        "id": run.uid,
        "number": run.number,
        "project_slug": f"gh/{run.repository.full_name}",
        "state": "created",
        "created_at": site.clock.iso_ms(run.commit.at),
        "trigger": {"type": "webhook", "actor": {"login": run.commit.author.login}},
        "vcs": {
            "provider_name": "GitHub",
            "origin_repository_url": page,
            "target_repository_url": page,
            "revision": run.commit.sha,
            "branch": run.commit.branch,
            "commit": {"subject": run.commit.message, "body": ""},
        },
    }


def _items(items: list[dict[str, Any]]) -> Answer:
    return said(200, {"items": items, "next_page_token": None})


def _on_workflow(then: Callable[[Site, Question, Attempt], Answer]) -> Callable[[Site, Question], Answer]:
    """A handler of what is asked of a workflow."""

    def handle(site: Site, asked: Question) -> Answer:
        attempt = site.world.current.get(asked.named["workflow"])
        known = attempt is not None and attempt.queued_at <= asked.at
        if attempt is None or not known or attempt.run.repository.platform != "circleci":
            return refused(404, "Workflow not found.")
        return then(site, asked, attempt)

    return handle


def _get_workflow(site: Site, asked: Question, attempt: Attempt) -> Answer:
    return said(200, _workflow(attempt, site, asked.at))


def _list_jobs(site: Site, asked: Question, attempt: Attempt) -> Answer:
    def shown(job: JobRun) -> dict[str, Any]:
        status = _WORDS[job.ending or Ending.FAILED] if job.ended(asked.at) else "running"
        status = status if job.ended(asked.at) or job.began(asked.at) else "blocked"
        if job.ended(asked.at) and job.ending is Ending.TIMED_OUT:
            status = "timedout"  # of which the webhook says no more than that it failed
        number = {} if job.ending is Ending.SKIPPED else {"job_number": _job_number(job)}
        times = {
            "started_at": _moment(site, job.started_at if job.began(asked.at) else None),
            "stopped_at": _moment(site, job.finished_at if job.ended(asked.at) else None),
        }
        return {"id": job.uid, "name": job.job.name, "type": "build", "status": status, **times, **number}

    return _items([shown(job) for job in attempt.jobs])


def _rerun(site: Site, asked: Question, attempt: Attempt) -> Answer:
    body = asked.body
    if "jobs" in body and "from_failed" in body:
        return refused(400, "Only one of jobs and from_failed may be given.")
    latest = site.attempts(attempt.run, asked.at)[-1]
    if latest is not attempt or not attempt.ended(asked.at):
        return refused(400, "The workflow is not rerunnable.")
    what = FAILED if body.get("from_failed") else ALL
    if "jobs" in body:
        job = next((one for one in attempt.jobs if one.uid in body["jobs"]), None)
        if job is None:
            return refused(404, "Job not found.")
        what = str(job.number)
    return said(202, {"workflow_id": site.rerun(attempt, what, asked.at).uid})


def _cancel(site: Site, asked: Question, attempt: Attempt) -> Answer:
    if attempt.ended(asked.at):
        return refused(400, "The workflow cannot be canceled.")
    site.cancel(attempt, asked.at)
    return said(202, {"message": "Accepted."})


def _cancel_job(site: Site, asked: Question) -> Answer:
    repository = site.repository("circleci", f"{asked.named['org']}/{asked.named['repo']}")
    for run in site.runs(repository, asked.at) if repository is not None else ():
        for attempt in site.attempts(run, asked.at):
            for job in attempt.jobs:
                if str(_job_number(job)) == asked.named["job_number"]:
                    if not job.ended(asked.at):
                        site.cancel(attempt, asked.at, job)
                    return said(200, {"message": "Job successfully canceled."})
    return refused(404, "Job not found.")


def _get_pipeline(site: Site, asked: Question) -> Answer:
    run = site.pipeline(asked.named["pipeline"], asked.at)
    return refused(404, "Pipeline not found.") if run is None else said(200, _pipeline(run, site))


def _list_workflows(site: Site, asked: Question) -> Answer:
    run = site.pipeline(asked.named["pipeline"], asked.at)
    if run is None:
        return refused(404, "Pipeline not found.")
    return _items([_workflow(attempt, site, asked.at) for attempt in reversed(site.attempts(run, asked.at))])


def _list_pipelines(site: Site, asked: Question) -> Answer:
    repository = site.repository("circleci", f"{asked.named['org']}/{asked.named['repo']}")
    if repository is None:
        return refused(404, "Project not found.")
    branch = asked.query.get("branch")
    runs = [run for run in site.runs(repository, asked.at) if branch in (None, run.commit.branch)]
    start = int(asked.query.get("page-token", "0").removeprefix("page-"))
    more = f"page-{start + _PAGE}" if len(runs) > start + _PAGE else None
    shown = [_pipeline(run, site) for run in runs[start : start + _PAGE]]
    return said(200, {"items": shown, "next_page_token": more})


def _me(_site: Site, _asked: Question) -> Answer:
    return said(200, {"id": "6f1c0a52-0d8e-4f6b-9d52-4f8b8f9a7c11", "login": GUARD.login, "name": GUARD.name})


def _get_project(site: Site, asked: Question) -> Answer:
    repository = site.repository("circleci", f"{asked.named['org']}/{asked.named['repo']}")
    if repository is None:
        return refused(404, "Project not found.")
    return said(200, {"id": repository.uid, "slug": f"gh/{repository.full_name}", "name": repository.name})


_RERUN: Final = {"jobs": list, "from_failed": bool, "sparse_tree": bool, "enable_ssh": bool}
ROUTES: Final = (
    Route("GET", f"{_API}/me", _me),
    Route("GET", f"{_API}/project/gh/{{org}}/{{repo}}", _get_project),
    Route("GET", f"{_API}/workflow/{{workflow}}", _on_workflow(_get_workflow)),
    Route("GET", f"{_API}/workflow/{{workflow}}/job", _on_workflow(_list_jobs), _TOKEN),
    Route("POST", f"{_API}/workflow/{{workflow}}/rerun", _on_workflow(_rerun), body=_RERUN),
    Route("POST", f"{_API}/workflow/{{workflow}}/cancel", _on_workflow(_cancel)),
    Route("POST", f"{_API}/project/gh/{{org}}/{{repo}}/job/{{job_number}}/cancel", _cancel_job),
    Route("GET", f"{_API}/project/gh/{{org}}/{{repo}}/pipeline", _list_pipelines, _TOKEN | {"branch"}),
    Route("GET", f"{_API}/pipeline/{{pipeline}}", _get_pipeline),
    Route("GET", f"{_API}/pipeline/{{pipeline}}/workflow", _list_workflows, _TOKEN),
)
