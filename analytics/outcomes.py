"""Outcomes: what came of what was asked of a platform, told by the events that follow, and what is learnt of it.

An act that runs something again is watched: the next end of each of its jobs on the same commit, of another execution
than the failed one. What is said of it depends on which ends were seen, not on their order; what comes later and says
otherwise makes a further revision. The act's own entry may come after the ends of what it caused: the ends of jobs that
failed on a commit are remembered for five to ten minutes, whoever runs them again.

Watched is each act until its jobs have ended, six hours of stream time at the most; for half an hour more, since a log
may still show what a rerun failed by; and where it passed, for a day, since the commit may prove broken all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final
from uuid import UUID

import msgspec

from analytics.desk import MOST_REMEMBERED, Desk
from analytics.detectors.detector import Finding, Rule
from analytics.findings import Context
from analytics.histories import JobHistories
from analytics.journal import Journal
from analytics.memory import Generations
from analytics.posteriors import Posteriors
from analytics.reruns import LEEWAY_MS, End, Judged, Watch, end_of, explain, firsts, judge, key_of, keys_of, take
from analytics.rows import JOB_STARTED, OUTCOMES, RUN_FAILED, SEPARATOR, Rows
from models.records.acted import Acted, ActResult, read_acted
from models.records.errors import MalformedPayload
from models.records.event import Outcome
from models.records.outputs import ActEnd, ActOutcome

RERUNS: Final = frozenset({"rerun", "rerun_failed", "rerun_job"})
"""The actions that run something again."""
UNSEEN_MS: Final = 6 * 3_600_000
SETTLED_MS: Final = 1_800_000
MASKED_MS: Final = 24 * 3_600_000
MOST_WATCHED: Final = 10_000
"""Acts of one shard; of one more, the oldest is not waited for any longer."""
_MOST_ENDS: Final = 8
_MAX_INT: Final = 2**31 - 1
_MAX_MS: Final = 253_402_300_799_999  # the end of the year 9999
_MAX_NAME: Final = 512


class Outcomes:
    """The acts of one shard that are watched, and what it has learnt."""

    def __init__(self, desk: Desk, jobs: JobHistories) -> None:
        """Begin with none. `conclude` is called before anything is learnt, so that what came before is decided."""
        self._desk: Final = desk
        self._jobs: Final = jobs
        self._watches: dict[str, Watch] = {}
        self._journal: Final = Journal()
        self.ends: Final[Generations[list[End]]] = Generations(MOST_REMEMBERED)
        self.known: Final[Generations[bool]] = Generations(MOST_REMEMBERED)
        self.failed_runs: Final[Generations[bool]] = Generations(MOST_REMEMBERED)
        self.watched: Final[dict[str, list[str]]] = {}
        self.branches: Final[dict[str, list[str]]] = {}
        self.posteriors: Final = Posteriors()
        self.conclude: Callable[[], None] = _nothing
        self.said: list[ActOutcome] = []
        desk.findings.raised = self._raised

    def acted(self, acted: Acted, position: int) -> None:
        """Watch what an act ran again. What is said of it a second time, as after a crash, changes nothing."""
        if acted.result not in {ActResult.DONE, ActResult.UNKNOWN} or acted.action not in RERUNS:
            return
        if acted.act_id in self._watches or self.known.get(acted.act_id) is not None:
            return
        self.known.put(acted.act_id, True)
        if len(self._watches) >= MOST_WATCHED:
            self._let_go(next(iter(self._watches)), position)
        keys = keys_of(acted)
        due = self._desk.timers.at(self._desk.stream_ms + UNSEEN_MS, "act", acted.act_id)
        watch = self._watches[acted.act_id] = Watch(acted, [[] for _ in keys], due)
        self._enter(watch)
        for place, key in enumerate(keys):
            for end in self._remembered(key, acted.commit_sha):
                take(watch, place, end)
        self._review_all(keys, position)

    def _remembered(self, key: str, commit: str | None) -> Iterator[End]:
        """The ends of a job on a commit that came lately."""
        ends = [end for half in (self.ends.young, self.ends.old) for end in half.get(key, ())]
        yield from ends
        known = {end.event for end in ends}
        for at, event, job_run in self._jobs.passes_on(key.rpartition(SEPARATOR)[0], commit):
            if event not in known:
                yield end_of(job_run, at_ms=at, event=event, outcome=Outcome.PASSED)

    def ended(self, rows: Rows, i: int, job_run: str, signature: str | None = None) -> None:
        """Take an end, of a failure with its signature: see what it says of acts, and remember it for a while."""
        key = key_of(rows.job_keys[i], rows.commits[i])
        end = end_of(
            job_run,
            at_ms=rows.at[i],
            event=rows.ids[i],
            outcome=OUTCOMES[rows.outcomes[i]],
            duration_ms=rows.duration_ms(i),
            signature=signature,
            labels=rows.label_keys[i].split(SEPARATOR, 2)[2],
        )
        if rows.codes[i] == RUN_FAILED:
            self.failed_runs.put(key, True)
        self.ends.put(key, [*(self.ends.young.get(key) or ()), end][-_MOST_ENDS:])
        news = [self._take(act_id, key, end) for act_id in self.watched.get(key, ())]
        if any(news):
            self._review_all([key], rows.positions[i])

    def job_ended(self, rows: Rows, i: int, job_run: str, *, again: bool) -> None:
        """Take the end of a job that did not fail if it is watched, or had failed on its commit before: `again`."""
        if again or key_of(rows.job_keys[i], rows.commits[i]) in self.watched:
            self.ended(rows, i, job_run)

    def run_ended(self, rows: Rows, i: int, job_run: str) -> None:
        """Take the end of a run if the run itself is watched, or failed before with no job known."""
        key = key_of(rows.job_keys[i], rows.commits[i])
        if key in self.watched or self.failed_runs.get(key) is not None:
            self.ended(rows, i, job_run)

    def _take(self, act_id: str, key: str, end: End) -> bool:
        watch = self._watches[act_id]
        news = [take(watch, place, end) for place, one in enumerate(keys_of(watch.acted)) if one == key]
        return any(news)

    def on_branch(self, rows: Rows, i: int) -> None:
        """Note that a run of another commit began on a branch of which something is watched."""
        key = SEPARATOR.join((*rows.job_keys[i].split(SEPARATOR, 2)[:2], rows.branches[i] or ""))
        for act_id in self.branches.get(key, ()):
            watch = self._watches[act_id]
            began = rows.at[i] if rows.codes[i] == JOB_STARTED else rows.at[i] - (rows.duration_ms(i) or 0)
            if rows.commits[i] in {None, watch.acted.commit_sha} or began <= watch.acted.asked_ms - LEEWAY_MS:
                continue
            if watch.newer_ms is None or began < watch.newer_ms:
                watch.newer_ms = began
                self._review(watch, rows.positions[i])

    def explained(self, job_key: str, commit: str | None, event: str, signature: str | None, position: int) -> None:
        """Note what the log of a failed job showed."""
        key = key_of(job_key, commit)
        for half in (self.ends.young, self.ends.old):
            if explain(half.get(key, []), event, signature):
                self.ends.touched(key)
        news = [
            explain(seen, event, signature) for act in self.watched.get(key, ()) for seen in self._watches[act].seen
        ]
        if any(news):
            self._review_all([key], position)

    def _raised(self, rule: Rule, job_key: str, finding: Finding, where: Context) -> None:
        """Note that a commit is the first bad one of a broken default branch."""
        if not self.watched or type(rule).__name__ != "BrokenMain":
            return
        first = self._jobs.find(job_key, finding.events[0])
        for act_id in list(self.watched.get(key_of(job_key, first.commit_sha), ())) if first else ():
            self._watches[act_id].broken = [finding.first_ms, finding.events[0]]
            self._review(self._watches[act_id], where.position)

    def look(self, act_id: str, second: int, position: int) -> None:
        """Let go of an act that has been watched for long enough."""
        watch = self._watches.get(act_id)
        if watch is not None and watch.due_second == second:
            self._let_go(act_id, position)

    def _let_go(self, act_id: str, position: int) -> None:
        watch = self._watches[act_id]
        self._review(watch, position, over=True)
        del self._watches[act_id]
        self._journal.changed.append(act_id)
        for index, keys in ((self.watched, keys_of(watch.acted)), (self.branches, _branch_of(watch.acted))):
            for key in {*keys}:
                index[key].remove(act_id)
                if not index[key]:
                    del index[key]

    def _enter(self, watch: Watch) -> None:
        """Make an act known under its jobs and its branch."""
        self._journal.changed.append(watch.acted.act_id)
        for index, keys in ((self.watched, keys_of(watch.acted)), (self.branches, _branch_of(watch.acted))):
            for key in dict.fromkeys(keys):
                index.setdefault(key, []).append(watch.acted.act_id)

    def _review_all(self, keys: list[str], position: int) -> None:
        """See what is to be said of the acts that ran one of these jobs again: what one caused is no other's doing."""
        for act_id in dict.fromkeys([act_id for key in keys for act_id in self.watched.get(key, ())]):
            self._review(self._watches[act_id], position)

    def _review(self, watch: Watch, position: int, *, over: bool = False) -> None:
        """Say what came of an act if it is not what was said last, and learn it."""
        self._journal.changed.append(watch.acted.act_id)
        judged = judge(watch, self._caused_by_others(watch), over=over)
        said = [*judged[:6]]
        if judged.outcome is None or said == watch.said:
            return
        self.conclude()
        self._learn(watch, judged.learnt)
        watch.said = said
        watch.revision += 1
        kept_ms = MASKED_MS if judged.outcome is ActEnd.PASSED else SETTLED_MS
        watch.due_second = self._desk.timers.at(self._desk.stream_ms + kept_ms, "act", watch.acted.act_id)
        self.said.append(self._row(watch, judged, self._desk.where(position)))

    def _caused_by_others(self, watch: Watch) -> set[str]:
        """The events of executions that other acts on the same jobs caused."""
        acts = {act for key in keys_of(watch.acted) for act in self.watched.get(key, ())} - {watch.acted.act_id}
        return {end.event for act in acts for end in firsts(self._watches[act]) if end is not None}

    def _learn(self, watch: Watch, learnt: dict[str, bool]) -> None:
        """Count what came of the act, and take back what was counted of it and is not so."""
        about, now, posteriors = (watch.acted.action, watch.acted.attempt), self._desk.stream_ms, self.posteriors
        before, watch.counted = watch.counted, {}
        for name, (passed, weight, since) in before.items():
            if learnt.get(name) is passed:
                watch.counted[name] = (passed, weight, since)
            else:
                posteriors.take_back(name, *about, passed=passed, at_ms=now, since_ms=since, weight=weight)
        for name, passed in learnt.items():
            if name not in watch.counted:
                watch.counted[name] = (passed, posteriors.count(name, *about, passed=passed, at_ms=now), now)

    def _row(self, watch: Watch, judged: Judged, where: Context) -> ActOutcome:
        acted = watch.acted
        counts = self.posteriors.of(acted.signature, acted.action, acted.attempt, where.at_ms)
        assert judged.outcome is not None
        return ActOutcome(
            act_id=acted.act_id,
            revision=watch.revision,
            shard=where.shard,
            position=where.position,
            case_id=acted.case_id,
            platform=acted.platform,
            instance=acted.instance,
            repository=acted.repository,
            action=acted.action,
            attempt=acted.attempt,
            signature=acted.signature,
            outcome=judged.outcome.value,
            masked=judged.masked,
            event_id=judged.event_id,
            asked_ms=acted.asked_ms,
            ended_ms=judged.ended_ms,
            duration_ms=judged.duration_ms,
            ends=judged.ends,
            probe=acted.probe,
            passes=counts.passes,
            fails=counts.fails,
            at_ms=where.at_ms,
            rulebook=where.rulebook,
        )

    def set_timers(self) -> None:
        """Make due again what is watched."""
        for act_id, watch in self._watches.items():
            self._desk.timers.at(watch.due_second * 1000, "act", act_id)

    def settle(self) -> None:
        """Write down what changed."""
        self._journal.settle(self._watches)
        for memory in (self.ends, self.known, self.failed_runs):
            memory.settle()

    def state(self) -> list[Any]:
        """All that is watched and learnt, as plain data."""
        return [
            self._journal.written(self._watches),
            self.ends.state(),
            self.known.state(),
            self.failed_runs.state(),
            self.posteriors.state(),
        ]

    def load(self, state: list[Any]) -> None:
        """Take what `state` gave."""
        watches, ends, known, failed_runs, learnt = state
        for act_id, watch in msgspec.convert(self._journal.read(watches), dict[str, Watch]).items():
            self._watches[act_id] = watch
            self._enter(watch)
        self._journal.changed.clear()
        self.ends.load(ends)
        for half in (self.ends.young, self.ends.old):
            half.update(msgspec.convert(half, dict[str, list[End]]))
        self.known.load(known)
        self.failed_runs.load(failed_runs)
        self.posteriors.load(learnt)


def _branch_of(acted: Acted) -> list[str]:
    named = acted.branch is not None and acted.commit_sha is not None
    return [SEPARATOR.join((acted.instance, acted.repository, acted.branch or ""))] if named else []


def _nothing() -> None:
    """Have nothing to conclude."""


def read_outcome(payload: bytes) -> Acted:
    """The act of an outcome entry, fit to be stored.

    Raises:
        MalformedPayload: it is none, or holds what PostgreSQL would refuse.
    """
    acted = read_acted(payload)
    ids = (acted.act_id, acted.decision_id, acted.case_id, *(job.failure_id for job in acted.jobs))
    if not all(map(_is_uuid, ids)):
        raise MalformedPayload("an outcome with an id that is none")
    if not (0 <= acted.attempt <= _MAX_INT and 0 <= acted.asked_ms <= _MAX_MS):
        raise MalformedPayload("an outcome with a number that is out of range")
    if b"\\u0000" in payload:
        raise MalformedPayload("an outcome with a NUL character, which cannot be stored")
    if max(map(len, (acted.instance, acted.repository, acted.action, acted.signature or ""))) > _MAX_NAME:
        raise MalformedPayload(f"an outcome with a name of more than {_MAX_NAME} characters")
    return acted


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False
