"""The honest rival: a plain redis-py, msgspec and psycopg loop that does the dataflow's work, and does it well.

    python -m benchmarks.rival --redis unix:///tmp/valkey.sock --postgres postgresql://... --shards 0,1,2

Read a batch, decode each event into an object, change dictionaries, score the batch's failures at once, write all rows
and the position in one transaction, begin again. What decides is the product's own (signatures, scorer, policy), so
that the rows can be compared; what differs is all the rest. It is tuned as one would tune it: RE2 and hiredis, structs
without garbage collection, thresholds raised, COPY instead of INSERT, minutes written once when they have closed.

After a crash it goes on from the position in PostgreSQL, having read the hour before it again in silence. Of what our
flow keeps it leaves out: dead letters, metrics, rulebook changes, redaction, findings that clear, an answer that does
not depend on how the log was cut into batches (it decides once a batch about each run attempt).
"""

from __future__ import annotations

import argparse
import gc
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import redis

from analytics.cases import FLAKY_CHANCE
from analytics.policy.decide import CaseView, FailedJob, decide
from analytics.rulebook import Rulebook, compose
from analytics.signatures.catalogue import facts_of
from benchmarks.rival_rows import Store, aggregate_row, decision_row, failure_row, finding_row
from benchmarks.rival_state import NO_TROUBLE, Case, Event, Minute, Shard, Told
from connectors.redis_streams import log_key
from models.records.entry import HEADER_BYTES, Kind, check, read_field
from models.records.event import Outcome, case_id, uuid5_text
from models.records.outputs import Category
from models.scorers.rerun_passes import features

_COUNT: Final = 1000  # entries of a shard in one read
_BLOCK_MS: Final = 50
_MINUTE_MS: Final = 60_000
_LATENESS_MS: Final = 60_000
_TURN_MS: Final = 300_000
_WINDOW_MS: Final = 30 * _MINUTE_MS
_STUCK_MS: Final = 60 * _MINUTE_MS
_KEPT_MS: Final = 120 * _MINUTE_MS
_THRESHOLD: Final = 3
_FAILING: Final = frozenset({"failed", "timed_out", "errored"})
_OPEN: Final = frozenset({"queued", "running"})
_ENDED: Final = frozenset({"passed", "unstable", "cancelled", "skipped", "neutral"})


class Loop:
    """The state of one process, and the rows of the batch at hand."""

    def __init__(self, shards: Iterable[Shard], rulebook: Rulebook) -> None:
        self.shards = {log_key(shard.number).encode(): shard for shard in shards}
        self.rulebook = rulebook
        self._decoder = msgspec.json.Decoder(Event)
        self._scored: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._touched: dict[str, tuple[Shard, Case]] = {}
        self.rows: dict[str, list[Sequence[Any]]] = {}
        self.forget_rows()

    def forget_rows(self) -> None:
        """Begin a new transaction."""
        self.rows = {"failures": [], "findings": [], "decisions": [], "aggregates": []}

    def take(self, key: bytes, entries: Sequence[tuple[bytes, dict[bytes, bytes]]]) -> None:
        """Apply the entries of one shard."""
        shard = self.shards[key]
        decode = self._decoder.decode
        for entry_id, fields in entries:
            ((name, value),) = fields.items()
            kind, _ = read_field(name)
            received_ms = check(value)
            shard.position += 1
            stream = min(received_ms, int(entry_id[: entry_id.index(b"-")]))
            if stream > shard.stream_ms:
                shard.stream_ms = stream
                if stream >= shard.next_close_ms:
                    self._close(shard)
            if kind is Kind.EVENT:
                self._apply(shard, decode(value[HEADER_BYTES:]), received_ms)
        shard.entry_id = entries[-1][0].decode()

    def _apply(self, shard: Shard, event: Event, received_ms: int) -> None:
        if event.id in shard.young or event.id in shard.old:
            return
        shard.young.add(event.id)
        told = event.metadata
        at = min(int(event.timestamp.timestamp() * 1000), shard.stream_ms + _TURN_MS)
        run = (told.instance, event.repository, event.pipeline_id, told.workflow_id, told.attempt)
        if event.job_id is None and told.job_name is None:
            if told.outcome in _ENDED or told.outcome in _FAILING:
                self._run_ended(shard, run, event, at, received_ms)
            return
        job_run = (*run, event.job_id)
        if told.outcome in _OPEN:
            if job_run not in shard.over:
                shard.running.setdefault(job_run, (at, event.id))
            if told.outcome == "running":
                self._minute(shard, event, at).started += 1
            return
        if shard.running.pop(job_run, None) is None:
            shard.over.add(job_run)
        self._count(self._minute(shard, event, at), told)
        job = (told.instance, event.repository, told.workflow, told.job_name)
        if told.outcome in _FAILING:
            self._failed(shard, run, job, event, at, received_ms)
        elif told.outcome == "passed" and (*job, told.commit_sha) in shard.broken:
            began, first = shard.broken.pop((*job, told.commit_sha))
            if (*job, told.commit_sha) in shard.tests:
                shard.flaky.setdefault(job, []).append((began, at))
            finding = uuid5_text("finding", "FlakyTest", *map(str, job), first)
            said = (finding, 0, "FlakyTest", "raised", began, at, 1, [first, event.id], "failed and then passed")
            self._find(shard, job, said)

    def _minute(self, shard: Shard, event: Event, at: int) -> Minute:
        minute = at // _MINUTE_MS
        late = (minute + 1) * _MINUTE_MS + _LATENESS_MS <= shard.stream_ms
        if late:
            minute = shard.stream_ms // _MINUTE_MS
        pane = shard.minutes.get(minute)
        if pane is None:
            pane = shard.minutes[minute] = {}
            shard.next_close_ms = min(shard.next_close_ms, (minute + 1) * _MINUTE_MS + _LATENESS_MS)
        place = (event.metadata.instance, event.repository)
        counts = pane.get(place)
        if counts is None:
            counts = pane[place] = Minute(event.platform)
        if late:
            counts.late += 1
            return Minute(event.platform)
        return counts

    @staticmethod
    def _count(minute: Minute, told: Told) -> None:
        if told.outcome in _FAILING:
            minute.failed += 1
        elif told.outcome in _ENDED:
            minute.completed += 1
        if told.duration_ms is not None:
            minute.total_ms += told.duration_ms
            minute.durations[min((told.duration_ms // 1000).bit_length(), 15)] += 1

    def _close(self, shard: Shard) -> None:
        """Write the minutes that are over, and forget what is old."""
        now = shard.stream_ms
        for minute in sorted(shard.minutes):
            if (minute + 1) * _MINUTE_MS + _LATENESS_MS <= now:
                pane = shard.minutes.pop(minute)
                self.rows["aggregates"] += [
                    aggregate_row(shard.number, shard.position, place, minute * _MINUTE_MS, pane[place])
                    for place in sorted(pane)
                ]
        shard.next_close_ms = min(((m + 1) * _MINUTE_MS + _LATENESS_MS for m in shard.minutes), default=1 << 62)
        for job_run, (at, event) in list(shard.running.items()):
            if at > now - _STUCK_MS:
                break
            del shard.running[job_run]
            finding = uuid5_text("finding", "StuckJob", *map(str, job_run), event)
            said = (finding, 0, "StuckJob", "raised", at, at, 1, [event], "no end was seen")
            self._find(shard, job_run, said)
        if now // _TURN_MS > shard.turn:
            shard.turn = now // _TURN_MS
            shard.old, shard.young = shard.young, set()
            shard.over.clear()
            shard.run_ends.clear()
            shard.failing = {job: seen for job, seen in shard.failing.items() if seen[-1][0] > now - _WINDOW_MS}
            shard.repeated = {job: known for job, known in shard.repeated.items() if job in shard.failing}
            shard.broken = {job: known for job, known in shard.broken.items() if known[0] > now - _KEPT_MS}
            shard.tests = {commit for commit in shard.tests if commit in shard.broken}
            shard.flaky = {job: flips for job, flips in shard.flaky.items() if flips[-1][1] > now - 2 * _KEPT_MS}
            shard.cases = {run: case for run, case in shard.cases.items() if case.newest_ms > now - _WINDOW_MS}

    def _find(self, shard: Shard, subject: tuple[Any, ...], said: tuple[Any, ...]) -> None:
        self.rows["findings"].append(
            finding_row(shard.number, shard.position, subject, said, shard.stream_ms, self.rulebook.digest)
        )

    # --- failures and what is decided about them

    def _run_ended(self, shard: Shard, run: tuple[Any, ...], event: Event, at: int, received_ms: int) -> None:
        case = shard.cases.get(run)
        if case is None:
            shard.run_ends[run] = event.metadata.outcome
            return
        case.ended = event.metadata.outcome
        self._touch(shard, case, at, received_ms)

    def _failed(
        self, shard: Shard, run: tuple[Any, ...], job: tuple[Any, ...], event: Event, at: int, received_ms: int
    ) -> None:
        told, trouble = event.metadata, event.failure_context or NO_TROUBLE
        facts = facts_of(
            platform=event.platform,
            outcome=told.outcome,
            reason=trouble.reason,
            step=told.step,
            exit_code=trouble.exit_code,
        )
        match = self.rulebook.catalogue.match(event.platform, facts, trouble.excerpt)
        signature = match.signature if match else None
        is_test = signature is not None and signature.category is Category.TEST
        case = shard.cases.get(run)
        if case is None:
            names = ("instance", "repository", "pipeline_id", "workflow_id", "attempt")
            case = shard.cases[run] = Case(event, case_id(**dict(zip(names, run, strict=True))))
            case.ended = shard.run_ends.get(run)
        known = {
            "event": event,
            "at_ms": at,
            "signature": signature,
            "score": None,
            "top": (),
            "repeated": self._repeated(shard, job, event, at),
            "flaky": is_test and any(at - _KEPT_MS < began < over < at for began, over in shard.flaky.get(job, ())),
            "case_id": case.case_id,
            "received_ms": received_ms,
            "position": shard.position,
            "shard": shard.number,
            "late": at <= shard.stream_ms - _KEPT_MS,
        }
        case.jobs[event.job_id or told.job_name or ""] = known
        if is_test:
            shard.tests.add((*job, told.commit_sha))
        shard.broken.setdefault((*job, told.commit_sha), (at, event.id))
        self._scored.append((known, self._features(event, signature)))
        self._touch(shard, case, at, received_ms)

    @staticmethod
    def _features(event: Event, signature: Any) -> dict[str, Any]:  # noqa: ANN401 - a Signature or None
        told, trouble = event.metadata, event.failure_context or NO_TROUBLE
        return features(
            platform=event.platform,
            outcome=told.outcome,
            attempt=told.attempt,
            failed_jobs=1,
            signature=signature.name if signature else None,
            category=signature.category.value if signature else None,
            reason=trouble.reason,
            step=told.step,
            trigger=told.trigger,
            is_default_branch=told.is_default_branch,
            duration_ms=told.duration_ms,
            exit_code=trouble.exit_code,
        )

    def _repeated(self, shard: Shard, job: tuple[Any, ...], event: Event, at: int) -> bool:
        """Count the failure of a job in its sliding window; whether there are enough to call it repeated."""
        seen = shard.failing.setdefault(job, deque(maxlen=64))
        seen.append((at, event.id))
        while seen[0][0] <= at - _WINDOW_MS:
            seen.popleft()
        if len(seen) < _THRESHOLD:
            shard.repeated.pop(job, None)
            return False
        known = shard.repeated.get(job)
        if known is None:
            finding = uuid5_text("finding", "RepeatedFailure", *map(str, job), seen[0][1])
            known = shard.repeated[job] = [finding, -1]
        known[1] += 1
        state = "changed" if known[1] else "raised"
        events = [event for _, event in seen][-32:]
        said = (*known, "RepeatedFailure", state, seen[0][0], at, len(seen), events, f"failed {len(seen)} times")
        self._find(shard, job, said)
        return True

    def _touch(self, shard: Shard, case: Case, at: int, received_ms: int) -> None:
        case.news += 1
        case.newest_ms = max(case.newest_ms, at)
        case.received_ms = received_ms
        self._touched[case.case_id] = (shard, case)

    def conclude(self) -> None:
        """Score all failures of the batch at once, then decide about each run attempt that had news."""
        scores = self.rulebook.scorer.score([values for _, values in self._scored]) if self._scored else []
        for (known, _), score in zip(self._scored, scores, strict=True):
            known["score"], known["top"] = score.value, score.top
            self.rows["failures"].append(failure_row(known, self.rulebook))
        for shard, case in self._touched.values():
            self._decide(shard, case)
        self._scored, self._touched = [], {}

    def _decide(self, shard: Shard, case: Case) -> None:
        jobs = sorted((_view(known) for known in case.jobs.values()), key=lambda job: (job.at_ms, job.failure_id))
        event, told = case.event, case.event.metadata
        view = CaseView(
            event.platform,
            told.instance,
            event.repository,
            event.pipeline_id,
            told.workflow_id,
            told.attempt,
            told.rerun_after,
            Outcome(case.ended) if case.ended else None,
            given_up=False,
            jobs=tuple(jobs),
            branch=told.branch,
        )
        decision = decide(view, self.rulebook.policy)
        covered = sorted(job.failure_id for job in jobs)
        said = [decision.verdict, decision.reason, decision.calls, covered]
        if said != case.last:
            case.last, case.views = said, jobs
            self.rows["decisions"].append(
                decision_row(case, decision, shard.number, shard.position, shard.stream_ms, self.rulebook)
            )


def _view(known: dict[str, Any]) -> FailedJob:
    event, signature = known["event"], known["signature"]
    told = event.metadata
    return FailedJob(
        event.id,
        event.job_id,
        known["at_ms"],
        signature.name if signature else None,
        bool(signature and signature.transient),
        bool(signature and signature.hard_stop),
        bool(told.is_deploy),
        bool(told.is_fork),
        bool(told.allow_failure),
        told.native_retries or 0,
        max(known["score"] or 0.0, FLAKY_CHANCE) if known["flaky"] else known["score"],
        known["repeated"],
        flaky=known["flaky"],
        workflow=told.workflow,
        job_name=told.job_name,
        category=signature.category.value if signature else None,
        environments=(told.environment,) if told.environment else (),
    )


class Rival:
    """The loop with its two servers."""

    def __init__(self, redis_url: str, postgres_url: str, shards: Sequence[int], *, count: int = _COUNT) -> None:
        """Take up `shards` where they were left; a read brings at most `count` entries of each."""
        self._count = count
        self._client: Any = redis.Redis.from_url(redis_url, protocol=2)  # replies are typed for both protocols at once
        self._store = Store(postgres_url)
        known = self._store.progress()
        self.loop = Loop([Shard(number) for number in shards], compose(policy={"mode": "observe"}))
        for key, shard in self.loop.shards.items():
            if shard.number in known:
                self._remember(key, *known[shard.number])
        self.loop.forget_rows()

    def _remember(self, key: bytes, entry_id: str, position: int, stream_ms: int) -> None:
        """Read what lies before the position again, in silence: the state is a function of the log."""
        after: bytes = b"-"
        while entries := self._client.xrange(key, after, entry_id, count=_COUNT):
            recent = [entry for entry in entries if check(next(iter(entry[1].values()))) > stream_ms - _STUCK_MS]
            if recent:
                self.loop.take(key, recent)
                self.loop.conclude()
            after = b"(" + entries[-1][0]
        self.loop.shards[key].position, self.loop.shards[key].entry_id = position, entry_id

    def step(self) -> bool:
        """Read once, and write what follows; whether there was anything."""
        cursors = {key: shard.entry_id for key, shard in self.loop.shards.items()}
        streams = self._client.xread(cursors, count=self._count, block=_BLOCK_MS)
        for key, entries in streams:
            self.loop.take(key, entries)
        if not streams:
            return False
        self.loop.conclude()
        moved = [self.loop.shards[key] for key, _ in streams]
        progress = [(s.number, s.entry_id, s.position, s.stream_ms, self.loop.rulebook.digest) for s in moved]
        self._store.write(self.loop.rows, progress)
        self.loop.forget_rows()
        return True

    def close(self) -> None:
        """Let go of both servers."""
        self._client.close()
        self._store.close()


def main() -> None:
    """Run until killed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--redis", required=True)
    parser.add_argument("--postgres", required=True)
    parser.add_argument("--shards", default=",".join(map(str, range(12))))
    args = parser.parse_args()
    rival = Rival(args.redis, args.postgres, [int(word) for word in args.shards.split(",")])
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    while True:
        rival.step()


if __name__ == "__main__":
    main()
