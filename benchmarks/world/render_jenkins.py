"""Jenkins' Notification plugin, format JSON, event `all`, with log lines: https://plugins.jenkins.io/notification/."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from benchmarks.world.records import Attempt, Clock, Ending, Happening, JobRun, Message, What, guid

BASE: Final = "https://jenkins.example.com/"
_WORDS: Final = {
    Ending.PASSED: "SUCCESS",
    Ending.FAILED: "FAILURE",
    Ending.TIMED_OUT: "ABORTED",
    Ending.CANCELLED: "ABORTED",
    Ending.SKIPPED: "NOT_BUILT",
}
_PHASES: Final = {
    What.RUN_STARTED: ("QUEUED", "STARTED"),
    What.RUN_FINISHED: ("COMPLETED", "FINALIZED"),
}
_FINALIZING_SECONDS: Final = 1.0


def render(happening: Happening, clock: Clock) -> list[Message]:
    """The posts that the plugin makes of `happening`: two when a build starts, and two when it ends."""
    attempt = happening.attempt
    headers = {"content-type": "application/json;charset=UTF-8", "user-agent": "Java/21.0.5"}
    return [
        Message(
            guid("jenkins", attempt.uid, phase),
            dict(headers),
            msgspec.json.encode(_post(attempt, phase, happening, clock)),
        )
        for phase in _PHASES.get(happening.what, ())
    ]


def _post(attempt: Attempt, phase: str, happening: Happening, clock: Clock) -> dict[str, Any]:
    run, job = attempt.run, attempt.jobs[0]
    path = f"job/{run.repository.owner}/job/{run.repository.name}/job/{run.workflow.name}/"
    ended = happening.what is What.RUN_FINISHED and attempt.ending is not None
    times = {
        "QUEUED": attempt.queued_at,
        "STARTED": attempt.started_at,
        "COMPLETED": happening.at,
        "FINALIZED": happening.at + _FINALIZING_SECONDS,
    }
    build: dict[str, Any] = {
        "full_url": f"{BASE}{path}{attempt.build}/",
        "number": attempt.build,
        "queue_id": job.number,
        "timestamp": clock.milliseconds(times[phase]),
        "duration": round(1000 * clock.length(happening.at - attempt.started_at)) if ended else 0,
        "phase": phase,
        "url": f"{path}{attempt.build}/",
        "scm": {
            "url": f"https://git.example.com/{run.repository.full_name}.git",
            "branch": f"origin/{run.commit.branch}",
            "commit": run.commit.sha,
            "changes": ["src/main"],
            "culprits": [run.commit.author.login],
        },
        "parameters": {"BRANCH": run.commit.branch},
        "log": _log(attempt, job) if ended else "",
        "notes": "",
        "artifacts": {},
    }
    if ended:
        assert attempt.ending is not None
        build["status"] = _WORDS[attempt.ending]
        build["test_summary"] = _tests(job)
    return {
        "name": run.workflow.name,
        "display_name": run.workflow.name,
        "url": path,
        "build": build,
    }


def _tests(job: JobRun) -> dict[str, Any]:
    failed = job.trouble.tests_failed if job.trouble else 0
    total = 213 + job.number % 40
    return {
        "total": total,
        "failed": failed,
        "passed": total - failed - 3,
        "skipped": 3,
        "failed_tests": [{"name": f"case_{i}", "suite": "suite"} for i in range(failed)],
    }


def _log(attempt: Attempt, job: JobRun) -> str:
    """The last lines of the console, from the checkout to the step that ended it."""
    run, said = attempt.run, job.trouble.log if job.trouble else ()
    lines = [
        f"Started by user {attempt.actor.name}",
        f"Running on agent-{job.number % 20} in /home/jenkins/workspace/{run.workflow.name}",
        f" > git rev-parse {run.commit.sha}^{{commit}} # timeout=10",
    ]
    for step in job.job.steps:
        if step.role == "end":
            continue
        lines += [f"[Pipeline] {{ ({step.name})", "[Pipeline] sh", f"+ {step.name.removeprefix('Run ')}"]
        if job.trouble and step.role == job.trouble.role:
            lines += said
            break
        lines += [f"{step.name}: 0 errors, {job.number % 7} warnings", "[Pipeline] }"]
    if attempt.ending is Ending.CANCELLED:
        lines.append(f"Aborted by {attempt.actor.name}")
    assert attempt.ending is not None
    return "\n".join(
        [*lines, "[Pipeline] // node", "[Pipeline] End of Pipeline", f"Finished: {_WORDS[attempt.ending]}"]
    )
