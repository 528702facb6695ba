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
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, NamedTuple, Self

import msgspec

from analytics.cases import Case, Job
from analytics.detectors.detector import JOB, JOB_RUN, Detector, Seen, milliseconds
from analytics.findings import Context, Findings
from analytics.memory import Durations, Generations, Ids, Timers
from analytics.panes import BUCKETS, MINUTE_MS, Panes
from analytics.policy.decide import FailedJob, decide
from analytics.rows import (
    JOB_ENDED,
    JOB_FAILED,
    JOB_PASSED,
    JOB_STARTED,
    OTHER,
    OUTCOMES,
    RUN_ENDED,
    RUN_FAILED,
    Rows,
    case_key_of,
    split_job_run,
)
from analytics.rulebook import Rulebook
from analytics.signatures.catalogue import facts_of
from models.records.columns import Batch, Mark
from models.records.entry import Kind
from models.records.errors import ConfigError, GuardError
from models.records.event import Outcome, case_id, uuid5_text
from models.records.outputs import (
    Aggregate,
    DeadLetter,
    DecisionRow,
    Diagnosis,
    Failure,
    ShardOutput,
    ShardStats,
)
from models.scorers.rerun_passes import features

SNAPSHOT_VERSION: Final = 1

LATENESS_MS: Final = 60_000
"""How long a minute of the aggregates stays open behind stream time."""
FUTURE_MS: Final = 300_000
"""How far an event may claim to lie ahead of stream time."""
TURN_MS: Final = 300_000
"""Ids, early passes and early ends are remembered for one to two of these: the bound for disorder and duplicates."""
RETIRED_TURN_MS: Final = 24 * 3_600_000
RUN_PATIENCE_MS: Final = 6 * 3_600_000
"""How long the end of a run is waited for after its last news."""
CASE_KEPT_MS: Final = 1_800_000
"""How long a case is kept after its last news once nothing more is waited for."""
TRUST_MS: Final = 3_600_000
"""A source that delivered nothing for so long is not known to deliver, and absence proves nothing."""
MOST_REMEMBERED: Final = 200_000
MOST_JOBS: Final = 500_000
MOST_IN_HISTORY: Final = 64
_SPANS: Final = (TURN_MS, RETIRED_TURN_MS)
REJECT_WINDOW: Final = 1000
"""Of so many entries in a row, `most_bad` at the most may be unreadable."""


class TooManyRejectsError(GuardError):
    """So large a share of the entries cannot be read that going on would empty the stream into the dead letters."""


@dataclass(slots=True)
class History:
    """The recent events of one job, oldest first, and the second of stream time at which they are looked through."""

    due_second: int
    seen: list[Seen]


class _Touch(NamedTuple):
    """A case as it stood when something about it changed; decided on once the batch is scored."""

    case: Case
    jobs: list[tuple[Job, bool]]
    ended: Outcome | None
    given_up: bool
    in_deploy: bool
    in_fork: bool
    received_ms: int
    newest_ms: int
    where: Context


class _Diagnosed(NamedTuple):
    """A failure that waits for its score."""

    detail: dict[str, Any]
    job: Job
    case: Case
    category: str | None
    cause: str | None
    transient: bool | None
    diagnosis: Diagnosis
    late: bool
    at_ms: int
    where: Context
    features: dict[str, float | str]


class _Control(msgspec.Struct):
    """The payload of a control entry."""

    rulebook: str


class _Reject(msgspec.Struct):
    """What is read of the payload of a reject."""

    reason: str
    detail: str = ""
    source: str | None = None


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
        self.number: Final = number
        self.stream_ms = 0
        self.position = 0
        self._resolve: Final = resolve
        self._most_bad: Final = most_bad
        self._from_ms = from_ms
        self._bad_in_window = [0, 0]
        self._ids = Ids()
        # job run -> [at_ms, id, job key, outcome, due second, raised, both queued and running seen]
        self._running: dict[str, list[Any]] = {}
        self._ended_early: Generations[bool] = Generations(MOST_REMEMBERED)
        self._passed: Generations[list[Seen]] = Generations(MOST_REMEMBERED)
        self._run_ends: Generations[list[Any]] = Generations(MOST_REMEMBERED)
        self._histories: dict[str, History] = {}
        self._cases: dict[str, Case] = {}
        self._retired: Generations[int] = Generations(MOST_REMEMBERED)
        self._sources: dict[str, int] = {}
        self._findings = Findings(MOST_REMEMBERED)
        self._durations = Durations(BUCKETS, MOST_JOBS)
        self._panes = Panes()
        self._timers = Timers()
        self._open_minutes: set[int] = set()
        self._turns = [0, 0]
        for span in _SPANS:
            self._timers.at(0, "turn", span)
        self._take(rulebook)
        self._begin()

    def _begin(self) -> None:
        """Set up what lasts for one batch."""
        self._touches: list[_Touch] = []
        self._diagnosed: list[_Diagnosed] = []
        self._dropped: list[int] = []
        self._paned = 0
        self._out = ShardOutput([], [], [], [], [], ShardStats(0, 0, 0))

    def _take(self, rulebook: Rulebook) -> None:
        """Make `rulebook` the one in force."""
        self.rulebook = rulebook
        self._by_job = [(d, milliseconds(d.within)) for d in rulebook.detectors if d.by == JOB]
        self._by_absence: list[Detector] = [d for d in rulebook.detectors if d.by == JOB_RUN]
        self._repeated = [(d, within) for d, within in self._by_job if type(d).__name__ == "RepeatedFailure"]
        self._kept_ms = max((within for _, within in self._by_job), default=0)
        self._absent_ms = max((milliseconds(d.within) for d in self._by_absence), default=0)
        start = (Seen(0, "", Outcome.RUNNING, None, "", 1),)
        looks = [due for d in self._by_absence if (due := d.due(start, None)) is not None]
        # The earliest that absence can mean anything; a longer usual duration only puts it off.
        self._first_look_ms: int | None = min(looks, default=None)

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
                self._timers.at((minute + 1) * MINUTE_MS + LATENESS_MS, "pane", minute)
        walk = iter(zip(range(rows.count), rows.ids, rows.stream, rows.codes, rows.job_runs, strict=True))
        done = 0
        for mark in batch.marks:
            self._walk(rows, islice(walk, mark.row - done))
            done = mark.row
            self._mark(mark)
        self._walk(rows, walk)
        self._conclude()
        self._add_to_panes(rows.count)
        self.position = max(self.position, batch.last)
        self._out.findings.extend(self._findings.said)
        self._findings.said = []
        stats = ShardStats(rows.count, len(self._dropped), rows.late)
        return self._out._replace(stats=stats)

    def _walk(self, rows: Rows, part: Iterable[tuple[int, str, int, int, str]]) -> None:
        """Take rows one by one, in log order."""
        ids, timers, running = self._ids, self._timers, self._running
        for i, event, stream, code, job_run in part:
            if stream > self.stream_ms:
                self.stream_ms = stream
                if stream >= timers.next_ms:
                    self._fire(rows.positions[i], i)
            if event in ids.young or event in ids.old:
                self._dropped.append(i)
                continue
            ids.young.add(event)
            ids.fresh.append(event)
            if code == OTHER:
                continue
            self._sources[rows.instances[i]] = stream
            if code == JOB_STARTED:
                self._started(rows, i, job_run)
                continue
            if code < RUN_ENDED:
                known = running.pop(job_run, None)
                if known is None or not known[6]:
                    self._ended_early.put(job_run, True)
                if known is not None and known[5]:
                    self._absent_no_more(job_run, rows.positions[i])
            if code == JOB_PASSED:
                self._pass(rows, i, job_run)
            elif code != JOB_ENDED:
                self._trouble(rows, i, job_run, code)

    def _where(self, position: int, at_ms: int | None = None) -> Context:
        at = self.stream_ms if at_ms is None else at_ms
        return Context(self.number, position, at, self.rulebook.digest)

    # --- the run table and what is found by absence

    def _started(self, rows: Rows, i: int, job_run: str) -> None:
        at = rows.at[i]
        if self._first_look_ms is None or self._ended_early.get(job_run) or at <= self.stream_ms - self._absent_ms:
            return
        outcome = OUTCOMES[rows.outcomes[i]]
        known = self._running.get(job_run)
        if known is not None:
            known[6] = known[6] or known[3] != outcome
            if outcome is Outcome.QUEUED or known[3] == Outcome.RUNNING:
                return
            if known[5]:
                self._absent_no_more(job_run, rows.positions[i])
        due = self._timers.at(max(at + self._first_look_ms, self.stream_ms), "run", job_run)
        both = known is not None and known[6]
        self._running[job_run] = [at, rows.ids[i], rows.job_keys[i], outcome.value, due, False, both]

    def _look(self, job_run: str, second: int, position: int) -> None:
        """Judge a job run that should have ended by now."""
        known = self._running.get(job_run)
        if known is None or known[4] != second:
            return
        at, event, job_key, outcome, *_ = known
        now = second * 1000
        instance, _, pipeline_id, _, attempt, _ = split_job_run(job_run)
        if now - at >= self._absent_ms:
            del self._running[job_run]
            self._absent_no_more(job_run, position)
            return
        if self._sources.get(instance, 0) <= now - TRUST_MS:
            known[4] = self._timers.at(now + MINUTE_MS, "run", job_run)
            return
        history = (Seen(at, event, Outcome(outcome), None, pipeline_id, attempt),)
        usual = self._durations.usual_ms(job_key)
        dues = [(d, due) for d in self._by_absence if (due := d.due(history, usual)) is not None]
        for detector, due in dues:
            overdue = due <= now and Outcome(outcome) in detector.sees
            answer = detector.judge(history, now) if overdue else None
            self._findings.answer(detector, job_run, answer, self._where(position, now))
            known[5] = known[5] or answer is not None
        later = min((due for _, due in dues if due > now), default=at + self._absent_ms)
        known[4] = self._timers.at(later, "run", job_run)

    def _absent_no_more(self, job_run: str, position: int) -> None:
        for detector in self._by_absence:
            self._findings.answer(detector, job_run, None, self._where(position))

    # --- histories

    def _pass(self, rows: Rows, i: int, job_run: str) -> None:
        key = rows.job_keys[i]
        _, _, pipeline_id, _, attempt, _ = split_job_run(job_run)
        seen = Seen(rows.at[i], rows.ids[i], Outcome.PASSED, rows.commits[i], pipeline_id, attempt)
        if key in self._histories:
            self._remember(key, seen, rows.positions[i])
        else:
            early = self._passed.young.get(key)
            if early is None:
                self._passed.put(key, [seen])
                return
            early.append(seen)
            if len(early) > MOST_IN_HISTORY:
                early.remove(min(early))

    def _remember(self, key: str, new: Seen, position: int) -> None:
        """Put `new` into the history of a job, ask the detectors, and look again at later cases of the job."""
        if new.at_ms <= self.stream_ms - self._kept_ms:
            return
        known = self._histories.get(key)
        if known is None:
            early = [*self._passed.young.pop(key, []), *self._passed.old.pop(key, [])]
            due = self._timers.at(self.stream_ms + self._kept_ms, "history", key)
            known = self._histories[key] = History(due, early)
        elif any(seen.id == new.id for seen in known.seen):
            return
        history = known.seen
        overtaken = bool(history) and new < history[-1]
        history.append(new)
        history.sort()
        full = len(history) > MOST_IN_HISTORY
        del history[:-MOST_IN_HISTORY]
        self._judge(key, history, position, outcome=None if full else new.outcome)
        if overtaken:
            for case_key in sorted({s.case_key for s in history if s > new and s.case_key}):
                case = self._cases.get(case_key)
                if case is not None:
                    self._touch(case, self.stream_ms, position)

    def _judge(
        self, key: str, history: list[Seen], position: int, *, outcome: Outcome | None = None, at_ms: int | None = None
    ) -> None:
        """Ask the detectors that see `outcome` about `history`.

        At a tick (`at_ms`) all of them are asked, and time alone can only take a finding away.
        """
        where = self._where(position, at_ms)
        for detector, within_ms in self._by_job:
            if outcome is not None and outcome not in detector.sees:
                continue
            visible = _visible(detector, history, where.at_ms - within_ms)
            answer = detector.judge(visible, where.at_ms) if visible else None
            if answer is None or at_ms is None:
                self._findings.answer(detector, key, answer, where)
            if answer is not None:
                self._timers.at(visible[0].at_ms + within_ms, "finding", key)

    def _recheck(self, key: str, second: int, position: int) -> None:
        known = self._histories.get(key)
        self._judge(key, known.seen if known else [], position, at_ms=second * 1000)

    def _forget(self, key: str, second: int) -> None:
        """Let go of what no detector sees any more."""
        known = self._histories[key]
        known.seen[:] = [seen for seen in known.seen if seen.at_ms > second * 1000 - self._kept_ms]
        if known.seen:
            known.due_second = self._timers.at(known.seen[-1].at_ms + self._kept_ms, "history", key)
        else:
            del self._histories[key]

    # --- cases

    def _trouble(self, rows: Rows, i: int, job_run: str, code: int) -> None:
        """Take a failed job, a failed run, or the end of a run."""
        key = case_key_of(job_run)
        at, outcome = rows.at[i], OUTCOMES[rows.outcomes[i]]
        case = self._cases.get(key)
        if case is None and (code == RUN_ENDED or (code == RUN_FAILED and self._retired.get(key) is not None)):
            # Nothing is known to have failed, or it was decided on long ago: the run itself has nothing to add.
            known = self._run_ends.get(key)
            if known is None or [at, outcome.value] > known:
                self._run_ends.put(key, [at, outcome.value])
            return
        if case is None:
            case = self._case(key, rows.details[i], at)
        is_run = code != JOB_FAILED or rows.details[i]["job_id"] is None
        if is_run and (case.ended is None or (at, outcome) > (case.ended_ms, case.ended)):
            case.ended, case.ended_ms = outcome, at
        if code == RUN_FAILED:
            case.is_deploy = case.is_deploy or bool(rows.details[i]["is_deploy"])
            case.is_fork = case.is_fork or bool(rows.details[i]["is_fork"])
        if code == JOB_FAILED or (code == RUN_FAILED and not case.jobs):
            self._failed(case, rows, i)
        case.newest_ms = max(case.newest_ms, at)
        self._touch(case, rows.received[i], rows.positions[i])

    def _case(self, key: str, detail: dict[str, Any], at: int) -> Case:
        names = {n: detail[n] for n in ("instance", "repository", "pipeline_id", "workflow_id", "attempt")}
        case = Case(
            key=key,
            case_id=case_id(**names),
            platform=detail["platform"],
            commit_sha=detail["commit_sha"],
            branch=detail["branch"],
            rerun_after=detail["rerun_after"] if detail["rerun_after"] in {"job", "run"} else None,
            newest_ms=at,
            **names,
        )
        case.revision = before if (before := self._retired.get(key)) is not None else -1
        ended = self._run_ends.get(key)
        if ended is not None:
            case.ended, case.ended_ms, case.newest_ms = Outcome(ended[1]), ended[0], max(at, ended[0])
        self._cases[key] = case
        return case

    def _failed(self, case: Case, rows: Rows, i: int) -> None:
        """Explain one failed job and put it into its case and its history."""
        detail, at, position = rows.details[i], rows.at[i], rows.positions[i]
        text = detail["failure_excerpt"]
        told = {n: detail[n] for n in ("platform", "outcome", "step")}
        reason, exit_code = detail["failure_reason"], detail["failure_exit_code"]
        match = self.rulebook.catalogue.match(
            detail["platform"], facts_of(**told, reason=reason, exit_code=exit_code), text
        )
        signature = match.signature if match else None
        named = signature.name if signature else None
        category = signature.category.value if signature else None
        job = Job(
            failure_id=detail["id"],
            job_id=detail["job_id"],
            job_key=rows.job_keys[i],
            at_ms=at,
            signature=named,
            transient=bool(signature and signature.transient),
            hard_stop=bool(signature and signature.hard_stop),
            is_deploy=bool(detail["is_deploy"]),
            is_fork=bool(detail["is_fork"]),
            allow_failure=bool(detail["allow_failure"]),
            native_retries=detail["native_retries"] or 0,
        )
        name = detail["job_id"] or detail["job_name"] or ""
        known = case.jobs.get(name)
        if known is None or (known.at_ms, known.failure_id) < (at, job.failure_id):
            case.jobs[name] = job
        said = reason or detail["step"] or text
        self._diagnosed.append(
            _Diagnosed(
                detail=detail,
                job=job,
                case=case,
                category=category,
                cause=signature.cause if signature else None,
                transient=signature.transient if signature else None,
                diagnosis=Diagnosis.MATCHED if signature else Diagnosis.NO_PATTERN if said else Diagnosis.NO_TEXT,
                late=at <= self.stream_ms - self._kept_ms,
                at_ms=at,
                where=self._where(position),
                features=features(
                    **told,
                    attempt=detail["attempt"],
                    failed_jobs=1,
                    signature=named,
                    category=category,
                    reason=reason,
                    trigger=detail["trigger"],
                    is_default_branch=detail["is_default_branch"],
                    duration_ms=detail["duration_ms"],
                    exit_code=exit_code,
                ),
            )
        )
        if detail["job_name"] is not None:
            outcome = Outcome(detail["outcome"])
            seen = Seen(
                at, detail["id"], outcome, detail["commit_sha"], detail["pipeline_id"], detail["attempt"], case.key
            )
            self._remember(job.job_key, seen, position)

    def _touch(self, case: Case, received_ms: int, position: int) -> None:
        """Note that something about `case` changed; it is decided on when the batch is scored."""
        waiting = case.ended is None and not case.given_up
        wait = RUN_PATIENCE_MS if waiting else CASE_KEPT_MS
        case.due_second = self._timers.at(self.stream_ms + wait, "case", case.key)
        jobs = [(job, self._is_repeated(job)) for job in case.failed_jobs()]
        self._touches.append(
            _Touch(
                case=case,
                jobs=jobs,
                ended=case.ended,
                given_up=case.given_up,
                in_deploy=case.is_deploy,
                in_fork=case.is_fork,
                received_ms=received_ms,
                newest_ms=case.newest_ms,
                where=self._where(position),
            )
        )

    def _is_repeated(self, job: Job) -> bool:
        """Whether the job had failed again and again when it failed here."""
        known = self._histories.get(job.job_key)
        history = [seen for seen in known.seen if seen.at_ms <= job.at_ms] if known else []
        for detector, within_ms in self._repeated:
            visible = _visible(detector, history, job.at_ms - within_ms)
            if visible and detector.judge(visible, job.at_ms) is not None:
                return True
        return False

    def _review(self, key: str, second: int, position: int) -> None:
        """Give up waiting for the end of a run, or let go of a case about which nothing more was heard."""
        case = self._cases.get(key)
        if case is None or case.due_second != second:
            return
        if case.ended is None and not case.given_up:
            case.given_up = True
            self._touch(case, second * 1000, position)
        else:
            self._conclude()  # what this batch still has to say of the case has its revision
            self._retired.put(key, case.revision)
            del self._cases[key]

    # --- score and decide

    def _conclude(self) -> None:
        """Score all failures of the batch at once, then decide, in the order of the walk."""
        scores = self.rulebook.scorer.score([d.features for d in self._diagnosed]) if self._diagnosed else []
        for diagnosed, score in zip(self._diagnosed, scores, strict=True):
            diagnosed.job.score, diagnosed.job.top = score.value, score.top
            self._out.failures.append(self._failure_row(diagnosed))
        for touch in self._touches:
            self._decide(touch)
        self._diagnosed, self._touches = [], []

    def _decide(self, touch: _Touch) -> None:
        case = touch.case
        run = {"in_deploy": touch.in_deploy, "in_fork": touch.in_fork}
        views = [job.view(**run, repeated=repeated) for job, repeated in touch.jobs]
        decision = decide(case.view(views, ended=touch.ended, given_up=touch.given_up), self.rulebook.policy)
        calls = msgspec.json.encode(decision.calls).decode()
        covered = sorted(view.failure_id for view in views)
        said = [decision.verdict.value, decision.reason.value, calls, covered]
        if said == case.last:
            return
        case.last = said
        case.revision += 1
        top = min(touch.jobs, key=lambda j: (j[0].score is None, j[0].score or 0.0, j[0].failure_id))[0].top
        explanation = {
            "jobs": [dict(zip(FailedJob._fields, view, strict=True)) for view in sorted(views, key=_by_time)],
            "run_ended": touch.ended,
            "rerun_after": case.rerun_after,
            "score_moved_by": top,
        }
        self._out.decisions.append(
            DecisionRow(
                decision_id=uuid5_text("decision", case.case_id, str(case.revision)),
                case_id=case.case_id,
                revision=case.revision,
                shard=self.number,
                position=touch.where.position,
                platform=case.platform,
                instance=case.instance,
                repository=case.repository,
                pipeline_id=case.pipeline_id,
                workflow_id=case.workflow_id,
                attempt=case.attempt,
                commit_sha=case.commit_sha,
                branch=case.branch,
                verdict=decision.verdict.value,
                reason=decision.reason.value,
                mode=self.rulebook.policy.mode,
                action=decision.action,
                calls=calls,
                jobs=covered,
                signature=decision.signature,
                score=decision.score,
                model=self.rulebook.scorer.version,
                explanation=msgspec.json.encode(explanation).decode(),
                occurred_ms=touch.newest_ms,
                received_ms=touch.received_ms,
                at_ms=touch.where.at_ms,
                rulebook=touch.where.rulebook,
            )
        )

    def _failure_row(self, diagnosed: _Diagnosed) -> Failure:
        detail, job = diagnosed.detail, diagnosed.job
        same = {n: detail[n] for n in _SAME}
        return Failure(
            failure_id=job.failure_id,
            case_id=diagnosed.case.case_id,
            shard=self.number,
            position=diagnosed.where.position,
            occurred_ms=diagnosed.at_ms,
            reason=detail["failure_reason"],
            exit_code=detail["failure_exit_code"],
            excerpt=detail["failure_excerpt"],
            diagnosis=diagnosed.diagnosis.value,
            signature=job.signature,
            category=diagnosed.category,
            transient=diagnosed.transient,
            cause=diagnosed.cause,
            score=job.score,
            model=self.rulebook.scorer.version,
            late=diagnosed.late,
            rulebook=diagnosed.where.rulebook,
            **same,
        )

    # --- time, marks and panes

    def _fire(self, position: int, row: int) -> None:
        """Do all that is due, second by second, before the entry at `position`, or row `row`, is looked at."""
        for second, due in self._timers.pop(self.stream_ms):
            for kind, key in due:
                match kind:
                    case "run":
                        self._look(key, second, position)
                    case "case":
                        self._review(key, second, position)
                    case "finding":
                        self._recheck(key, second, position)
                    case "history":
                        self._forget(key, second)
                    case "pane":
                        self._add_to_panes(row)
                        self._close(key, position)
                    case "turn":
                        self._turn(key)

    def _turn(self, span_ms: int) -> None:
        """Forget the older half of what is kept for `span_ms`, or all of it after a long silence."""
        index = _SPANS.index(span_ms)
        turn = self.stream_ms // span_ms
        passed = min(turn - self._turns[index], 2)
        self._turns[index] = turn
        self._timers.at((turn + 1) * span_ms, "turn", span_ms)
        memories = (
            (self._ids, self._ended_early, self._passed, self._run_ends)
            if index == 0
            else (self._retired, self._findings)
        )
        for memory in memories * passed:
            memory.turn()

    def _add_to_panes(self, row: int) -> None:
        """Put the rows of the batch before `row` into the panes."""
        if row > self._paned:
            self._panes.add(self._rows.pane_columns(self._paned, row, self._dropped))
            self._paned = row

    def _mark(self, mark: Mark) -> None:
        """Take an entry that is not events."""
        self.stream_ms = max(self.stream_ms, min(mark.entry_ms, mark.received_ms))
        if self.stream_ms >= self._timers.next_ms:
            self._fire(mark.position, mark.row)
        match mark.kind:
            case Kind.HEARTBEAT:
                pass
            case Kind.CONTROL:
                self._control(mark)
            case Kind.REJECT:
                self._reject(mark)
            case None:
                self._unreadable(mark)
            case _:
                self._dead(mark, "not_read_yet", f"{mark.kind} entries are not read by this release", None)

    def _control(self, mark: Mark) -> None:
        try:
            rulebook = self._resolve(msgspec.json.decode(mark.payload, type=_Control).rulebook)
        except (*_UNREADABLE, ConfigError) as error:
            self._dead(mark, "bad_control", str(error), None)
            return
        self._conclude()
        self._take(rulebook)
        self._judge_anew(mark.position)

    def _judge_anew(self, position: int) -> None:
        """Let a new rulebook speak on what stands and what is running; it raises findings at the next event only."""
        for known in self._running.values():
            known[4] = -(-max(known[0] + (self._first_look_ms or 0), self.stream_ms) // 1000)
        for key, history in self._histories.items():
            if any(self._findings.stands(detector, key) for detector, _ in self._by_job):
                self._judge(key, history.seen, position, at_ms=self.stream_ms)
        self._set_timers()

    def _reject(self, mark: Mark) -> None:
        try:
            said = msgspec.json.decode(mark.payload, type=_Reject)
        except _UNREADABLE as error:
            self._dead(mark, "malformed_payload", f"a reject that cannot be read: {error}", None)
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
        self._dead(mark, mark.reason or "unreadable", mark.detail, None)

    def _dead(self, mark: Mark, reason: str, detail: str, source: str | None) -> None:
        entry = f"{mark.entry_ms}-{mark.entry_seq}"
        self._out.dead_letters.append(
            DeadLetter(
                dead_letter_id=uuid5_text("dead", str(self.number), entry, str(mark.part)),
                shard=self.number,
                position=mark.position,
                entry_id=entry,
                part=mark.part,
                reason=_storable(reason),
                detail=_storable(detail),
                source=None if source is None else _storable(source),
                payload=mark.payload,
                received_ms=mark.received_ms,
            )
        )

    def _close(self, minute: int, position: int) -> None:
        self._open_minutes.discard(minute)
        repositories, jobs = self._panes.close(minute)
        for job_key, counts in jobs.items():
            self._durations.add(job_key, counts)
        if minute * MINUTE_MS < self._from_ms:
            return
        for m in repositories:
            self._out.aggregates.append(
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

    # --- snapshots

    def snapshot(self) -> bytes:
        """All that is remembered, as plain versioned bytes; the digest of the rulebook in force, never the rules."""
        return msgspec.msgpack.encode(
            {
                "v": SNAPSHOT_VERSION,
                "shard": self.number,
                "rulebook": self.rulebook.digest,
                "stream_ms": self.stream_ms,
                "position": self.position,
                "from_ms": self._from_ms,
                "bad_in_window": self._bad_in_window,
                "ids": self._ids.state(),
                "running": self._running,
                "ended_early": self._ended_early.state(),
                "passed": self._passed.state(),
                "run_ends": self._run_ends.state(),
                "histories": {key: [known.due_second, known.seen] for key, known in self._histories.items()},
                "cases": [_plain(case) for case in self._cases.values()],
                "retired": self._retired.state(),
                "sources": self._sources,
                "findings": self._findings.state(),
                "durations": self._durations.state(),
                "panes": self._panes.state(),
                "open_minutes": sorted(self._open_minutes),
                "turns": self._turns,
            }
        )

    @classmethod
    def restore(cls, data: bytes, resolve: Callable[[str], Rulebook], *, most_bad: int = 500) -> Self:
        """The shard as it stood at `snapshot`.

        Raises:
            ConfigError: of a version that this release does not read, or its rulebook is not to be had.
        """
        said = msgspec.msgpack.decode(data)
        if said.get("v") != SNAPSHOT_VERSION:
            raise ConfigError(f"a snapshot of version {said.get('v')!r}; this release reads {SNAPSHOT_VERSION}")
        shard = cls(said["shard"], resolve(said["rulebook"]), resolve, most_bad=most_bad, from_ms=said["from_ms"])
        shard.stream_ms, shard.position = said["stream_ms"], said["position"]
        shard._bad_in_window, shard._turns = said["bad_in_window"], said["turns"]
        shard._ids.load(said["ids"])
        shard._running = said["running"]
        shard._ended_early.load(said["ended_early"])
        shard._passed.load([{k: [_seen(s) for s in v] for k, v in half.items()} for half in said["passed"]])
        shard._run_ends.load(said["run_ends"])
        shard._histories = {
            key: History(due, [_seen(s) for s in seen]) for key, (due, seen) in said["histories"].items()
        }
        shard._cases = {case.key: case for case in map(_case_of, said["cases"])}
        shard._retired.load(said["retired"])
        shard._sources = said["sources"]
        shard._findings.load(said["findings"])
        shard._durations.load(said["durations"])
        shard._panes = Panes.of(said["panes"])
        shard._open_minutes = set(said["open_minutes"])
        shard._set_timers()
        return shard

    def _set_timers(self) -> None:
        """Make due again what the state says is due."""
        self._timers = Timers()
        for index, span in enumerate(_SPANS):
            self._timers.at((self._turns[index] + 1) * span if self._turns[index] else 0, "turn", span)
        for job_run, state in self._running.items():
            self._timers.at(state[4] * 1000, "run", job_run)
        for case in self._cases.values():
            self._timers.at(case.due_second * 1000, "case", case.key)
        for minute in self._open_minutes:
            self._timers.at((minute + 1) * MINUTE_MS + LATENESS_MS, "pane", minute)
        for key, known in self._histories.items():
            self._timers.at(known.due_second * 1000, "history", key)
            for detector, within_ms in self._by_job:
                looked_at = self.stream_ms // 1000 * 1000  # the last second that was
                visible = _visible(detector, known.seen, looked_at - within_ms)
                if visible and self._findings.stands(detector, key):
                    self._timers.at(visible[0].at_ms + within_ms, "finding", key)


_SAME: Final = (
    "platform",
    "instance",
    "repository",
    "pipeline_id",
    "workflow_id",
    "attempt",
    "job_id",
    "workflow",
    "job_name",
    "commit_sha",
    "branch",
    "author",
    "outcome",
    "received_ms",
    "duration_ms",
    "step",
    "url",
)


def _storable(text: str) -> str:
    """`text` as PostgreSQL takes it."""
    return text.replace("\0", "\ufffd")


def _by_time(job: FailedJob) -> tuple[int, str]:
    return job.at_ms, job.failure_id


def _visible(detector: Detector, history: list[Seen], since_ms: int) -> list[Seen]:
    """The part of a history that `detector` sees, of what came after `since_ms`."""
    sees = detector.sees
    return [seen for seen in history if seen.at_ms > since_ms and seen.outcome in sees]


def _seen(values: list[Any]) -> Seen:
    at, event, outcome, commit, pipeline, attempt, case = values
    return Seen(at, event, Outcome(outcome), commit, pipeline, attempt, case)


def _plain(case: Case) -> dict[str, Any]:
    return {name: getattr(case, name) for name in Case.__slots__}


def _case_of(values: dict[str, Any]) -> Case:
    jobs = {key: Job(**{**job, "top": tuple(map(tuple, job["top"]))}) for key, job in values["jobs"].items()}
    ended = Outcome(values["ended"]) if values["ended"] is not None else None
    return Case(**{**values, "jobs": jobs, "ended": ended})
