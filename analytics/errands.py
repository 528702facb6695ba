"""Errands: what is to be done besides running again, about findings, and about what was run again in vain.

A finding has one case, as a run attempt has: its id is made of the finding's, its decisions are revisions, and that the
finding is cleared withdraws what was to be done about it. Which action answers a finding is told by analytics/actions,
what may come of it by the policy, where a rule that asks for a branch, which a finding has none of, counts as far as it
is stricter.

What is found by absence is never acted on by that alone: the decision to cancel says what is right if the job still
hangs, and whoever carries it out reads the run first. Deployments and protected environments are refused here already.

A finding changes with every event. It is decided on anew when it has happened twice as often as when it was last, and
the action's cooldown is over, so that a bad day makes a few revisions.

Quarantines are part of it: see quarantines.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, cast

import msgspec
import pyarrow as pa

from analytics.actions.action import GIVEN_UP, Action, Case, Found, Given, healing
from analytics.cases import Case as FailedCase
from analytics.desk import MOST_REMEMBERED, Desk
from analytics.detectors.detector import JOB, JOB_RUN, Rule, Seen, milliseconds
from analytics.errand_rows import Errand, Said, errand_row, job_told
from analytics.findings import Context
from analytics.journal import Journal
from analytics.memory import Generations
from analytics.policy.decide import FailedJob
from analytics.policy.rules import Subject, Terms, least_mode, names_of, of_all
from analytics.quarantines import Quarantine, Quarantines
from analytics.rows import SEPARATOR, split_job_run
from analytics.runs import RunningJob
from models.records.acted import Acted, ActResult
from models.records.calls import RerunFailed, RerunJob
from models.records.event import Outcome, PlatformName, uuid5_text
from models.records.outputs import DecisionRow, FindingRow, FindingState, Reason, Verdict

_WHY: Final = {
    "StuckJob": Reason.JOB_STUCK,
    "BrokenMain": Reason.JOB_BROKEN,
    "RepeatedFailure": Reason.JOB_BROKEN,
    "FlakyTest": Reason.JOB_FLAKY,
    "FlakyOnMain": Reason.JOB_FLAKY,
    "Intermittent": Reason.JOB_FLAKY,
}
_RERUNS: Final = frozenset({"rerun", *(kind.__struct_config__.tag for kind in (RerunFailed, RerunJob))})
_QUARANTINE: Final = "quarantine"
_COMMENT: Final = "comment"
_CANCEL: Final = "cancel"
RELEASE: Final = "release_quarantine"
"""The action of an outcome entry by which a person ends a quarantine."""


class Errands:
    """The errands of one shard."""

    def __init__(
        self,
        desk: Desk,
        running: Callable[[str], RunningJob | None],
        seen: Callable[[str, str], Seen | None],
    ) -> None:
        """Begin with none.

        `running` tells of a job run, `seen` of an event in the history of a job; `settle_cases` is to decide on what
        was touched before a quarantine begins or ends.
        """
        self._desk: Final = desk
        self._running: Final = running
        self._seen: Final = seen
        self.settle_cases: Callable[[], None] = _nothing
        self._errands: dict[str, Errand] = {}  # by case id
        self._journal: Final = Journal()
        self._retired: Final[Generations[int]] = Generations(MOST_REMEMBERED)
        self._reran: Final[Generations[int]] = Generations(MOST_REMEMBERED)  # run -> attempt that we had run again
        self._commented: Final[Generations[bool]] = Generations(MOST_REMEMBERED)
        self.platforms: dict[str, str] = {}  # by instance
        self.quarantines: Final = Quarantines(desk, self._release)
        self.said: list[DecisionRow] = []
        desk.findings.heard = self._heard

    def know(self, instances: list[str], platforms: pa.Array) -> None:
        """Note of what platform each instance is that is new among the rows of a batch; it stays what it was first."""
        for instance in sorted(set(instances).difference(self.platforms)):
            self.platforms[instance] = platforms[instances.index(instance)].as_py()

    # --- about findings

    def _heard(self, rule: Rule, key: str, row: FindingRow) -> None:
        """Decide what is to be done about a finding that was raised, has changed or was cleared."""
        if not healing(row.detector) or row.instance not in self.platforms:
            return
        case_id = _case_of(row.finding_id)
        errand = self._errands.get(case_id)
        if errand is None and not self._able(row.detector):
            return
        if row.state == FindingState.CLEARED.value:
            if errand is not None:
                self._cleared(errand, row)
            return
        if errand is None:
            errand = self._begin(case_id, rule, key, row)
        elif errand.cleared:
            errand.cleared = False
        elif errand.often == row.occurrences.bit_length() or row.at_ms < errand.quiet_until_ms:
            return
        errand.often = row.occurrences.bit_length()
        case, guarded = self._case(errand, rule, key, row)
        action = self._action(row.detector, case)
        if action is not None:
            self._errands[case_id] = errand
            errand.quiet_until_ms = row.at_ms + milliseconds(action.cooldown)
            self._say(errand, self._decided(errand, action, case, guarded), row, case)
        elif case_id in self._errands:
            self._say(errand, Said(Verdict.SKIP, Reason.FORBIDDEN), row)
        else:
            return
        self._journal.changed.append(case_id)

    def _begin(self, case_id: str, rule: Rule, key: str, row: FindingRow) -> Errand:
        job_key = key if rule.by == JOB else ""
        errand = Errand(case_id, row.finding_id, job_key, self.platforms[row.instance], row.instance, row.repository)
        before = self._retired.get(case_id)
        errand.revision = -1 if before is None else before
        return errand

    def _case(self, errand: Errand, rule: Rule, key: str, row: FindingRow) -> tuple[Case, Reason | None]:
        """What actions look at, and what forbids to stop anything."""
        outcome: Outcome | None = None
        guarded: Reason | None = None
        job_ids: tuple[str | None, ...] = ()
        job_key = key
        if rule.by == JOB_RUN:
            *_, errand.pipeline_id, errand.workflow_id, errand.attempt, job_id = split_job_run(key)
            job, job_key, job_ids = self._running(key), "", (job_id,)
            if job is not None:
                job_key, outcome, errand.commit_sha, errand.branch, *_ = job
                guarded = self._guarded(job)
        elif row.events and (proof := self._seen(key, row.events[-1])) is not None:
            errand.pipeline_id, errand.attempt, errand.commit_sha = proof.pipeline_id, proof.attempt, proof.commit_sha
        names = (part or None for part in job_key.split(SEPARATOR, 3)[2:]) if rule.by in (JOB, JOB_RUN) else ()
        workflow, job_name = (*names, None, None)[:2]
        test = self.quarantines.test_of(row.events)
        found = Found(row.detector, row.message, row.occurrences, workflow, job_name, outcome, test)
        case = Case(
            cast("PlatformName", errand.platform),
            errand.instance,
            errand.repository,
            errand.pipeline_id,
            errand.workflow_id,
            errand.attempt,
            job_ids=job_ids,
            commit_sha=errand.commit_sha,
            found=found,
            case_id=errand.case_id,
        )
        return case, guarded

    def _guarded(self, job: RunningJob) -> Reason | None:
        if job.in_deploy:
            return Reason.DEPLOY_JOB
        return Reason.PROTECTED_ENVIRONMENT if self._desk.rulebook.policy.protects(job.environments) else None

    def _able(self, what: str) -> list[Action]:
        """The actions that heal `what`, of those that are done at all."""
        return [action for action in healing(what) if self._desk.rulebook.policy.allows(action.name)]

    def _action(self, what: str, case: Case) -> Action | None:
        fitting = (a for a in self._able(what) if case.platform in a.platforms and a.fits(case))
        return next(fitting, None)

    def _decided(self, errand: Errand, action: Action, case: Case, guarded: Reason | None) -> Said:
        """What is to be done about what `case` tells of."""
        policy, it = self._desk.rulebook.policy, case.found
        assert it is not None
        terms = policy.base
        if policy.rules:
            names = names_of(action.name, action.calls(case))
            place = (errand.platform, errand.instance, errand.repository, errand.branch)
            terms = policy.terms_of(Subject(*place, it.workflow, it.job_name, None, None, names))
        refused = self._refused(errand, action, terms, guarded)
        if refused is not None:
            return Said(Verdict.SKIP, refused, terms.mode, rules=terms.rules)
        calls = action.calls(case._replace(owner=terms.owner, hours=24 * terms.quarantine_days))
        return Said(
            Verdict.ACT,
            _WHY.get(it.detector, Reason.FOUND),
            least_mode(terms.mode, "suggest") if action.suggest_only else terms.mode,
            action.name,
            tuple(msgspec.to_builtins(call) for call in calls),
            terms.rules,
        )

    def _refused(self, errand: Errand, action: Action, terms: Terms, guarded: Reason | None) -> Reason | None:
        if guarded is not None and action.name == _CANCEL:
            return guarded
        if terms.never:
            return Reason.FORBIDDEN
        return Reason.QUARANTINED if self.quarantines.holds(errand.job_key) else None

    def _cleared(self, errand: Errand, row: FindingRow) -> None:
        """Withdraw what was to be done; what is in quarantine stays there until that ends."""
        if self.quarantines.of(errand.case_id) is not None:
            errand.cleared = True
            self._journal.changed.append(errand.case_id)
            return
        self._say(errand, Said(Verdict.SKIP, Reason.FINDING_CLEARED), row)
        self._retire(errand)

    def _retire(self, errand: Errand) -> None:
        del self._errands[errand.case_id]
        self._journal.changed.append(errand.case_id)
        self._retired.put(errand.case_id, errand.revision)

    # --- about what was run again in vain

    def given_up(self, case: FailedCase, jobs: list[FailedJob], where: Context) -> None:
        """Comment once on a run attempt that failed though we had it run again, where the policy says so."""
        ours = self._reran.get(_run(case.instance, case.repository, case.pipeline_id))
        terms = self._terms_of(case, jobs)
        if not terms.comment or ours is None or ours >= case.attempt or self._commented.get(case.case_id):
            return
        worst = min(jobs, key=lambda job: (job.score or 0.0, job.failure_id))
        known = self._desk.rulebook.catalogue.named.get(worst.signature or "")
        cause, fix = (None, None) if known is None else (known.cause, known.fix)
        names = tuple(sorted({job.job_name for job in jobs if job.job_name is not None}))
        url = next((job.url for job in case.jobs.values() if job.url is not None), None)
        errand = Errand(
            uuid5_text("comment", case.case_id),
            case.case_id,
            "",
            case.platform,
            case.instance,
            case.repository,
            case.pipeline_id,
            case.workflow_id,
            case.attempt,
            case.commit_sha,
            case.branch,
        )
        given = Given(names, case.attempt, cause, fix, url)
        asked = Case(
            cast("PlatformName", case.platform),
            case.instance,
            case.repository,
            case.pipeline_id,
            case.workflow_id,
            case.attempt,
            signature=worst.signature,
            commit_sha=case.commit_sha,
            given=given,
            case_id=errand.case_id,
        )
        action = self._action(GIVEN_UP, asked)
        if action is None:
            return
        self._commented.put(case.case_id, True)
        calls = tuple(msgspec.to_builtins(call) for call in action.calls(asked))
        said = Said(Verdict.ACT, Reason.GIVEN_UP, terms.mode, action.name, calls, terms.rules)
        if terms.never:
            said = Said(Verdict.SKIP, Reason.FORBIDDEN, terms.mode, rules=terms.rules)
        told = {"jobs": [job._asdict() for job in jobs], "rules": said.rules}
        jobs_covered = [job.failure_id for job in jobs]
        self._row(errand, said, (where.position, where.at_ms), case.newest_ms, told, jobs_covered)

    def _terms_of(self, case: FailedCase, jobs: list[FailedJob]) -> Terms:
        """What holds for a comment on these jobs."""
        policy = self._desk.rulebook.policy
        place = (case.platform, case.instance, case.repository, case.branch)
        return of_all(
            [
                policy.terms_of(Subject(*place, job.workflow, job.job_name, job.signature, job.category, _COMMENT))
                for job in jobs
            ]
        )

    # --- what came of it

    def acted(self, acted: Acted, position: int) -> None:
        """Note what was done: that we had a run run again, and that a quarantine begins or is ended by a person."""
        if acted.result is not ActResult.DONE:
            return
        if acted.action in _RERUNS:
            run = _run(acted.instance, acted.repository, acted.pipeline_id)
            self._reran.put(run, max(acted.attempt, self._reran.get(run) or 0))
        errand = self._errands.get(acted.case_id)
        if errand is None:
            return
        if acted.action == RELEASE:
            self.quarantines.release(errand.case_id, Reason.QUARANTINE_RELEASED, position)
        elif acted.action == _QUARANTINE and errand.last is not None:
            self.settle_cases()
            call = next((call for call in errand.last[3] if call["call"] == _QUARANTINE), None)
            if call is not None:
                self.quarantines.begin(errand.case_id, errand.job_key, call["test"], acted.asked_ms, call["hours"])

    def _release(self, it: Quarantine, why: Reason, position: int) -> None:
        """Say that a quarantine is over."""
        self.settle_cases()
        errand = self._errands[it.case_id]
        self._journal.changed.append(it.case_id)
        where = (position, self._desk.stream_ms)
        self._row(errand, Said(Verdict.SKIP, why), where, self._desk.stream_ms, {"passes": it.passes}, [])
        if errand.cleared:
            self._retire(errand)

    # --- rows

    def _say(self, errand: Errand, said: Said, row: FindingRow, case: Case | None = None) -> None:
        told: dict[str, Any] = {"detector": row.detector, "message": row.message, "rules": said.rules}
        if case is not None and case.found is not None:
            job_id = next(iter(case.job_ids), None)
            told["jobs"] = [job_told(errand.finding_id, job_id, case.found.workflow, case.found.job_name)]
        self._row(errand, said, (row.position, row.at_ms), row.at_ms, told, [])

    def _row(
        self, errand: Errand, said: Said, at: tuple[int, int], occurred_ms: int, told: dict[str, Any], jobs: list[str]
    ) -> None:
        """Say what is to be done, if it is not what was said last."""
        about = [said.verdict.value, said.reason.value, said.mode, list(said.calls)]
        if about == errand.last:
            return
        errand.last = about
        errand.revision += 1
        self.said.append(
            errand_row(
                errand, said, Context(self._desk.number, *at, self._desk.rulebook.digest), occurred_ms, told, jobs
            )
        )

    def turn(self) -> None:
        """Forget the older half of what is remembered for a while."""
        self.settle_cases()  # what was touched before knows what was remembered before
        for memory in (self._retired, self._reran, self._commented, self.quarantines):
            memory.turn()

    def set_timers(self) -> None:
        """Make due again what quarantines say is due."""
        self.quarantines.set_timers()

    def settle(self) -> None:
        """Write down what changed."""
        self._journal.settle(self._errands)
        for memory in (self._retired, self._reran, self._commented):
            memory.settle()

    def state(self) -> list[Any]:
        """All of it as plain data."""
        memories = [memory.state() for memory in (self._retired, self._reran, self._commented)]
        return [self._journal.written(self._errands), memories, self.platforms, self.quarantines.state()]

    def load(self, state: list[Any]) -> None:
        """Take what `state` gave."""
        errands, memories, self.platforms, quarantines = state
        self._errands = msgspec.convert(self._journal.read(errands), dict[str, Errand])
        self._retired.load(memories[0])
        self._reran.load(memories[1])
        self._commented.load(memories[2])
        self.quarantines.load(quarantines)


@lru_cache(4096)
def _case_of(finding_id: str) -> str:
    return uuid5_text("errand", finding_id)


def _nothing() -> None:
    """Settle nothing."""


def _run(instance: str, repository: str, pipeline_id: str) -> str:
    return SEPARATOR.join((instance, repository, pipeline_id))
