"""Everything behind a decision, in words: why it was decided so, what failed, what proves it, what would mend it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final
from uuid import UUID

import msgspec
from rich.console import RenderableType

from analytics.account import account
from analytics.rulebook import Rulebook
from analytics.signatures.catalogue import Catalogue, facts_of
from connectors.diagnoses import diagnoses_of
from connectors.postgres import Connection
from connectors.postgres_queries import Row, explain
from flows import log_account
from flows.log_account import LogAccount, Near, told
from flows.tables import facts, table
from models.records.errors import ConfigError
from models.records.evidence import Evidence, Line, Reading
from models.records.outputs import Reason, Verdict

WORDS: Final[Mapping[Reason, str]] = {
    Reason.KNOWN_FLAKY: "a test failed in a job whose tests fail for no reason: they passed on the same commit before",
    Reason.TRANSIENT_CAUSE: "the cause passes by itself, and a rerun is likely to pass",
    Reason.RUN_IN_PROGRESS: "the run has not ended, and the platform takes no rerun before",
    Reason.AWAITING_LOG: "the log of the failed job is being read, and may say more",
    Reason.RUN_END_UNSEEN: "the end of the run was waited for in vain",
    Reason.RUN_PASSED: "the run passed all the same",
    Reason.RUN_CANCELLED: "the run was called off",
    Reason.HARD_STOP: "a cause that no rerun may touch",
    Reason.UNKNOWN_CAUSE: "no signature explains the failure, and what is unknown is never acted on",
    Reason.NOT_TRANSIENT: "the cause stays until somebody changes something",
    Reason.DEPLOY_JOB: "a deployment is never run again by a machine",
    Reason.FORK: "the run belongs to a fork",
    Reason.NOT_FIRST_ATTEMPT: "it has been run again already",
    Reason.RETRIED_BY_PLATFORM: "the platform itself has retried the job already",
    Reason.TOO_MANY_FAILURES: "more jobs failed at once than chance makes fail",
    Reason.REPEATED_FAILURE: "the same job failed again and again",
    Reason.SCORE_UNKNOWN: "too little is known to say whether a rerun would pass",
    Reason.SCORE_TOO_LOW: "a rerun is not likely enough to pass",
    Reason.ALLOWED_TO_FAIL: "only jobs failed that are allowed to",
    Reason.NOT_RERUNNABLE: "the platform offers no rerun for it",
    Reason.PROTECTED_ENVIRONMENT: "it uses an environment that people depend on",
    Reason.FORBIDDEN: "a rule of the policy forbids it",
    Reason.FORK_NEEDS_APPROVAL: "a rerun is likely to pass, and for a fork somebody has to approve it",
    Reason.QUARANTINED: "the job, or the test of it that failed, is in quarantine because it is flaky",
    Reason.JOB_STUCK: "a job does not go on, for longer than it ever took",
    Reason.JOB_BROKEN: "a job fails again and again, and a rerun helps nobody",
    Reason.JOB_FLAKY: "a job is proven to be flaky, and somebody should mend it",
    Reason.FOUND: "a detector found something that an action answers",
    Reason.GIVEN_UP: "what was run again failed again, and people are told once",
    Reason.FINDING_CLEARED: "what was found does not hold any more",
    Reason.QUARANTINE_EXPIRED: "the time of the quarantine is over",
    Reason.QUARANTINE_PASSED: "the job has passed many times in a row, and its quarantine is over",
    Reason.QUARANTINE_RELEASED: "a person ended the quarantine",
}

_TOLD: Final = ("platform", "outcome", "reason", "step", "exit_code")

Resolve = Callable[[str], Rulebook]


class Explained(msgspec.Struct, frozen=True):
    """What is known of an id. Rows have the columns of their tables, and what was added to explain them.

    A failure's own columns are what was understood when its webhook came; `log` is what is understood since its log
    was read, None where nothing came of that yet.
    """

    id: UUID
    cases: list[UUID]
    failures: list[Row]
    decisions: list[Row]
    findings: list[Row]


def explained(connection: Connection, about: UUID, resolve: Resolve, near: Near) -> Explained | None:
    """Everything behind the id of a decision, case, event or finding; None if nothing is known of it.

    `resolve` gives the rulebook of a digest: failures are explained by the rules that were in force for them. `near`
    finds the cluster of an unknown failure.
    """
    found = explain(connection, about)
    if found is None:
        return None
    read = diagnoses_of(connection, [row["failure_id"] for row in found.failures])
    return Explained(
        about,
        found.cases,
        [
            row | _proof(row, resolve) | {"log": _log(row, read.get(row["failure_id"]), resolve, near)}
            for row in found.failures
        ],
        [row | {"in_words": in_words(row["reason"])} for row in found.decisions],
        found.findings,
    )


def in_words(reason: str) -> str | None:
    """What a reason means; None for one of another release."""
    return WORDS.get(Reason(reason)) if reason in set(Reason) else None


def _proof(failure: Row, resolve: Resolve) -> dict[str, Any]:
    """The facts of a failure, the line that its signature matched, and what mends it."""
    known = facts_of(**{name: failure[name] for name in _TOLD})
    proof: dict[str, Any] = {"facts": list(known), "matched": None, "captures": {}, "fix": None, "owner": None}
    if failure["signature"] is None:
        return proof
    try:
        catalogue = resolve(failure["rulebook"]).catalogue
    except ConfigError:
        return proof
    match = catalogue.match(failure["platform"], known, failure["excerpt"])
    if match is None or match.signature.name != failure["signature"]:
        return proof
    told = {"matched": match.line, "captures": dict(match.captures)}
    return proof | told | {"fix": match.signature.fix, "owner": match.signature.owner or None}


def _log(failure: Row, row: Row | None, resolve: Resolve, near: Near) -> LogAccount | None:
    """What the log of a failure says, by the rules that were in force when it was read."""
    if row is None:
        return None
    evidence = _evidence(row)
    code = failure["exit_code"] if failure["exit_code"] is not None else row["exit_code"]
    known = facts_of(**({name: failure[name] for name in _TOLD} | {"exit_code": code}))
    try:
        found = account(resolve(row["rulebook"]).catalogue, failure["platform"], known, evidence)
    except ConfigError:
        return _as_stored(row, evidence)
    return told(found, evidence, near=near)


def _evidence(row: Row) -> Evidence:
    """What the reader of the log told the shard, as far as it is needed to tell it again."""
    names = ("why", "exit_code", "log_lines", "log_bytes", "cut", "compared", "template", "normaliser")
    return Evidence(
        event_id=str(row["failure_id"]),
        instance="",
        repository="",
        pipeline_id="",
        job_id="",
        attempt=1,
        reading=Reading(row["reading"]),
        lines=tuple(Line(*line) for line in row["lines"]),
        **{name: row[name] for name in names},
    )


def _as_stored(row: Row, evidence: Evidence) -> LogAccount:
    """What is left to tell where the rulebook is gone."""
    nothing = account(Catalogue(()), "", (), evidence)
    names = ("diagnosis", "signature", "category", "transient", "cause", "line", "matched", "captures", "seen_passing")
    return msgspec.structs.replace(told(nothing, evidence), **{name: row[name] for name in names})


def shown(explained: Explained) -> Iterator[RenderableType]:
    """`explained` for a terminal: each run attempt with its decisions and failures, then the findings."""
    for case in explained.cases:
        failures = [row for row in explained.failures if row["case_id"] == case]
        decisions = [row for row in explained.decisions if row["case_id"] == case]
        about = "finding" if decisions and decisions[-1]["because_of"] else "run attempt"
        yield facts(f"{about} {case}", _run((decisions or failures)[-1]))
        for row in decisions:
            yield facts(f"decision {row['decision_id']}, revision {row['revision']}", _decision(row))
        for row in failures:
            yield facts(f"failure {row['failure_id']}", _failure(row))
            if row["log"] is not None:
                yield from log_account.shown(row["log"], f"log of failure {row['failure_id']}")
    if explained.findings:
        yield table(
            "findings about the same jobs",
            ("detector", "state", "stream time", "subject", "#events", "message"),
            [
                (
                    row["detector"],
                    row["state"],
                    row["at"],
                    ", ".join(f"{key} {value}" for key, value in row["subject"].items()),
                    row["occurrences"],
                    row["message"],
                )
                for row in explained.findings
            ],
        )


def _named(row: Row, names: Iterable[str]) -> list[tuple[str, object]]:
    return [(name.replace("_", " "), row[name]) for name in names]


def _run(row: Row) -> list[tuple[str, object]]:
    names = ("platform", "instance", "repository", "pipeline_id", "workflow_id", "attempt", "branch", "commit_sha")
    return _named(row, names)


def _stood(row: Row) -> tuple[str, object]:
    return "stood at", f"shard {row['shard']:02d}, entry {row['position']}"


def _decision(row: Row) -> list[tuple[str, object]]:
    said = row["explanation"]
    moved = ", ".join(f"{name} {weight:+.2f}" for name, weight in said.get("score_moved_by", ()))
    calls = ", ".join(
        " ".join(str(call[name]) for name in ("call", "job_id") if call.get(name)) for call in row["calls"]
    )
    learnt = ", ".join(
        f"{one['before']:.3f} became {one['after']:.3f}: {one['passes']:g} reruns passed, {one['fails']:g} failed"
        for one in said.get("learnt", ())
    )
    would = None if row["verdict"] != Verdict.ACT else calls
    return [
        ("verdict", f"{row['verdict']} ({row['mode']})"),
        ("reason", row["reason"] + (f": {row['in_words']}" if row["in_words"] else "")),
        ("asks for", would),
        ("not before", row["not_before"]),
        ("rules", ", ".join(map(str, said.get("rules", ()))) or None),
        ("signature", row["signature"]),
        ("score", row["score"]),
        ("moved by", moved if row["score"] is not None and moved else None),
        ("learnt", learnt or None),
        ("run ended", said.get("run_ended")),
        ("rerun after", said.get("rerun_after")),
        ("stream time", row["at"]),
        ("rulebook", row["rulebook"]),
        _stood(row),
    ]


def _failure(row: Row) -> list[tuple[str, object]]:
    captures = ", ".join(f"{name} = {value}" for name, value in row["captures"].items())
    where = _named(row, ("workflow", "job_name", "job_id", "outcome", "occurred_at", "url", "diagnosis"))
    why = _named(row, ("signature", "category", "transient", "cause", "fix", "owner", "matched"))
    told = [("fact", fact) for fact in row["facts"]]
    return [*where, *why, ("captures", captures or None), *told, ("score", row["score"]), _stood(row)]
