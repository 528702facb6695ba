"""Histories: the recent events of each job, over which detectors judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from analytics.desk import MOST_REMEMBERED, Desk, visible
from analytics.detectors.detector import Seen
from analytics.memory import Generations
from analytics.rows import Rows, split_job_run
from models.records.event import FAILING, Outcome

MOST_IN_HISTORY: Final = 64


@dataclass(slots=True)
class History:
    """The recent events of one job, oldest first, and the second of stream time at which they are looked through."""

    due_second: int
    seen: list[Seen]


class Histories:
    """The histories of all jobs that failed lately, and for a while what passed of the others."""

    def __init__(self, desk: Desk) -> None:
        """Begin with none. `overtaken` is told of cases of which an earlier event of their job came after them."""
        self._desk: Final = desk
        self._histories: dict[str, History] = {}
        self.early: Final[Generations[list[Seen]]] = Generations(MOST_REMEMBERED)
        self.overtaken: Callable[[str, int], None] = _nobody

    def passed(self, rows: Rows, i: int, job_run: str) -> None:
        """Remember that a job passed: in its history if it failed on that commit, else for a while."""
        key, commit = rows.job_keys[i], rows.commits[i]
        _, _, pipeline_id, _, attempt, _ = split_job_run(job_run)
        new = Seen(rows.at[i], rows.ids[i], Outcome.PASSED, commit, pipeline_id, attempt)
        known = self._histories.get(key)
        if known is not None and any(seen.commit_sha == commit and seen.outcome in FAILING for seen in known.seen):
            self.remember(key, new, rows.positions[i])
            return
        early = self.early.young.get(key)
        if early is None:
            self.early.put(key, [new])
            return
        early.append(new)
        if len(early) > MOST_IN_HISTORY:
            early.remove(min(early))

    def remember(self, key: str, new: Seen, position: int) -> None:
        """Put `new` into the history of a job, ask the detectors, and look again at later cases of the job."""
        desk = self._desk
        if new.at_ms <= desk.stream_ms - desk.kept_ms:
            return
        known = self._histories.get(key)
        if known is None:
            due = desk.timers.at(desk.stream_ms + desk.kept_ms, "history", key)
            known = self._histories[key] = History(due, [])
        elif any(seen.id == new.id for seen in known.seen):
            return
        history = known.seen
        overtaken = bool(history) and new < history[-1]
        history.append(new)
        if new.outcome in FAILING:
            history.extend(self._passed_early(key, new.commit_sha))
        history.sort()
        full = len(history) > MOST_IN_HISTORY
        del history[:-MOST_IN_HISTORY]
        self._judge(key, history, position, outcome=None if full else new.outcome)
        if overtaken:
            for case_key in sorted({s.case_key for s in history if s > new and s.case_key}):
                self.overtaken(case_key, position)

    def _passed_early(self, key: str, commit: str | None) -> list[Seen]:
        """Take out what passed on `commit` before its failure was known."""
        taken: list[Seen] = []
        for half in (self.early.young, self.early.old):
            early = half.get(key)
            if early:
                taken += [seen for seen in early if seen.commit_sha == commit]
                early[:] = [seen for seen in early if seen.commit_sha != commit]
        return taken

    def _judge(
        self, key: str, history: list[Seen], position: int, *, outcome: Outcome | None = None, at_ms: int | None = None
    ) -> None:
        """Ask the detectors that see `outcome` about `history`.

        At a tick (`at_ms`) all of them are asked, and time alone can only take a finding away.
        """
        desk = self._desk
        where = desk.where(position, at_ms)
        for detector, within_ms in desk.by_job:
            if outcome is not None and outcome not in detector.sees:
                continue
            sees = visible(detector, history, where.at_ms - within_ms)
            answer = detector.judge(sees, where.at_ms) if sees else None
            if answer is None or at_ms is None:
                desk.findings.answer(detector, key, answer, where)
            if answer is not None:
                desk.timers.at(sees[0].at_ms + within_ms, "finding", key)

    def recheck(self, key: str, second: int, position: int) -> None:
        """See whether what was found still holds now that time has passed."""
        known = self._histories.get(key)
        self._judge(key, known.seen if known else [], position, at_ms=second * 1000)

    def forget(self, key: str, second: int) -> None:
        """Let go of what no detector sees any more."""
        known = self._histories[key]
        known.seen[:] = [seen for seen in known.seen if seen.at_ms > second * 1000 - self._desk.kept_ms]
        if known.seen:
            known.due_second = self._desk.timers.at(known.seen[-1].at_ms + self._desk.kept_ms, "history", key)
        else:
            del self._histories[key]

    def is_repeated(self, job_key: str, at_ms: int) -> bool:
        """Whether a job had failed again and again by `at_ms`."""
        known = self._histories.get(job_key)
        history = [seen for seen in known.seen if seen.at_ms <= at_ms] if known else []
        for detector, within_ms in self._desk.repeated:
            sees = visible(detector, history, at_ms - within_ms)
            if sees and detector.judge(sees, at_ms) is not None:
                return True
        return False

    def judge_anew(self, position: int) -> None:
        """Let new rules speak on what stands; they raise findings at the next event only."""
        for key, history in self._histories.items():
            if self._stands(key):
                self._judge(key, history.seen, position, at_ms=self._desk.stream_ms)

    def _stands(self, key: str) -> bool:
        return any(self._desk.findings.stands(detector, key) for detector, _ in self._desk.by_job)

    def set_timers(self) -> None:
        """Make due again what the histories say is due."""
        desk = self._desk
        looked_at = desk.stream_ms // 1000 * 1000  # the last second that was
        for key, known in self._histories.items():
            desk.timers.at(known.due_second * 1000, "history", key)
            for detector, within_ms in desk.by_job:
                sees = visible(detector, known.seen, looked_at - within_ms)
                if sees and desk.findings.stands(detector, key):
                    desk.timers.at(sees[0].at_ms + within_ms, "finding", key)

    def state(self) -> list[Any]:
        """All histories as plain data."""
        return [{key: [known.due_second, known.seen] for key, known in self._histories.items()}, self.early.state()]

    def load(self, state: list[Any]) -> None:
        """Take what `state` gave."""
        histories, early = state
        self._histories = {key: History(due, [_seen(s) for s in seen]) for key, (due, seen) in histories.items()}
        self.early.load([{key: [_seen(s) for s in seen] for key, seen in half.items()} for half in early])


def _nobody(_case_key: str, _position: int) -> None:
    """Hear of an overtaken case and do nothing."""


def _seen(values: list[Any]) -> Seen:
    at, event, outcome, commit, pipeline, attempt, case = values
    return Seen(at, event, Outcome(outcome), commit, pipeline, attempt, case)
