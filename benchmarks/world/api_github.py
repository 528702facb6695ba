"""GitHub's API, as far as it is asked here: https://docs.github.com/en/rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from benchmarks.world import render_github
from benchmarks.world.post import Posted
from benchmarks.world.records import Attempt, Ending, JobRun, Repository, Run
from benchmarks.world.sim import ALL, FAILED
from benchmarks.world.site import Question, Route, Site, page, said
from benchmarks.world.web import Answer

MOST_ATTEMPTS: Final = 51  # a run, and 50 reruns of it
_PAGED: Final = frozenset({"per_page", "page"})
_RERUN: Final = {"enable_debug_logging": bool}
_REPOSITORY: Final = "/repos/{owner}/{repo}"
_ACTIONS: Final = f"{_REPOSITORY}/actions"


def refused(status: int, message: str) -> Answer:
    """How GitHub says no."""
    return said(
        status, {"message": message, "documentation_url": "https://docs.github.com/rest", "status": str(status)}
    )


def _missing() -> Answer:
    return refused(404, "Not Found")


def _of(site: Site, asked: Question) -> Repository | None:
    return site.repository("github", f"{asked.named['owner']}/{asked.named['repo']}")


def _status(attempt: Attempt, at: float) -> tuple[str, float]:
    """How an attempt stands, and since when."""
    if attempt.finished_at is not None and attempt.ended(at):
        return "completed", attempt.finished_at
    return ("in_progress", attempt.started_at) if attempt.started_at <= at else ("queued", attempt.queued_at)


def _run(attempt: Attempt, site: Site, at: float) -> dict[str, Any]:
    return render_github.workflow_run(attempt, *_status(attempt, at), site.clock)


def _job(attempt: Attempt, job: JobRun, site: Site, at: float) -> dict[str, Any]:
    status = "completed" if job.ended(at) else "in_progress" if job.began(at) else "queued"
    return render_github.workflow_job(attempt, job, status, site.clock)


def _on_run(then: Callable[[Site, Question, Attempt], Answer]) -> Callable[[Site, Question], Answer]:
    """A handler of what is asked of a run."""

    def handle(site: Site, asked: Question) -> Answer:
        attempt = site.run(_of(site, asked), asked.named["run_id"], asked.at)
        return _missing() if attempt is None else then(site, asked, attempt)

    return handle


def _get_run(site: Site, asked: Question, attempt: Attempt) -> Answer:
    return said(200, _run(attempt, site, asked.at))


def _list_runs(site: Site, asked: Question) -> Answer:
    repository = _of(site, asked)
    if repository is None:
        return _missing()
    query = asked.query
    runs = site.runs(repository, asked.at)
    if "branch" in query:
        runs = [run for run in runs if run.commit.branch == query["branch"]]
    if query.get("created", "").startswith(">="):
        runs = [run for run in runs if site.clock.iso(run.commit.at) >= query["created"][2:]]
    shown = [_run(site.attempts(run, asked.at)[-1], site, asked.at) for run in page(runs, query)]
    return said(200, {"total_count": len(runs), "workflow_runs": shown})


def _get_repository(site: Site, asked: Question) -> Answer:
    repository = _of(site, asked)
    if repository is None:
        return _missing()
    api = f"https://api.github.com/repos/{repository.full_name}"
    named = {"id": repository.number, "name": repository.name, "full_name": repository.full_name, "url": api}
    return said(200, {**named, "default_branch": repository.default_branch})


def _get_attempt(site: Site, asked: Question, attempt: Attempt) -> Answer:
    number = asked.named["attempt_number"]
    found = next((one for one in site.attempts(attempt.run, asked.at) if str(one.number) == number), None)
    return _missing() if found is None else said(200, _run(found, site, asked.at))


def _list_jobs(site: Site, asked: Question, attempt: Attempt) -> Answer:
    number = int(asked.named.get("attempt_number", attempt.number))
    whole = asked.query.get("filter") == "all"
    attempts = [one for one in site.attempts(attempt.run, asked.at) if whole or one.number == number]
    if not attempts:
        return _missing()
    jobs = [_job(one, job, site, asked.at) for one in attempts for job in one.jobs if job.queued_at <= asked.at]
    return said(200, {"total_count": len(jobs), "jobs": page(jobs, asked.query)})


def _get_job(site: Site, asked: Question) -> Answer:
    found = site.job(_of(site, asked), asked.named["job_id"], asked.at)
    return _missing() if found is None else said(200, _job(*found, site, asked.at))


def _rerun(site: Site, attempt: Attempt, what: str, at: float) -> Answer:
    if not attempt.ended(at):
        return refused(403, "This workflow is already running")
    if what == FAILED and attempt.ending is Ending.PASSED:
        return refused(403, "This workflow run cannot be retried")
    if attempt.number < MOST_ATTEMPTS:  # the one after is no error: it fails without having run
        site.rerun(attempt, what, at)
    return said(201, {})


def _rerun_all(site: Site, asked: Question, attempt: Attempt) -> Answer:
    return _rerun(site, attempt, ALL, asked.at)


def _rerun_failed(site: Site, asked: Question, attempt: Attempt) -> Answer:
    return _rerun(site, attempt, FAILED, asked.at)


def _rerun_job(site: Site, asked: Question) -> Answer:
    repository = _of(site, asked)
    found = site.job(repository, asked.named["job_id"], asked.at)
    if found is None:
        return _missing()
    latest = site.run(repository, str(found[0].run.id), asked.at)
    if latest is None or found[1] not in (*latest.jobs, *latest.kept):
        return refused(403, "This workflow run cannot be retried")
    return _rerun(site, latest, asked.named["job_id"], asked.at)


def _cancel(site: Site, asked: Question, attempt: Attempt) -> Answer:
    if attempt.ended(asked.at):
        return refused(409, "Cannot cancel a workflow run that is completed.")
    site.cancel(attempt, asked.at)
    return said(202, {})


def _caches(site: Site, repository: Repository) -> list[dict[str, Any]]:
    first = [
        {"id": repository.number + i, "ref": "refs/heads/main", "key": f"{name}-{repository.number}", "version": "v1"}
        for i, name in enumerate(("pip", "npm", "go"))
    ]
    return site.notes.setdefault(("github", repository.full_name, "caches"), first)


def _list_caches(site: Site, asked: Question) -> Answer:
    repository = _of(site, asked)
    if repository is None:
        return _missing()
    key, ref = asked.query.get("key", ""), asked.query.get("ref")
    caches = [c for c in _caches(site, repository) if c["key"].startswith(key) and ref in (None, c["ref"])]
    return said(200, {"total_count": len(caches), "actions_caches": page(caches, asked.query)})


def _delete_cache(site: Site, asked: Question) -> Answer:
    repository = _of(site, asked)
    caches = [] if repository is None else _caches(site, repository)
    found = next((cache for cache in caches if str(cache["id"]) == asked.named["cache_id"]), None)
    if found is None:
        return _missing()
    caches.remove(found)
    return Answer(204)


def _notes(kind: str) -> tuple[Callable[[Site, Question], Answer], Callable[[Site, Question], Answer]]:
    """Handlers that list, and that add, what people write below something."""

    def below(site: Site, asked: Question) -> list[dict[str, Any]] | None:
        repository = _of(site, asked)
        what = asked.named.get("sha") or asked.named.get("issue_number", "")
        return None if repository is None else site.notes.setdefault(("github", repository.full_name, kind, what), [])

    def listed(site: Site, asked: Question) -> Answer:
        notes = below(site, asked)
        return _missing() if notes is None else said(200, page(notes, asked.query))

    def add(site: Site, asked: Question) -> Answer:
        notes = below(site, asked)
        if notes is None:
            return _missing()
        number = len(notes) + 1
        page_url = f"https://github.com/{asked.named['owner']}/{asked.named['repo']}/{kind}/{number}"
        note = {**asked.body, "id": 10**6 + number, "number": number, "state": "open", "html_url": page_url}
        notes.append(note)
        return said(201, note)

    return listed, add


def _change_issue(site: Site, asked: Question) -> Answer:
    repository = _of(site, asked)
    issues = [] if repository is None else site.notes.get(("github", repository.full_name, "issues", ""), [])
    found = next((issue for issue in issues if str(issue["number"]) == asked.named["issue_number"]), None)
    if found is None:
        return _missing()
    found.update(asked.body)
    return said(200, found)


def _deployments(site: Site, asked: Question) -> Answer:
    repository = _of(site, asked)
    if repository is None:
        return _missing()
    shown = [
        {"id": job.number, "sha": run.commit.sha, "environment": job.job.environment, "task": "deploy"}
        for run, job in _deploying(site, repository, asked.at)
        if asked.query.get("sha") in (None, run.commit.sha)
    ]
    return said(200, page(shown, asked.query))


def _deploying(site: Site, repository: Repository, at: float) -> list[tuple[Run, JobRun]]:
    attempts = [attempt for run in site.runs(repository, at) for attempt in site.attempts(run, at)]
    jobs = [(attempt.run, job) for attempt in attempts for job in attempt.jobs]
    return [(run, job) for run, job in jobs if job.job.environment is not None and job.began(at)]


def _deployment_statuses(site: Site, asked: Question) -> Answer:
    repository, number = _of(site, asked), int(asked.named["deployment_id"])
    found = [one for one in _deploying(site, repository, asked.at) if one[1].number == number] if repository else []
    if not found or repository is None:
        return _missing()
    run, job = found[0]
    address = f"https://github.com/{repository.full_name}/actions/runs/{run.id}/job/{job.number}"
    return said(200, [{"id": job.number + 1, "state": "in_progress", "log_url": address, "target_url": address}])


def _posted(site: Site, asked: Question) -> list[Posted] | None:
    """What a hook of a repository, or of an owner, has posted; None where there is neither."""
    if "repo" not in asked.named:
        owner = asked.named["owner"]
        return [one for one in site.posted if _repository_of(one).startswith(f"{owner}/") and _is_github(one)]
    repository = _of(site, asked)
    return None if repository is None else [one for one in site.posted if _repository_of(one) == repository.full_name]


def _repository_of(posted: Posted) -> str:
    return str(posted.delivery.says.get("repository"))


def _is_github(posted: Posted) -> bool:
    return "x-github-event" in posted.delivery.headers


def _deliveries(site: Site, asked: Question) -> Answer:
    own = _posted(site, asked)
    if own is None:
        return _missing()
    told = [
        {
            "id": one.number,
            "guid": one.delivery.id,
            "delivered_at": site.clock.iso(site.clock.at(one.at)),
            "redelivery": one.again,
            "duration": 0.1,
            "status": "OK" if one.status in range(200, 300) else "failed to connect",
            "status_code": one.status,
            "event": one.delivery.headers.get("x-github-event", ""),
            "action": None,
            "installation_id": None,
            "repository_id": None,
        }
        for one in reversed(own)
    ]
    start, size = int(asked.query.get("cursor", "0").removeprefix("v1_")), int(asked.query.get("per_page", 30))
    more = (
        f'<https://api.github.com/deliveries?cursor=v1_{start + size}>; rel="next"' if len(told) > start + size else ""
    )
    return said(200, told[start : start + size], **({"link": more} if more else {}))


def _get_hook(site: Site, asked: Question) -> Answer:
    own = _posted(site, asked)
    if own is None:
        return _missing()
    code = own[-1].status if own else None
    well = code is None or code in range(200, 300)
    last = {"code": code, "status": "active" if well else "connection_error", "message": None if well else "No answer"}
    return said(200, {"id": int(asked.named["hook_id"]), "active": True, "events": ["*"], "last_response": last})


def _redeliver(site: Site, asked: Question) -> Answer:
    found = next((one for one in site.posted if one.number == int(asked.named["delivery_id"])), None)
    if found is None:
        return _missing()
    site.redeliver(found)
    return said(202, {})


_BODY, _TITLE = frozenset({"body"}), frozenset({"title"})
_list_comments, _add_comment = _notes("comments")
_list_commit_comments, _add_commit_comment = _notes("commit_comments")
_list_issues, _add_issue = _notes("issues")
_TEXT: Final = {"title": str, "body": str, "labels": list, "state": str}

ROUTES: Final = (
    Route("GET", f"{_ACTIONS}/runs", _list_runs, _PAGED | {"branch", "created", "exclude_pull_requests", "status"}),
    Route("GET", f"{_ACTIONS}/runs/{{run_id}}", _on_run(_get_run), frozenset({"exclude_pull_requests"})),
    Route("GET", f"{_ACTIONS}/runs/{{run_id}}/jobs", _on_run(_list_jobs), _PAGED | {"filter"}),
    Route("GET", _REPOSITORY, _get_repository),
    Route("GET", f"{_REPOSITORY}/deployments", _deployments, _PAGED | {"sha"}),
    Route("GET", f"{_REPOSITORY}/deployments/{{deployment_id}}/statuses", _deployment_statuses, _PAGED),
    Route("GET", f"{_ACTIONS}/runs/{{run_id}}/attempts/{{attempt_number}}", _on_run(_get_attempt)),
    Route("GET", f"{_ACTIONS}/runs/{{run_id}}/attempts/{{attempt_number}}/jobs", _on_run(_list_jobs), _PAGED),
    Route("GET", f"{_ACTIONS}/jobs/{{job_id}}", _get_job),
    Route("POST", f"{_ACTIONS}/runs/{{run_id}}/rerun", _on_run(_rerun_all), body=_RERUN),
    Route("POST", f"{_ACTIONS}/runs/{{run_id}}/rerun-failed-jobs", _on_run(_rerun_failed), body=_RERUN),
    Route("POST", f"{_ACTIONS}/jobs/{{job_id}}/rerun", _rerun_job, body={**_RERUN, "enable_debugger": bool}),
    Route("POST", f"{_ACTIONS}/runs/{{run_id}}/cancel", _on_run(_cancel)),
    Route("POST", f"{_ACTIONS}/runs/{{run_id}}/force-cancel", _on_run(_cancel)),
    Route("GET", f"{_ACTIONS}/caches", _list_caches, _PAGED | {"key", "ref", "sort", "direction"}),
    Route("DELETE", f"{_ACTIONS}/caches/{{cache_id}}", _delete_cache),
    Route("GET", f"{_REPOSITORY}/commits/{{sha}}/comments", _list_commit_comments, _PAGED),
    Route("POST", f"{_REPOSITORY}/commits/{{sha}}/comments", _add_commit_comment, body=_TEXT, needs=_BODY),
    Route("GET", f"{_REPOSITORY}/issues/{{issue_number}}/comments", _list_comments, _PAGED),
    Route("POST", f"{_REPOSITORY}/issues/{{issue_number}}/comments", _add_comment, body=_TEXT, needs=_BODY),
    Route("GET", f"{_REPOSITORY}/issues", _list_issues, _PAGED | {"state", "labels"}),
    Route("POST", f"{_REPOSITORY}/issues", _add_issue, body=_TEXT, needs=_TITLE),
    Route("PATCH", f"{_REPOSITORY}/issues/{{issue_number}}", _change_issue, body=_TEXT),
    *(
        Route(method, f"{base}/hooks/{{hook_id}}{path}", handler, query)
        for base in (_REPOSITORY, "/orgs/{owner}")
        for method, path, handler, query in (
            ("GET", "", _get_hook, frozenset[str]()),
            ("GET", "/deliveries", _deliveries, frozenset({"per_page", "cursor", "status"})),
            ("POST", "/deliveries/{delivery_id}/attempts", _redeliver, frozenset[str]()),
        )
    ),
)
