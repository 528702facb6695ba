"""The shard: the whole of detect, score and decide for the repositories of one shard, as one plain object.

Theory. The output is a pure function of the sequence of entries, whatever the batches they came in. Three things make
it so. *Stream time*, the running maximum of min(received_at, milliseconds of the entry id), is the only clock: it is
in the log, so every replay reads the same. *State is recent events*: histories sorted by event time and id, over which
detectors are pure functions, so that a late event simply takes its place. And *every row is final*: what changes gets
a new revision under an id made of what it is about, so that writing it twice changes nothing.

Single events touch state in log order, in `_walk`, which does for the great mass of events (started, passed) as
little as can be done: a look at the ids seen lately, and one change of the run table. Scores are taken for a whole
batch at once, after the walk; decisions follow in the order of the walk.

The Bytewax step, the backtest and the benchmarks all call this object; none has logic of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from operator import attrgetter
from typing import Any, Final, Protocol, Self

import msgspec

from analytics import snapshots
from analytics.dead import dead_letter
from analytics.desk import Desk
from analytics.errands import Errands
from analytics.failure_panes import FailurePanes
from analytics.journal import Chunks
from analytics.judgement import Cases
from analytics.memory import Durations, Ids, Timers
from analytics.outcomes import Outcomes, read_outcome
from analytics.panes import BUCKETS, LATENESS_MS, MINUTE_MS, Panes
from analytics.profiles import PANE_DUE, Profiles
from analytics.proof import read_evidence
from analytics.rows import JOB_ENDED, JOB_PASSED, JOB_STARTED, OTHER, RUN_ENDED, Rows
from analytics.rulebook import Rulebook
from analytics.runs import Runs
from analytics.scopes import Scopes
from models.records.columns import Batch, Mark
from models.records.entry import Kind
from models.records.errors import ConfigError, GuardError, MalformedPayload
from models.records.outputs import Aggregate, DeadLetter, ShardOutput, ShardStats

FUTURE_MS: Final = 300_000
"""How far an event may claim to lie ahead of stream time."""
TURN_MS: Final = 300_000
"""Ids, early passes and early ends are remembered for one to two of these: the bound for disorder and duplicates."""
RETIRED_TURN_MS: Final = 24 * 3_600_000
MOST_JOBS: Final = 500_000
_SPANS: Final = (TURN_MS, RETIRED_TURN_MS)
_SETTLED_ROWS: Final = 500
"""After so many what changed is written down, so that the end of an epoch finds little left to do."""
_OF_PANES: Final = frozenset({"pane", PANE_DUE})
REJECT_WINDOW: Final = 1000
"""Of so many entries in a row, `most_bad` at the most may be unreadable."""


class TooManyRejectsError(GuardError):
    """So large a share of the entries cannot be read that going on would empty the stream into the dead letters."""


class _Settled(Protocol):
    """A part of a shard that writes down what changed of it, now and then."""

    def settle(self) -> None: ...

    def state(self) -> list[Any]: ...

    def load(self, state: list[Any], /) -> None: ...


class _Control(msgspec.Struct):
    """The payload of a control entry."""

    rulebook: str


class _Reject(msgspec.Struct):
    """What is read of the payload of a reject."""

    reason: str
    detail: str = ""
    source: str | None = None


_when: Final = attrgetter("at_ms", "position")
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding JSON can raise."""


class Shard:
    """One shard's state and judgement. Not for use by two threads at once."""

    def __init__(
        self,
        number: int,
        rulebook: Rulebook,
        resolve: Callable[[str], Rulebook],
        *,
        most_bad: int = 500,
        from_ms: int = 0,
    ) -> None:
        """Begin with nothing remembered.

        `resolve` gives the rulebook of a digest, or raises ConfigError. With `from_ms`, minutes that began before it
        are not aggregated: a part of them was counted by a state that is lost.
        """
        self.position = 0
        self._resolve: Final = resolve
        self._most_bad: Final = most_bad
        self._from_ms = from_ms
        self._bad_in_window = [0, 0]
        self._desk: Final = Desk(number, rulebook)
        self._durations: Final = Durations(BUCKETS, MOST_JOBS)
        self._ids: Final = Ids()
        self._runs: Final = Runs(self._desk, self._durations)
        self._scopes: Final = Scopes(self._desk)
        self._failure_panes: Final = FailurePanes(number, from_ms)
        self._outcomes: Final = Outcomes(self._desk, self._scopes.jobs)
        self._errands: Final = Errands(self._desk, self._runs.about, self._scopes.jobs.find)
        self._cases: Final = Cases(self._desk, self._scopes, self._failure_panes, self._outcomes, self._errands)
        self._profiles: Final = Profiles(self._desk, from_ms)
        self._panes: Final = Panes()
        self._settled: Final[dict[str, _Settled]] = {
            "ids": self._ids,
            "ended_early": self._runs.ended_early,
            "histories": self._scopes,
            "cases": self._cases,
            "outcomes": self._outcomes,
            "profiles": self._profiles,
            "repositories": self._desk.repositories,
            "findings": self._desk.findings,
            "errands": self._errands,
            "panes": self._panes,
        }
        self._open_minutes: set[int] = set()
        self._turns = [0, 0]
        self._unsettled = 0
        self._when_due: Final[dict[str, Callable[[Any, int, int], None]]] = {
            "run": self._runs.look,
            "queue": self._runs.queues.look,
            "case": self._cases.review,
            "log": self._cases.stop_waiting,
            "act": self._outcomes.look,
            "pane": self._close,
            "turn": self._turn,
            "quarantine": self._errands.quarantines.look,
            **self._scopes.when_due,
            **self._profiles.when_due,
        }
        self._set_timers()
        self._begin()

    @property
    def number(self) -> int:
        """Which of the shards it is."""
        return self._desk.number

    @property
    def stream_ms(self) -> int:
        """Stream time, Unix milliseconds."""
        return self._desk.stream_ms

    @property
    def rulebook(self) -> Rulebook:
        """The rulebook in force."""
        return self._desk.rulebook

    def _begin(self) -> None:
        """Set up what lasts for one batch."""
        self._dropped: list[int] = []
        self._some_seen = True
        self._paned = 0
        self._aggregates: list[Aggregate] = []
        self._dead_letters: list[DeadLetter] = []

    def process(self, batch: Batch) -> ShardOutput:
        """All that the entries of `batch` make this shard say.

        Raises:
            TooManyRejectsError: more than `most_bad` of a thousand entries could not be read.
        """
        self._begin()
        rows = self._rows = Rows(batch, self.stream_ms, future_ms=FUTURE_MS, lateness_ms=LATENESS_MS)
        for minute in rows.minutes:
            if minute not in self._open_minutes:
                self._open_minutes.add(minute)
                self._desk.timers.at((minute + 1) * MINUTE_MS + LATENESS_MS, "pane", minute)
        self._profiles.expect(rows.ten_minutes)
        # With no duplicate among them, and no turn of what is remembered, they need not be looked up one by one; and
        # what counts is known beforehand: a row of a minute comes before its pane closes, or counts in another.
        turns = max(rows.stream, default=0) // TURN_MS > self.stream_ms // TURN_MS
        new = self._ids.are_new(rows.ids)
        self._some_seen = turns or not new
        if not self._some_seen:
            self._ids.take_all(rows.ids)
        if new:
            self._add_to_panes(rows.count)
        self._errands.know(rows.instances, rows.platforms)
        walk = iter(zip(range(rows.count), rows.ids, rows.stream, rows.codes, rows.job_runs, rows.at, strict=True))
        done = 0
        for mark in batch.marks:
            self._walk(rows, islice(walk, mark.row - done))
            done = mark.row
            self._mark(mark)
        self._walk(rows, walk)
        self._cases.conclude()
        self._add_to_panes(rows.count)
        self._failure_panes.close(self.stream_ms, self.rulebook)
        self.position = max(self.position, batch.last)
        self._unsettled += rows.count
        if self._unsettled >= _SETTLED_ROWS:
            self._unsettled = 0
            for part in self._settled.values():
                part.settle()
        return self._said(ShardStats(rows.count, len(self._dropped), rows.late))

    def _said(self, stats: ShardStats) -> ShardOutput:
        """Hand over what the batch made us say."""
        asking, findings, cases, outcomes = self._desk.asking, self._desk.findings, self._cases, self._outcomes
        # In the order of the log, however it was cut: cases are concluded a batch at a time, errands at once.
        decisions = sorted((*cases.decisions, *self._errands.said), key=_when)
        said = ShardOutput(
            cases.failures,
            findings.said,
            decisions,
            self._aggregates,
            self._dead_letters,
            cases.diagnoses,
            asking.said,
            self._profiles.said,
            act_outcomes=outcomes.said,
            stats=stats,
            closed=self._failure_panes.take(),
        )
        asking.said, self._profiles.said, outcomes.said, self._errands.said = [], [], [], []
        findings.said, cases.failures, cases.decisions, cases.diagnoses = [], [], [], []
        return said

    def _walk(self, rows: Rows, part: Iterable[tuple[int, str, int, int, str, int]]) -> None:
        """Take rows one by one, in log order."""
        desk, timers, runs, sources = self._desk, self._desk.timers, self._runs, self._desk.sources
        outcomes = self._outcomes
        watched, branches = outcomes.watched, outcomes.branches
        instances, positions = rows.instances, rows.positions
        some_seen, quarantines = self._some_seen, self._errands.quarantines
        for i, event, stream, code, job_run, at in part:
            if stream > desk.stream_ms:
                desk.stream_ms = stream
                if stream >= timers.next_ms:
                    self._fire(positions[i], i)
            if (some_seen and not self._is_new(event, i)) or code == OTHER:
                continue
            sources[instances[i]] = stream
            if branches:
                outcomes.on_branch(rows, i)
            if code == JOB_STARTED:
                runs.started(rows, i, job_run, at, event)
                continue
            if code < RUN_ENDED:
                runs.ended(job_run, positions[i])
            if code == JOB_PASSED:
                again = self._scopes.jobs.passed(rows, i, job_run)
                if again or watched:
                    outcomes.job_ended(rows, i, job_run, again=again)
                if quarantines.by_job and rows.job_keys[i] in quarantines.by_job:
                    quarantines.passed(rows.job_keys[i], positions[i])
            elif code != JOB_ENDED:
                self._cases.trouble(rows, i, job_run, code)
            else:
                again = self._scopes.jobs.failed_on(rows.job_keys[i], rows.commits[i])
                outcomes.job_ended(rows, i, job_run, again=again)

    def _is_new(self, event: str, row: int) -> bool:
        ids = self._ids
        if event in ids.young or event in ids.old:
            self._dropped.append(row)
            return False
        ids.young.add(event)
        ids.fresh.append(event)
        return True

    def _fire(self, position: int, row: int) -> None:
        """Do all that is due, second by second, before the entry at `position`, or row `row`, is looked at."""
        for second, due in self._desk.timers.pop(self.stream_ms):
            for kind, key in due:
                if kind in _OF_PANES:
                    self._add_to_panes(row)
                self._when_due[kind](key, second, position)

    def _turn(self, span_ms: int, _second: int, _position: int) -> None:
        """Forget the older half of what is kept for `span_ms`, or all of it after a long silence."""
        index = _SPANS.index(span_ms)
        turn = self.stream_ms // span_ms
        passed = min(turn - self._turns[index], 2)
        self._turns[index] = turn
        self._desk.timers.at((turn + 1) * span_ms, "turn", span_ms)
        memories = (
            (self._ids, self._runs.ended_early, self._scopes.jobs.early, self._cases.run_ends, self._outcomes.ends)
            if index == 0
            else (
                self._errands,
                self._cases.retired,
                self._desk.findings,
                self._outcomes.known,
                self._outcomes.failed_runs,
            )
        )
        for memory in memories * passed:
            memory.turn()

    def _add_to_panes(self, row: int) -> None:
        """Put the rows of the batch before `row` into the panes."""
        if row > self._paned:
            self._panes.add(self._rows.pane_columns(self._paned, row, self._dropped))
            self._profiles.add(self._rows.told(self._paned, row, self._dropped))
            self._paned = row

    def _mark(self, mark: Mark) -> None:
        """Take an entry that is not events."""
        desk = self._desk
        desk.stream_ms = max(desk.stream_ms, min(mark.entry_ms, mark.received_ms))
        if desk.stream_ms >= desk.timers.next_ms:
            self._fire(mark.position, mark.row)
        match mark.kind:
            case Kind.HEARTBEAT:
                pass
            case Kind.CONTROL:
                self._control(mark)
            case Kind.REJECT:
                self._reject(mark)
            case Kind.EVIDENCE:
                self._evidence(mark)
            case Kind.OUTCOME:
                self._outcome(mark)
            case None:
                self._unreadable(mark)
            case _:  # events are rows
                assert mark.kind is not Kind.EVENT

    def _control(self, mark: Mark) -> None:
        try:
            rulebook = self._resolve(msgspec.json.decode(mark.payload, type=_Control).rulebook)
        except (*_UNREADABLE, ConfigError) as error:
            self._dead(mark, "bad_control", str(error))
            return
        self._cases.conclude()
        self._failure_panes.close(self.stream_ms, self.rulebook)
        self._desk.replace(rulebook, mark.position)
        self._runs.look_anew()
        self._scopes.judge_anew(mark.position)
        self._profiles.judge_anew(mark.position)
        self._set_timers()

    def _evidence(self, mark: Mark) -> None:
        try:
            evidence = read_evidence(mark.payload)
        except MalformedPayload as error:
            self._dead(mark, error.reason, error.detail)
            return
        self._cases.evidence(evidence, mark)

    def _outcome(self, mark: Mark) -> None:
        try:
            acted = read_outcome(mark.payload)
        except MalformedPayload as error:
            self._dead(mark, error.reason, error.detail)
            return
        self._cases.conclude()
        self._outcomes.acted(acted, mark.position)
        self._errands.acted(acted, mark.position)

    def _reject(self, mark: Mark) -> None:
        try:
            said = msgspec.json.decode(mark.payload, type=_Reject)
        except _UNREADABLE as error:
            self._dead(mark, "malformed_payload", f"a reject that cannot be read: {error}")
            return
        self._dead(mark, said.reason, said.detail, said.source)

    def _unreadable(self, mark: Mark) -> None:
        window, bad = self._bad_in_window
        bad = bad + 1 if window == mark.position // REJECT_WINDOW else 1
        self._bad_in_window = [mark.position // REJECT_WINDOW, bad]
        if bad > self._most_bad:
            raise TooManyRejectsError(
                f"shard {self.number}: more than {self._most_bad} of {REJECT_WINDOW} entries before entry "
                f"{mark.entry_ms}-{mark.entry_seq} cannot be read, the last because: {mark.detail}"
            )
        self._dead(mark, mark.reason or "unreadable", mark.detail)

    def _dead(self, mark: Mark, reason: str, detail: str, source: str | None = None) -> None:
        self._dead_letters.append(dead_letter(self.number, mark, reason, detail, source))

    def _close(self, minute: int, _second: int, position: int) -> None:
        self._open_minutes.discard(minute)
        repositories, jobs = self._panes.close(minute)
        for job_key, counts in jobs.items():
            self._durations.add(job_key, counts)
        if minute * MINUTE_MS < self._from_ms:
            return
        for m in repositories:
            self._aggregates.append(
                Aggregate(
                    shard=self.number,
                    position=position,
                    platform=m.platform,
                    instance=m.instance,
                    repository=m.repository,
                    minute_ms=minute * MINUTE_MS,
                    started=m.started,
                    completed=m.completed,
                    failed=m.failed,
                    duration_ms_sum=m.duration_ms,
                    durations=m.durations,
                    late=m.late,
                )
            )

    def snapshot(self, keep: Callable[[Chunks], bytes | None] | None = None) -> bytes:
        """All that is remembered, as plain versioned bytes; the digest of the rulebook in force, never the rules.

        `keep` may keep the chunks of a journal elsewhere, and gives the name of them; or None, and they stand here.
        """
        head = {
            "shard": self.number,
            "rulebook": self.rulebook.digest,
            "stream_ms": self.stream_ms,
            "position": self.position,
            "from_ms": self._from_ms,
        }
        journals = {name: part.state() for name, part in self._settled.items()}
        rest = {
            "runs": self._runs.state(),
            "asking": self._desk.asking.state(),
            "sources": self._desk.sources,
            "durations": self._durations.state(),
            "failure_panes": self._failure_panes.state(),
            "open_minutes": sorted(self._open_minutes),
            "turns": self._turns,
            "bad_in_window": self._bad_in_window,
        }
        return snapshots.written(head, journals, rest, keep)

    @classmethod
    def restore(
        cls,
        data: bytes,
        resolve: Callable[[str], Rulebook],
        fetch: Callable[[bytes], Chunks] | None = None,
        *,
        most_bad: int = 500,
    ) -> Self:
        """The shard as it stood at `snapshot`; `fetch` gives the chunks of what was kept elsewhere under a name.

        Raises:
            ConfigError: of a version that this release does not read, or its rulebook is not to be had.
        """
        head, journals, rest = snapshots.read(data, fetch)
        shard = cls(head["shard"], resolve(head["rulebook"]), resolve, most_bad=most_bad, from_ms=head["from_ms"])
        shard._desk.stream_ms, shard.position = head["stream_ms"], head["position"]
        shard._bad_in_window, shard._turns = rest["bad_in_window"], rest["turns"]
        for name, part in shard._settled.items():
            if name in journals:
                part.load(journals[name])
        shard._desk.asking.load(rest["asking"])
        shard._desk.sources.update(rest["sources"])
        shard._runs.load(rest["runs"])
        shard._durations.load(rest["durations"])
        shard._failure_panes.load(rest["failure_panes"])
        shard._open_minutes = set(rest["open_minutes"])
        shard._set_timers()
        return shard

    def _set_timers(self) -> None:
        """Make due again what the state says is due."""
        timers = self._desk.timers = Timers()
        for turn, span in zip(self._turns, _SPANS, strict=True):
            timers.at((turn + 1) * span if turn else 0, "turn", span)
        for minute in self._open_minutes:
            timers.at((minute + 1) * MINUTE_MS + LATENESS_MS, "pane", minute)
        for part in (self._runs, self._scopes, self._cases, self._outcomes, self._profiles, self._errands):
            part.set_timers()
