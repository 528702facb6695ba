"""Histories: the recent events of each job, over which detectors judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from analytics.desk import MOST_REMEMBERED, Desk, visible
from analytics.detectors.detector import Seen
from analytics.journal import Journal
from analytics.memory import Generations
from analytics.rows import SEPARATOR, Rows, split_job_run
from models.records.event import FAILING, Outcome

MOST_IN_HISTORY: Final = 64

Passed: TypeAlias = tuple[int, str, str]
"""A pass as it is remembered until its job fails, if it does: when, which event, which job run."""


@dataclass(slots=True)
class History:
    """The recent events of one job, oldest first, and the second of stream time at which they are looked through."""

    due_second: int
    seen: list[Seen]
    failing: set[str | None] = field(default_factory=set)  # commits on which it failed
    repeated: dict[int, bool] = field(default_factory=dict)  # by event time, as long as nothing changes

    def changed(self) -> None:
        """Note what follows from `seen`, which is not what it was."""
        self.failing = {seen.commit_sha for seen in self.seen if seen.outcome in FAILING}
        self.repeated.clear()


class Histories:
    """The histories of all jobs that failed lately, and for a while what passed of the others."""

    def __init__(self, desk: Desk) -> None:
        """Begin with none. `overtaken` is told of cases of which an earlier event of their job came after them."""
        self._desk: Final = desk
        self._histories: dict[str, History] = {}
        self._journal: Final = Journal()
        self.early: Final[Generations[list[Passed]]] = Generations(MOST_REMEMBERED)
        self.overtaken: Callable[[str, int], None] = _nobody

    def passed(self, rows: Rows, i: int, job_run: str) -> None:
        """Remember that a job passed: in its history if it failed on that commit, else for a while."""
        key, commit = rows.job_keys[i], rows.commits[i]
        known = self._histories.get(key)
        if known is not None and commit in known.failing:
            self.remember(key, _passed((rows.at[i], rows.ids[i], job_run), commit), rows.positions[i])
            return
        on_commit = f"{key}{SEPARATOR}{commit or ''}"
        passed: Passed = (rows.at[i], rows.ids[i], job_run)
        early = self.early.young.get(on_commit)
        if early is None:
            early = [passed]
        else:
            early.append(passed)
            if len(early) > MOST_IN_HISTORY:
                early.remove(min(early))
        self.early.put(on_commit, early)

    def remember(self, key: str, new: Seen, position: int) -> None:
        """Put `new` into the history of a job, ask the detectors, and look again at later cases of the job."""
        desk = self._desk
        if new.at_ms <= desk.stream_ms - desk.kept_ms:
            return
        known = self._histories.get(key)
        if known is None:
            due = desk.timers.at(desk.stream_ms + desk.kept_ms, "history", key)
            known = self._histories[key] = History(due, [])
        elif new.id in [seen.id for seen in known.seen]:
            return
        history = known.seen
        overtaken = bool(history) and new < history[-1]
        history.append(new)
        if new.outcome in FAILING:
            history += self._passed_early(key, new.commit_sha)
        history.sort()
        full = len(history) > MOST_IN_HISTORY
        del history[:-MOST_IN_HISTORY]
        known.changed()
        self._journal.changed.append(key)
        self._judge(key, history, position, outcome=None if full else new.outcome)
        if overtaken:
            for case_key in sorted({s.case_key for s in history if s > new and s.case_key}):
                self.overtaken(case_key, position)

    def _passed_early(self, key: str, commit: str | None) -> list[Seen]:
        """Take out what passed on `commit` before its failure was known."""
        on_commit = f"{key}{SEPARATOR}{commit or ''}"
        return [_passed(told, commit) for early in self.early.take(on_commit) for told in early]

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
        known.changed()
        self._journal.changed.append(key)
        if known.seen:
            known.due_second = self._desk.timers.at(known.seen[-1].at_ms + self._desk.kept_ms, "history", key)
        else:
            del self._histories[key]

    def is_repeated(self, job_key: str, at_ms: int) -> bool:
        """Whether a job had failed again and again by `at_ms`."""
        known = self._histories.get(job_key)
        if known is None:
            return False
        answer = known.repeated.get(at_ms)
        if answer is None:
            answer = known.repeated[at_ms] = self._repeats([seen for seen in known.seen if seen.at_ms <= at_ms], at_ms)
        return answer

    def _repeats(self, history: list[Seen], at_ms: int) -> bool:
        for detector, within_ms in self._desk.repeated:
            sees = visible(detector, history, at_ms - within_ms)
            if sees and detector.judge(sees, at_ms) is not None:
                return True
        return False

    def judge_anew(self, position: int) -> None:
        """Let new rules speak on what stands; they raise findings at the next event only."""
        for key, history in self._histories.items():
            history.repeated.clear()
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

    def settle(self) -> None:
        """Write down what changed."""
        self._journal.settle(self._histories, _plain)
        self.early.settle()

    def state(self) -> list[Any]:
        """All histories as plain data."""
        return [self._journal.written(self._histories, _plain), self.early.state()]

    def load(self, state: list[Any]) -> None:
        """Take what `state` gave."""
        histories, early = state
        for key, (due, seen) in self._journal.read(histories).items():
            history = self._histories[key] = History(due, [_seen(s) for s in seen])
            history.changed()
        self.early.load(early)
        for half in (self.early.young, self.early.old):
            half.update({on_commit: [_told(told) for told in passed] for on_commit, passed in half.items()})


def _nobody(_case_key: str, _position: int) -> None:
    """Hear of an overtaken case and do nothing."""


def _plain(history: History) -> list[Any]:
    return [history.due_second, history.seen]


def _seen(values: list[Any]) -> Seen:
    at, event, outcome, commit, pipeline, attempt, case = values
    return Seen(at, event, Outcome(outcome), commit, pipeline, attempt, case)


def _told(values: Sequence[Any]) -> Passed:
    at, event, job_run = values
    return at, event, job_run


def _passed(told: Passed, commit: str | None) -> Seen:
    at, event, job_run = told
    _, _, pipeline_id, _, attempt, _ = split_job_run(job_run)
    return Seen(at, event, Outcome.PASSED, commit, pipeline_id, attempt)
