"""CircleCI's job-completed and workflow-completed: https://circleci.com/docs/outbound-webhooks-reference/."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from benchmarks.world.records import Clock, Ending, Happening, JobRun, Message, Repository, Run, What, guid

_WORDS: Final = {
    Ending.PASSED: "success",
    Ending.FAILED: "failed",
    Ending.TIMED_OUT: "failed",
    Ending.CANCELLED: "canceled",
}


def render(happening: Happening, clock: Clock) -> list[Message]:
    """The webhook that CircleCI sends of `happening`: only ends are told, and nothing of a job that was not run."""
    attempt, job = happening.attempt, happening.job
    if happening.what is What.JOB_FINISHED and job is not None and job.ending is not Ending.SKIPPED:
        kind, own = "job-completed", {"job": _job(job, clock)}
    elif happening.what is What.RUN_FINISHED:
        kind, own = "workflow-completed", {}
    else:
        return []
    run, repository = attempt.run, attempt.run.repository
    workflow: dict[str, Any] = {
        "id": attempt.uid,
        "name": run.workflow.name,
        "created_at": clock.iso_ms(attempt.queued_at),
        "url": f"https://app.circleci.com/pipelines/{_slug(repository)}/{run.number}/workflows/{attempt.uid}",
    }
    if kind == "workflow-completed":
        assert attempt.ending is not None
        workflow |= {"status": _WORDS[attempt.ending], "stopped_at": clock.iso_ms(happening.at)}
    identity = guid("circleci", attempt.uid, happening.serial)
    body = {
        "id": identity,
        "type": kind,
        "happened_at": clock.iso_ms(happening.at),
        "webhook": {"id": guid("webhook", repository.uid), "name": "Pipeline Guard"},
        "project": {"id": repository.uid, "name": repository.name, "slug": _slug(repository)},
        "organization": {"id": guid("organization", repository.owner), "name": repository.owner},
        "workflow": workflow,
        "pipeline": _pipeline(run, clock),
        **own,
    }
    headers = {
        "content-type": "application/json",
        "user-agent": "CircleCI-Webhook/1.0",
        "circleci-event-type": kind,
    }
    return [Message(identity, headers, msgspec.json.encode(body))]


def _slug(repository: Repository) -> str:
    return f"gh/{repository.full_name}"


def _job(job: JobRun, clock: Clock) -> dict[str, Any]:
    assert job.ending is not None
    assert job.finished_at is not None
    return {
        "id": job.uid,
        "number": job.number % 10**7,
        "name": job.job.name,
        "status": _WORDS[job.ending],
        "started_at": clock.iso_ms(job.started_at),
        "stopped_at": clock.iso_ms(job.finished_at),
    }


def _pipeline(run: Run, clock: Clock) -> dict[str, Any]:
    repository, commit = run.repository, run.commit
    page = f"https://github.com/{repository.full_name}"
    person = {"name": commit.author.name, "email": commit.author.email}
    return {
        "id": run.uid,
        "number": run.number,
        "created_at": clock.iso_ms(commit.at),
        "trigger": {"type": "webhook"},
        "vcs": {
            "provider_name": "github",
            "origin_repository_url": page,
            "target_repository_url": page,
            "revision": commit.sha,
            "branch": commit.branch,
            "commit": {
                "subject": commit.message,
                "body": "",
                "author": person,
                "authored_at": clock.iso(commit.at),
                "committer": person,
                "committed_at": clock.iso(commit.at),
            },
        },
    }
