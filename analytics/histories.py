"""Histories: the recent events of each job, signature or label, over which detectors judge."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final

from msgspec.structs import replace

from analytics.desk import MOST_REMEMBERED, Desk, first_since, view, visible
from analytics.detectors.detector import JOB, SIGNATURE, Detector, Field, History, Seen
from analytics.findings import Context
from analytics.journal import Journal
from analytics.passes import Passed, Passes
from analytics.rows import SEPARATOR, Rows, split_job_run
from models.records.event import FAILING, Outcome
from models.records.outputs import Category

MOST_IN_HISTORY: Final = 64

_when: Final = attrgetter("at_ms", "id")
_NEVER: Final = -1
_ALWAYS: Final = 1 << 62


@dataclass(slots=True)
class Remembered:
    """The recent events of one key, oldest first, and the second of stream time at which they are looked through."""

    due_second: int
    seen: list[Seen]
    fresh: list[Seen] | None = None  # what came since it was last written down, where nothing else changed
    failing: set[str | None] = field(default_factory=set)  # commits on which it failed
    green_ms: int = _NEVER  # a pass on the default branch is news if it was before this
    repeated: dict[int, bool] = field(default_factory=dict)  # by event time, as long as nothing changes

    def changed(self) -> None:
        """Note what follows from `seen`, which is not what it was."""
        self.failing = {seen.commit_sha for seen in self.seen if seen.outcome in FAILING}
        newest = next((seen for seen in reversed(self.seen) if seen.main), None)
        self.green_ms = _NEVER if newest is None else newest.at_ms if newest.outcome is Outcome.PASSED else _ALWAYS
        self.repeated.clear()

    def grew(self, new: Seen) -> None:
        """Note what follows from one event more; of one that is not the newest, all is looked through again."""
        if new is not self.seen[-1]:
            self.changed()
            return
        if new.outcome in FAILING:
            self.failing.add(new.commit_sha)
        if new.main:
            self.green_ms = new.at_ms if new.outcome is Outcome.PASSED else _ALWAYS
        self.repeated.clear()


class Histories:
    """The histories of one scope: all keys of which there were failures lately."""

    def __init__(self, desk: Desk, by: tuple[Field, ...]) -> None:
        """Begin with none. Its timers are of the kinds `history_due` and `finding_due`."""
        self._desk: Final = desk
        self._by: Final = by
        self._histories: dict[str, Remembered] = {}
        self._journal: Final = Journal()
        self.history_due: Final = f"history {by[-1]}"
        self.finding_due: Final = f"finding {by[-1]}"

    def remember(self, key: str, new: Seen, position: int) -> bool:
        """Put `new` into the history of a key and ask the detectors; whether it was news, and not too old."""
        desk = self._desk
        kept_ms = desk.scopes[self._by].kept_ms
        if new.at_ms <= desk.stream_ms - kept_ms:
            return False
        known = self._histories.get(key)
        if known is None:
            due = desk.timers.at(desk.stream_ms + kept_ms, self.history_due, key)
            known = self._histories[key] = Remembered(due, [])
        elif _stands(known.seen, new):
            return False
        came = [new, *self._came_before(key, known, new)]
        for seen in came:
            insort(known.seen, seen)
        if known.fresh is not None:
            known.fresh += came
        full = len(known.seen) > MOST_IN_HISTORY
        if full:
            self._shorten(known.seen)
        if full or len(came) > 1:
            self._changed(key, known)
            self._judge(key, known.seen, position, event=new.id)
        else:
            self._grew(key, known, new)
            last = known.seen[-1] is new
            self._judge(key, known.seen, position, outcome=new.outcome, last=last, event=new.id)
        return True

    def _came_before(self, key: str, known: Remembered, new: Seen) -> Iterable[Seen]:  # noqa: ARG002 - of use to jobs
        """What is to be added to a history because `new` is."""
        return ()

    def _changed(self, key: str, known: Remembered) -> None:  # noqa: ARG002 - of use to jobs
        """Note that a history is not what it was."""
        self._journal.changed.append(key)

    def _grew(self, key: str, known: Remembered, new: Seen) -> None:  # noqa: ARG002 - of use to jobs
        """Note that there is one event more."""
        self._journal.changed.append(key)

    def _shorten(self, seen: list[Seen]) -> None:
        """Forget what is one too many; the oldest stays, and tells since when."""
        del seen[1 : 1 + len(seen) - MOST_IN_HISTORY]

    def find(self, key: str, event: str) -> Seen | None:
        """The event of this id in the history of `key`."""
        known = self._histories.get(key)
        return None if known is None else next((seen for seen in known.seen if seen.id == event), None)

    def explain(self, key: str, event: str, signature: str | None, category: str | None, position: int) -> None:
        """Note what a failure that stands in the history of `key` is explained by now."""
        known = self._histories.get(key)
        if known is None:
            return
        for i, seen in enumerate(known.seen):
            if seen.id == event and (seen.signature, seen.category) != (signature, category):
                known.seen[i] = replace(seen, signature=signature, category=category)
                known.fresh = None
                self._changed(key, known)
                self._judge(key, known.seen, position, outcome=seen.outcome, event=event)
                return

    def drop(self, key: str, event: str, position: int) -> None:
        """Take an event out of the history of `key`: it belongs to another one."""
        known = self._histories.get(key)
        if known is None or event not in [seen.id for seen in known.seen]:
            return
        known.seen[:] = [seen for seen in known.seen if seen.id != event]
        known.fresh = None
        self._changed(key, known)
        self._judge(key, known.seen, position, event=event)

    def _judge(
        self,
        key: str,
        history: Sequence[Seen],
        position: int,
        *,
        outcome: Outcome | None = None,
        last: bool = False,
        at_ms: int | None = None,
        event: str | None = None,
    ) -> None:
        """Ask the detectors that see `outcome`, or are changed by it where it came `last`, because of `event`.

        At a tick (`at_ms`) only those are asked whose finding is due: time alone can only take one away.
        """
        desk = self._desk
        where = desk.where(position, at_ms)
        since = desk.known_since(key) if self._by == SIGNATURE else 0
        views: dict[Any, History] = {}  # what more than one is shown is put together once
        for detector, within_ms in desk.scopes[self._by].rules:
            if outcome is not None and outcome not in (detector.sees if not last else detector.changed_by):
                continue
            if at_ms is not None and not self._is_due(detector, key, at_ms):
                continue
            first = first_since(history, where.at_ms - within_ms)
            of = (first, detector.sees, detector.categories)
            sees = views.get(of)
            if sees is None:
                sees = views[of] = view(detector, history, first, since)
            answer = desk.asking.judge(detector, key, sees, where, event) if sees else None
            if answer is None or at_ms is None:
                desk.answer(detector, key, answer, sees, where, event)
            if answer is not None:
                self._look_again(detector, key, sees, within_ms, where)

    def _is_due(self, detector: Detector, key: str, at_ms: int) -> bool:
        stands = self._desk.findings.stands(detector, key)
        return stands is not None and stands.due_second * 1000 <= at_ms

    def _look_again(self, detector: Detector, key: str, sees: History, within_ms: int, where: Context) -> None:
        """Ask again when time may have taken away what was found."""
        desk = self._desk
        stands = desk.findings.stands(detector, key)
        if stands is None:
            return
        has_end = type(detector).until is not Detector.until
        until = desk.asking.ask(detector, key, where, detector.until, sees) if has_end else None
        due_ms = min(sees[0].at_ms + within_ms, until or _ALWAYS)
        if stands.due_second != -(-due_ms // 1000):
            stands.due_second = desk.timers.at(due_ms, self.finding_due, key)

    def recheck(self, key: str, second: int, position: int) -> None:
        """See whether what was found still holds now that time has passed."""
        known = self._histories.get(key)
        self._judge(key, known.seen if known else [], position, at_ms=second * 1000)

    def forget(self, key: str, second: int, _position: int) -> None:
        """Let go of what no detector sees any more."""
        known = self._histories.get(key)
        if known is None or known.due_second != second:
            return
        kept_ms = self._desk.scopes[self._by].kept_ms
        known.seen[:] = [seen for seen in known.seen if seen.at_ms > second * 1000 - kept_ms]
        known.fresh = None
        self._changed(key, known)
        if known.seen:
            known.due_second = self._desk.timers.at(known.seen[-1].at_ms + kept_ms, self.history_due, key)
        else:
            del self._histories[key]

    def judge_anew(self, position: int) -> None:
        """Let new rules speak on what stands; they raise findings at the next event only."""
        for key, known in self._histories.items():
            known.repeated.clear()
            if self._are_due(key):
                self._judge(key, known.seen, position, at_ms=self._desk.stream_ms)

    def set_timers(self) -> None:
        """Make due again what the histories say is due."""
        desk = self._desk
        looked_at = desk.stream_ms // 1000 * 1000  # the last second that was
        for key, known in self._histories.items():
            desk.timers.at(known.due_second * 1000, self.history_due, key)
            if not self._are_due(key):
                continue
            for detector, within_ms in desk.scopes[self._by].rules:
                sees = visible(detector, known.seen, looked_at - within_ms)
                if sees:
                    self._look_again(detector, key, sees, within_ms, desk.where(0, looked_at))

    def _are_due(self, key: str) -> bool:
        """Make all due that stands on `key`, whatever timers there were; whether anything does."""
        findings = self._desk.findings
        stand = [it for rule, _ in self._desk.scopes[self._by].rules if (it := findings.stands(rule, key)) is not None]
        for it in stand:
            it.due_second = 0
        return bool(stand)

    def settle(self) -> None:
        """Write down what changed."""
        self._journal.settle(self._histories, _plain)

    def state(self) -> list[Any]:
        """All histories as plain data."""
        return [self._journal.written(self._histories, _plain)]

    def load(self, state: list[Any]) -> None:
        """Take what `state` gave."""
        for key, (due, _, seen) in self._journal.read(state[0], self._joined).items():
            self._histories[key] = Remembered(due, seen, [])

    def _joined(self, before: list[Any] | None, told: list[Any]) -> list[Any]:
        """What stands in a history after what is told of it."""
        due, whole, values = told
        seen = [] if whole or before is None else before[2]
        for value in values:
            insort(seen, _seen(value))
            if len(seen) > MOST_IN_HISTORY:
                self._shorten(seen)
        return [due, whole, seen]


class JobHistories(Histories):
    """The histories of all jobs that failed lately, and for a while what passed of the others."""

    def __init__(self, desk: Desk) -> None:
        """Begin with none. `overtaken` is told of cases of which an earlier event of their job came after them."""
        super().__init__(desk, JOB)
        self.early: Final = Passes(MOST_REMEMBERED, MOST_IN_HISTORY)
        self.overtaken: Callable[[str, int], None] = _nobody

    def passed(self, rows: Rows, i: int, job_run: str) -> bool:
        """Remember that a job passed: in its history if that is news there, else for a while.

        Whether it had failed on the commit before.
        """
        key, commit, at, main = rows.job_keys[i], rows.commits[i], rows.at[i], rows.mains[i]
        known = self._histories.get(key)
        if known is not None and (commit in known.failing or (main and at < known.green_ms)):
            again = commit in known.failing
            self.remember(key, _passed((at, rows.ids[i], job_run, None), commit, main=main), rows.positions[i])
            return again
        passed: Passed = (at, rows.ids[i], job_run, commit if main else None)
        self.early.add(_on_main(key) if main else _on_commit(key, commit), passed)
        return False

    def failed_on(self, key: str, commit: str | None) -> bool:
        """Whether a job is known to have failed on `commit`."""
        known = self._histories.get(key)
        return known is not None and commit in known.failing

    def passes_on(self, key: str, commit: str | None) -> list[tuple[int, str, str]]:
        """When, in which event and in which job run a job passed on `commit`, as far as it is remembered."""
        passes = [told[:3] for told in self.early.of(_on_commit(key, commit))]
        passes += [told[:3] for told in self.early.of(_on_main(key)) if told[3] == commit]
        known = self._histories.get(key)
        for seen in known.seen if known is not None else ():
            if seen.outcome is Outcome.PASSED and seen.commit_sha == commit:
                run = (*key.split(SEPARATOR)[:2], seen.pipeline_id, "", str(seen.attempt), "")
                passes.append((seen.at_ms, seen.id, SEPARATOR.join(run)))
        return sorted(passes)

    def remember(self, key: str, new: Seen, position: int) -> bool:
        """Put `new` into the history of a job, ask the detectors, and look again at later cases of the job."""
        if not super().remember(key, new, position):
            return False
        self._decide_anew(key, new, position)
        return True

    def explain(self, key: str, event: str, signature: str | None, category: str | None, position: int) -> None:
        """Note what a failure is explained by now; that a test failed is news for later cases of the job."""
        before = self.find(key, event)
        super().explain(key, event, signature, category, position)
        if before is not None and (before.category == Category.TEST) is not (category == Category.TEST):
            self._decide_anew(key, before, position)

    def _decide_anew(self, key: str, new: Seen, position: int) -> None:
        """Let the cases be decided on again that came after `new`."""
        seen, when = self._histories[key].seen, _when(new)
        if when < _when(seen[-1]):
            for case_key in sorted({s.case_key for s in seen if _when(s) > when and s.case_key}):
                self.overtaken(case_key, position)

    def _came_before(self, key: str, known: Remembered, new: Seen) -> Iterable[Seen]:
        """What passed before its failure was known: on the same commit, and the first on the default branch."""
        if new.outcome not in FAILING:
            return ()
        commit = new.commit_sha
        passes = [_passed(told, commit) for told in self.early.take(_on_commit(key, commit))]
        main = list(self.early.of(_on_main(key)))
        if main:
            wanted = {told for told in main if told[3] == commit}
            when = _when(new)
            if new.main and (after := [told for told in main if told > when]):
                wanted.add(min(after))
            passes += [_passed(told, told[3], main=True) for told in wanted]
        there = {seen.id for seen in known.seen} if passes else set()
        return [seen for seen in passes if seen.id not in there]

    def _changed(self, key: str, known: Remembered) -> None:
        super()._changed(key, known)
        known.changed()

    def _grew(self, key: str, known: Remembered, new: Seen) -> None:
        super()._grew(key, known, new)
        known.grew(new)

    def _shorten(self, seen: list[Seen]) -> None:
        """Forget what is oldest."""
        del seen[:-MOST_IN_HISTORY]

    def is_repeated(self, job_key: str, at_ms: int) -> bool:
        """Whether a job had failed again and again by `at_ms`."""
        known = self._histories.get(job_key)
        if known is None:
            return False
        answer = known.repeated.get(at_ms)
        if answer is None:
            answer = known.repeated[at_ms] = self._repeats([seen for seen in known.seen if seen.at_ms <= at_ms], at_ms)
        return answer

    def is_flaky(self, job_key: str, at_ms: int) -> bool:
        """Whether by `at_ms` tests of a job were known to fail for no reason.

        One failed and then passed on the same commit; or tests failed alone between green commits of the default
        branch, as often as FlakyOnMain wants it.
        """
        known = self._histories.get(job_key)
        if known is None:
            return False
        since_ms = at_ms - self._desk.scopes[JOB].kept_ms
        tests = [
            seen
            for seen in known.seen
            if since_ms < seen.at_ms < at_ms and (seen.outcome is Outcome.PASSED or seen.category == Category.TEST)
        ]
        return _came_good(tests) or any(
            detector.judge(visible(detector, tests, at_ms - within_ms), at_ms) is not None
            for detector, within_ms in self._desk.on_main
        )

    def _repeats(self, history: list[Seen], at_ms: int) -> bool:
        for detector, within_ms in self._desk.repeated:
            sees = visible(detector, history, at_ms - within_ms)
            if sees and detector.judge(sees, at_ms) is not None:
                return True
        return False

    def settle(self) -> None:
        """Write down what changed."""
        super().settle()
        self.early.settle()

    def state(self) -> list[Any]:
        """All histories as plain data."""
        return [*super().state(), self.early.state()]

    def load(self, state: list[Any]) -> None:
        """Take what `state` gave."""
        super().load(state)
        for known in self._histories.values():
            known.changed()
        self.early.load(state[1])


def _nobody(_case_key: str, _position: int) -> None:
    """Hear of an overtaken case and do nothing."""


def _stands(seen: Sequence[Seen], new: Seen) -> bool:
    """Whether an event is there already, however it is explained by now; an event has one time."""
    if not seen or seen[-1].at_ms < new.at_ms:
        return False
    place = bisect_left(seen, _when(new), key=_when)
    return place < len(seen) and seen[place].id == new.id


def _on_commit(key: str, commit: str | None) -> str:
    return f"{key}{SEPARATOR}{commit or ''}"


def _on_main(key: str) -> str:
    return f"{key}{SEPARATOR}{SEPARATOR}"


def _plain(known: Remembered, /, *, whole: bool) -> list[Any]:
    whole = whole or known.fresh is None
    told = known.seen if whole else known.fresh
    known.fresh = []
    return [known.due_second, whole, told]


def _seen(values: list[Any]) -> Seen:
    at, event, outcome, *rest = values
    return Seen(at, event, Outcome(outcome), *rest)


def _passed(told: Passed, commit: str | None, *, main: bool = False) -> Seen:
    at, event, job_run, _ = told
    _, _, pipeline_id, _, attempt, _ = split_job_run(job_run)
    return Seen(at, event, Outcome.PASSED, commit, pipeline_id, attempt, main=main)


def _came_good(tests: Sequence[Seen]) -> bool:
    failing: set[str | None] = set()
    for seen in tests:
        if seen.outcome is not Outcome.PASSED:
            failing.add(seen.commit_sha)
        elif seen.commit_sha is not None and seen.commit_sha in failing:
            return True
    return False
