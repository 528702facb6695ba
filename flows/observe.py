"""What the dataflow tells Prometheus; the only place where flow and metrics meet."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import pyarrow.compute as pc
import structlog
from redis import Redis

from connectors import metrics
from connectors.postgres import connect
from connectors.postgres_rows import Written
from connectors.redis_source import GapKind
from connectors.redis_streams import backlog, log_backlog, reader_ages
from models.records.columns import Batch
from models.records.errors import Unavailable
from models.records.outputs import Category, IncidentRow, ShardOutput

_INCIDENTS: Final = "SELECT coalesce(category, 'unknown'), count(*) FROM guard.open_incidents GROUP BY 1"
_log = structlog.get_logger()


def read(batch: Batch) -> None:
    """Count the events of a batch that was decoded."""
    rows = batch.events
    if not rows.num_rows:
        return
    metrics.guard_batch_rows().observe(rows.num_rows)
    kinds = pc.binary_join_element_wise(rows.column("platform"), rows.column("event_type"), " ").value_counts()
    for kind, count in zip(*(column.to_pylist() for column in kinds.flatten()), strict=True):
        platform, event_type = kind.split(" ")
        metrics.guard_events_total(platform=platform, event_type=event_type).inc(count)


def judged(output: ShardOutput) -> None:
    """Count what a shard said."""
    if output.stats.duplicates:
        metrics.guard_duplicates_total(where="detect").inc(output.stats.duplicates)
    if output.stats.late:
        metrics.guard_late_events_total().inc(output.stats.late)
    for signature, count in Counter(f.signature or "none" for f in output.failures).items():
        metrics.guard_failures_total(signature=signature).inc(count)
    for diagnosis, count in Counter(d.diagnosis for d in output.diagnoses).items():
        metrics.guard_diagnoses_total(diagnosis=diagnosis).inc(count)  # type: ignore[arg-type]  # its value
    for (detector, state), count in Counter((f.detector, f.state) for f in output.findings).items():
        metrics.guard_findings_total(detector=detector, state=state).inc(count)  # type: ignore[arg-type]  # its value
    for fault in output.detector_faults:
        metrics.guard_detector_faults_total(detector=fault.detector).inc()
        _log.error(
            "a detector failed and is set aside", detector=fault.detector, subject=fault.subject, error=fault.error
        )
    for (verdict, reason), count in Counter((d.verdict, d.reason) for d in output.decisions).items():
        metrics.guard_decisions_total(verdict=verdict, reason=reason).inc(count)  # type: ignore[arg-type]  # its value
    for (outcome, masked), count in Counter((o.outcome, o.masked) for o in output.act_outcomes).items():
        counter = metrics.guard_act_outcomes_total(outcome=outcome, masked="yes" if masked else "no")  # type: ignore[arg-type]  # its value
        counter.inc(count)
    for reason, count in Counter(d.reason for d in output.dead_letters).items():
        metrics.guard_dead_letters_total(reason=reason).inc(count)
        metrics.guard_errors_total(stage="decode", type=reason).inc(count)


def told(incidents: Sequence[IncidentRow]) -> None:
    """Count what the fleet said."""
    for state, count in Counter(row.state for row in incidents).items():
        metrics.guard_incidents_total(state=state).inc(count)  # type: ignore[arg-type]  # its value


def committed(group: Sequence[Written], at: float) -> None:
    """Note how long it took from the receiver to rows that can be seen; `at` is Unix seconds."""
    decide = metrics.guard_event_latency_seconds(stage="decide")
    event = metrics.guard_event_latency_seconds(stage="event")
    now_ms = at * 1000
    for written in group:
        if written.progress is None:
            continue
        lag = metrics.guard_stream_time_lag_seconds(shard=written.shard)
        lag.set(max(now_ms - written.progress.stream_ms, 0) / 1000)
        for failure in written.output.failures:
            decide.observe(max(now_ms - failure.received_ms, 0) / 1000)
            event.observe(max(now_ms - failure.occurred_ms, 0) / 1000)


def retried(reason: str) -> None:
    """Count a transaction that is sent again."""
    metrics.guard_postgres_retries_total(reason=reason).inc()


def snapshot(shard: int, size: int) -> None:
    """Note the size of a shard's snapshot in bytes."""
    metrics.guard_snapshot_bytes(shard=shard).set(size)


class SourceHooks:
    """What the source tells of itself."""

    def __init__(self) -> None:
        """The state counts as durable from the start: what is behind the last snapshot is read again."""
        self._durable_at = time.monotonic()
        metrics.guard_snapshot_age_seconds().set_function(lambda: time.monotonic() - self._durable_at)

    def durable(self, shard: int, entry_id: str, position: int) -> None:  # noqa: ARG002 - the source's words
        """Note when state was last known to be durable."""
        self._durable_at = time.monotonic()

    def gap(self, shard: int, kind: GapKind, count: int) -> None:
        """Say loudly that entries are gone which nobody judged."""
        metrics.guard_stream_gaps_total(shard=shard, kind=kind).inc()
        _log.error("entries are missing from the stream", shard=shard, kind=kind, at_least=count)

    def trouble(self, error: Exception) -> None:
        """Note that Redis could not be asked."""
        metrics.guard_redis_retries_total().inc()
        _log.warning("Redis could not be asked and will be again", error=str(error))

    def epoch(self, shard: int, batches: int) -> None:  # noqa: ARG002 - the source's words
        """Note how often a shard was polled in an epoch."""
        metrics.guard_next_batch_calls().observe(batches)


class Backlog:
    """Looks at the streams, the dead letters and the incidents every few seconds, in a thread of its own."""

    def __init__(self, client: Redis, url: str, *, every: float = 5.0) -> None:
        """`url` is PostgreSQL's; `every` is in seconds."""
        self._client = client
        self._url = url
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="backlog", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self._guarded(self._streams)
            self._guarded(self._standing)

    @staticmethod
    def _guarded(look: Callable[[], None]) -> None:
        try:
            look()
        except Unavailable as error:
            metrics.guard_errors_total(stage="store", type="Unavailable").inc()
            _log.warning("cannot look at the backlog", error=str(error))

    def _streams(self) -> None:
        now_ms = time.time() * 1000
        for shard in backlog(self._client, now_ms=int(now_ms)):
            metrics.guard_stream_depth(shard=shard.shard).set(shard.depth)
            metrics.guard_stream_oldest_age_seconds(shard=shard.shard).set(shard.oldest_age_ms / 1000)
        requests, age_ms = log_backlog(self._client, now_ms=int(now_ms))
        metrics.guard_log_requests().set(requests)
        metrics.guard_log_requests_oldest_age_seconds().set(age_ms / 1000)
        for reader, unread_ms in reader_ages(self._client, now_ms=int(now_ms)).items():
            metrics.guard_reader_oldest_age_seconds(reader=reader).set(unread_ms / 1000)

    def _standing(self) -> None:
        with connect(self._url, application_name="guard metrics") as connection:
            row = connection.execute("SELECT count(*) FROM guard.dead_letters_open").fetchone()
            incidents: dict[str, int] = dict(connection.execute(_INCIDENTS).fetchall())
        metrics.guard_dead_letters_open().set(row[0] if row else 0)
        for category in (*(known.value for known in Category), "unknown"):
            metrics.guard_incidents_open(category=category).set(incidents.get(category, 0))
