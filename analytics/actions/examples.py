"""Short ways to write the FIRES and SILENT examples of an action."""

from __future__ import annotations

from typing import Any

from analytics.actions.action import Case, Found, Given

_REPOSITORY = "org/repo"


def failed(*job_ids: str | None, platform: str = "github", **given: Any) -> Case:  # noqa: ANN401 - fields of a case
    """A failed run attempt: of GitLab and Jenkins its jobs can be run again by themselves."""
    after = "job" if platform in {"gitlab", "jenkins"} else "run"
    ids = job_ids or ("job-1",)
    case = Case(platform, f"{platform}.example", _REPOSITORY, "run-1", rerun_after=after, job_ids=ids)  # type: ignore[arg-type]  # a name of ours
    return case._replace(**given)


def found(detector: str, *, platform: str = "github", occurrences: int = 3, **given: Any) -> Case:  # noqa: ANN401 - fields of what was found
    """A finding about a job, which a run proves."""
    it = Found(detector, "seen to happen", occurrences, "CI", "test")._replace(**given)
    return failed(platform=platform, found=it, case_id="finding-1", owner="team", hours=24)


def given_up(platform: str = "github") -> Case:
    """A run attempt that failed though we had it run again."""
    told = Given(("test",), 2, "the registry did not answer", "wait", f"https://{platform}.example/run-1")
    return failed(platform=platform, attempt=2, signature="registry_unavailable", given=told, case_id="case-1")
