"""What may be done now: every reason, in its order, at its boundary."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.guards import (
    HOUR_MS,
    Doing,
    Facts,
    Go,
    Hold,
    Limits,
    Refuse,
    charges,
    crowded,
    fits,
    happened,
    most,
    moved_on,
    origin_of,
    rule,
    short,
    told_by_reading,
)
from models.records.calls import (
    Call,
    Cancel,
    ClearCaches,
    Comment,
    Notify,
    OpenIssue,
    Rerun,
    RerunFailed,
    RerunJob,
    RunState,
)
from models.records.event import Outcome
from models.records.ledger import ActState, Charge, Crowd, Earlier, Scope, Why

LIMITS = Limits()
NOW = 1_795_000_000.0
FACTS = Facts(
    now=NOW,
    failed=NOW - 60,
    mode="act",
    approved=False,
    reruns=True,
    attempt=1,
    most_reruns=50,
    held=False,
    busy=False,
    last_same=None,
    fleet_reruns=0,
    fleet_runs=0,
)
ABOUT: dict[str, Any] = {"platform": "github", "instance": "hub", "repository": "acme/shop", "pipeline_id": "7"}
RERUN = RerunFailed(**ABOUT)
CANCEL = Cancel(**ABOUT)
NOTE = Comment(**ABOUT, body="b", marker="m")

# In the order in which they are asked; each makes the guard of its reason object.
OBJECTIONS: dict[Why, dict[str, Any]] = {
    Why.MODE: {"mode": "observe"},
    Why.STALE: {"failed": NOW - LIMITS.stale_seconds - 1},
    Why.PLATFORM_CAP: {"attempt": 51},
    Why.NOT_BEFORE: {"not_before": NOW + 5},
    Why.PROPOSED: {"mode": "suggest"},
    Why.INCIDENT: {"held": True},
    Why.TARGET_BUSY: {"busy": True},
    Why.COOLDOWN: {"last_same": NOW - 1},
    Why.RETRY_RATIO: {"fleet_reruns": 20},
}


def why(facts: Facts, limits: Limits = LIMITS) -> Why | None:
    ruling = rule(facts, limits)
    return None if isinstance(ruling, Go) else ruling.why


def test_where_nothing_objects_it_goes_on() -> None:
    assert rule(FACTS, LIMITS) == Go()


@pytest.mark.parametrize("reason", OBJECTIONS)
def test_each_guard_objects(reason: Why) -> None:
    assert why(FACTS._replace(**OBJECTIONS[reason])) is reason


@pytest.mark.parametrize(("first", "second"), list(combinations(OBJECTIONS, 2)))
def test_of_two_that_object_the_first_is_the_reason(first: Why, second: Why) -> None:
    both = OBJECTIONS[second] | OBJECTIONS[first]
    assert why(FACTS._replace(**both)) is first


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"failed": NOW - LIMITS.stale_seconds}, None),
        ({"attempt": 50}, None),
        ({"most_reruns": None, "attempt": 999}, None),
        ({"not_before": NOW}, None),
        ({"mode": "suggest", "approved": True}, None),
        ({"mode": "observe", "approved": True}, Why.MODE),
        ({"last_same": NOW - 30}, None),
        ({"last_same": NOW - 29.9}, Why.COOLDOWN),
        ({"fleet_reruns": 19}, None),
        ({"fleet_reruns": 99, "fleet_runs": 1000}, None),
        ({"fleet_reruns": 100, "fleet_runs": 1000}, Why.RETRY_RATIO),
        ({"fleet_reruns": 20, "fleet_runs": 199}, Why.RETRY_RATIO),
    ],
)
def test_the_boundary_of_each_guard(changes: dict[str, Any], reason: Why | None) -> None:
    assert why(FACTS._replace(**changes)) is reason


@pytest.mark.parametrize("reason", [Why.PLATFORM_CAP, Why.INCIDENT, Why.RETRY_RATIO])
def test_what_runs_nothing_again_is_not_held_up_by_what_bounds_reruns(reason: Why) -> None:
    assert rule(FACTS._replace(reruns=False, **OBJECTIONS[reason]), LIMITS) == Go()


def test_what_waits_says_until_when() -> None:
    assert rule(FACTS._replace(last_same=NOW - 10), LIMITS) == Hold(Why.COOLDOWN, NOW + 20)
    assert rule(FACTS._replace(not_before=NOW + 7), LIMITS) == Hold(Why.NOT_BEFORE, NOW + 7)
    assert rule(FACTS._replace(held=True), LIMITS) == Hold(Why.INCIDENT, None)
    assert rule(FACTS._replace(mode="suggest"), LIMITS) == Hold(Why.PROPOSED, None)


facts = st.builds(
    Facts,
    now=st.just(NOW),
    failed=st.floats(NOW - 1e5, NOW + 10),
    mode=st.sampled_from(["observe", "suggest", "act"]),
    approved=st.booleans(),
    reruns=st.booleans(),
    attempt=st.integers(1, 60),
    most_reruns=st.none() | st.just(50),
    held=st.booleans(),
    busy=st.booleans(),
    last_same=st.none() | st.floats(NOW - 100, NOW),
    fleet_reruns=st.integers(0, 200),
    fleet_runs=st.integers(0, 2000),
    not_before=st.none() | st.floats(NOW - 10, NOW + 10),
)


@given(facts)
def test_nothing_goes_on_that_is_observed_stale_or_not_approved(given_facts: Facts) -> None:
    ruling = rule(given_facts, LIMITS)
    if isinstance(ruling, Go):
        assert given_facts.mode == "act" or (given_facts.mode == "suggest" and given_facts.approved)
        assert given_facts.now - given_facts.failed <= LIMITS.stale_seconds
        assert not given_facts.busy
        assert not (given_facts.held and given_facts.reruns)
    elif isinstance(ruling, Hold) and ruling.until is not None:
        assert ruling.until > given_facts.now  # or it would be asked again and again at once


@pytest.mark.parametrize(
    ("repositories", "usual", "is_one"),
    [(4, 0.0, False), (5, 0.0, True), (5, 1.25, True), (5, 1.3, False), (12, 3.0, True), (11, 3.0, False)],
)
def test_a_crowd_is_many_and_far_more_than_is_usual(repositories: int, usual: float, is_one: bool) -> None:
    assert crowded(Crowd(repositories, usual), LIMITS) is is_one


# --- budgets


def doing(*calls: Call, jobs: int = 1, **changes: Any) -> Doing:
    names = tuple(("CI", f"test {number}") for number in range(jobs))
    return Doing("hub", "acme/shop", "c0ffee", "7  1 ", names, 6.0, calls or (RERUN,))._replace(**changes)


def test_a_rerun_is_charged_to_its_job_run_commit_repository_and_fleet() -> None:
    hour = int(NOW * 1000) // HOUR_MS * HOUR_MS
    assert charges(doing(), NOW) == [
        Charge("job", "hub\tacme/shop\tCI\ttest 0", hour, 1, 6.0),
        Charge("run", "hub\tacme/shop\t7  1 ", 0, 1, 6.0),
        Charge("commit", "hub\tacme/shop\tc0ffee", 0, 1, 6.0),
        Charge("repository", "hub\tacme/shop", hour, 1, 6.0),
        Charge("fleet", "", hour, 1, 6.0),
    ]


def test_its_jobs_share_its_minutes() -> None:
    taken = charges(doing(jobs=3), NOW)
    assert [charge.minutes for charge in taken if charge.scope == "job"] == [2.0] * 3
    assert charges(doing(jobs=0), NOW)[0].scope == "run"


def test_without_a_commit_none_is_charged() -> None:
    assert "commit" not in {charge.scope for charge in charges(doing(commit_sha=None), NOW)}


def test_what_only_says_something_has_a_budget_of_its_own() -> None:
    (charge,) = charges(
        doing(NOTE, OpenIssue(**ABOUT, title="t", body="b", marker="m"), Notify(**ABOUT, title="t", body="b")), NOW
    )
    assert (charge.scope, charge.key, charge.acts, charge.minutes) == ("repository", "notes\thub\tacme/shop", 3, 0.0)
    assert most(charge, LIMITS) == (LIMITS.notes_per_hour, float("inf"))
    assert short(charge, NOW, 0.0).why is Why.REPOSITORY_BUDGET  # type: ignore[union-attr]


def test_a_stop_is_charged_to_no_job() -> None:
    assert [charge.scope for charge in charges(doing(CANCEL), NOW)] == ["repository", "fleet"]
    assert charges(doing(ClearCaches(**ABOUT), RERUN), NOW)[-1].acts == 2


@given(st.lists(st.sampled_from([RERUN, CANCEL, NOTE]), min_size=1, max_size=4), st.integers(0, 4))
def test_everybody_takes_budgets_in_one_order(calls: list[Call], jobs: int) -> None:
    taken = charges(doing(*calls, jobs=jobs), NOW)
    order = ["job", "run", "commit", "repository", "fleet"]
    assert [(order.index(c.scope), c.key) for c in taken] == sorted({(order.index(c.scope), c.key) for c in taken})


@given(
    st.lists(st.tuples(st.integers(1, 3), st.floats(0, 50)), max_size=60),
    st.sampled_from(["job", "repository", "fleet"]),
)
def test_what_fits_never_overdraws(wanted: list[tuple[int, float]], scope: Scope) -> None:
    acts, minutes = 0, 0.0
    for each, cost in wanted:
        charge = Charge(scope, "k", 0, each, cost)
        if fits(charge, (acts, minutes), LIMITS):
            acts, minutes = acts + each, minutes + cost
    assert acts <= most(charge if wanted else Charge(scope, "k", 0, 1, 0), LIMITS)[0]
    assert minutes <= most(charge if wanted else Charge(scope, "k", 0, 1, 0), LIMITS)[1]


@pytest.mark.parametrize(
    ("scope", "reason"), [("job", Why.JOB_BUDGET), ("run", Why.RUN_BUDGET), ("commit", Why.COMMIT_BUDGET)]
)
def test_what_a_job_run_or_commit_has_spent_is_gone(scope: Scope, reason: Why) -> None:
    assert short(Charge(scope, "k", 0, 1, 1.0), NOW, 0.5) == Refuse(reason)


@pytest.mark.parametrize(("scope", "reason"), [("repository", Why.REPOSITORY_BUDGET), ("fleet", Why.FLEET_BUDGET)])
def test_a_repository_and_the_fleet_have_more_next_hour_and_not_all_comes_back_at_once(
    scope: Scope, reason: Why
) -> None:
    hour = int(NOW * 1000) // HOUR_MS * HOUR_MS
    ends = hour / 1000 + 3600
    assert short(Charge(scope, "k", hour, 1, 1.0), NOW, 0.0) == Hold(reason, ends)
    assert short(Charge(scope, "k", hour, 1, 1.0), NOW, 0.5) == Hold(reason, ends + 30)
    assert short(Charge(scope, "k", hour - HOUR_MS, 1, 1.0), NOW, 0.0) == Hold(reason, max(NOW, hour / 1000))


# --- chains


def earlier(made: dict[str, Any], **changes: Any) -> Earlier:
    act = Earlier("7", "", 1, "rerun_failed", ActState.DONE, NOW, (("CI", "test"),), made, "the first")
    return act._replace(**changes)


def origin(*acts: Earlier, workflow_id: str | None = None, attempt: int = 1, jobs: tuple[str, ...] = ()) -> str:
    return origin_of(pipeline_id="7", workflow_id=workflow_id, attempt=attempt, job_ids=jobs, earlier=acts)


@pytest.mark.parametrize(
    ("made", "here"),
    [
        ({"attempt": 2}, {"attempt": 2}),
        ({"job_id": "12"}, {"jobs": ("12", "13")}),
        ({"workflow_id": "new", "pipeline_id": "7"}, {"workflow_id": "new"}),
    ],
    ids=["github", "gitlab", "circleci"],
)
def test_what_we_made_belongs_to_the_run_that_began_it(made: dict[str, Any], here: dict[str, Any]) -> None:
    assert origin(earlier(made), **here) == "the first"
    assert origin(earlier(made, pipeline_id="8"), **here) != "the first"


@pytest.mark.parametrize("made", [{"reference": "99"}, {}, {"attempt": 3}], ids=["jenkins", "nothing", "another"])
def test_what_a_person_started_or_nobody_can_tell_begins_a_chain(made: dict[str, Any]) -> None:
    assert origin(earlier(made), attempt=2) == "7  2 "


def test_the_newest_act_that_made_it_says_where_it_came_from() -> None:
    assert origin(earlier({"attempt": 2}), earlier({"attempt": 2}, origin="later"), attempt=2) == "later"


def test_two_workflows_and_two_jobs_have_origins_of_their_own() -> None:
    assert len({origin(workflow_id="a"), origin(workflow_id="b"), origin(jobs=("1",)), origin(jobs=("2",))}) == 4


# --- how a run stands


def state(outcome: Outcome = Outcome.FAILED, **changes: Any) -> RunState:
    return RunState(outcome=outcome, attempt=1, **changes)


@pytest.mark.parametrize("call", [Rerun(**ABOUT), RERUN, RerunJob(**ABOUT, job_id="9")])
@pytest.mark.parametrize(
    ("stands", "reason"),
    [
        (state(), None),
        (state(Outcome.TIMED_OUT), None),
        (state(Outcome.UNSTABLE), None),
        (state(Outcome.UNKNOWN), None),
        (state(Outcome.PASSED), Why.NOT_FAILED),
        (state(Outcome.CANCELLED), Why.NOT_FAILED),
        (state(Outcome.RUNNING), Why.RUN_IN_PROGRESS),
        (state(Outcome.QUEUED), Why.RUN_IN_PROGRESS),
        (state(Outcome.RUNNING, successor="2"), Why.ALREADY_RUN),
        (state(successor="2", commit_sha="a", head_sha="b"), Why.ALREADY_RUN),
        (state(commit_sha="a", head_sha="b"), Why.OVERTAKEN),
        (state(commit_sha="a", head_sha="a"), None),
        (state(commit_sha="a"), None),
    ],
)
def test_a_rerun_makes_sense_only_of_what_failed_and_is_the_newest(
    call: Call, stands: RunState, reason: Why | None
) -> None:
    assert moved_on(call, stands) is reason


def test_only_what_goes_on_can_be_stopped() -> None:
    assert moved_on(CANCEL, state(Outcome.RUNNING, commit_sha="a", head_sha="b")) is None
    assert moved_on(CANCEL, state(Outcome.FAILED)) is Why.NOT_FAILED


def test_what_is_said_makes_sense_however_the_run_stands() -> None:
    assert moved_on(NOTE, state(Outcome.PASSED, successor="2")) is None


def test_a_run_shows_what_was_done_to_it() -> None:
    assert happened(RERUN, state(), state(successor="2"))
    assert happened(RERUN, None, state(successor="2"))
    assert not happened(RERUN, state(successor="2"), state(successor="2"))
    assert happened(CANCEL, state(Outcome.RUNNING), state(Outcome.CANCELLED))
    assert not happened(CANCEL, state(Outcome.RUNNING), state(Outcome.FAILED))
    assert not happened(NOTE, state(), state(successor="2"))
    assert [told_by_reading(call) for call in (RERUN, CANCEL, NOTE, ClearCaches(**ABOUT))] == [True, True, False, False]
