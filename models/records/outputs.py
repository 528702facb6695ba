"""What the shard says: rows that are final when written. Ids are UUIDv5 of what they are about, times Unix ms.

`position` is the running count of the entry, in its shard, that made the shard say it. Every record here is a table of
the same name in connectors/sql; a test holds fields and columns equal.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple


class Category(StrEnum):
    """What kind of cause a signature names."""

    INFRASTRUCTURE = "infrastructure"
    NETWORK = "network"
    RESOURCES = "resources"
    TIMEOUT = "timeout"
    DEPENDENCY = "dependency"
    TEST = "test"
    BUILD = "build"
    CONFIGURATION = "configuration"
    AUTHENTICATION = "authentication"
    POLICY = "policy"
    DEPLOY = "deploy"
    CANCELLED = "cancelled"


class Diagnosis(StrEnum):
    """How much is known of a failure's cause."""

    MATCHED = "matched"
    NO_PATTERN = "no_pattern"  # there was text, and no signature knows it
    NO_TEXT = "no_text"  # the webhook said nothing to match on
    NO_LOG = "no_log"  # nor has the platform a log of it
    NOT_READ = "not_read"  # nor could its log be read


class Failure(NamedTuple):
    """One failed job (or run, where no job is known), as it was understood when it came."""

    failure_id: str  # the id of its event
    case_id: str
    shard: int
    position: int
    platform: str
    instance: str
    repository: str
    pipeline_id: str
    workflow_id: str | None
    attempt: int
    job_id: str | None
    workflow: str | None
    job_name: str | None
    commit_sha: str | None
    branch: str | None
    author: str | None
    outcome: str
    occurred_ms: int
    received_ms: int
    duration_ms: int | None
    exit_code: int | None
    reason: str | None
    step: str | None
    excerpt: str | None
    diagnosis: str
    signature: str | None
    category: str | None
    transient: bool | None
    cause: str | None
    score: float | None
    model: str | None
    late: bool
    rulebook: str
    url: str | None


class DiagnosisRow(NamedTuple):
    """How a failure is understood once its log was read, or is known not to be readable. One for each failure."""

    failure_id: str
    case_id: str
    shard: int
    position: int
    reading: str  # read, no_log or not_read
    why: str | None  # of no_log and not_read
    diagnosis: str
    signature: str | None
    category: str | None
    transient: bool | None
    cause: str | None
    line: int | None  # number of the matched line in the log as the platform gave it, from 1
    matched: str | None  # that line, or the fact of the webhook that matched
    seen_passing: bool  # the last passing log of the job has the matched line too
    captures: str  # JSON object
    exit_code: int | None
    lines: str  # JSON array of [number, text, new]: the excerpt
    log_lines: int
    log_bytes: int
    cut: bool
    compared: bool
    template: str | None
    normaliser: int
    score: float | None
    model: str | None
    received_ms: int
    at_ms: int  # stream time
    rulebook: str
    discarded: str | None  # the signature that matched best, where the last passing log has its line too


class FindingState(StrEnum):
    """What became of a finding."""

    RAISED = "raised"
    CHANGED = "changed"
    CLEARED = "cleared"


class FindingRow(NamedTuple):
    """One answer of a detector that differs from its last one on the same subject."""

    finding_id: str  # of detector, subject and first event
    revision: int
    shard: int
    position: int
    detector: str
    state: str
    instance: str
    repository: str
    subject: str  # JSON object: the parts of the key by name
    first_ms: int
    last_ms: int
    occurrences: int
    events: list[str]  # ids of the events that prove it, at most 16
    message: str
    at_ms: int  # stream time
    rulebook: str


class DetectorFault(NamedTuple):
    """A detector that raised, or answered what is no finding; it is not asked about this subject any more."""

    fault_id: str  # of detector, subject, rulebook and position
    shard: int
    position: int
    detector: str
    instance: str
    repository: str
    subject: str  # JSON object: the parts of the key by name
    event_id: str | None  # the event that did it; null where time did
    error: str
    at_ms: int  # stream time
    rulebook: str


class Verdict(StrEnum):
    """What a decision says to do."""

    ACT = "act"
    WAIT = "wait"
    SKIP = "skip"


class Reason(StrEnum):
    """Why. A column and a metric label: "why did it not heal?" is one query."""

    TRANSIENT_CAUSE = "transient_cause"
    RUN_IN_PROGRESS = "run_in_progress"
    AWAITING_LOG = "awaiting_log"
    RUN_END_UNSEEN = "run_end_unseen"
    RUN_PASSED = "run_passed"
    RUN_CANCELLED = "run_cancelled"
    HARD_STOP = "hard_stop"
    UNKNOWN_CAUSE = "unknown_cause"
    NOT_TRANSIENT = "not_transient"
    DEPLOY_JOB = "deploy_job"
    FORK = "fork"
    NOT_FIRST_ATTEMPT = "not_first_attempt"
    RETRIED_BY_PLATFORM = "retried_by_platform"
    TOO_MANY_FAILURES = "too_many_failures"
    REPEATED_FAILURE = "repeated_failure"
    SCORE_UNKNOWN = "score_unknown"
    SCORE_TOO_LOW = "score_too_low"
    ALLOWED_TO_FAIL = "allowed_to_fail"
    NOT_RERUNNABLE = "not_rerunnable"
    PROTECTED_ENVIRONMENT = "protected_environment"
    FORBIDDEN = "forbidden"  # by a rule of the policy
    KNOWN_FLAKY = "known_flaky"  # a test failed in a job whose tests have failed and then passed on one commit
    FORK_NEEDS_APPROVAL = "fork_needs_approval"  # with verdict act, and never in mode act
    QUARANTINED = "quarantined"  # the job, or the test of it that failed
    # about findings, and what was given up
    JOB_STUCK = "job_stuck"
    JOB_BROKEN = "job_broken"
    JOB_FLAKY = "job_flaky"
    FOUND = "found"  # by a detector of somebody's own
    GIVEN_UP = "given_up"  # it failed again though we had it run again
    FINDING_CLEARED = "finding_cleared"
    QUARANTINE_EXPIRED = "quarantine_expired"
    QUARANTINE_PASSED = "quarantine_passed"  # many times in a row
    QUARANTINE_RELEASED = "quarantine_released"  # by a person


class DecisionRow(NamedTuple):
    """What is to be done about one run attempt, or about a finding. The highest revision of a case is in force."""

    decision_id: str  # of case and revision, never of scores
    case_id: str
    revision: int
    shard: int
    position: int
    platform: str
    instance: str
    repository: str
    pipeline_id: str  # empty where no run proves the finding that it is about
    workflow_id: str | None
    attempt: int
    commit_sha: str | None
    branch: str | None
    verdict: str
    reason: str
    mode: str  # observe, suggest or act
    action: str | None
    calls: str  # JSON array of inert calls
    jobs: list[str]  # ids of the failure rows that it covers
    signature: str | None  # the one that decided
    score: float | None
    model: str | None
    explanation: str  # JSON object: what the decision was made of
    occurred_ms: int  # event time of the newest event behind it
    received_ms: int
    at_ms: int  # stream time
    rulebook: str
    not_before_ms: int | None = None  # event time before which nothing is done; None where nothing is to be done
    because_of: str | None = None  # the finding, or the case that was given up; None: it is about a run attempt


class Aggregate(NamedTuple):
    """One repository's minute, by event time, final: written once, when its pane closes."""

    shard: int
    position: int
    platform: str
    instance: str
    repository: str
    minute_ms: int
    started: int
    completed: int
    failed: int
    duration_ms_sum: int
    durations: list[int]  # counts by bucket; bucket i holds durations below 2**i seconds, the last one the rest
    late: int  # events that came after an earlier pane of this repository had closed


class DeadLetter(NamedTuple):
    """An entry, or one event of a packed entry, that cannot be used; kept whole, redacted, with reason and position."""

    dead_letter_id: str
    shard: int
    position: int
    entry_id: str
    part: int
    reason: str
    detail: str
    source: str | None
    payload: bytes
    received_ms: int


class JobHour(NamedTuple):
    """One job's hour, by event time, final: written once, when the hour has closed. Counted are runs that ended."""

    shard: int
    position: int
    platform: str
    instance: str
    repository: str
    workflow: str  # empty where the platform names none: it is part of the key
    job_name: str  # likewise
    hour_ms: int
    passed: int
    failed: int  # timed out and errored ones too
    other: int  # cancelled, skipped, unstable, neutral
    reruns: int  # of all these, the runs of a later attempt than the first
    duration_ms_sum: int
    duration_ms_failed_sum: int  # of that, spent in runs that failed
    duration_ms_rerun_sum: int  # of that, spent in reruns that did not fail
    durations: list[int]  # counts by bucket, as in Aggregate
    queue_ms_sum: int
    queues: list[int]  # likewise, of the time that runs waited before they started
    main_passed: int  # on the default branch
    main_failed: int
    late: int  # events that came after an earlier hour of this job had closed


class IncidentState(StrEnum):
    """What became of an incident."""

    OPENED = "opened"
    CHANGED = "changed"
    CLOSED = "closed"


class Dimension(StrEnum):
    """What the failures of an incident have in common, beside their symptom."""

    HOST = "host"  # the server that their logs name
    LABEL = "label"  # of their runners
    INSTANCE = "instance"
    PLATFORM = "platform"
    ALL = "all"  # nothing that is not common elsewhere


class Over(StrEnum):
    """Why an incident is closed."""

    CALM = "calm"
    USUAL = "usual"  # it lasted so long that it is how things are now


class IncidentRow(NamedTuple):
    """How an incident of the whole fleet stands; the highest revision is how it stands now."""

    incident_id: str  # of symptom and opening minute
    revision: int
    state: str
    symptom: str  # the signature's name; where no signature knows it, the line, reason, step or outcome in common
    signature: str | None
    category: str | None
    dimension: str  # what explains it, of Dimension
    value: str | None  # which host, label, instance or platform; NULL for all
    share: float  # of its repositories, those where it is so
    usual_share: float  # of all other failures of recent hours, those where it is so
    repositories: int  # that it reached since it began
    failures: int
    late: int  # of the failures, those counted in a later minute than their own
    repositories_now: int  # in the window that ends with `minute_ms`
    expected: float  # so many repositories are usual in such a window
    most_affected: str  # JSON array of [repository, failures], at most 8
    message: str
    began_ms: int  # the first minute of its failures
    last_ms: int  # end of the last minute of its failures before it became calm
    minute_ms: int  # the minute that made the fleet say it
    at_ms: int  # the stream time at which that minute closed
    why: str | None  # of closed, of Over
    rulebook: str


class ActEnd(StrEnum):
    """What came of an act that ran something again."""

    PASSED = "passed"  # all its jobs did
    FAILED_SAME = "failed_same"  # one of them, with the signature that it had before
    FAILED_OTHERWISE = "failed_otherwise"
    OVERTAKEN = "overtaken"  # by a newer commit of the branch, before it had ended
    CANCELLED = "cancelled"  # by somebody
    UNSEEN = "unseen"  # nothing was heard of it for hours


class ActOutcome(NamedTuple):
    """What came of an act, as far as the shard's events tell; the highest revision is what is known now."""

    act_id: str
    revision: int
    shard: int
    position: int
    case_id: str
    platform: str
    instance: str
    repository: str
    action: str
    attempt: int  # the one that had failed
    signature: str | None  # the one that decided
    outcome: str  # of ActEnd
    masked: bool  # it passed, and its commit proved broken all the same
    event_id: str | None  # what settled it
    asked_ms: int
    ended_ms: int | None  # event time of the last end of its jobs
    duration_ms: int | None  # all its jobs together; None where none is known
    ends: str  # JSON array: how each of its jobs ended, on which labels, after how long
    probe: bool
    passes: float  # of the signature, action and attempt, as they count after it
    fails: float
    at_ms: int  # stream time
    rulebook: str


class FailureGroup(NamedTuple):
    """Failures of one minute in one shard, alike in everything but their repository."""

    symptom: str
    category: str | None  # of the signature; None: no signature knows it
    platform: str
    instance: str
    host: str  # the server that the log names; "" if none
    labels: str  # of the runner, sorted, with commas between; "" if none
    repositories: tuple[tuple[str, int], ...]  # with the failures of each, in order
    late: int  # of the failures, those counted in a later minute than their own


class ClosedMinutes(NamedTuple):
    """What a shard tells the fleet: all minutes up to one are closed, and what failed in them."""

    shard: int
    until: int  # the last one, minutes since 1970
    rulebook: str  # in force when they closed
    rules: dict[str, Any]  # its table for the fleet
    minutes: tuple[tuple[int, tuple[FailureGroup, ...]], ...]  # those with failures, in order


class ShardStats(NamedTuple):
    """What is counted for the metrics and judged by nobody."""

    events: int
    duplicates: int
    late: int


class ShardOutput(NamedTuple):
    """All that one batch made a shard say, or one minute the fleet: incidents, and nothing else."""

    failures: list[Failure]
    findings: list[FindingRow]
    decisions: list[DecisionRow]
    aggregates: list[Aggregate]
    dead_letters: list[DeadLetter]
    diagnoses: list[DiagnosisRow] = []  # noqa: RUF012 - never added to in place
    detector_faults: list[DetectorFault] = []  # noqa: RUF012 - never added to in place
    job_hours: list[JobHour] = []  # noqa: RUF012 - never added to in place
    incidents: list[IncidentRow] = []  # noqa: RUF012 - likewise
    act_outcomes: list[ActOutcome] = []  # noqa: RUF012 - likewise
    stats: ShardStats = ShardStats(0, 0, 0)
    closed: list[ClosedMinutes] = []  # noqa: RUF012 - likewise; for the fleet, mostly none

    @property
    def rows(self) -> tuple[list[Any], ...]:
        """What goes into a table each, in the order of the fields."""
        return self[:-2]
