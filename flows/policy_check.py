"""What the policy says of a job, and why: rule by rule, and as it would be decided if the job failed."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import RenderableType

from analytics.policy.account import Account, Condition, RuleAccount, account
from analytics.policy.decide import CaseView, Decision, FailedJob, choose, decide, subject_of
from analytics.policy.rules import Subject
from analytics.rulebook import Rulebook
from analytics.signatures.catalogue import Signature
from flows import policy_files
from flows.explain import in_words
from flows.settings import Settings
from flows.tables import facts, lasted, table
from models.records.errors import ConfigError
from models.records.event import Outcome, PlatformName
from models.scorers.rerun_passes import features

_ALONE: Final = frozenset({"gitlab", "jenkins"})
"""The platforms that take a rerun as soon as the job has ended, not the run."""
_PUBLIC: Final[dict[PlatformName, str]] = {
    "github": "github.com",
    "gitlab": "gitlab.com",
    "jenkins": "jenkins",
    "circleci": "circleci.com",
}
_ANY: Final = "any_transient"
"""What stands for a cause where none is named: one that passes by itself, and that no rule asks for by its name."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Which job is asked about, and how it is to have failed.

    Parameters
    ----------
    job
        What the policy says of this job: repository:branch:job. The branch or the job may be left out, and then counts
        as not known.
    platform
        Its platform; github if not given.
    instance
        The name of the server or organisation; the first that has a source of that platform if not given.
    workflow
        The name of its workflow or pipeline.
    environment
        The environment that it deploys to or uses.
    signature
        Why it is to have failed; some cause that passes by itself if not given.
    attempt
        In which attempt of its run; the first if not given.
    fork
        The run belongs to a fork.
    """

    job: str | None = None
    platform: PlatformName = "github"
    instance: str | None = None
    workflow: str | None = None
    environment: str | None = None
    signature: str | None = None
    attempt: Annotated[int, Parameter(validator=Number(gte=1))] = 1
    fork: bool = False


@dataclass(frozen=True, slots=True)
class Said:
    """What the policy says of it, and what would be decided of a run in which nothing else failed."""

    subject: Subject
    account: Account
    lines: list[str]  # where each rule is written
    job: FailedJob
    decision: Decision
    wait_ms: int | None  # from the end of the run


def look(asked: Asked, settings: Settings, rulebook: Rulebook) -> Said:
    """Ask the policy of `rulebook`, which is that of the settings, about a job.

    Raises:
        ConfigError: there is no such job or signature.
    """
    case = _case(asked, settings, rulebook)
    subject = subject_of(case, case.jobs[0], choose(case, case.jobs, rulebook.policy).names)
    decision = decide(case, rulebook.policy)
    lines = policy_files.lines(settings, policy_files.written(settings).places)
    return Said(subject, account(rulebook.policy, subject), lines, case.jobs[0], decision, decision.not_before_ms)


def _case(asked: Asked, settings: Settings, rulebook: Rulebook) -> CaseView:
    """A run, ended at 0, in which the job failed and nothing else."""
    repository, branch, job_name = [*(part or None for part in (asked.job or "").split(":", 2)), None, None][:3]
    if repository is None:
        raise ConfigError("--job: expected repository:branch:job, such as acme/web:main:test")
    return CaseView(
        platform=asked.platform,
        instance=asked.instance or _instance(asked.platform, settings),
        repository=repository,
        pipeline_id="",
        workflow_id=None,
        attempt=asked.attempt,
        rerun_after="job" if asked.platform in _ALONE else "run",
        ended=Outcome.FAILED,
        given_up=False,
        jobs=(_job(asked, job_name, rulebook),),
        branch=branch,
    )


def _job(asked: Asked, job_name: str | None, rulebook: Rulebook) -> FailedJob:
    cause = _signature(asked.signature, rulebook) if asked.signature is not None else None
    return FailedJob(
        failure_id="",
        job_id=None if asked.platform == "jenkins" else "",  # there, run and job are one
        at_ms=0,
        signature=cause.name if cause else _ANY,
        transient=cause.transient if cause else True,
        hard_stop=cause.hard_stop if cause else False,
        is_deploy=False,
        is_fork=asked.fork,
        allow_failure=False,
        native_retries=0,
        score=_score(asked, cause, rulebook) if cause else 1.0,
        repeated=False,
        workflow=asked.workflow,
        job_name=job_name,
        category=cause.category.value if cause else None,
        action=cause.action.value if cause else None,
        environments=(asked.environment,) if asked.environment else (),
    )


def _signature(name: str, rulebook: Rulebook) -> Signature:
    found = next((signature for signature in rulebook.catalogue.signatures if signature.name == name), None)
    if found is None:
        close = difflib.get_close_matches(name, [signature.name for signature in rulebook.catalogue.signatures], n=1)
        raise ConfigError(f"--signature: there is none {name!r}" + (f"; did you mean {close[0]}?" if close else ""))
    return found


def _score(asked: Asked, cause: Signature, rulebook: Rulebook) -> float | None:
    """The score of a failure of which its cause is known, and nothing else."""
    known = features(
        platform=asked.platform,
        outcome=Outcome.FAILED.value,
        attempt=asked.attempt,
        failed_jobs=1,
        signature=cause.name,
        category=cause.category.value,
    )
    return rulebook.scorer.score([known])[0].value


def _instance(platform: PlatformName, settings: Settings) -> str:
    sources = settings.receiver.sources.values()
    return next((source.instance for source in sources if source.platform == platform), _PUBLIC[platform])


# --- for people and for machines


def shown(said: Said) -> Iterator[RenderableType]:
    """All of it, for a terminal."""
    yield facts("job", said.subject._asdict().items())
    columns = ("#rule", "written", "is for it", "because", "sets")
    yield table("rules, the last word counts", columns, map(_rule, said.account.rules, said.lines))
    values = said.account.terms._asdict()
    set_by = said.account.set_by
    yield table(
        "what holds",
        ("what", "#value", "by"),
        ((name, values[name], f"rule {number}" if number else "the policy") for name, number in set_by.items()),
    )
    yield facts("if it failed, and nothing else", _decided(said))


def _rule(rule: RuleAccount, line: str) -> tuple[object, ...]:
    held = {True: "yes", False: "no", None: "unknown: where stricter"}[rule.held]
    sets = ", ".join(name if value is True else f"{name} = {value}" for name, value in rule.sets.items())
    # What rules it out says all; what does not hold for want of knowledge, or holds, is said of each.
    because = [condition for condition in rule.conditions if condition.held is rule.held or rule.held]
    return rule.number, Path(line).name, held, "; ".join(map(_condition, because)), sets


def _condition(condition: Condition) -> str:
    is_ = {True: "is", False: "is not", None: "may be"}[condition.held]
    value = "(not known)" if condition.value is None else condition.value
    return f"{condition.name} {value} {is_} {' or '.join(condition.patterns)}"


def _decided(said: Said) -> Iterator[tuple[str, object]]:
    decision, job = said.decision, said.job
    yield "cause", "one that passes by itself" if job.signature == _ANY else job.signature
    yield "score", job.score
    yield "verdict", f"{decision.verdict.value} ({decision.mode})"
    yield "reason", f"{decision.reason.value}: {in_words(decision.reason)}"
    yield "action", decision.action
    yield "waits", None if said.wait_ms is None else lasted(said.wait_ms)


def as_data(said: Said) -> dict[str, Any]:
    """All of it, for a machine."""
    decision = said.decision
    return {
        "subject": said.subject._asdict(),
        "rules": [
            {
                "rule": rule.number,
                "written": line,
                "holds": rule.held,
                "conditions": [condition._asdict() for condition in rule.conditions],
                "sets": rule.sets,
            }
            for rule, line in zip(said.account.rules, said.lines, strict=True)
        ],
        "terms": said.account.terms._asdict(),
        "set_by": said.account.set_by,
        "decision": {
            "signature": None if said.job.signature == _ANY else said.job.signature,
            "score": said.job.score,
            "verdict": decision.verdict.value,
            "reason": decision.reason.value,
            "mode": decision.mode,
            "action": decision.action,
            "wait_ms": said.wait_ms,
        },
    }
