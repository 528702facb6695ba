"""What a shard gives the policy to decide on, and what it says when only the mode or the time changes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from analytics import rulebook as rulebooks
from models.records.event import Outcome
from models.records.outputs import ShardOutput
from models.scorers.rerun_passes import RerunPasses
from tests.analytics.log import MINUTE, SCORER, T0, Log, as_bytes, fresh, one_by_one, play, resolver

RUN: dict[str, Any] = {"job_id": None, "job_name": None}
TRANSIENT = {"step": "Set up job"}


def _played(log: Log, *rules: dict[str, Any], restored: bool = False, **policy: Any) -> ShardOutput:
    rulebook = rulebooks.compose(scorer=SCORER, policy={"rule": list(rules), **policy})
    resolve = resolver(rulebook)
    said, _ = play(
        log.entries, fresh(rulebook, resolve), sizes=one_by_one(), restores=lambda: restored, resolve=resolve
    )
    return said


def _failed_run(**given: Any) -> Log:
    log = Log()
    log.say(Outcome.FAILED, T0, **TRANSIENT, branch="main", **given)
    log.say(Outcome.FAILED, T0 + 1000, **RUN)
    return log


@pytest.mark.parametrize("restored", [False, True])
@pytest.mark.parametrize(
    "asks",
    [
        {"platform": "github"},
        {"instance": "github.com"},
        {"repository": "org/*"},
        {"branch": "main"},
        {"workflow": "CI"},
        {"job": "test"},
        {"signature": "github_set_up_job"},
        {"category": "infrastructure"},
        {"action": "rerun_failed"},
    ],
    ids=lambda asks: next(iter(asks)),
)
def test_a_rule_meets_what_the_events_tell(asks: dict[str, str], *, restored: bool) -> None:
    last = _played(_failed_run(), {"when": asks, "mode": "act"}, restored=restored).decisions[-1]
    assert (last.verdict, last.mode) == ("act", "act")
    assert msgspec.json.decode(last.explanation)["rules"] == [1]


def test_an_action_may_be_made_once_the_run_has_ended_and_waited() -> None:
    wait, act = _played(_failed_run(), backoff_seconds=10).decisions
    assert wait.not_before_ms is None
    assert act.not_before_ms is not None
    assert 10_000 <= act.not_before_ms - (T0 + 1000) <= 12_500


@pytest.mark.parametrize("restored", [False, True])
def test_an_environment_protects_its_job_and_its_run(*, restored: bool) -> None:
    of_job = _played(_failed_run(environment="Production"), restored=restored).decisions[-1]
    log = Log()
    log.say(Outcome.FAILED, T0, **TRANSIENT)
    log.say(Outcome.FAILED, T0 + 1000, **RUN, environment="live")
    of_run = _played(log, restored=restored).decisions[-1]
    assert of_job.reason == of_run.reason == "protected_environment"
    assert msgspec.json.decode(of_run.explanation)["jobs"][0]["environments"] == ["live"]
    assert _played(_failed_run(environment="staging")).decisions[-1].verdict == "act"


def test_a_branch_that_only_the_run_tells_is_that_of_the_case() -> None:
    log = Log()
    log.say(Outcome.FAILED, T0, **TRANSIENT)
    log.say(Outcome.FAILED, T0 + 1000, **RUN, branch="release/2")
    said = _played(log, {"when": {"branch": "release/*"}, "mode": "act"}).decisions
    assert [(row.branch, row.mode) for row in said] == [(None, "observe"), ("release/2", "act")]


def test_a_decision_whose_mode_alone_changes_is_said_again() -> None:
    log = Log()
    failed = log.say(Outcome.FAILED, T0, **TRANSIENT)
    log.say(Outcome.FAILED, T0 + 1000, **RUN)
    log.heartbeats(T0 + 1000, T0 + MINUTE)
    log.evidence(failed, T0 + MINUTE, lines=[(7, "toomanyrequests: You have reached your pull rate limit.")])
    both = {"signature=github_set_up_job": 2.0, "signature=registry_rate_limit": 2.0}
    rules = [{"when": {"signature": "github_set_up_job"}, "mode": "act"}]
    policy = {"rule": rules, "await_log_seconds": 10}
    rulebook = rulebooks.compose(scorer=RerunPasses(intercept=0.0, weights=both).to_artefact(), policy=policy)
    said, _ = play(log.entries, fresh(rulebook, resolver(rulebook)))
    assert [(row.revision, row.verdict, row.mode, row.signature) for row in said.decisions] == [
        (0, "wait", "observe", "github_set_up_job"),
        (1, "act", "act", "github_set_up_job"),
        (2, "act", "observe", "registry_rate_limit"),
    ]


def test_where_a_batch_ends_changes_nothing() -> None:
    log = Log()
    log.say(Outcome.FAILED, T0, **TRANSIENT, environment="b")
    log.say(Outcome.FAILED, T0 + 1000, **RUN, branch="release/2")
    log.say(Outcome.ERRORED, T0 + 2000, **RUN, environment="production")
    log.say(Outcome.FAILED, T0 + 3000, **TRANSIENT, job_id="job-2", job_name="other")
    rulebook = rulebooks.compose(
        scorer=SCORER, policy={"rule": [{"when": {"branch": "release/*"}, "mode": "act", "backoff_seconds": 5}]}
    )
    whole, _ = play(log.entries, fresh(rulebook, resolver(rulebook)))
    single, _ = play(log.entries, fresh(rulebook, resolver(rulebook)), sizes=one_by_one())
    assert as_bytes(whole) == as_bytes(single)
    assert [(row.reason, row.mode) for row in whole.decisions] == [
        ("run_in_progress", "observe"),
        ("transient_cause", "act"),
        ("protected_environment", "act"),
        ("protected_environment", "act"),
    ]
