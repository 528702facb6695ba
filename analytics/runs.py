"""The run table: which jobs are running, and what is found because one does not end."""

from __future__ import annotations

from typing import Any, Final

from analytics.desk import MOST_REMEMBERED, Desk
from analytics.detectors.detector import Seen
from analytics.memory import Durations, Generations
from analytics.panes import MINUTE_MS
from analytics.rows import OUTCOMES, split_job_run
from models.records.event import Outcome

_WORDS: Final = tuple(outcome.value for outcome in OUTCOMES)
_QUEUED: Final = Outcome.QUEUED.value
_RUNNING: Final = Outcome.RUNNING.value
TRUST_MS: Final = 3_600_000
"""A source that delivered nothing for so long is not known to deliver, and absence proves nothing."""


class Runs:
    """The jobs that run, by job run: what has ended is forgotten, but for a while if its start was not seen."""

    def __init__(self, desk: Desk, durations: Durations) -> None:
        """Begin with none running."""
        self._desk: Final = desk
        self._durations: Final = durations
        # job run -> [at_ms, id, job key, outcome, due second, raised, both queued and running seen]
        self._running: dict[str, list[Any]] = {}
        self.ended_early: Final[Generations[bool]] = Generations(MOST_REMEMBERED)
        self.sources: dict[str, int] = {}  # instance -> stream time of its last event

    def ended(self, job_run: str, position: int) -> None:
        """Strike out a job that has ended, in whatever way."""
        known = self._running.pop(job_run, None)
        if known is None or not known[6]:
            self.ended_early.put(job_run, True)
        if known is not None and known[5]:
            self._absent_no_more(job_run, position)

    def started(self, job_run: str, at: int, event: str, job_key: str, outcome: int, position: int) -> None:
        """Enter a job that was queued or has begun, and look again when it should have ended."""
        desk, early = self._desk, self.ended_early
        if desk.first_look_ms is None or job_run in early.young or job_run in early.old:
            return
        if at <= desk.stream_ms - desk.absent_ms:
            return
        word, both = _WORDS[outcome], False
        known = self._running.get(job_run)
        if known is not None:
            both = known[6] = known[6] or known[3] != word
            if word == _QUEUED or known[3] == _RUNNING:
                return
            if known[5]:
                self._absent_no_more(job_run, position)
        look = at + desk.first_look_ms
        due = desk.timers.at(max(desk.stream_ms, look), "run", job_run)
        self._running[job_run] = [at, event, job_key, word, due, False, both]

    def look(self, job_run: str, second: int, position: int) -> None:
        """Judge a job run that should have ended by now."""
        known = self._running.get(job_run)
        if known is None or known[4] != second:
            return
        at, event, job_key, outcome, *_ = known
        desk, now = self._desk, second * 1000
        instance, _, pipeline_id, _, attempt, _ = split_job_run(job_run)
        if now - at >= desk.absent_ms:
            del self._running[job_run]
            self._absent_no_more(job_run, position)
            return
        if self.sources.get(instance, 0) <= now - TRUST_MS:
            known[4] = desk.timers.at(now + MINUTE_MS, "run", job_run)
            return
        history = (Seen(at, event, Outcome(outcome), None, pipeline_id, attempt),)
        usual = self._durations.usual_ms(job_key)
        dues = [(d, due) for d in desk.by_absence if (due := d.due(history, usual)) is not None]
        for detector, due in dues:
            overdue = due <= now and Outcome(outcome) in detector.sees
            answer = detector.judge(history, now) if overdue else None
            desk.findings.answer(detector, job_run, answer, desk.where(position, now))
            known[5] = known[5] or answer is not None
        later = min((due for _, due in dues if due > now), default=at + desk.absent_ms)
        known[4] = desk.timers.at(later, "run", job_run)

    def _absent_no_more(self, job_run: str, position: int) -> None:
        for detector in self._desk.by_absence:
            self._desk.findings.answer(detector, job_run, None, self._desk.where(position))

    def look_anew(self) -> None:
        """Let new rules say when each running job is to be looked at."""
        for known in self._running.values():
            known[4] = -(-max(known[0] + (self._desk.first_look_ms or 0), self._desk.stream_ms) // 1000)

    def set_timers(self) -> None:
        """Make due again what the table says is due."""
        for job_run, known in self._running.items():
            self._desk.timers.at(known[4] * 1000, "run", job_run)

    def state(self) -> list[Any]:
        """The table as plain data, but for what ended early."""
        return [self._running, self.sources]

    def load(self, state: list[Any]) -> None:
        """Take what `state` gave."""
        self._running, self.sources = state
