"""GitLab's API, as far as it is asked here: https://docs.gitlab.com/api/rest/."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from benchmarks.world.records import Attempt, Ending, JobRun, Repository, Run
from benchmarks.world.site import Question, Route, Site, page, said
from benchmarks.world.web import Answer

BASE: Final = "https://gitlab.example.com"
_PAGED: Final = frozenset({"per_page", "page"})
_PROJECT: Final = "/projects/{project}"
_WORDS: Final = {
    Ending.PASSED: "success",
    Ending.FAILED: "failed",
    Ending.TIMED_OUT: "failed",
    Ending.CANCELLED: "canceled",
    Ending.SKIPPED: "skipped",
}
_FAILING: Final = (Ending.FAILED, Ending.TIMED_OUT)


def refused(status: int, message: str) -> Answer:
    """How GitLab says no."""
    return said(status, {"message": f"{status} {message}"})


def _missing() -> Answer:
    return refused(404, "Not found")


def _of(site: Site, asked: Question) -> Repository | None:
    return site.repository("gitlab", asked.named["project"])


def _executed(site: Site, run: Run, at: float) -> list[tuple[Attempt, JobRun]]:
    """Every execution of every job of a pipeline, the newest last."""
    return [(attempt, job) for attempt in site.attempts(run, at) for job in attempt.jobs]


def _newest(site: Site, run: Run, at: float) -> dict[str, JobRun]:
    return {job.job.name: job for _, job in _executed(site, run, at)}


def _job_status(job: JobRun, at: float) -> str:
    if job.ended(at):
        return _WORDS[job.ending or Ending.FAILED]
    if job.began(at):
        return "running"
    return "pending" if job.queued_at <= at else "created"


def _pipeline_status(site: Site, run: Run, at: float) -> str:
    jobs = _newest(site, run, at).values()
    statuses = {_job_status(job, at) for job in jobs}
    waiting = statuses & {"pending", "created"}
    if "running" in statuses or (waiting and statuses - waiting - {"skipped"}):
        return "running"
    if waiting:
        return "pending"
    return next((status for status in ("failed", "canceled", "success") if status in statuses), "skipped")


def _changed_at(site: Site, run: Run, at: float) -> float:
    """When something last changed of a pipeline."""
    moments = [attempt.queued_at for attempt in site.attempts(run, at)]
    for _, job in _executed(site, run, at):
        moments += [job.queued_at, job.started_at, *([job.finished_at] if job.finished_at is not None else [])]
    return max(moment for moment in moments if moment <= at)


def _pipeline(site: Site, run: Run, at: float) -> dict[str, Any]:
    attempts = site.attempts(run, at)
    actor, clock, status = attempts[-1].actor, site.clock, _pipeline_status(site, run, at)
    changed = _changed_at(site, run, at)
    ended = status in set(_WORDS.values())
    return {
        "name": run.workflow.name,
        "tag": False,
        "created_at": clock.iso_ms(run.commit.at),
        "updated_at": clock.iso_ms(changed),
        "finished_at": clock.iso_ms(changed) if ended else None,
        "duration": max(round(clock.length(changed - attempts[-1].started_at)), 1) if ended else None,
        "queued_duration": round(clock.length(attempts[-1].started_at - attempts[-1].queued_at), 3),
        "id": run.id,
        "iid": run.number,
        "project_id": run.repository.number,
        "sha": run.commit.sha,
        "ref": run.commit.branch,
        "status": status,
        "source": "merge_request_event" if run.commit.trigger == "pull_request" else "push",
        "user": {"id": actor.number, "username": actor.login, "name": actor.name},
        "web_url": f"{BASE}/{run.repository.full_name}/-/pipelines/{run.id}",
    }


def _job(site: Site, attempt: Attempt, job: JobRun, at: float) -> dict[str, Any]:
    run, clock = attempt.run, site.clock
    status = _job_status(job, at)
    began, ended = job.began(at), job.ended(at) and job.finished_at is not None
    finished = job.finished_at if ended and job.finished_at is not None else at
    return {
        "id": job.number,
        "tag": False,
        "allow_failure": False,
        "started_at": clock.iso_ms(job.started_at) if began else None,
        "finished_at": clock.iso_ms(finished) if ended else None,
        "duration": round(clock.length(finished - job.started_at), 3) if began else None,
        "queued_duration": round(clock.length(job.started_at - job.queued_at), 3) if began else None,
        "runner": {"id": 40_000, "description": "shared-runners-manager.example.com"} if began else None,
        "tag_list": list(job.job.labels),
        "name": job.job.name,
        "stage": job.job.stage,
        "status": status,
        "ref": run.commit.branch,
        "commit": {"id": run.commit.sha, "author_name": run.commit.author.name},
        "pipeline": {"id": run.id, "ref": run.commit.branch, "sha": run.commit.sha},
        "failure_reason": (job.trouble.gitlab if job.trouble else "script_failure") if status == "failed" else None,
        "user": {"id": attempt.actor.number, "username": attempt.actor.login, "name": attempt.actor.name},
        "web_url": f"{BASE}/{run.repository.full_name}/-/jobs/{job.number}",
        "created_at": site.clock.iso_ms(job.queued_at),
    }


def _on_pipeline(then: Callable[[Site, Question, Run], Answer]) -> Callable[[Site, Question], Answer]:
    """A handler of what is asked of a pipeline."""

    def handle(site: Site, asked: Question) -> Answer:
        attempt = site.run(_of(site, asked), asked.named["pipeline_id"], asked.at)
        return _missing() if attempt is None else then(site, asked, attempt.run)

    return handle


def _on_job(then: Callable[[Site, Question, Attempt, JobRun], Answer]) -> Callable[[Site, Question], Answer]:
    """A handler of what is asked of a job."""

    def handle(site: Site, asked: Question) -> Answer:
        found = site.job(_of(site, asked), asked.named["job_id"], asked.at)
        return _missing() if found is None else then(site, asked, *found)

    return handle


def _get_project(site: Site, asked: Question) -> Answer:
    repository = _of(site, asked)
    if repository is None:
        return _missing()
    member = {"project_access": {"access_level": 30}, "group_access": None}
    named = {"id": repository.number, "path_with_namespace": repository.full_name, "permissions": member}
    page = f"{BASE}/{repository.full_name}"
    return said(200, {**named, "web_url": page, "default_branch": repository.default_branch})


def _deployments(site: Site, asked: Question) -> Answer:
    repository = _of(site, asked)
    if repository is None:
        return _missing()
    runs = site.runs(repository, asked.at)
    jobs = [job for run in runs for _, job in _executed(site, run, asked.at) if job.job.environment is not None]
    shown = [
        {"id": job.number, "environment": {"name": job.job.environment}, "deployable": {"id": job.number}}
        for job in jobs
        if job.began(asked.at)
    ]
    return said(200, page(shown, asked.query, usual=20))


def _get_hook(site: Site, asked: Question) -> Answer:
    if _of(site, asked) is None:
        return _missing()
    hook = {"id": int(asked.named["hook_id"]), "pipeline_events": True, "job_events": True}
    return said(200, {**hook, "alert_status": "executable", "disabled_until": None})


def _get_token(_site: Site, _asked: Question) -> Answer:
    return said(200, {"id": 1, "name": "pipeline-guard", "scopes": ["api"], "active": True, "revoked": False})


def _get_pipeline(site: Site, asked: Question, run: Run) -> Answer:
    return said(200, _pipeline(site, run, asked.at))


def _list_pipelines(site: Site, asked: Question) -> Answer:
    repository = _of(site, asked)
    if repository is None:
        return _missing()
    after = asked.query.get("updated_after", "")
    runs = [run for run in site.runs(repository, asked.at) if asked.query.get("ref") in (None, run.commit.branch)]
    if after:
        runs = [run for run in runs if site.clock.iso(_changed_at(site, run, asked.at)) >= after]
    return said(200, [_pipeline(site, run, asked.at) for run in page(runs, asked.query, usual=20)])


def _list_jobs(site: Site, asked: Question, run: Run) -> Answer:
    executed = _executed(site, run, asked.at)
    if asked.query.get("include_retried") != "true":
        newest = _newest(site, run, asked.at)
        executed = [(attempt, job) for attempt, job in executed if newest[job.job.name] is job]
    jobs = [_job(site, attempt, job, asked.at) for attempt, job in reversed(executed)]
    return said(200, page(jobs, asked.query, usual=20))


def _get_job(site: Site, asked: Question, attempt: Attempt, job: JobRun) -> Answer:
    return said(200, _job(site, attempt, job, asked.at))


def _retry_job(site: Site, asked: Question, attempt: Attempt, job: JobRun) -> Answer:
    newest = _newest(site, attempt.run, asked.at)[job.job.name]
    if newest is not job or not job.ended(asked.at) or job.ending is Ending.SKIPPED:
        return refused(403, "Forbidden  - Job is not retryable")
    latest = site.attempts(attempt.run, asked.at)[-1]
    new = site.rerun(latest, str(job.number), asked.at)
    again = next(one for one in new.jobs if one.job.name == job.job.name)
    return said(201, _job(site, new, again, asked.at))


def _retry_pipeline(site: Site, asked: Question, run: Run) -> Answer:
    newest = _newest(site, run, asked.at)
    for job in [job for job in newest.values() if job.ended(asked.at) and job.ending in _FAILING]:
        site.rerun(site.attempts(run, asked.at)[-1], str(job.number), asked.at)
    return said(201, _pipeline(site, run, asked.at))


def _cancel_job(site: Site, asked: Question, attempt: Attempt, job: JobRun) -> Answer:
    if not job.ended(asked.at):
        site.cancel(attempt, asked.at, job)
        return said(201, {**_job(site, attempt, job, asked.at), "status": "canceled"})
    return said(201, _job(site, attempt, job, asked.at))


def _cancel_pipeline(site: Site, asked: Question, run: Run) -> Answer:
    going_on = False
    for attempt in site.attempts(run, asked.at):
        if any(not job.ended(asked.at) for job in attempt.jobs):
            site.cancel(attempt, asked.at)
            going_on = True
    shown = _pipeline(site, run, asked.at)
    return said(200, {**shown, "status": "canceled"} if going_on else shown)


def _graphql(site: Site, asked: Question) -> Answer:
    number = str(asked.body.get("variables", {}).get("p", "")).removeprefix("gid://gitlab/Project/")
    known = any(str(one.number) == number for one in site.world.runs if one.platform == "gitlab")
    if "runnerCacheClear" not in asked.body["query"]:
        return said(200, {"errors": [{"message": "Field does not exist"}]})
    if not known:
        return said(200, {"data": {"runnerCacheClear": None}, "errors": [{"message": "The resource is not available"}]})
    site.notes.setdefault(("gitlab", number, "caches"), []).append({"cleared": asked.at})
    return said(200, {"data": {"runnerCacheClear": {"errors": []}}})


def _notes(kind: str, key: str) -> tuple[Callable[[Site, Question], Answer], Callable[[Site, Question], Answer]]:
    """Handlers that list, and that add, what people write below something."""

    def below(site: Site, asked: Question) -> list[dict[str, Any]] | None:
        repository = _of(site, asked)
        what = asked.named.get(key, "")
        return None if repository is None else site.notes.setdefault(("gitlab", repository.full_name, kind, what), [])

    def listed(site: Site, asked: Question) -> Answer:
        notes = below(site, asked)
        if notes is None:
            return _missing()
        wanted = asked.query.get("search", "")
        return said(200, page([note for note in notes if wanted in str(note)], asked.query, usual=20))

    def add(site: Site, asked: Question) -> Answer:
        notes = below(site, asked)
        if notes is None:
            return _missing()
        number = len(notes) + 1
        note = {
            **asked.body,
            "id": 10**6 + number,
            "iid": number,
            "state": "opened",
            "web_url": f"{BASE}/{kind}/{number}",
        }
        notes.append(note)
        return said(201, note)

    return listed, add


def _change_issue(site: Site, asked: Question) -> Answer:
    repository = _of(site, asked)
    issues = [] if repository is None else site.notes.get(("gitlab", repository.full_name, "issues", ""), [])
    found = next((issue for issue in issues if str(issue["iid"]) == asked.named["issue_number"]), None)
    if found is None:
        return _missing()
    found.update(asked.body)
    return said(200, found)


_list_notes, _add_note = _notes("notes", "request_number")
_list_comments, _add_comment = _notes("comments", "sha")
_list_issues, _add_issue = _notes("issues", "")
_ISSUE: Final = {"title": str, "description": str, "labels": str}

ROUTES: Final = (
    Route("GET", "/personal_access_tokens/self", _get_token),
    Route("GET", _PROJECT, _get_project),
    Route("GET", f"{_PROJECT}/pipelines", _list_pipelines, _PAGED | {"ref", "updated_after", "order_by"}),
    Route("GET", f"{_PROJECT}/hooks/{{hook_id}}", _get_hook),
    Route("GET", f"{_PROJECT}/deployments", _deployments, _PAGED | {"updated_after", "order_by"}),
    Route("GET", f"{_PROJECT}/pipelines/{{pipeline_id}}", _on_pipeline(_get_pipeline)),
    Route("GET", f"{_PROJECT}/pipelines/{{pipeline_id}}/jobs", _on_pipeline(_list_jobs), _PAGED | {"include_retried"}),
    Route("POST", f"{_PROJECT}/pipelines/{{pipeline_id}}/retry", _on_pipeline(_retry_pipeline)),
    Route("POST", f"{_PROJECT}/pipelines/{{pipeline_id}}/cancel", _on_pipeline(_cancel_pipeline)),
    Route("GET", f"{_PROJECT}/jobs/{{job_id}}", _on_job(_get_job)),
    Route("POST", f"{_PROJECT}/jobs/{{job_id}}/retry", _on_job(_retry_job)),
    Route("POST", f"{_PROJECT}/jobs/{{job_id}}/cancel", _on_job(_cancel_job), frozenset({"force"})),
    Route("GET", f"{_PROJECT}/merge_requests/{{request_number}}/notes", _list_notes, _PAGED),
    Route("POST", f"{_PROJECT}/merge_requests/{{request_number}}/notes", _add_note, body={"body": str}),
    Route("GET", f"{_PROJECT}/repository/commits/{{sha}}/comments", _list_comments, _PAGED),
    Route("POST", f"{_PROJECT}/repository/commits/{{sha}}/comments", _add_comment, body={"note": str}),
    Route("GET", f"{_PROJECT}/issues", _list_issues, _PAGED | {"state", "search", "in"}),
    Route("POST", f"{_PROJECT}/issues", _add_issue, body=_ISSUE, needs=frozenset({"title"})),
    Route("PUT", f"{_PROJECT}/issues/{{issue_number}}", _change_issue, body=_ISSUE),
    Route("POST", "/graphql", _graphql, body={"query": str, "variables": dict}, needs=frozenset({"query"})),
)
