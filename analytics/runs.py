"""The run table: which jobs wait and run, and what is found because one does not start or end."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from analytics.desk import MOST_REMEMBERED, Desk
from analytics.detectors.detector import History, Seen
from analytics.memory import Durations, Generations
from analytics.panes import MINUTE_MS
from analytics.queues import Queues
from analytics.rows import OUTCOMES, Guard, Rows, case_key_of, split_job_run
from models.records.event import Outcome

UNKNOWN_AGAIN_MS: Final = 10 * MINUTE_MS
"""So often a job that goes on is looked at of which nobody knows how long it takes: meanwhile it may become known."""

_WORDS: Final = tuple(outcome.value for outcome in OUTCOMES)
_QUEUED: Final = Outcome.QUEUED.value
_RUNNING: Final = Outcome.RUNNING.value


_NOT_TOLD: Final = (None,) * 11
"""Of each place, what stands there if an earlier release wrote none down."""


class RunningJob(NamedTuple):
    """A job that goes on, as its start told of it, and what the jobs of its run that go on are."""

    job_key: str
    outcome: Outcome
    commit_sha: str | None
    branch: str | None
    in_deploy: bool
    environments: tuple[str, ...]


class Runs:
    """The jobs that run, by job run: what has ended is forgotten, but for a while if its start was not seen."""

    def __init__(self, desk: Desk, durations: Durations) -> None:
        """Begin with none running."""
        self._desk: Final = desk
        self._durations: Final = durations
        # job run -> [at_ms, id, job key, outcome, due second, raised, both queued and running seen, labels key, commit,
        #             branch, guard or None]
        self._running: dict[str, list[Any]] = {}
        self._guarded: Final[dict[str, dict[str, Guard]]] = {}  # run attempt -> its guarded job runs
        self.ended_early: Final[Generations[bool]] = Generations(MOST_REMEMBERED)
        self.queues: Final = Queues(desk)

    def ended(self, job_run: str, position: int) -> None:
        """Strike out a job that has ended, in whatever way."""
        known = self._running.pop(job_run, None)
        if known is None or not known[6]:
            self.ended_early.put(job_run, True)
        if known is None:
            return
        if known[10] is not None:
            self._unguard(job_run)
        if known[3] == _QUEUED:
            self.queues.left(known[7], job_run, position)
        if known[5]:
            self._absent_no_more(job_run, position)

    def started(self, rows: Rows, i: int, job_run: str, at: int, event: str) -> None:
        """Enter a job that was queued or has begun, and look again when it should have ended."""
        desk, early = self._desk, self.ended_early
        if not (desk.by_absence or desk.by_queue) or job_run in early.young or job_run in early.old:
            return
        if at <= desk.stream_ms - desk.absent_ms:
            return
        word, both, labels = _WORDS[rows.outcomes[i]], False, rows.label_keys[i]
        known = self._running.get(job_run)
        if known is not None:
            both = known[6] = known[6] or known[3] != word
            if word == _QUEUED or known[3] == _RUNNING:
                return
            if known[5]:
                self._absent_no_more(job_run, rows.positions[i])
        look = at + (desk.absent_ms if desk.first_look_ms is None else desk.first_look_ms)
        due = desk.timers.at(max(desk.stream_ms, look), "run", job_run)
        told = rows.commits[i], rows.branches[i], rows.guards.get(i)
        self._running[job_run] = [at, event, rows.job_keys[i], word, due, False, both, labels, *told]
        if told[2] is not None:
            self._guarded.setdefault(case_key_of(job_run), {})[job_run] = told[2]
        if word == _QUEUED:
            self.queues.joined(labels, job_run, at, event)
        else:
            self.queues.let_in(labels if known is None else known[7], job_run, at, event, rows.positions[i])

    def _unguard(self, job_run: str) -> None:
        key = case_key_of(job_run)
        guarded = self._guarded.get(key, {})
        guarded.pop(job_run, None)
        if not guarded:
            self._guarded.pop(key, None)

    def about(self, job_run: str) -> RunningJob | None:
        """A job that goes on, and what forbids to stop it or the run it is part of."""
        known = self._running.get(job_run)
        if known is None:
            return None
        guards = self._guarded.get(case_key_of(job_run), {}).values()
        environments = tuple(sorted({environment for _, environment in guards if environment is not None}))
        in_deploy = any(deploy for deploy, _ in guards)
        return RunningJob(known[2], Outcome(known[3]), known[8], known[9], in_deploy, environments)

    def look(self, job_run: str, second: int, position: int) -> None:
        """Judge a job run that should have ended by now."""
        known = self._running.get(job_run)
        if known is None or known[4] != second:
            return
        at, event, job_key, outcome, *_ = known
        desk, now = self._desk, second * 1000
        instance, _, pipeline_id, _, attempt, _ = split_job_run(job_run)
        if now - at >= desk.absent_ms:
            self._given_up(job_run, position)
            return
        if not desk.delivers(instance, now):
            known[4] = desk.timers.at(now + MINUTE_MS, "run", job_run)
            return
        history = History([Seen(at, event, Outcome(outcome), None, pipeline_id, attempt)])
        usual = self._durations.usual_ms(job_key)
        where = desk.where(position, now)
        later = at + desk.absent_ms
        for detector, within_ms in desk.by_absence:
            if Outcome(outcome) not in detector.sees:
                continue
            due = desk.asking.ask(detector, job_run, where, detector.due, history, usual, event=event)
            if due is not None and due > now:
                later = min(later, due if usual is not None else min(due, now + UNKNOWN_AGAIN_MS))
                continue
            asked = due is not None and now - at < within_ms
            answer = desk.asking.judge(detector, job_run, history, where, event) if asked else None
            desk.answer(detector, job_run, answer, history, where, event)
            known[5] = known[5] or answer is not None
        known[4] = desk.timers.at(later, "run", job_run)

    def _given_up(self, job_run: str, position: int) -> None:
        """Forget a job of which nothing was heard for too long."""
        known = self._running.pop(job_run)
        if known[10] is not None:
            self._unguard(job_run)
        if known[3] == _QUEUED:
            self.queues.left(known[7], job_run, position)
        self._absent_no_more(job_run, position, "nothing was heard of it for too long")

    def _absent_no_more(self, job_run: str, position: int, why: str = "the job went on") -> None:
        for detector, _ in self._desk.by_absence:
            self._desk.findings.answer(detector, job_run, None, self._desk.where(position), why)

    def look_anew(self) -> None:
        """Let new rules say when each running job is to be looked at."""
        for known in self._running.values():
            known[4] = -(-max(known[0] + (self._desk.first_look_ms or 0), self._desk.stream_ms) // 1000)
        self.queues.look_anew()

    def set_timers(self) -> None:
        """Make due again what the table says is due."""
        for job_run, known in self._running.items():
            self._desk.timers.at(known[4] * 1000, "run", job_run)
        self.queues.set_timers()

    def state(self) -> list[Any]:
        """The table as plain data, but for what ended early."""
        return [self._running, self.queues.state()]

    def load(self, state: list[Any]) -> None:
        """Take what `state` gave."""
        running, queues = state
        self._running = {job_run: [*known, *_NOT_TOLD[len(known) :]] for job_run, known in running.items()}
        for job_run, known in self._running.items():
            if known[10] is not None:
                self._guarded.setdefault(case_key_of(job_run), {})[job_run] = known[10]
        self.queues.load(queues)
