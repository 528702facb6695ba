"""The breaker as a story, and as a machine that hypothesis drives against a plain model of what it promises."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from connectors.breaker import Breaker, Permit, Rules, State

RULES = Rules(
    window_seconds=10.0,
    least_calls=4,
    failure_share=0.5,
    slow_seconds=5.0,
    slow_share=0.8,
    first_pause_seconds=2.0,
    longest_pause_seconds=8.0,
    probes=2,
)


def call(breaker: Breaker, now: float, *, fails: bool = False, seconds: float = 0.1) -> None:
    permit = breaker.admit(now)
    assert permit is not None
    if fails:
        breaker.failed(permit, now)
    else:
        breaker.answered(permit, now, seconds)


def opened(at: float = 0.0) -> Breaker:
    breaker = Breaker(RULES)
    for _ in range(4):
        call(breaker, at, fails=True)
    assert breaker.state(at) is State.OPEN
    return breaker


def test_few_failures_prove_nothing() -> None:
    breaker = Breaker(RULES)
    for _ in range(3):
        call(breaker, 0.0, fails=True)
    assert breaker.state(0.0) is State.CLOSED


def test_half_of_the_calls_failing_opens_it_and_fewer_do_not() -> None:
    breaker = Breaker(RULES)
    for n in range(20):
        call(breaker, 0.0, fails=n % 3 == 2)
    assert breaker.state(0.0) is State.CLOSED
    for _ in range(7):
        call(breaker, 0.0, fails=True)
    assert breaker.state(0.0) is State.CLOSED
    call(breaker, 0.0, fails=True)
    assert breaker.state(0.0) is State.OPEN


def test_what_failed_before_the_window_is_forgotten() -> None:
    breaker = Breaker(RULES)
    for _ in range(3):
        call(breaker, 0.0, fails=True)
    call(breaker, 10.0, fails=True)
    assert breaker.state(10.0) is State.CLOSED


def test_calls_that_are_slow_open_it_too() -> None:
    breaker = Breaker(RULES)
    for _ in range(3):
        call(breaker, 0.0, seconds=5.1)
    assert breaker.state(0.0) is State.CLOSED
    call(breaker, 0.0, seconds=5.1)
    assert breaker.state(0.0) is State.OPEN


def test_open_lets_nothing_through_until_the_pause_is_over_and_says_how_long_that_is() -> None:
    breaker = opened()
    assert breaker.admit(1.9) is None
    assert breaker.wait(0.5) == 1.5
    assert breaker.wait(2.0) == 0.0
    assert breaker.state(2.0) is State.HALF_OPEN


def test_as_many_probes_as_are_let_through_close_it() -> None:
    breaker = opened()
    first, second = breaker.admit(2.0), breaker.admit(2.0)
    assert first is not None
    assert second is not None
    assert breaker.admit(2.0) is None
    breaker.answered(first, 2.1, 0.1)
    assert breaker.state(2.1) is State.HALF_OPEN
    assert breaker.admit(2.1) is None
    breaker.answered(second, 2.2, 0.1)
    assert breaker.state(2.2) is State.CLOSED


def test_one_probe_that_fails_opens_it_for_twice_as_long_up_to_the_longest() -> None:
    breaker, now = opened(), 0.0
    for wait in (2.0, 4.0, 8.0, 8.0):
        assert breaker.wait(now) == wait
        now += wait
        call(breaker, now, fails=True)
    call(breaker, now + 8.0)
    call(breaker, now + 8.0)
    for _ in range(4):
        call(breaker, now + 8.0, fails=True)
    assert breaker.wait(now + 8.0) == 2.0


def test_a_probe_given_up_makes_room_for_another() -> None:
    breaker = opened()
    permits = [breaker.admit(2.0), breaker.admit(2.0)]
    assert breaker.admit(2.0) is None
    assert permits[0] is not None
    breaker.dropped(permits[0])
    assert breaker.admit(2.0) is not None


def test_what_becomes_of_a_call_counts_only_in_the_state_it_was_let_through_in() -> None:
    breaker = Breaker(RULES)
    late = [breaker.admit(0.0) for _ in range(6)]
    for _ in range(4):
        call(breaker, 0.0, fails=True)
    probe = breaker.admit(2.0)
    for permit in late:
        assert permit is not None
        breaker.answered(permit, 2.0, 0.1)
        breaker.failed(permit, 2.0)
    assert breaker.state(2.0) is State.HALF_OPEN
    assert probe is not None
    breaker.failed(probe, 2.0)
    assert breaker.state(2.0) is State.OPEN


def test_retry_after_holds_whatever_the_state_and_is_no_failure() -> None:
    breaker = Breaker(RULES)
    breaker.hold(0.0, 30.0)
    breaker.hold(1.0, 5.0)
    assert breaker.state(0.0) is State.CLOSED
    assert breaker.admit(29.9) is None
    assert breaker.wait(10.0) == 20.0
    assert breaker.admit(30.0) is not None


class Driven(RuleBasedStateMachine):
    """Any calls, in any order, with any ends: what the breaker promises holds after each step."""

    @initialize()
    def begin(self) -> None:
        """A closed breaker, and nothing out."""
        self.breaker = Breaker(RULES)
        self.now = 0.0
        self.out: list[Permit] = []
        self.held_until = 0.0
        self.opened_at: float | None = None

    def _seen(self, before: State) -> None:
        after = self.breaker.state(self.now)
        if after is State.OPEN and before is not State.OPEN:
            self.opened_at = self.now

    @rule(seconds=st.floats(0, 20))
    def time_passes(self, seconds: float) -> None:
        """The clock goes on."""
        self.now += seconds

    @rule()
    def asks(self) -> None:
        """A call is let through, or is not."""
        state, wait = self.breaker.state(self.now), self.breaker.wait(self.now)
        permit = self.breaker.admit(self.now)
        if permit is None:
            assert state is not State.CLOSED or self.now < self.held_until
        else:
            assert state is not State.OPEN
            assert wait == 0
            assert self.now >= self.held_until
            self.out.append(permit)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), seconds=st.floats(0, 10))
    def one_is_answered(self, data: st.DataObject, seconds: float) -> None:
        """A call that is out is answered."""
        before = self.breaker.state(self.now)
        self.breaker.answered(self._one(data), self.now, seconds)
        self._seen(before)
        if before is State.OPEN:
            assert self.breaker.state(self.now) is State.OPEN

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def one_fails(self, data: st.DataObject) -> None:
        """A call that is out fails."""
        before, permit = self.breaker.state(self.now), self._one(data)
        stale = permit.period != self.breaker._period
        self.breaker.failed(permit, self.now)
        self._seen(before)
        after = self.breaker.state(self.now)
        assert after is before or after is State.OPEN
        assert not stale or after is before

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def one_is_given_up(self, data: st.DataObject) -> None:
        """A call that is out is given up."""
        before = self.breaker.state(self.now)
        self.breaker.dropped(self._one(data))
        assert self.breaker.state(self.now) is before

    @rule(seconds=st.floats(0, 60))
    def it_is_told_to_wait(self, seconds: float) -> None:
        """The other side names an end to its patience."""
        self.breaker.hold(self.now, seconds)
        self.held_until = max(self.held_until, self.now + seconds)

    def _one(self, data: st.DataObject) -> Permit:
        return self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))

    @invariant()
    def an_open_one_is_tried_again_before_long(self) -> None:
        """No state lasts longer than its pause or what we were told."""
        if self.breaker.state(self.now) is State.OPEN:
            assert self.opened_at is not None
            assert self.now < self.opened_at + RULES.longest_pause_seconds
        wait = self.breaker.wait(self.now)
        assert 0 <= wait <= max(RULES.longest_pause_seconds, self.held_until - self.now)

    def teardown(self) -> None:
        """Whatever happened: once all calls are back and all answer again, it closes within a few seconds."""
        for permit in self.out:
            self.breaker.dropped(permit)
        self.now = max(self.now, self.held_until) + RULES.longest_pause_seconds
        for _ in range(RULES.probes):
            probe = self.breaker.admit(self.now)
            if probe is not None:
                self.breaker.answered(probe, self.now, 0.1)
        assert self.breaker.state(self.now) is State.CLOSED


Driven.TestCase.settings = settings(deadline=None, stateful_step_count=40)
TestDriven = Driven.TestCase
