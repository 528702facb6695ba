"""Every metric there is, each declared once.

    metrics.expose("flow", version="0.1.0")                                  # once, when the process starts
    metrics.guard_events_total(platform="github", event_type=EventType.FAILED).inc(3)
    metrics.guard_snapshot_age_seconds().set_function(lambda: clock() - saved_at)

No label holds a repository, a branch or anything else that whoever posts can choose. docs/metrics.md is written from
this table by `python -m connectors.metrics`; deploy/prometheus has the alerts, docs/alerts.md what to do at each.
"""

from __future__ import annotations

import platform as machine
import sys
from collections.abc import Callable
from typing import Annotated, Final, Literal, NamedTuple

import prometheus_client

from connectors.metric_kinds import BOTH, EVERY, REGISTRY, Histogram, Metric, Process, counter, gauge, histogram
from models.records.calls import CallName
from models.records.errors import Unavailable
from models.records.event import SHARDS, EventType, PlatformName
from models.records.ledger import ActState, Why
from models.records.outputs import ActEnd, Diagnosis, FindingState, IncidentState, Reason, Verdict

CONTENT_TYPE: Final = prometheus_client.CONTENT_TYPE_PLAIN_0_0_4

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
COUNTS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
ROWS: Final = (1, 10, 100, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)

Shard = Annotated[int, range(SHARDS)]
Stage = Literal["receive", "normalise", "decode", "detect", "score", "decide", "store"]
Answer = Literal[
    "accepted",  # 202: durable on the bus
    "duplicate",
    "ignored",  # authentic, and knowingly of no interest
    "rejected",  # authentic, and not what the platform documents
    "spooled",  # durable here, because Redis was away
    "unauthorised",  # 401
    "method",  # 405
    "too_large",  # 413
    "media_type",  # 415
    "timeout",  # 408
    "headers",  # 431
    "unavailable",  # 503: neither Redis nor the spool took it
]

LogOutcome = Literal[
    "read",
    "cut",  # read, but longer than is read
    "no_log",  # the platform has none
    "denied",  # the platform says no: 401, 403, a redirect to where we may not go
    "no_credential",  # nobody has told us how to ask
    "gave_up",  # no answer to go by, while the patience lasted
    "failed",  # our fault: it is among the dead letters
]
QueueState = Literal["waiting", "proposed", "taken"]
Reconciled = Literal["found", "known", "unreadable"]
Look = Literal["read", "unavailable", "refused"]
Redelivered = Literal["asked", "taken", "refused", "gave_up"]
Compared = Literal["redis", "postgres", "read", "none"]

# --- the receiver ---


@counter(unit="deliveries", of=["receiver"])
def guard_webhook_requests_total(*, source: str, outcome: Answer) -> None:
    """Deliveries answered, by source ("unknown" where no such source is configured) and what became of them.

    unauthorised: a secret was changed on one side only, or someone tries. rejected: look at the dead letters.
    too_large: raise max_body_bytes of the source, up to 25 MiB. unavailable: deliveries are lost, where the platform
    does not send them again by itself; GitHub does not.
    """


@histogram(unit="seconds", of=["receiver"], buckets=SECONDS)
def guard_ingest_seconds() -> None:
    """From the first byte of a delivery to its answer.

    The platforms give up after 10 s. Slow means that the append is: look at the disk of Redis.
    """


@gauge(unit="index", of=["receiver"])
def guard_signature_secret_index(*, source: str) -> None:
    """Which of its secrets proved the last delivery of a source; 0 is the newest.

    Above 0 for days: the platform still signs with the old secret. Change it there before you remove it here.
    """


@counter(unit="places", of=EVERY)
def guard_redactions_total(*, rule: str) -> None:
    """Secrets and mail addresses hidden before anything was stored or sent, by rule.

    A jump: a pipeline prints a secret. Find the job by the time, and have that secret replaced.
    """


@gauge(unit="bytes", of=["receiver"])
def guard_spool_bytes() -> None:
    """Size of the local spool.

    Near receiver.spool_max_bytes deliveries will be answered 503. Bring Redis back, or make room.
    """


@gauge(unit="entries", of=["receiver"])
def guard_spool_entries() -> None:
    """Deliveries that wait in the local spool for Redis.

    Not falling while Redis is up: read the receiver's log, which names why the appends fail.
    """


# --- the bus ---


@gauge(unit="events", of=["flow"])
def guard_stream_depth(*, shard: Shard) -> None:
    """Events in the shard that the flow has not read; heartbeats do not count.

    All shards grow: the flow is too slow or stands still. One grows: its worker is stuck, or one repository is loud.
    """


@gauge(unit="seconds", of=["flow"])
def guard_stream_oldest_age_seconds(*, shard: Shard) -> None:
    """Age of the oldest entry of the shard that the flow has not read; 0 where there is none.

    Grows second by second: nothing is read. Look at the flow's log, then at Redis and PostgreSQL.
    """


@counter(unit="gaps", of=["flow"])
def guard_stream_gaps_total(*, shard: Shard, kind: Literal["lost_tail", "trimmed"]) -> None:
    """Entries found missing: the server lost its newest ones (lost_tail), or unread ones were trimmed (trimmed).

    Any rise is loss. Have the platforms redeliver for that time, and check appendfsync or who trims the stream.
    """


@gauge(unit="seconds", of=["flow"])
def guard_stream_time_lag_seconds(*, shard: Shard) -> None:
    """How far the shard's stream time is behind the clock.

    Above a few seconds without depth: no heartbeats come, so absences are not noticed. See that a receiver runs.
    """


@counter(unit="attempts", of=EVERY)
def guard_redis_retries_total() -> None:
    """Commands to Redis sent again, or connections made anew.

    A few at a restart are normal. Steady: the network, or a server near its memory or connection limit.
    """


# --- the dataflow ---


@counter(unit="events", of=["flow"])
def guard_events_total(*, platform: PlatformName, event_type: EventType) -> None:
    """Events read, duplicates among them; rate() of it is events per second.

    Falls to nothing for one platform: its hook is disabled, or its network is. See GuardSourceSilent.
    """


@histogram(unit="seconds", of=BOTH, buckets=SECONDS)
def guard_event_latency_seconds(*, stage: Literal["receive", "decide", "event"]) -> None:
    """From received_at to the bus (receive), from received_at to a visible row (decide), from event time to it (event).

    decide grows: depth or PostgreSQL. event alone grows: the platform delivers late, or its clock is wrong.
    """


@counter(unit="errors", of=BOTH)
def guard_errors_total(*, stage: Stage, type: str) -> None:  # noqa: A002 - the label's name
    """Errors, by the stage where they arose and the name of their class.

    InputError and its kinds: look at the dead letters. Unavailable: the server that the log names. Anything else is
    our bug: report it.
    """


@counter(unit="entries", of=["flow", "logs"])
def guard_dead_letters_total(*, reason: str) -> None:
    """Entries put among the dead letters, by reason.

    `guard dead list` shows them. After a fix, `guard dead replay` sends them through again.
    """


@gauge(unit="entries", of=["flow"])
def guard_dead_letters_open() -> None:
    """Dead letters that nobody has replayed.

    Above ten something is systematically wrong: a platform changed its payload, or a producer writes garbage.
    """


@counter(unit="failures", of=["flow"])
def guard_failures_total(*, signature: str) -> None:
    """Failed jobs, by the signature that explains them; "none" where none does.

    One signature jumps: a common cause, an incident. "none" grows: a signature is missing.
    """


@counter(unit="failures", of=["flow"])
def guard_diagnoses_total(*, diagnosis: Diagnosis) -> None:
    """Failed jobs whose log was read, or is known not to be readable, by what came of it.

    no_pattern grows: a signature is missing. not_read grows: a credential is missing or has expired, or a platform is
    away. no_log grows: logs are erased before they are read.
    """


@counter(unit="outcomes", of=["flow"])
def guard_act_outcomes_total(*, outcome: ActEnd, masked: Literal["yes", "no"]) -> None:
    """What came of reruns, each time that more was known of one.

    failed_same grows beside passed: something is called transient that is not; guard.current_act_outcomes says which
    signature. masked grows: reruns hide real defects. unseen grows: webhooks do not arrive.
    """


@counter(unit="faults", of=["flow"])
def guard_detector_faults_total(*, detector: str) -> None:
    """Detectors that raised, or answered what is no finding, and were set aside for a subject.

    The detector has a defect: guard.detector_faults says on which event, and what it raised. It is asked again once the
    rulebook changes.
    """


@counter(unit="findings", of=["flow"])
def guard_findings_total(*, detector: str, state: FindingState) -> None:
    """Findings raised, changed and cleared, by detector.

    Many raised and soon cleared: the detector's threshold is too low. Try another one in the backtest.
    """


@counter(unit="incidents", of=["flow"])
def guard_incidents_total(*, state: IncidentState) -> None:
    """What was said about incidents of the whole fleet: opened, changed or closed.

    Openings without an outage that people know of: see `rulebook.fleet`.
    """


@gauge(unit="incidents", of=["flow"])
def guard_incidents_open(*, category: str) -> None:
    """Incidents that are going on, by the category of their signature; `unknown` where no signature knows them.

    `guard status` shows them: what fails, in how many repositories, and what explains it.
    """


@counter(unit="decisions", of=["flow"])
def guard_decisions_total(*, verdict: Verdict, reason: Reason) -> None:
    """Decisions, by verdict and reason.

    Why did it not heal? The reason says so. run_end_unseen grows: events that end a run are not coming.
    """


@counter(unit="events", of=BOTH)
def guard_duplicates_total(*, where: Literal["receive", "detect", "store"]) -> None:
    """Repetitions that were absorbed: of a delivery (receive), of a fact (detect), of a row after a replay (store).

    receive jumps: a platform redelivers. store grows after a restart, as it should; at other times it should not.
    """


@counter(unit="events", of=["flow"])
def guard_late_events_total() -> None:
    """Events that came after what they belong to was closed; decided on, and counted where they are late.

    Grows: a platform delivers late, or a receiver's spool drains.
    """


@gauge(unit="seconds", of=["flow"])
def guard_snapshot_age_seconds() -> None:
    """Time since the state was last known to be durable, worked out when it is asked for.

    Above a few epochs: a worker stands still, or the disk of recovery_dir is full or slow. A crash replays this long.
    """


@gauge(unit="bytes", of=["flow"])
def guard_snapshot_bytes(*, shard: Shard) -> None:
    """Size of the shard's last snapshot.

    Grows without end: report it; what a shard remembers is bounded by age and count.
    """


@histogram(unit="calls", of=["flow"], buckets=COUNTS)
def guard_next_batch_calls() -> None:
    """How often a shard was read in one epoch.

    Falls towards 1 while others stay high: unequal batches stall the fast side of a cluster. Shorten the epochs.
    """


@histogram(unit="rows", of=["flow"], buckets=ROWS)
def guard_batch_rows() -> None:
    """Events in one batch.

    Always the largest: the flow is behind. Always a few: it is idle, and quick to answer.
    """


@counter(unit="transactions", of=["flow"])
def guard_postgres_retries_total(*, reason: str) -> None:
    """Transactions sent again: connection, lock_timeout, statement_timeout, serialization, read_only, resources.

    Steady: the reason names what PostgreSQL lacks. Nothing is lost meanwhile; depth and latency grow.
    """


# --- the log readers ---


@counter(unit="logs", of=["logs"])
def guard_log_reads_total(*, platform: PlatformName, outcome: LogOutcome) -> None:
    """Logs of failed jobs asked for, by what became of it; each ends as evidence on its shard.

    denied: the credential has run out, or lacks a right; see `guard check` and the platform's own page. gave_up: see
    guard_breaker_state. no_log grows: logs are kept too short, or the reader comes too late. failed: `guard dead list`.
    """


@histogram(unit="seconds", of=["logs"], buckets=SECONDS)
def guard_log_latency_seconds() -> None:
    """From the receipt of a failure to its evidence on the shard.

    A decision waits 10 s for it. Grows for all platforms: start more readers. For one: that platform is slow.
    """


# --- the healers ---


@counter(unit="acts", of=["act"])
def guard_acts_total(*, platform: PlatformName, action: CallName, state: ActState) -> None:
    """What was asked of platforms on behalf of decisions, by what became of it.

    dropped: the world had moved on, which is well. refused: the credential lacks a right, or a limit of the platform is
    reached; `SELECT reason, count(*) FROM guard.acts GROUP BY 1`. unknown: look at these yourself.
    """


@counter(unit="cases", of=["act"])
def guard_healing_rulings_total(*, why: Why) -> None:
    """Cases that were due and were not acted on at that moment, by the reason.

    Budgets: raise them under [act.limits], or find out why so much is to be healed. platform_away: see
    guard_breaker_state. stopped: somebody has said `guard stop`.
    """


@gauge(unit="cases", of=["act"])
def guard_healing_cases(*, state: QueueState) -> None:
    """Cases that wait to be acted on: for their time, an incident or a budget, for a person, or in a healer's hands.

    Waiting grows without end: nothing is acted on; look at guard_healing_rulings_total.
    """


@histogram(unit="seconds", of=["act"], buckets=SECONDS)
def guard_decision_to_call_seconds() -> None:
    """From the moment at which a decision may be acted on to its request.

    Above a second: the platform is slow to say how the run stands, or more healers are needed.
    """


@gauge(unit="state", of=["logs", "act", "reconcile"])
def guard_breaker_state(*, api: str) -> None:
    """Whether an API is asked, by its table under [platforms], NAME.act for what acts: 0 yes, 1 it is tried out, 2 no.

    Not 0 for minutes: the platform is down, its name or certificate is wrong, or it does not take the credential.
    """


@counter(unit="bytes", of=["logs"])
def guard_log_bytes_total(*, platform: PlatformName) -> None:
    """Text of logs that was read, passing ones included.

    A jump: a job writes without end, or a platform answers without end. Logs are read up to logs.max_bytes.
    """


@counter(unit="logs", of=["logs"])
def guard_log_comparisons_total(*, source: Compared) -> None:
    """Where the last passing log of a failed job came from: a cache, PostgreSQL, the platform, or nowhere.

    none grows: lines that are new cannot be told from those that always stand there. Passing logs are expired, or the
    platform is busy.
    """


@gauge(unit="requests", of=["flow"])
def guard_log_requests() -> None:
    """Requests to read logs that are not settled, of all shards.

    Grows: no reader runs, or too few. The oldest are dropped at 10,000 a shard.
    """


@gauge(unit="seconds", of=["flow"])
def guard_log_requests_oldest_age_seconds() -> None:
    """Age of the oldest request to read a log that is not settled; 0 where there is none.

    Above a minute: no reader runs, or Redis does not take its evidence. Decisions go on without logs.
    """


# --- the reconciler ---


@counter(unit="events", of=["reconcile"])
def guard_reconcile_events_total(*, api: str, outcome: Reconciled) -> None:
    """What platforms tell when they are asked what happened of late, by table under [platforms], and how it was known.

    found grows in a burst: we, or the way to us, were away, and that is made good now. found grows all the time: a
    webhook is not sent, or not for all that it should be; see guard_hooks_silent. unreadable: a platform has changed.
    """


@counter(unit="looks", of=["reconcile"])
def guard_reconcile_looks_total(*, api: str, outcome: Look) -> None:
    """Repositories whose platform was asked, by what came of it.

    unavailable: see guard_breaker_state. refused: the credential does not see them; `SELECT repository, why FROM
    guard.reconciled WHERE why IS NOT NULL` names them.
    """


@gauge(unit="seconds", of=["reconcile"])
def guard_reconcile_behind_seconds(*, api: str) -> None:
    """For how long nobody has asked what happened in the repository that was asked least recently.

    Grows beyond hours: more repositories than reconcile.requests_per_hour allows for, or the platform does not answer.
    """


@gauge(unit="repositories", of=["reconcile"])
def guard_hooks_silent(*, api: str) -> None:
    """Repositories in which jobs failed, look after look, of which no webhook told.

    Above 0: their webhook was removed, disabled, or cannot reach us. `SELECT repository FROM guard.reconciled WHERE
    missed_looks >= 3` names them.
    """


@gauge(unit="state", of=["reconcile"])
def guard_hook_state(*, api: str, hook: str) -> None:
    """How a webhook that the settings name stands at its platform: 0 well, 1 its last delivery failed, 2 disabled.

    1: look at the receiver, and at what stands between it and the platform. 2: enable it, once its receiver is well.
    """


@counter(unit="deliveries", of=["reconcile"])
def guard_redeliveries_total(*, api: str, outcome: Redelivered) -> None:
    """Deliveries that nobody took: asked for again, and what came of it.

    gave_up: none of several tries was taken; what they said is found by asking for runs. refused: the credential may
    not ask for it, or the delivery is too old.
    """


# --- the archive ---


@counter(unit="entries", of=["archive"])
def guard_archive_entries_total(*, shard: Shard) -> None:
    """Entries that are durable in the archive, heartbeats among them.

    Does not rise for one shard: its file cannot be written; the log says why. For all: Redis or the disk is away.
    """


@counter(unit="bytes", of=["archive"])
def guard_archive_bytes_total() -> None:
    """Bytes of files that were added to the archive, before they are merged.

    By guard_archive_entries_total it is what an entry takes; merged files are some tenth smaller.
    """


@gauge(unit="seconds", of=["archive"])
def guard_archive_waiting_seconds() -> None:
    """Age of the oldest entry that was read and is not durable in the archive yet; 0 where there is none.

    Above archive.flush: the directory takes nothing, mostly because its disk is full. Nothing is lost: it is in Redis.
    """


@counter(unit="entries", of=["archive"])
def guard_archive_missing_total(*, shard: Shard, kind: Literal["lost_tail", "trimmed"]) -> None:
    """Entries that the archive will never have, at least so many: gone from the stream before it read them.

    trimmed: it was forgotten, or is newer than the stream. lost_tail: the server lost its newest entries.
    """


@counter(unit="files", of=["archive"])
def guard_archive_damaged_files_total() -> None:
    """Files of the archive that could not be read, and were set aside.

    Any rise: the disk gives back other bytes than it was given. The log names them; `guard archive --check` the gap.
    """


@gauge(unit="seconds", of=["flow"])
def guard_reader_oldest_age_seconds(*, reader: str) -> None:
    """Age of the oldest entry that a registered reader has not durably read; 0 where there is none.

    Grows: the reader is dead or too slow, and all that it has not read stays in Redis. Start it, or
    `guard archive --forget`.
    """


@gauge(unit="1", of=EVERY)
def guard_build_info(*, process: Process, version: str, python: str) -> None:
    """Always 1; its labels say what runs.

    Two versions at once outside a roll-out: a process was not restarted.
    """


TABLE: Final[tuple[Metric[...], ...]] = tuple(m for m in globals().values() if isinstance(m, Metric))


def expose(process: Process, *, version: str) -> None:
    """Declare what a process of this kind has, so that every series is there before the first thing happens."""
    for metric in TABLE:
        if process in metric.of:
            metric.declare()
    guard_build_info(process=process, version=version, python=machine.python_version()).set(1)


def render() -> bytes:
    """The exposition of this process, of CONTENT_TYPE."""
    return prometheus_client.generate_latest(REGISTRY)


class Served(NamedTuple):
    """A port that answers with the exposition until it is closed."""

    port: int
    close: Callable[[], None]


def serve(host: str, port: int) -> Served:
    """Answer scrapes on a thread of its own, for a process without an HTTP application. Port 0 is any free one.

    Raises:
        Unavailable: the address cannot be had.
    """
    try:
        server, thread = prometheus_client.start_http_server(port, host, REGISTRY)
    except OSError as error:
        raise Unavailable(f"metrics cannot be served on {host}:{port}: {error.strerror}") from None

    def close() -> None:
        server.shutdown()
        thread.join()
        server.server_close()

    return Served(server.server_port, close)


def document() -> str:
    """docs/metrics.md."""
    parts = ["# Metrics\n\nWritten from connectors/metrics.py by `python -m connectors.metrics > docs/metrics.md`.\n"]
    parts += [_section(metric) for metric in TABLE]
    return "\n".join(parts)


def _section(metric: Metric[...]) -> str:
    labels = [f"`{name}`" + (f" ({', '.join(words)})" if words else "") for name, words in metric.words.items()]
    lines = [
        f"## {metric.name}\n",
        f"{metric.kind.capitalize()} in {metric.unit}, of the {' and the '.join(metric.of)}"
        + (f", by {'; '.join(labels)}" if labels else "")
        + ".",
    ]
    if isinstance(metric, Histogram):
        lines.append(f"Upper edges: {', '.join(f'{edge:g}' for edge in metric.buckets)}.")
    return "\n".join([*lines, "", metric.meaning, "", f"**When it moves:** {metric.moves}", ""])


if __name__ == "__main__":
    sys.stdout.write(document())
