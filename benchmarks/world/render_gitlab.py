"""GitLab's Pipeline Hook and Job Hook: https://docs.gitlab.com/user/project/integrations/webhook_events/."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from benchmarks.world.records import Attempt, Clock, Ending, Happening, JobRun, Message, Person, Run, What, guid

BASE: Final = "https://gitlab.example.com"
_WORDS: Final = {
    Ending.PASSED: "success",
    Ending.FAILED: "failed",
    Ending.TIMED_OUT: "failed",
    Ending.CANCELLED: "canceled",
    Ending.SKIPPED: "skipped",
}
_JOB: Final = {What.JOB_CREATED: "created", What.JOB_QUEUED: "pending", What.JOB_STARTED: "running"}
_RUN: Final = {What.RUN_QUEUED: "pending", What.RUN_STARTED: "running"}
_DETAILED: Final = {"success": "passed"}


def render(happening: Happening, clock: Clock) -> list[Message]:
    """The webhook that GitLab sends of `happening`: one for every change of status."""
    attempt = happening.attempt
    if happening.job is None:
        kind, body = "Pipeline Hook", _pipeline(attempt, happening, clock)
    else:
        kind, body = "Job Hook", _job(attempt, happening.job, happening.what, clock)
    identity = guid("gitlab", attempt.uid, happening.serial)
    headers = {
        "content-type": "application/json",
        "user-agent": "GitLab/18.5.1-ee",
        "x-gitlab-event": kind,
        "x-gitlab-instance": BASE,
        "x-gitlab-event-uuid": guid("gitlab chain", attempt.uid),
        "x-gitlab-webhook-uuid": guid("gitlab send", attempt.uid, happening.serial),
        "idempotency-key": identity,
    }
    return [Message(identity, headers, msgspec.json.encode(body))]


def _word(ending: Ending | None) -> str:
    return "running" if ending is None else _WORDS[ending]


def _pipeline(attempt: Attempt, happening: Happening, clock: Clock) -> dict[str, Any]:
    run = attempt.run
    ended = happening.what is What.RUN_FINISHED and attempt.finished_at is not None
    status = _word(attempt.ending) if ended else _RUN[happening.what]
    length = clock.length(happening.at - attempt.started_at)
    return {
        "object_kind": "pipeline",
        "object_attributes": {
            "id": run.id,
            "iid": run.number,
            "name": run.workflow.name,
            "ref": run.commit.branch,
            "tag": False,
            "sha": run.commit.sha,
            "before_sha": run.commit.before,
            "source": "merge_request_event" if run.commit.trigger == "pull_request" else "push",
            "status": status,
            "detailed_status": _DETAILED.get(status, status),
            "stages": list(dict.fromkeys(job.stage for stage in run.workflow.stages for job in stage)),
            "created_at": clock.spaced(run.commit.at),
            "finished_at": clock.spaced(happening.at) if ended else None,
            "duration": max(round(length), 1) if ended else None,
            "queued_duration": round(clock.length(attempt.started_at - attempt.queued_at), 3),
            "protected_ref": run.commit.branch == run.repository.default_branch,
            "variables": [],
            "url": f"{_page(run)}/-/pipelines/{run.id}",
        },
        "merge_request": _merge_request(run),
        "user": _user(attempt.actor),
        "project": _project(run),
        "commit": {
            "id": run.commit.sha,
            "message": run.commit.message + "\n",
            "title": run.commit.message,
            "timestamp": clock.iso(run.commit.at),
            "url": f"{_page(run)}/-/commit/{run.commit.sha}",
            "author": {"name": run.commit.author.name, "email": run.commit.author.email},
        },
        "builds": [_build(job, attempt, happening.at, clock) for job in (*attempt.kept, *attempt.jobs)],
    }


def _merge_request(run: Run) -> dict[str, Any] | None:
    if run.commit.trigger != "pull_request":
        return None
    number = 1 + int(run.commit.sha[:3], 16)
    return {
        "id": run.repository.number + number,
        "iid": number,
        "title": run.commit.message,
        "source_branch": run.commit.branch,
        "source_project_id": run.repository.number,
        "target_branch": run.repository.default_branch,
        "target_project_id": run.repository.number,
        "state": "opened",
        "merge_status": "can_be_merged",
        "detailed_merge_status": "mergeable",
        "url": f"{_page(run)}/-/merge_requests/{number}",
    }


def _build(job: JobRun, attempt: Attempt, at: float, clock: Clock) -> dict[str, Any]:
    """A job in a pipeline's list, as it stands at `at`."""
    ended = job.ended(at)
    begun = job.started_at <= at and job.ending is not Ending.SKIPPED
    status = _word(job.ending) if ended else "running" if begun else "created"
    finished = job.finished_at if ended else None
    return {
        "id": job.number,
        "stage": job.job.stage,
        "name": job.job.name,
        "status": status,
        "created_at": clock.spaced(attempt.queued_at),
        "started_at": clock.spaced(job.started_at) if begun else None,
        "finished_at": clock.spaced(finished) if finished is not None else None,
        "duration": round(clock.length(finished - job.started_at), 3) if finished is not None else None,
        "queued_duration": round(clock.length(job.started_at - job.queued_at), 3) if begun else None,
        "failure_reason": _reason(job) if status == "failed" else None,
        "when": "on_success",
        "manual": False,
        "allow_failure": False,
        "user": _user(attempt.actor),
        "runner": _runner(job) if begun else None,
        "artifacts_file": {"filename": None, "size": None},
        "environment": _environment(job),
    }


def _job(attempt: Attempt, job: JobRun, what: What, clock: Clock) -> dict[str, Any]:
    run = attempt.run
    finished = job.finished_at if what is What.JOB_FINISHED else None
    status = _JOB.get(what) or _word(job.ending)
    begun = what in (What.JOB_STARTED, What.JOB_FINISHED) and job.ending is not Ending.SKIPPED
    length = None if finished is None or not begun else round(clock.length(finished - job.started_at), 3)
    return {
        "object_kind": "build",
        "ref": run.commit.branch,
        "tag": False,
        "before_sha": run.commit.before,
        "sha": run.commit.sha,
        "retries_count": job.retries,
        "build_id": job.number,
        "build_name": job.job.name,
        "build_stage": job.job.stage,
        "build_status": status,
        "build_created_at": clock.spaced(attempt.queued_at),
        "build_started_at": clock.spaced(job.started_at) if begun else None,
        "build_finished_at": clock.spaced(finished) if finished is not None else None,
        "build_duration": length,
        "build_queued_duration": round(clock.length(job.started_at - job.queued_at), 3) if begun else None,
        "build_allow_failure": False,
        "build_failure_reason": _reason(job) if status == "failed" else "unknown_failure",
        "pipeline_id": run.id,
        "runner": _runner(job) if begun else None,
        "project_id": run.repository.number,
        "project_name": f"{run.repository.owner} / {run.repository.name}",
        "user": _user(attempt.actor),
        "commit": {
            "id": run.id,
            "name": run.workflow.name,
            "sha": run.commit.sha,
            "message": run.commit.message + "\n",
            "author_name": run.commit.author.name,
            "author_email": run.commit.author.email,
            "author_url": f"{BASE}/{run.commit.author.login}",
            "status": "running",
            "duration": None,
            "started_at": clock.spaced(attempt.started_at),
            "finished_at": None,
        },
        "repository": {
            "name": run.repository.name,
            "url": f"git@gitlab.example.com:{run.repository.full_name}.git",
            "description": f"The {run.repository.name} of {run.repository.owner}",
            "homepage": _page(run),
            "git_http_url": f"{_page(run)}.git",
            "git_ssh_url": f"git@gitlab.example.com:{run.repository.full_name}.git",
            "visibility_level": 10,
        },
        "project": _project(run),
        "environment": _environment(job),
    }


def _reason(job: JobRun) -> str:
    return job.trouble.gitlab if job.trouble else "script_failure"


def _page(run: Run) -> str:
    return f"{BASE}/{run.repository.full_name}"


def _user(person: Person) -> dict[str, Any]:
    return {
        "id": person.number,
        "name": person.name,
        "username": person.login,
        "avatar_url": f"{BASE}/uploads/-/system/user/avatar/{person.number}/avatar.png",
        "email": "[REDACTED]",
    }


def _project(run: Run) -> dict[str, Any]:
    repository = run.repository
    return {
        "id": repository.number,
        "name": repository.name,
        "description": f"The {repository.name} of {repository.owner}",
        "web_url": _page(run),
        "avatar_url": None,
        "git_ssh_url": f"git@gitlab.example.com:{repository.full_name}.git",
        "git_http_url": f"{_page(run)}.git",
        "namespace": repository.owner,
        "visibility_level": 10,
        "path_with_namespace": repository.full_name,
        "default_branch": repository.default_branch,
        "ci_config_path": None,
    }


def _runner(job: JobRun) -> dict[str, Any]:
    number = 40_000 + job.number % 60
    return {
        "id": number,
        "description": f"shared-runners-manager-{number % 60}.example.com",
        "runner_type": "instance_type",
        "active": True,
        "is_shared": True,
        "tags": list(job.job.labels),
    }


def _environment(job: JobRun) -> dict[str, Any] | None:
    if job.job.environment is None:
        return None
    return {"name": job.job.environment, "action": "start", "deployment_tier": "production"}
