"""Errands: what is to be done about findings, withdrawn when they are cleared, and what was run again in vain."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from analytics import rulebook as rulebooks
from analytics.errands import RELEASE
from analytics.quarantines import PASSES
from analytics.rulebook import Rulebook
from analytics.shard import Shard
from models.records import columns
from models.records.acted import Acted, ActResult
from models.records.calls import Cancel, Comment, Notify, OpenIssue, Quarantine, from_row
from models.records.entry import Encoding, Entry, Kind
from models.records.event import Outcome, uuid5_text
from models.records.outputs import DecisionRow, Reason
from tests.analytics.log import MINUTE, SCORER, T0, Log, as_bytes, fresh, one_by_one, play, resolver, some_at_a_time

TRANSIENT = {"step": "Set up job"}
DAY = 24 * 60 * MINUTE
GITLAB: dict[str, Any] = {"platform": "gitlab", "instance": "gitlab.com", "rerun_after": "job"}


def _rulebook(**policy: Any) -> Rulebook:
    return rulebooks.compose(scorer=SCORER, policy=policy, detectors={"StuckJob": {"patience_unknown": "1h"}})


ACTING = _rulebook(mode="act")


def _errands(log: Log, rulebook: Rulebook = ACTING) -> list[DecisionRow]:
    said, _ = play(log.entries, fresh(rulebook))
    return [row for row in said.decisions if row.because_of is not None]


def _calls(row: DecisionRow) -> list[Any]:
    return [from_row(call) for call in msgspec.json.decode(row.calls)]


def _stuck(**given: Any) -> Log:
    """A job that runs for two hours, while its source delivers."""
    log = Log()
    log.say(Outcome.RUNNING, T0, **given)
    for minute in range(1, 120, 10):
        log.say(Outcome.PASSED, T0 + minute * MINUTE, job_name="other", pipeline_id=f"p{minute}", **_place(given))
    return log


def _place(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in ("platform", "instance", "rerun_after") if name in given}


def _broken() -> Log:
    """Three failures of one job within minutes, in three runs."""
    log = Log()
    for minute in range(3):
        log.say(Outcome.FAILED, T0 + minute * MINUTE, pipeline_id=f"run-{minute}", commit_sha=f"c{minute}")
    return log


def _flaky(flips: int = 2, **given: Any) -> Log:
    """A job that failed and passed on the same commit, on so many commits."""
    log = Log()
    for i in range(flips):
        at = T0 + i * 10 * MINUTE
        told = {"pipeline_id": f"run-{i}", "commit_sha": f"c{i}", **given}
        log.say(Outcome.FAILED, at, **told)
        log.say(Outcome.PASSED, at + 5 * MINUTE, attempt=2, **told)
    return log


def _tell(log: Log, row: DecisionRow, action: str, at_ms: int, **given: Any) -> None:
    """What a healer tells the shard of something done about `row`."""
    acted = Acted(
        act_id=uuid5_text("act", row.decision_id, action),
        decision_id=row.decision_id,
        case_id=row.case_id,
        platform=row.platform,  # type: ignore[arg-type]  # a column that holds nothing else
        instance=row.instance,
        repository=row.repository,
        pipeline_id=row.pipeline_id,
        attempt=row.attempt,
        action=action,
        target="CI / test",
        result=given.pop("result", ActResult.DONE),
        asked_ms=at_ms,
    )
    log.put(Entry(Kind.OUTCOME, Encoding.JSON, at_ms, msgspec.json.encode(acted)))


# --- what is stuck


def test_a_run_of_which_a_job_is_stuck_is_cancelled() -> None:
    (row,) = _errands(_stuck(branch="feature"))
    assert (row.verdict, row.reason, row.action, row.mode) == ("act", "job_stuck", "cancel", "act")
    assert _calls(row) == [Cancel(platform="github", instance="github.com", repository="org/repo", pipeline_id="run-1")]
    assert (row.branch, row.commit_sha, row.jobs) == ("feature", "c1", [])
    assert row.not_before_ms == row.at_ms == row.occurred_ms == T0 + 60 * MINUTE


def test_where_the_platform_can_only_the_job_is_cancelled() -> None:
    (row,) = _errands(_stuck(**GITLAB))
    (call,) = _calls(row)
    assert (call.name, call.job_id, call.target) == ("cancel", "job-1", "job-1")


def test_a_job_that_goes_on_withdraws_it() -> None:
    log = _stuck()
    log.say(Outcome.PASSED, T0 + 121 * MINUTE)
    first, last = _errands(log)
    assert (last.case_id, last.revision, last.verdict, last.reason) == (first.case_id, 1, "skip", "finding_cleared")
    assert (last.calls, last.action, last.not_before_ms) == ("[]", None, None)
    assert first.because_of == last.because_of


@pytest.mark.parametrize(
    ("given", "reason"),
    [({"is_deploy": True}, Reason.DEPLOY_JOB), ({"environment": "production"}, Reason.PROTECTED_ENVIRONMENT)],
)
def test_a_deployment_is_never_cancelled_nor_its_run(given: dict[str, Any], reason: Reason) -> None:
    (row,) = _errands(_stuck(**given))
    assert (row.verdict, row.reason, row.calls) == ("skip", reason, "[]")
    log = Log()
    log.say(Outcome.RUNNING, T0 + MINUTE, job_id="job-2", job_name="deploy", **given)
    log.entries += [e._replace(position=i) for i, e in enumerate(_stuck().entries, 2)]
    assert {row.reason for row in _errands(log)} == {reason}


def test_a_deployment_that_has_ended_protects_its_run_no_longer() -> None:
    log = Log()
    log.say(Outcome.RUNNING, T0, job_id="job-2", job_name="deploy", is_deploy=True)
    log.say(Outcome.PASSED, T0, job_id="job-2", job_name="deploy", is_deploy=True)
    log.take(_stuck().entries)
    assert [row.action for row in _errands(log)] == ["cancel"]


def test_a_job_that_waits_is_told_of_and_not_cancelled() -> None:
    log = Log()
    log.say(Outcome.QUEUED, T0)
    log.take(_stuck(job_name="other", job_id="o", pipeline_id="other").entries[1:])
    (row,) = _errands(log)
    assert row.action == "notify"
    assert isinstance(_calls(row)[0], Notify)


# --- what is broken


def test_a_repeated_failure_becomes_an_issue_and_where_there_are_none_a_note() -> None:
    (row,) = _errands(_broken())
    (call,) = _calls(row)
    assert isinstance(call, OpenIssue)
    assert (row.reason, call.pipeline_id, call.marker) == ("job_broken", "run-2", row.case_id)
    log = Log()
    for minute in range(3):
        log.say(Outcome.FAILED, T0 + minute * MINUTE, pipeline_id=f"run-{minute}", platform="jenkins")
    assert [row.action for row in _errands(log)] == ["notify"]


def test_an_issue_is_brought_up_to_date_when_it_happened_twice_as_often_and_not_too_soon() -> None:
    log = Log()
    for i in range(24):
        log.say(Outcome.FAILED, T0 + i * MINUTE, pipeline_id=f"run-{i}", commit_sha=f"c{i}")
    rows = _errands(log)
    assert [row.revision for row in rows] == [0, 1, 2]
    assert [_calls(row)[0].pipeline_id for row in rows] == ["run-2", "run-12", "run-22"]
    assert len({row.case_id for row in rows}) == 1


def test_a_broken_default_branch_is_told_of() -> None:
    log = Log()
    for i in range(2):
        log.say(Outcome.FAILED, T0 + i * MINUTE, pipeline_id=f"run-{i}", commit_sha=f"c{i}", is_default_branch=True)
    (row,) = _errands(log)
    (call,) = _calls(row)
    assert isinstance(call, Notify)
    assert (row.reason, call.subject) == ("job_broken", row.case_id)


# --- the policy


def test_by_default_nothing_may_come_of_it() -> None:
    assert [row.mode for row in _errands(_broken(), rulebooks.compose(scorer=SCORER))] == ["observe"]


def test_a_rule_that_names_the_action_forbids_it_or_lets_it_be() -> None:
    never = _rulebook(mode="act", rule=[{"when": {"action": "open_issue"}, "never": True}])
    (row,) = _errands(_broken(), never)
    assert (row.verdict, row.reason) == ("skip", "forbidden")
    only = _rulebook(rule=[{"when": {"action": "cancel", "job": "test"}, "mode": "act"}])
    assert [row.mode for row in _errands(_stuck(), only)] == ["act"]
    assert [row.mode for row in _errands(_broken(), only)] == ["observe"]


def test_an_action_that_is_off_leaves_its_place_to_the_next_or_to_none() -> None:
    assert [row.action for row in _errands(_broken(), _rulebook(actions=["notify"]))] == ["notify"]
    assert _errands(_broken(), _rulebook(actions=["*rerun*"])) == []


def test_what_is_turned_off_later_is_withdrawn_when_the_finding_changes() -> None:
    off = _rulebook(actions=["*rerun*"])
    log = _broken()
    log.control(T0 + 3 * MINUTE, off)
    log.say(Outcome.FAILED, T0 + 14 * MINUTE, pipeline_id="run-4", commit_sha="c4")
    shard = Shard(3, ACTING, resolver(ACTING, off))
    said, _ = play(log.entries, shard)
    assert [row.reason for row in said.decisions if row.because_of] == ["job_broken", "forbidden"]


# --- what is flaky


def test_a_flaky_job_is_proposed_for_quarantine_whatever_the_mode() -> None:
    (row,) = _errands(_flaky(), _rulebook(mode="act", owner="team-a", quarantine_days=3))
    aside, issue = _calls(row)
    assert (row.verdict, row.reason, row.action, row.mode) == ("act", "job_flaky", "quarantine", "suggest")
    assert isinstance(aside, Quarantine)
    assert (aside.workflow, aside.job_name, aside.test, aside.owner, aside.hours) == ("CI", "test", None, "team-a", 72)
    assert isinstance(issue, OpenIssue)
    assert "team-a" in issue.body


def test_one_flip_is_what_reruns_are_for() -> None:
    assert _errands(_flaky(1)) == []


def _in_quarantine() -> Log:
    log = _flaky()
    (row,) = _errands(log)
    _tell(log, row, "quarantine", T0 + 16 * MINUTE)
    return log


def _attempts(log: Log) -> list[str]:
    """What is decided about run attempts that begin in the second half hour."""
    said, _ = play(log.entries, fresh(ACTING))
    return [row.reason for row in said.decisions if row.because_of is None and row.at_ms >= T0 + 30 * MINUTE]


def test_failures_of_a_job_in_quarantine_are_left_alone_and_alarm_nobody() -> None:
    log = _in_quarantine()
    for i in range(3):
        log.say(Outcome.FAILED, T0 + (30 + i) * MINUTE, pipeline_id=f"q-{i}", commit_sha=f"q{i}", **TRANSIENT)
    assert _attempts(log) == ["quarantined"] * 3
    assert {row.reason for row in _errands(log)[1:]} == {"quarantined"}


def test_a_refused_quarantine_is_none() -> None:
    log = _flaky()
    (row,) = _errands(log)
    _tell(log, row, "quarantine", T0 + 16 * MINUTE, result=ActResult.REFUSED)
    log.say(Outcome.FAILED, T0 + 30 * MINUTE, pipeline_id="q", commit_sha="q", **TRANSIENT)
    assert _attempts(log) != ["quarantined"]


def _over(log: Log) -> list[DecisionRow]:
    return [row for row in _errands(log) if row.reason.startswith("quarantine_")]


def test_a_quarantine_ends_by_itself() -> None:
    log = _in_quarantine()
    log.heartbeats(T0 + 20 * MINUTE, T0 + 8 * DAY, 60 * MINUTE)
    (row,) = _over(log)
    assert (row.verdict, row.reason) == ("skip", "quarantine_expired")
    assert row.at_ms >= T0 + 16 * MINUTE + 7 * DAY
    log.say(Outcome.FAILED, T0 + 8 * DAY, pipeline_id="q", **TRANSIENT)
    assert _attempts(log)[-1] == "run_in_progress"


def test_a_quarantine_ends_when_its_job_has_passed_many_times_in_a_row() -> None:
    log = _in_quarantine()
    log.say(Outcome.PASSED, T0 + 20 * MINUTE, pipeline_id="before", commit_sha="b")
    log.say(Outcome.FAILED, T0 + 21 * MINUTE, pipeline_id="between", commit_sha="x")
    for i in range(PASSES):
        assert _over(log) == []
        log.say(Outcome.PASSED, T0 + (30 + i) * MINUTE, pipeline_id=f"p-{i}", commit_sha=f"p{i}")
    assert [row.reason for row in _over(log)] == ["quarantine_passed"]


def test_a_person_ends_a_quarantine_once() -> None:
    log = _in_quarantine()
    (row,) = [row for row in _errands(log) if row.action == "quarantine"]
    for minute in (20, 21):
        _tell(log, row, RELEASE, T0 + minute * MINUTE)
    assert [row.reason for row in _over(log)] == ["quarantine_released"]
    log.say(Outcome.FAILED, T0 + 30 * MINUTE, pipeline_id="q", commit_sha="q", **TRANSIENT)
    assert _attempts(log) == ["run_in_progress"]


def test_of_a_test_in_quarantine_only_failures_that_name_it_say_nothing() -> None:
    log = Log()
    failed = [
        log.say(Outcome.FAILED, T0 + i * 10 * MINUTE, pipeline_id=f"run-{i}", commit_sha=f"c{i}") for i in range(2)
    ]
    for i, event in enumerate(failed):
        log.evidence(event, T0 + 11 * MINUTE, lines=[(1, "FAILED tests/test_a.py::test_b - assert 1 == 2")])
        log.say(Outcome.PASSED, T0 + 12 * MINUTE, pipeline_id=f"run-{i}", commit_sha=f"c{i}", attempt=2)
    rulebook = _rulebook(mode="act", await_log_seconds=600)
    (row,) = _errands(log, rulebook)
    assert _calls(row)[0].test == "tests/test_a.py::test_b"
    _tell(log, row, "quarantine", T0 + 16 * MINUTE)
    for i, name in enumerate(("test_b", "test_other")):
        event = log.say(Outcome.FAILED, T0 + 30 * MINUTE, pipeline_id=f"q-{i}", commit_sha=f"q{i}")
        log.evidence(event, T0 + 31 * MINUTE, lines=[(1, f"FAILED tests/test_a.py::{name} - assert 1 == 2")])
    said, _ = play(log.entries, fresh(rulebook))
    last = {row.pipeline_id: row.reason for row in said.decisions if row.because_of is None}
    assert last["q-0"] == "quarantined"
    assert last["q-1"] != "quarantined"


# --- what was run again in vain


def _in_vain(*, ours: bool = True) -> Log:
    log = Log()
    log.say(Outcome.FAILED, T0, url="https://ci.example/1", **TRANSIENT)
    log.say(Outcome.FAILED, T0 + 1, job_id=None, job_name=None)
    if ours:
        said, _ = play(log.entries, fresh(ACTING))
        _tell(log, said.decisions[-1], "rerun_failed", T0 + MINUTE)
    log.say(Outcome.FAILED, T0 + 5 * MINUTE, attempt=2, url="https://ci.example/2", **TRANSIENT)
    log.say(Outcome.FAILED, T0 + 5 * MINUTE + 1, attempt=2, job_id=None, job_name=None)
    return log


def test_one_comment_says_that_what_we_had_run_again_failed_again() -> None:
    log = _in_vain()
    log.say(Outcome.FAILED, T0 + 6 * MINUTE, attempt=2, job_id="job-2", job_name="lint", **TRANSIENT)
    (row,) = _errands(log, _rulebook(mode="act", comment=True))
    (call,) = _calls(row)
    assert isinstance(call, Comment)
    assert (row.reason, row.action, row.mode) == ("given_up", "comment", "act")
    assert (call.commit_sha, call.marker, call.attempt) == ("c1", row.case_id, 2)
    assert "`test` failed again on attempt 2" in call.body
    assert "github_set_up_job" in call.body
    assert "https://ci.example/2" in call.body


def test_no_comment_unless_a_rule_says_so_or_where_somebody_else_ran_it_again() -> None:
    assert _errands(_in_vain()) == []
    assert _errands(_in_vain(ours=False), _rulebook(mode="act", comment=True)) == []
    elsewhere = _rulebook(mode="act", comment=True, rule=[{"when": {"job": "test"}, "comment": False}])
    assert _errands(_in_vain(), elsewhere) == []


# --- all of it


def _all() -> Log:
    log = _in_quarantine()
    for part in (_in_vain(), _stuck(job_name="hangs", pipeline_id="hung", job_id="h"), _broken()):
        log.take(e._replace(entry_ms=e.entry_ms) for e in part.entries)
    log.heartbeats(T0 + 3 * 60 * MINUTE, T0 + 8 * DAY, 60 * MINUTE)
    return log


@pytest.mark.parametrize("seed", range(3))
def test_batches_and_restores_change_nothing(seed: int) -> None:
    rulebook = _rulebook(mode="act", comment=True)
    rng = random.Random(seed)
    entries = _all().entries
    whole, _ = play(entries, fresh(rulebook))
    assert {row.action for row in whole.decisions if row.because_of} >= {"quarantine", "cancel"}
    said, _ = play(
        entries,
        fresh(rulebook),
        sizes=one_by_one() if seed == 0 else some_at_a_time(rng),
        restores=lambda: rng.random() < 0.5,
        resolve=resolver(rulebook),
    )
    assert as_bytes(said) == as_bytes(whole)
    assert said.decisions == whole.decisions


def test_revisions_of_a_case_have_no_gaps_even_where_a_finding_comes_back() -> None:
    log = _broken()
    log.heartbeats(T0 + 3 * MINUTE, T0 + 60 * MINUTE)
    log.say(Outcome.FAILED, T0 + 61 * MINUTE, pipeline_id="late", received_ms=T0 + 61 * MINUTE)
    revisions: dict[str, list[int]] = {}
    for row in _errands(log):
        revisions.setdefault(row.case_id, []).append(row.revision)
    assert all(seen == list(range(len(seen))) for seen in revisions.values())


def test_an_instance_is_of_one_platform_however_its_rows_are_cut() -> None:
    shard = fresh(ACTING)
    log = _broken()
    for entry in log.entries:
        shard.process(columns.decode([entry]))
    assert shard._errands.platforms == {"github.com": "github"}
