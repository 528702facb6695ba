"""GitHub's workflow_run and workflow_job, in full: https://docs.github.com/en/webhooks/webhook-events-and-payloads."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import msgspec

from benchmarks.world.records import (
    Attempt,
    Clock,
    Ending,
    Happening,
    JobRun,
    Message,
    Person,
    Repository,
    What,
    guid,
)

_WORDS: Final = {
    Ending.PASSED: "success",
    Ending.FAILED: "failure",
    Ending.TIMED_OUT: "timed_out",
    Ending.CANCELLED: "cancelled",
    Ending.SKIPPED: "skipped",
}
_RUN: Final = {
    What.RUN_QUEUED: ("requested", "queued"),
    What.RUN_STARTED: ("in_progress", "in_progress"),
    What.RUN_FINISHED: ("completed", "completed"),
}
_JOB: Final = {
    What.JOB_QUEUED: ("queued", "queued"),
    What.JOB_STARTED: ("in_progress", "in_progress"),
    What.JOB_FINISHED: ("completed", "completed"),
}
_PERSON_URLS: Final = {
    "followers_url": "/followers",
    "following_url": "/following{/other_user}",
    "gists_url": "/gists{/gist_id}",
    "starred_url": "/starred{/owner}{/repo}",
    "subscriptions_url": "/subscriptions",
    "organizations_url": "/orgs",
    "repos_url": "/repos",
    "events_url": "/events{/privacy}",
    "received_events_url": "/received_events",
}
_REPOSITORY_URLS: Final = {
    "forks_url": "/forks",
    "keys_url": "/keys{/key_id}",
    "collaborators_url": "/collaborators{/collaborator}",
    "teams_url": "/teams",
    "hooks_url": "/hooks",
    "issue_events_url": "/issues/events{/number}",
    "events_url": "/events",
    "assignees_url": "/assignees{/user}",
    "branches_url": "/branches{/branch}",
    "tags_url": "/tags",
    "blobs_url": "/git/blobs{/sha}",
    "git_tags_url": "/git/tags{/sha}",
    "git_refs_url": "/git/refs{/sha}",
    "trees_url": "/git/trees{/sha}",
    "statuses_url": "/statuses/{sha}",
    "languages_url": "/languages",
    "stargazers_url": "/stargazers",
    "contributors_url": "/contributors",
    "subscribers_url": "/subscribers",
    "subscription_url": "/subscription",
    "commits_url": "/commits{/sha}",
    "git_commits_url": "/git/commits{/sha}",
    "comments_url": "/comments{/number}",
    "issue_comment_url": "/issues/comments{/number}",
    "contents_url": "/contents/{+path}",
    "compare_url": "/compare/{base}...{head}",
    "merges_url": "/merges",
    "archive_url": "/{archive_format}{/ref}",
    "downloads_url": "/downloads",
    "issues_url": "/issues{/number}",
    "pulls_url": "/pulls{/number}",
    "milestones_url": "/milestones{/number}",
    "notifications_url": "/notifications{?since,all,participating}",
    "labels_url": "/labels{/name}",
    "releases_url": "/releases{/id}",
    "deployments_url": "/deployments",
}


def render(happening: Happening, clock: Clock) -> list[Message]:
    """The webhook that GitHub sends of `happening`, if it sends one."""
    if happening.job is None:
        kind, body = "workflow_run", _run_event(happening, clock)
    elif happening.what is What.JOB_CREATED:
        return []
    else:
        kind, body = "workflow_job", _job_event(happening, happening.job, clock)
    attempt = happening.attempt
    identity = guid("github", attempt.uid, happening.serial)
    headers = {
        "user-agent": "GitHub-Hookshot/7f3c2a1",
        "content-type": "application/json",
        "x-github-event": kind,
        "x-github-delivery": identity,
        "x-github-hook-id": str(attempt.run.repository.number % 10**9),
        "x-github-hook-installation-target-id": str(attempt.run.repository.number),
        "x-github-hook-installation-target-type": "repository",
    }
    return [Message(identity, headers, msgspec.json.encode(body))]


def _run_event(happening: Happening, clock: Clock) -> dict[str, Any]:
    attempt, repository = happening.attempt, happening.attempt.run.repository
    action, status = _RUN[happening.what]
    return {
        "action": action,
        "workflow_run": workflow_run(attempt, status, happening.at, clock),
        "workflow": _workflow(attempt, clock),
        "repository": _full(repository),
        "organization": _organization(repository.owner),
        "sender": _person(attempt.actor),
    }


def workflow_run(attempt: Attempt, status: str, at: float, clock: Clock) -> dict[str, Any]:
    """A run as it stands since `at`, in webhooks and at the API."""
    run, repository = attempt.run, attempt.run.repository
    api, page = _api(repository), f"https://github.com/{repository.full_name}"
    self_url = f"{api}/actions/runs/{run.id}"
    return {
        "id": run.id,
        "name": run.workflow.name,
        "node_id": f"WFR_{run.id}",
        "head_branch": run.commit.branch,
        "head_sha": run.commit.sha,
        "path": f".github/workflows/{run.workflow.name.lower().replace(' ', '-')}.yml",
        "display_title": run.commit.message,
        "run_number": run.number,
        "event": run.commit.trigger,
        "status": status,
        "conclusion": _WORDS[attempt.ending] if status == "completed" and attempt.ending else None,
        "workflow_id": run.workflow.number,
        "check_suite_id": run.id + 17,
        "check_suite_node_id": f"CS_{run.id + 17}",
        "url": self_url,
        "html_url": f"{page}/actions/runs/{run.id}",
        "pull_requests": [],
        "created_at": clock.iso(run.commit.at),
        "updated_at": clock.iso(at),
        "actor": _person(run.commit.author),
        "run_attempt": attempt.number,
        "referenced_workflows": [],
        "run_started_at": clock.iso(attempt.queued_at),
        "triggering_actor": _person(attempt.actor),
        "jobs_url": f"{self_url}/jobs",
        "logs_url": f"{self_url}/logs",
        "check_suite_url": f"{api}/check-suites/{run.id + 17}",
        "artifacts_url": f"{self_url}/artifacts",
        "cancel_url": f"{self_url}/cancel",
        "rerun_url": f"{self_url}/rerun",
        "previous_attempt_url": f"{self_url}/attempts/{attempt.number - 1}" if attempt.number > 1 else None,
        "workflow_url": f"{api}/actions/workflows/{run.workflow.number}",
        "head_commit": {
            "id": run.commit.sha,
            "tree_id": run.commit.sha[::-1],
            "message": run.commit.message,
            "timestamp": clock.iso(run.commit.at),
            "author": {"name": run.commit.author.name, "email": run.commit.author.email},
            "committer": {"name": "GitHub", "email": "noreply@github.com"},
        },
        "repository": _minimal(repository),
        "head_repository": _minimal(repository),
    }


def _workflow(attempt: Attempt, clock: Clock) -> dict[str, Any]:
    run = attempt.run
    page, path = f"https://github.com/{run.repository.full_name}", f".github/workflows/{run.workflow.number}.yml"
    return {
        "id": run.workflow.number,
        "node_id": f"W_{run.workflow.number}",
        "name": run.workflow.name,
        "path": path,
        "state": "active",
        "created_at": clock.iso(0),
        "updated_at": clock.iso(0),
        "url": f"{_api(run.repository)}/actions/workflows/{run.workflow.number}",
        "html_url": f"{page}/blob/{run.repository.default_branch}/{path}",
        "badge_url": f"{page}/workflows/{run.workflow.number}/badge.svg",
    }


def _job_event(happening: Happening, job: JobRun, clock: Clock) -> dict[str, Any]:
    attempt, repository = happening.attempt, happening.attempt.run.repository
    action, status = _JOB[happening.what]
    event = {
        "action": action,
        "workflow_job": workflow_job(attempt, job, status, clock),
        "repository": _full(repository),
        "organization": _organization(repository.owner),
        "sender": _person(attempt.actor),
    }
    if job.job.environment is not None:
        event["deployment"] = {
            "id": job.number + 5,
            "sha": attempt.run.commit.sha,
            "ref": attempt.run.commit.branch,
            "task": "deploy",
            "environment": job.job.environment,
            "production_environment": True,
            "created_at": clock.iso(job.queued_at),
            "creator": _person(attempt.actor),
        }
    return event


def workflow_job(attempt: Attempt, job: JobRun, status: str, clock: Clock) -> dict[str, Any]:
    """A job as it stands, in webhooks and at the API."""
    run, api = attempt.run, _api(attempt.run.repository)
    picked = status != "queued" and job.ending is not Ending.SKIPPED
    ended = status == "completed" and job.finished_at is not None
    return {
        "id": job.number,
        "run_id": run.id,
        "workflow_name": run.workflow.name,
        "head_branch": run.commit.branch,
        "run_url": f"{api}/actions/runs/{run.id}",
        "run_attempt": attempt.number,
        "node_id": f"CR_{job.number}",
        "head_sha": run.commit.sha,
        "url": f"{api}/actions/jobs/{job.number}",
        "html_url": f"https://github.com/{run.repository.full_name}/actions/runs/{run.id}/job/{job.number}",
        "status": status,
        "conclusion": _WORDS[job.ending] if ended and job.ending else None,
        "created_at": clock.iso(job.queued_at),
        "started_at": clock.iso(job.started_at if picked else job.queued_at),
        "completed_at": clock.iso(job.finished_at) if ended and job.finished_at is not None else None,
        "name": job.job.name,
        "steps": _steps(job, clock) if ended and picked else [],
        "check_run_url": f"{api}/check-runs/{job.number}",
        "labels": list(job.job.labels),
        "runner_id": 1000 + job.number % 900 if picked else None,
        "runner_name": f"GitHub Actions {1000 + job.number % 900}" if picked else None,
        "runner_group_id": 2 if picked else None,
        "runner_group_name": "GitHub Actions" if picked else None,
    }


def _steps(job: JobRun, clock: Clock) -> list[dict[str, Any]]:
    """The steps of an ended job: passed up to the one that was struck; a machine that is lost ends none after it."""
    assert job.finished_at is not None
    steps = job.job.steps
    struck = len(steps)
    if job.ending is not Ending.PASSED:
        role = job.trouble.role if job.trouble else "test"
        struck = next((i for i, step in enumerate(steps) if step.role == role), len(steps) - 3)
    lost = job.trouble is not None and job.trouble.lost
    share = (job.finished_at - job.started_at) / min(struck + 1, len(steps))
    told = []
    for i, step in enumerate(steps):
        begun = job.started_at + min(i, struck) * share
        ended = min(begun + share, job.finished_at) if i <= struck else job.finished_at
        state, conclusion = "completed", "success"
        if i == struck:
            conclusion = "cancelled" if job.ending in (Ending.CANCELLED, Ending.TIMED_OUT) else "failure"
        elif i > struck and step.role != "end":
            conclusion = "skipped"
        running = lost and i >= struck
        told.append(
            {
                "name": step.name,
                "status": ("in_progress" if i == struck else "pending") if running else state,
                "conclusion": None if running else conclusion,
                "number": i + 1,
                "started_at": clock.iso(begun) if not running or i == struck else None,
                "completed_at": None if running else clock.iso(ended),
            }
        )
    return told


def _api(repository: Repository) -> str:
    return f"https://api.github.com/repos/{repository.full_name}"


@lru_cache(1024)
def _account(login: str, number: int, kind: str) -> dict[str, Any]:
    url = f"https://api.github.com/users/{login}"
    return {
        "login": login,
        "id": number,
        "node_id": f"U_{number}",
        "avatar_url": f"https://avatars.githubusercontent.com/u/{number}?v=4",
        "gravatar_id": "",
        "url": url,
        "html_url": f"https://github.com/{login}",
        **{name: url + path for name, path in _PERSON_URLS.items()},
        "type": kind,
        "user_view_type": "public",
        "site_admin": False,
    }


def _person(person: Person) -> dict[str, Any]:
    return _account(person.login, person.number, "User")


def _organization(login: str) -> dict[str, Any]:
    url = f"https://api.github.com/orgs/{login}"
    number = _number(login)
    return {
        "login": login,
        "id": number,
        "node_id": f"O_{number}",
        "url": url,
        **{f"{name}_url": f"{url}/{name}" for name in ("repos", "events", "hooks", "issues")},
        "members_url": f"{url}/members{{/member}}",
        "public_members_url": f"{url}/public_members{{/member}}",
        "avatar_url": f"https://avatars.githubusercontent.com/u/{number}?v=4",
        "description": "",
    }


def _number(login: str) -> int:
    return 10**7 + int(guid(login)[:6], 16)


@lru_cache(1024)
def _minimal(repository: Repository) -> dict[str, Any]:
    url = _api(repository)
    return {
        "id": repository.number,
        "node_id": f"R_{repository.number}",
        "name": repository.name,
        "full_name": repository.full_name,
        "private": False,
        "owner": _account(repository.owner, _number(repository.owner), "Organization"),
        "html_url": f"https://github.com/{repository.full_name}",
        "description": f"The {repository.name} of {repository.owner}",
        "fork": False,
        "url": url,
        **{name: url + path for name, path in _REPOSITORY_URLS.items()},
    }


@lru_cache(1024)
def _full(repository: Repository) -> dict[str, Any]:
    path = f"github.com/{repository.full_name}"
    features = ("issues", "projects", "downloads", "wiki", "discussions")
    return {
        **_minimal(repository),
        "created_at": "2021-03-01T09:00:00Z",
        "updated_at": "2026-10-01T09:00:00Z",
        "pushed_at": "2026-11-01T09:00:00Z",
        "git_url": f"git://{path}.git",
        "ssh_url": f"git@github.com:{repository.full_name}.git",
        "clone_url": f"https://{path}.git",
        "svn_url": f"https://{path}",
        "homepage": None,
        "size": repository.number % 90_000,
        "stargazers_count": repository.number % 400,
        "watchers_count": repository.number % 400,
        "language": repository.language.capitalize(),
        **{f"has_{name}": name in ("issues", "wiki") for name in features},
        "has_pages": False,
        "forks_count": repository.number % 40,
        "mirror_url": None,
        "archived": False,
        "disabled": False,
        "open_issues_count": repository.number % 30,
        "license": {
            "key": "apache-2.0",
            "name": "Apache License 2.0",
            "spdx_id": "Apache-2.0",
            "url": "https://api.github.com/licenses/apache-2.0",
            "node_id": "MDc6TGljZW5zZTI=",
        },
        "allow_forking": True,
        "is_template": False,
        "web_commit_signoff_required": False,
        "topics": [repository.language, "service"],
        "visibility": "public",
        "forks": repository.number % 40,
        "open_issues": repository.number % 30,
        "watchers": repository.number % 400,
        "default_branch": repository.default_branch,
        "custom_properties": {},
    }
