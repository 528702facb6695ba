"""Records as a shard would say them, told apart by a number."""

from __future__ import annotations

import json
from typing import Any

from connectors.postgres import Progress
from models.records.event import uuid5_text
from models.records.outputs import (
    ActOutcome,
    Aggregate,
    DeadLetter,
    DecisionRow,
    DetectorFault,
    DiagnosisRow,
    Failure,
    FindingRow,
    IncidentRow,
    JobHour,
    ShardOutput,
)

NOW_MS = 1_795_000_000_123
MINUTE_MS = 60_000
HOUR_MS = 3_600_000


def failure(number: int, **changes: Any) -> Failure:
    """The failed job `number` of the run attempt of the same number, unless `changes` say otherwise."""
    return Failure(
        failure_id=uuid5_text("failure", str(number)),
        case_id=uuid5_text("case", str(number)),
        shard=number % 12,
        position=number,
        platform="github",
        instance="github.com",
        repository="org/repo",
        pipeline_id=str(number),
        workflow_id=None,
        attempt=1,
        job_id=str(number * 10),
        workflow="CI",
        job_name="test (3.11)",
        commit_sha="c" * 40,
        branch="main",
        author=None,
        outcome="failed",
        occurred_ms=NOW_MS,
        received_ms=NOW_MS + 250,
        duration_ms=61_000,
        exit_code=3_221_225_786,
        reason="failure",
        step="Run tests",
        excerpt='tab\there, "quoted", back\\slash, {brace}, null\nline two \u00e9\u2028\x1b[31m',
        diagnosis="matched",
        signature="connection-reset",
        category="network",
        transient=True,
        cause="The network",
        score=0.1 + 0.2,
        model="rerun-1",
        late=False,
        rulebook="d" * 64,
        url="https://ci.example/1",
    )._replace(**changes)


def finding(number: int, revision: int = 1, **changes: Any) -> FindingRow:
    """Finding `number`, on the job and repository of failure()."""
    return FindingRow(
        finding_id=uuid5_text("finding", str(number)),
        revision=revision,
        shard=number % 12,
        position=number,
        detector="repeated_failure",
        state="raised",
        instance="github.com",
        repository="org/repo",
        subject='{"job_name":"test (3.11)"}',
        first_ms=NOW_MS - MINUTE_MS,
        last_ms=NOW_MS,
        occurrences=3,
        events=[uuid5_text("failure", str(number))],
        message="failed 3 times",
        at_ms=NOW_MS + 300,
        rulebook="d" * 64,
    )._replace(**changes)


def decision(number: int, revision: int = 1, **changes: Any) -> DecisionRow:
    """Revision of the decision about the run attempt of failure `number`."""
    return DecisionRow(
        decision_id=uuid5_text("decision", str(number), str(revision)),
        case_id=uuid5_text("case", str(number)),
        revision=revision,
        shard=number % 12,
        position=number,
        platform="github",
        instance="github.com",
        repository="org/repo",
        pipeline_id=str(number),
        workflow_id=None,
        attempt=1,
        commit_sha=None,
        branch="main",
        verdict="wait",
        reason="run_in_progress",
        mode="observe",
        action=None,
        calls="[]",
        jobs=[uuid5_text("failure", str(number))],
        signature=None,
        score=None,
        model=None,
        explanation='{"score": 0.30000000000000004}',
        occurred_ms=NOW_MS,
        received_ms=NOW_MS + 250,
        at_ms=NOW_MS + 300,
        rulebook="d" * 64,
    )._replace(**changes)


def aggregate(number: int, **changes: Any) -> Aggregate:
    """Minute `number` of one repository."""
    return Aggregate(
        shard=number % 12,
        position=number,
        platform="github",
        instance="github.com",
        repository="org/repo",
        minute_ms=(NOW_MS // MINUTE_MS + number) * MINUTE_MS,
        started=5,
        completed=3,
        failed=1,
        duration_ms_sum=12_000,
        durations=[0, 0, 4, 0],
        late=0,
    )._replace(**changes)


def letter(number: int, **changes: Any) -> DeadLetter:
    """Dead letter `number`, with bytes that are no text."""
    return DeadLetter(
        dead_letter_id=uuid5_text("dead", str(number)),
        shard=number % 12,
        position=number,
        entry_id=f"{NOW_MS}-{number}",
        part=0,
        reason="bad_checksum",
        detail="",
        source=None,
        payload=bytes(range(256)),
        received_ms=NOW_MS,
    )._replace(**changes)


def diagnosis(number: int, **changes: Any) -> DiagnosisRow:
    """What the log of failure `number` showed."""
    return DiagnosisRow(
        failure_id=uuid5_text("failure", str(number)),
        case_id=uuid5_text("case", str(number)),
        shard=number % 12,
        position=number + 1,
        reading="read",
        why=None,
        diagnosis="matched",
        signature="connection-reset",
        category="network",
        transient=True,
        cause="The network",
        line=4711,
        matched='read: "connection reset" \u00e9',
        seen_passing=False,
        captures='{"host": "registry.example"}',
        exit_code=-9,
        lines='[[4711, "read: \\"connection reset\\" \u00e9", true]]',
        log_lines=5000,
        log_bytes=1 << 33,
        cut=True,
        compared=True,
        template="read: <*>",
        normaliser=1,
        score=0.25,
        model="rerun-1",
        received_ms=NOW_MS + 1500,
        at_ms=NOW_MS + 1600,
        rulebook="d" * 64,
        discarded="dns-failure",
    )._replace(**changes)


def fault(number: int, **changes: Any) -> DetectorFault:
    """A detector that broke on what failure `number` told."""
    return DetectorFault(
        fault_id=uuid5_text("fault", str(number)),
        shard=number % 12,
        position=number,
        detector="Mine",
        instance="github.com",
        repository="org/repo",
        subject='{"repository":"org/repo"}',
        event_id=uuid5_text("failure", str(number)),
        error="ZeroDivisionError: division by zero",
        at_ms=NOW_MS + 300,
        rulebook="d" * 64,
    )._replace(**changes)


def job_hour(number: int, **changes: Any) -> JobHour:
    """Hour `number` of the job of failure()."""
    return JobHour(
        shard=number % 12,
        position=number,
        platform="github",
        instance="github.com",
        repository="org/repo",
        workflow="CI",
        job_name="test (3.11)",
        hour_ms=(NOW_MS // HOUR_MS + number) * HOUR_MS,
        passed=6,
        failed=2,
        other=1,
        reruns=1,
        duration_ms_sum=540_000,
        duration_ms_failed_sum=120_000,
        duration_ms_rerun_sum=60_000,
        durations=[0, 0, 0, 0, 0, 0, 9, *[0] * 9],
        queue_ms_sum=18_000,
        queues=[0, 9, *[0] * 14],
        main_passed=3,
        main_failed=1,
        late=0,
    )._replace(**changes)


def incident(number: int, revision: int = 0, **changes: Any) -> IncidentRow:
    """Revision of incident `number`, open unless `changes` say otherwise."""
    return IncidentRow(
        incident_id=uuid5_text("incident", str(number)),
        revision=revision,
        state="opened",
        symptom="connection-reset",
        signature="connection-reset",
        category="network",
        dimension="host",
        value="registry.example",
        share=0.958,
        usual_share=0.02,
        repositories=24,
        failures=61,
        late=1,
        repositories_now=24,
        expected=0.4,
        most_affected='[["org/repo", 9]]',
        message="connection-reset: 24 repositories within 5 minutes, 0.4 are usual",
        began_ms=NOW_MS - 2 * MINUTE_MS,
        last_ms=NOW_MS,
        minute_ms=NOW_MS - MINUTE_MS,
        at_ms=NOW_MS + MINUTE_MS,
        why=None,
        rulebook="d" * 64,
    )._replace(**changes)


def act_outcome(number: int, revision: int = 0, **changes: Any) -> ActOutcome:
    """What came of act `number`: it passed, unless `changes` say otherwise."""
    end = uuid5_text("end", str(number))
    rerun: dict[str, Any] = {"labels": "ubuntu-latest", "outcome": "passed", "event_id": end, "signature": None}
    rerun |= {"failure_id": failure(number).failure_id, "duration_ms": 120_000}  # in the order that jsonb has
    return ActOutcome(
        act_id=uuid5_text("act", str(number)),
        revision=revision,
        shard=number % 12,
        position=number,
        case_id=failure(number).case_id,
        platform="github",
        instance="github.com",
        repository="org/repo",
        action="rerun_failed",
        attempt=1,
        signature="connection-reset",
        outcome="passed",
        masked=False,
        event_id=end,
        asked_ms=NOW_MS + MINUTE_MS,
        ended_ms=NOW_MS + 3 * MINUTE_MS,
        duration_ms=120_000,
        ends=json.dumps([rerun]),
        probe=False,
        passes=3.0,
        fails=0.5,
        at_ms=NOW_MS + 4 * MINUTE_MS,
        rulebook="d" * 64,
    )._replace(**changes)


def output(number: int) -> ShardOutput:
    """One record of each kind."""
    return ShardOutput(
        [failure(number)],
        [finding(number)],
        [decision(number)],
        [aggregate(number)],
        [letter(number)],
        [diagnosis(number)],
        [fault(number)],
        [job_hour(number)],
        [incident(number)],
        [act_outcome(number)],
    )


def failures(*numbers: int, **changes: Any) -> ShardOutput:
    """Only failures."""
    return ShardOutput([failure(number, **changes) for number in numbers], [], [], [], [])


def progress(position: int) -> Progress:
    """As far as entry `position`."""
    return Progress(f"{NOW_MS}-{position}", position, NOW_MS + position, "d" * 64)
