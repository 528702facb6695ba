"""What was true of every failure, and whether what was done about it was right. Nobody but the world can know.

healed          a run that was run again because it was asked for, and passed
failed_again    ... and did not pass
going_on        ... and has not ended
harmed          a rerun of what the commit itself breaks, or a job stopped that would have ended
missed          a run that ended failed by nothing of its own, that nobody ran again
twice           calls whose effect came a second time, for the same target of the same attempt
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from benchmarks.world.records import Attempt, Ending, JobRun
from benchmarks.world.sim import ALL, FAILED
from benchmarks.world.site import Act, Site

FAILING: Final = (Ending.FAILED, Ending.TIMED_OUT)


def counts(site: Site, at: float) -> dict[str, int]:
    """How it stands at the simulated time `at`."""
    reruns = [act for act in site.acts if act.what == "rerun"]
    ends = Counter(_end(site, act, at) for act in reruns)
    targets = Counter((act.attempt.uid, act.what, act.target) for act in site.acts)
    return {
        "reruns": len(reruns),
        "cancels": len(site.acts) - len(reruns),
        "healed": ends["healed"],
        "failed_again": ends["failed_again"],
        "going_on": ends["going_on"],
        "harmed": sum(map(_harms, site.acts)),
        "missed": sum(1 for _ in _missed(site, at)),
        "twice": sum(n - 1 for n in targets.values()),
        "invalid_requests": len(site.invalid),
    }


def _end(site: Site, act: Act, at: float) -> str:
    after = site.world.current[act.after.uid]
    if not after.ended(at):
        return "going_on"
    return "healed" if after.ending is Ending.PASSED else "failed_again"


def _rerun(act: Act) -> list[JobRun]:
    """The failed jobs that a rerun was to heal."""
    jobs = [job for job in (*act.attempt.kept, *act.attempt.jobs) if job.ending in FAILING]
    return jobs if act.target in (ALL, FAILED) else [job for job in jobs if str(job.number) == act.target]


def _harms(act: Act) -> bool:
    if act.what == "rerun":
        return any(job.trouble is not None and job.trouble.kind == "real" for job in _rerun(act))
    jobs = [job for job in act.attempt.jobs if not job.ended(act.at) and act.target in (ALL, str(job.number))]
    return all(job.trouble is None or job.trouble.kind != "hang" for job in jobs)


def _missed(site: Site, at: float) -> Iterator[Attempt]:
    for attempts in list(site.world.attempts.values()):
        last = [one for one in attempts if one.queued_at <= at][-1:]
        for attempt in last:
            failed = [job for job in (*attempt.kept, *attempt.jobs) if job.ending in FAILING]
            if len(attempts) == 1 and attempt.ended(at) and failed and all(job.flaky for job in failed):
                yield attempt


def failures(site: Site, at: float) -> Iterator[dict[str, Any]]:
    """Every job that failed or hangs, why, and how likely it passes when it runs again on the same commit."""
    for attempts in list(site.world.attempts.values()):
        for attempt in attempts:
            for job in attempt.jobs:
                if job.trouble is not None and job.began(at) and (job.finished_at is None or job.ended(at)):
                    yield _failure(attempt, job)


def _failure(attempt: Attempt, job: JobRun) -> dict[str, Any]:
    assert job.trouble is not None
    run = attempt.run
    return {
        "record": "failure",
        "source": run.repository.source,
        "repository": run.repository.full_name,
        "workflow": run.workflow.name,
        "run": run.id,
        "attempt": attempt.number,
        "attempt_uid": attempt.uid,
        "job": job.job.name,
        "job_number": job.number,
        "commit": run.commit.sha,
        "cause": job.trouble.name,
        "kind": job.trouble.kind,
        "heals": job.trouble.heals * (1 - job.job.flakiness),
        "ending": job.ending,
    }


def acts(site: Site) -> Iterator[dict[str, Any]]:
    """Everything that was done because the APIs were asked to."""
    for act in site.acts:
        yield {
            "record": "act",
            "at": round(site.clock.seconds(act.at), 3),
            "platform": act.platform,
            "what": act.what,
            "target": act.target,
            "run": act.attempt.run.id,
            "attempt": act.attempt.number,
            "attempt_uid": act.attempt.uid,
            "after_uid": act.after.uid,
            "harmed": _harms(act),
        }
