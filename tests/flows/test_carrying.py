"""Carrying out one act, with hands that answer as a test says: every answer has its end, and nothing is asked twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, cast

import pytest

from connectors.platforms.acting import Silence, Stop, Talk
from connectors.platforms.asking import Reply
from connectors.postgres_ledger import Act, Case
from flows.acting_apis import Hands
from flows.carrying import Carrier, Ended, Later, Settled
from models.records.calls import (
    Ambiguous,
    Call,
    Comment,
    Done,
    Notify,
    Quarantine,
    Refusal,
    Refused,
    Result,
    RunState,
    Unavailable,
)
from models.records.event import Outcome
from models.records.ledger import ActState, Why
from tests.connectors.platforms.acts import SHA, all_well, at_the_effect, calls, hold, says

NOW: Final = 1_795_000_000.0
FAILED: Final = RunState(outcome=Outcome.FAILED, attempt=2, commit_sha=SHA, head_sha=SHA)
AGAIN: Final = RunState(outcome=Outcome.RUNNING, attempt=3, successor="3", commit_sha=SHA, head_sha=SHA)
RUNNING: Final = RunState(outcome=Outcome.RUNNING, attempt=2)
CANCELLED: Final = RunState(outcome=Outcome.CANCELLED, attempt=2)
RERUN: Final = calls("github")["rerun_failed"]
CANCEL: Final = calls("github")["cancel"]
NOTIFY: Final = Notify(platform="github", instance="main", repository="acme/shop", pipeline_id="1", title="t", body="b")


class World:
    """Hands and book in one: what was asked, what was written down, in order, and what a test makes of it."""

    def __init__(self, effect: Reply | Silence | None = None, looks: Sequence[RunState | Stop] = (FAILED,)) -> None:
        self.effect = effect
        self.looks = [*looks]
        self.log: list[str] = []
        self.changes = 0
        self.kept: RunState | None = None
        self.stopped = False
        self.ours = True
        self.renewed = True
        self.at = 0.0
        self.before_sending: Callable[[], None] = lambda: None
        self.said: Result = Done()

    # hands
    async def hold(self, talk: Talk[Any], _repository: str, *, calls: Collection[str] | None = None) -> Any:
        """Drive what asks, and give the next look to what reads."""
        if calls is None:
            talk.close()
            self.log.append("read")
            return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        self.before_sending()
        platform = "github"
        held = hold(talk, all_well(platform) if self.effect is None else at_the_effect(platform, self.effect))
        self.changes += len(held.changes)
        self.log += ["sent"] * len(held.changes)
        return held.ended

    # book
    async def renew(self, _case: Case) -> bool:
        """Whether the case is ours."""
        return self.renewed

    async def asking(self, _case: Case, _act: Act, before: RunState | None) -> float | None:
        """Until when it may go out."""
        self.log.append("asking")
        self.kept = before
        return self.at + 60 if self.ours else None

    async def not_asked(self, _case: Case, _act: Act, before: RunState | None) -> None:
        """Note it."""
        self.log.append("not asked")
        self.kept = before

    async def notify(self, _call: Notify) -> Result:
        """What was prepared."""
        self.log.append("sent")
        return self.said

    async def set_aside(self, _case: Case, _call: Quarantine) -> Result:
        """Write the row."""
        self.log.append("set aside")
        return Done()

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.at += seconds

    def carry_out(self, call: Call = RERUN, **known: Any) -> Ended:
        """How an act ends of which so much is known."""
        fields: dict[str, Any] = dict.fromkeys(Act._fields) | {"state": ActState.INTENT, "intended": NOW, "tries": 0}
        one = Act(**{**fields, "call": call, "action": call.name, "charges": (), **known})
        case = Case(**{**dict.fromkeys(Case._fields, cast("Any", None)), "now": NOW, "case_id": "c"})
        carrier = Carrier(
            self,
            {(call.platform, call.instance): cast("Hands", self)},
            notify=self.notify,
            set_aside=self.set_aside,
            stopped=lambda: self.stopped,
            draw=lambda: 0.5,
            monotonic=lambda: self.at,
            sleep=self.sleep,
        )
        return asyncio.run(carrier.carry_out(case, one))


def settled(ended: Ended) -> tuple[ActState, str | None]:
    assert isinstance(ended, Settled), ended
    return ended.state, ended.reason


def test_a_run_is_read_and_written_down_before_it_is_asked_for() -> None:
    world = World()
    assert settled(world.carry_out()) == (ActState.DONE, None)
    assert world.log == ["read", "asking", "sent"]
    assert world.kept == FAILED


# --- answers


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        (says(301, location="https://elsewhere.example/"), (ActState.REFUSED, "moved")),
        (says(302, location="http://169.254.169.254/"), (ActState.REFUSED, "moved")),
        (says(307, location="http://169.254.169.254/"), (ActState.REFUSED, "moved")),
        (says(400), (ActState.REFUSED, "invalid")),
        (says(403), (ActState.REFUSED, "permission")),
        (says(404), (ActState.REFUSED, "not_found")),
        (says(409), (ActState.REFUSED, "state")),
        (says(410), (ActState.REFUSED, "not_found")),
        (says(422), (ActState.REFUSED, "invalid")),
    ],
    ids=lambda value: getattr(value, "status", None),
)
def test_a_no_that_will_not_pass_is_the_end(answer: Reply, end: tuple[ActState, str]) -> None:
    world = World(answer)
    assert settled(world.carry_out()) == end
    assert world.changes == 1


@pytest.mark.parametrize(
    ("answer", "why", "seconds"),
    [
        (says(401), Why.LOGIN, (0, 60)),
        (says(429), Why.PLATFORM_AWAY, (0, 60)),
        (says(429, retry_after="7"), Why.PLATFORM_AWAY, (7, 67)),
        (says(403, retry_after="30"), Why.PLATFORM_AWAY, (30, 90)),
        (Silence("no connection", sent=False), Why.PLATFORM_AWAY, (0, 60)),
    ],
    ids=["401", "429", "429 and when", "403 and when", "no connection"],
)
def test_what_surely_did_not_happen_is_asked_for_again_later(
    answer: Reply | Silence, why: Why, seconds: tuple[float, float]
) -> None:
    world = World(answer)
    ended = world.carry_out()
    assert isinstance(ended, Later)
    assert (ended.why, ended.asked) == (why, False)
    assert seconds[0] < ended.seconds < seconds[1]
    assert world.log == ["read", "asking", "sent", "not asked"]
    assert world.kept is None  # nothing of it can still come


AMBIGUOUS: Final = [
    says(500, b"oops"),
    says(502, b"<html>"),
    says(503, retry_after="1"),
    says(200, b"<html>Sign in</html>"),
    says(201, b'{"id": 1'),
    Silence("no answer in time", sent=True),
]


@pytest.mark.parametrize("answer", AMBIGUOUS)
def test_an_answer_that_says_nothing_is_followed_by_reading_what_happened(answer: Reply | Silence) -> None:
    world = World(answer, [FAILED, FAILED, AGAIN])
    ended = world.carry_out()
    assert settled(ended) == (ActState.DONE, None)
    assert isinstance(ended, Settled)
    assert ended.result == Done(already=True, attempt=3)
    assert world.log == ["read", "asking", "sent", "read", "read"]
    assert world.at > 0  # it was given some time


@pytest.mark.parametrize("answer", AMBIGUOUS)
def test_what_did_not_happen_after_all_is_asked_for_again_later_and_not_at_once(answer: Reply | Silence) -> None:
    world = World(answer, [FAILED])
    ended = world.carry_out()
    assert isinstance(ended, Later)
    assert not ended.asked
    assert world.changes == 1
    assert world.kept == FAILED  # it may still come


@pytest.mark.parametrize("tries", [2, 5])
def test_after_three_tries_it_is_given_up(tries: int) -> None:
    world = World(says(500), [FAILED])
    assert settled(world.carry_out(tries=tries)) == (ActState.DROPPED, "given_up")
    assert settled(World(says(401)).carry_out(tries=tries)) == (ActState.DROPPED, "given_up")
    assert isinstance(World(says(429, retry_after="7")).carry_out(tries=tries), Later)  # as often as it says when


def test_what_comes_late_of_an_earlier_request_is_ours_and_not_asked_for_again() -> None:
    world = World(looks=[AGAIN])
    assert settled(world.carry_out(before=FAILED, tries=1)) == (ActState.DONE, None)
    assert world.changes == 0
    cancel = World(looks=[CANCELLED])
    assert settled(cancel.carry_out(CANCEL, before=RUNNING, tries=1)) == (ActState.DONE, None)
    assert cancel.changes == 0


def test_a_request_that_is_repeated_is_compared_with_how_it_was_before_the_first() -> None:
    world = World(says(429), [FAILED])
    first = RunState(outcome=Outcome.FAILED, attempt=2)
    world.carry_out(before=first, tries=1)
    assert world.kept == first


def test_a_run_that_goes_on_when_it_is_asked_for_is_waited_for() -> None:
    world = World(says(409), [FAILED, RUNNING])
    ended = world.carry_out()
    assert isinstance(ended, Later)
    assert ended.why is Why.RUN_IN_PROGRESS
    assert world.log[-1] == "not asked"
    assert settled(World(says(409), [FAILED, AGAIN]).carry_out()) == (ActState.DROPPED, Why.ALREADY_RUN)
    assert settled(World(says(409), [FAILED, RUNNING]).carry_out(tries=2)) == (ActState.REFUSED, "state")


def test_what_comes_late_is_ours_though_the_platform_says_that_it_cannot_be_done_now() -> None:
    world = World(says(409), [FAILED, AGAIN])
    assert settled(world.carry_out(before=FAILED, tries=1)) == (ActState.DONE, None)


def test_whether_a_run_was_stopped_or_ended_by_itself_is_not_known_where_it_says_only_that_it_failed() -> None:
    unknown = (ActState.UNKNOWN, Why.UNKNOWN)
    assert settled(World(says(500), [RUNNING, FAILED]).carry_out(CANCEL)) == unknown
    assert settled(World(looks=[FAILED]).carry_out(CANCEL, asked=NOW - 120, before=RUNNING, tries=1)) == unknown
    assert settled(World(looks=[FAILED]).carry_out(CANCEL, before=RUNNING, tries=1)) == unknown
    assert settled(World(says(409), [RUNNING, FAILED]).carry_out(CANCEL, before=RUNNING, tries=1)) == unknown


# --- the world has moved on


@pytest.mark.parametrize(
    ("stands", "why"),
    [
        (RunState(outcome=Outcome.FAILED, attempt=2, commit_sha="a", head_sha="b"), Why.OVERTAKEN),
        (AGAIN, Why.ALREADY_RUN),
        (RunState(outcome=Outcome.PASSED, attempt=3, successor="3", by="ada"), Why.ALREADY_RUN),
        (RunState(outcome=Outcome.PASSED, attempt=2), Why.NOT_FAILED),
        (CANCELLED, Why.NOT_FAILED),
    ],
    ids=["newer commit", "higher attempt", "a person was faster", "passed", "called off"],
)
def test_what_makes_no_sense_any_more_is_dropped(stands: RunState, why: Why) -> None:
    world = World(looks=[stands])
    assert settled(world.carry_out()) == (ActState.DROPPED, why)
    assert world.log == ["read"]


def test_what_goes_on_still_is_waited_for() -> None:
    ended = World(looks=[RUNNING]).carry_out()
    assert ended == Later(Why.RUN_IN_PROGRESS, 15.0)


@pytest.mark.parametrize("stands", [FAILED, RunState(outcome=Outcome.PASSED, attempt=2)])
def test_what_has_ended_cannot_be_stopped(stands: RunState) -> None:
    world = World(looks=[stands])
    assert settled(world.carry_out(CANCEL)) == (ActState.DROPPED, Why.NOT_FAILED)
    assert world.changes == 0


@pytest.mark.parametrize(
    ("stop", "end"),
    [
        (Refused(Refusal.NOT_FOUND, "gone"), (ActState.REFUSED, "not_found")),
        (Refused(Refusal.PERMISSION, "no"), (ActState.REFUSED, "permission")),
        (Refused(Refusal.MOVED, "HTTP 301"), (ActState.REFUSED, "moved")),
    ],
)
def test_a_run_that_may_not_be_read_is_not_asked_for(stop: Stop, end: tuple[ActState, str]) -> None:
    world = World(looks=[stop])
    assert settled(world.carry_out()) == end
    assert world.changes == 0


@pytest.mark.parametrize(
    ("stop", "why"),
    [
        (Refused(Refusal.LOGIN, "HTTP 401"), Why.LOGIN),
        (Unavailable("HTTP 500"), Why.PLATFORM_AWAY),
        (Unavailable("HTTP 429", 7.0), Why.PLATFORM_AWAY),
    ],
)
def test_a_run_that_cannot_be_read_now_is_read_later(stop: Stop, why: Why) -> None:
    ended = World(looks=[stop]).carry_out()
    assert isinstance(ended, Later)
    assert ended.why is why


def test_the_longer_a_platform_is_away_the_less_it_is_asked() -> None:
    waits = []
    for seconds in (0, 30, 600):
        ended = World(looks=[Unavailable("HTTP 500")]).carry_out(intended=NOW - seconds)
        assert isinstance(ended, Later)
        waits.append(ended.seconds)
    assert waits == sorted(waits)
    assert waits[0] < 2
    assert waits[-1] == 30.0  # half of a minute, by the draw


# --- somebody died over it


def test_a_healer_that_died_after_the_effect_leaves_nothing_to_do() -> None:
    world = World(looks=[AGAIN])
    assert settled(world.carry_out(asked=NOW - 120, before=FAILED, tries=1)) == (ActState.DONE, None)
    assert world.changes == 0


def test_a_healer_that_died_before_the_effect_is_followed_by_one_that_waits_and_then_asks() -> None:
    world = World(looks=[FAILED])
    ended = world.carry_out(asked=NOW - 120, before=FAILED, tries=1)
    assert isinstance(ended, Later)
    assert (ended.asked, world.changes, world.log[-1]) == (False, 0, "not asked")


def test_where_nobody_can_read_what_happened_it_is_tried_for_hours_and_never_asked_for_again() -> None:
    for stop in (Unavailable("HTTP 500"), Refused(Refusal.LOGIN, "HTTP 401")):
        world = World(looks=[stop])
        ended = world.carry_out(asked=NOW - 120, before=FAILED, tries=1)
        assert isinstance(ended, Later)
        assert ended.asked
        assert "not asked" not in world.log
        late = world.carry_out(asked=NOW - 7 * 3600, before=FAILED, tries=1)
        assert settled(late) == (ActState.UNKNOWN, Why.UNKNOWN)
    gone = World(looks=[Refused(Refusal.NOT_FOUND, "gone")]).carry_out(asked=NOW - 120, before=FAILED, tries=1)
    assert settled(gone) == (ActState.UNKNOWN, Why.UNKNOWN)


def test_who_loses_the_case_while_reading_says_nothing_of_it() -> None:
    world = World(says(500), [FAILED])
    world.renewed = False
    assert world.carry_out() is None
    assert "not asked" not in world.log


@pytest.mark.parametrize("answer", [says(202, {}), says(500)])
def test_a_stop_that_took_effect_is_done_whatever_was_answered(answer: Reply) -> None:
    world = World(answer, [RUNNING, RUNNING, CANCELLED])
    assert settled(world.carry_out(CANCEL)) == (ActState.DONE, None)
    assert world.changes == 1


def test_what_can_be_repeated_and_not_be_read_is_repeated_a_few_times() -> None:
    call = next(call for call in calls("github").values() if isinstance(call, Comment))
    assert isinstance(World(says(500)).carry_out(call), Later)
    assert settled(World(says(500)).carry_out(call, tries=2)) == (ActState.UNKNOWN, Why.UNKNOWN)
    assert isinstance(World().carry_out(call, asked=NOW - 9, tries=1), Later)


# --- stop, and what is not ours


def test_a_stop_between_reading_and_asking_keeps_it_from_being_asked() -> None:
    world = World()
    world.stopped = True
    assert world.carry_out() == Later(Why.STOPPED, 5.0)
    assert world.log == ["read"]


def test_a_stop_while_a_token_is_fetched_keeps_it_from_being_asked() -> None:
    world = World()
    world.before_sending = lambda: setattr(world, "stopped", True)
    assert world.carry_out() == Later(Why.STOPPED, 5.0)
    assert (world.changes, world.log) == (0, ["read", "asking", "not asked"])


def test_who_was_asleep_for_half_a_lease_asks_for_nothing() -> None:
    world = World()
    world.before_sending = lambda: setattr(world, "at", 60.0)
    assert world.carry_out() is None
    assert (world.changes, world.log) == (0, ["read", "asking", "not asked"])


def test_what_is_not_ours_any_more_is_not_asked_for() -> None:
    world = World()
    world.ours = False
    assert world.carry_out() is None
    assert world.changes == 0


def test_what_no_platform_or_credential_can_do_is_dropped() -> None:
    elsewhere = calls("gitlab")["rerun"]
    assert settled(World().carry_out(elsewhere)) == (ActState.DROPPED, Why.NO_ACTION)
    nobody: Any = {
        "notify": World().notify,
        "set_aside": World().set_aside,
        "stopped": lambda: False,
        "draw": lambda: 0.5,
    }
    unknown = Carrier(World(), {}, **nobody)
    fields: dict[str, Any] = dict.fromkeys(Act._fields) | {"call": RERUN, "action": "rerun", "state": ActState.INTENT}
    ended = asyncio.run(unknown.carry_out(cast("Case", None), Act(**fields)))
    assert settled(ended) == (ActState.DROPPED, Why.NO_ACTION)


# --- people


def test_people_are_told_once() -> None:
    world = World()
    assert settled(world.carry_out(NOTIFY)) == (ActState.DONE, None)
    assert world.log == ["asking", "sent"]
    assert settled(world.carry_out(NOTIFY, asked=NOW, tries=1)) == (ActState.UNKNOWN, Why.UNKNOWN)
    assert world.log.count("sent") == 1


@pytest.mark.parametrize(
    ("said", "end"),
    [
        (Refused(Refusal.IMPOSSIBLE, "nobody"), (ActState.REFUSED, "impossible")),
        (Ambiguous("no answer"), (ActState.UNKNOWN, Why.UNKNOWN)),
    ],
)
def test_what_became_of_telling_people(said: Result, end: tuple[ActState, str]) -> None:
    world = World()
    world.said = said
    assert settled(world.carry_out(NOTIFY)) == end


def test_people_who_cannot_be_told_now_are_told_later_and_at_last_not() -> None:
    world = World()
    world.said = Unavailable("no connection")
    assert isinstance(world.carry_out(NOTIFY), Later)
    assert settled(world.carry_out(NOTIFY, tries=2)) == (ActState.DROPPED, Why.GIVEN_UP)
    world.stopped = True
    assert world.carry_out(NOTIFY) == Later(Why.STOPPED, 5.0)


QUARANTINE: Final = Quarantine(
    platform="github",
    instance="main",
    repository="acme/shop",
    pipeline_id="1",
    workflow="CI",
    job_name="test",
    hours=24,
    why="FlakyTest: it flips",
)


def test_what_is_set_aside_is_a_row_of_ours_written_again_after_a_crash() -> None:
    world = World()
    assert settled(world.carry_out(QUARANTINE)) == (ActState.DONE, None)
    assert settled(world.carry_out(QUARANTINE, asked=NOW, tries=1)) == (ActState.DONE, None)
    assert world.log == ["asking", "set aside", "set aside"]
    world.ours = False
    assert world.carry_out(QUARANTINE) is None
    world.stopped = True
    assert world.carry_out(QUARANTINE) == Later(Why.STOPPED, 5.0)


@pytest.mark.parametrize("name", ["comment", "open_issue", "clear_caches"])
def test_what_does_not_move_the_run_is_asked_for_without_reading_it(name: str) -> None:
    world = World()
    call = next(call for call in calls("github").values() if call.name == name)
    assert settled(world.carry_out(call)) == (ActState.DONE, None)
    assert "read" not in world.log
