"""A circuit breaker: asks no more for a while where asking does not help.

    closed ----- too many of the last calls failed, or were slow -----> open
      ^                                                                  | a pause, doubled each time
      +--- as many probes answered as were let through --- half open <---+
                                                              |
                                                              +--- one of them failed ---> open

A pure state machine: time is a parameter, in seconds of any clock that never goes back. It judges one thing that can be
broken by itself: one platform, at one host, with one credential. What the other side names as the end of its patience
(Retry-After) is not a failure; nothing is let through before, whatever the state.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

_BUCKETS: Final = 10


class State(IntEnum):
    """Where a breaker stands; the number is what its metric shows."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


@dataclass(frozen=True, slots=True)
class Rules:
    """When it opens and for how long."""

    window_seconds: float = 20.0  # calls that ended in it are judged
    least_calls: int = 8  # fewer prove nothing
    failure_share: float = 0.5
    slow_seconds: float = 10.0  # a call that took longer was slow
    slow_share: float = 0.8
    first_pause_seconds: float = 2.0
    longest_pause_seconds: float = 30.0
    probes: int = 2  # let through at once while it is half open; as many must answer


class Permit(NamedTuple):
    """One call that was let through. What becomes of it counts only while the state is the one it was given in."""

    period: int


class _Bucket:
    """What ended within one tenth of the window."""

    __slots__ = ("calls", "failures", "number", "slow")

    def __init__(self, number: int) -> None:
        self.number = number
        self.calls = self.failures = self.slow = 0


class Breaker:
    """One breaker. Every permit comes back by exactly one of `answered`, `failed` and `dropped`."""

    def __init__(self, rules: Rules | None = None) -> None:
        self._rules = rules or Rules()
        self._state = State.CLOSED
        self._period = 0  # counts changes of state
        self._opened = 0  # in a row without having been closed
        self._ends = 0.0  # of the pause
        self._held_until = float("-inf")
        self._out = 0  # probes under way
        self._answered = 0  # probes
        self._buckets: deque[_Bucket] = deque()

    def state(self, now: float) -> State:
        """Where it stands; a pause that is over makes it half open."""
        if self._state is State.OPEN and now >= self._ends:
            self._change(State.HALF_OPEN)
        return self._state

    def admit(self, now: float) -> Permit | None:
        """Leave to make one call now; None: not now, see `wait`."""
        if now < self._held_until:
            return None
        state = self.state(now)
        if state is State.OPEN:
            return None
        if state is State.HALF_OPEN:
            if self._out + self._answered >= self._rules.probes:
                return None
            self._out += 1
        return Permit(self._period)

    def wait(self, now: float) -> float:
        """In how many seconds it makes sense to ask for leave again; 0 where that depends on probes under way."""
        ends = self._ends if self.state(now) is State.OPEN else now
        return max(ends, self._held_until, now) - now

    def answered(self, permit: Permit, now: float, seconds: float) -> None:
        """A call was answered, after `seconds`."""
        if permit.period != self._period:
            return
        if self._state is State.HALF_OPEN:
            self._out -= 1
            self._answered += 1
            if self._answered >= self._rules.probes:
                self._opened = 0
                self._change(State.CLOSED)
            return
        self._count(now, slow=seconds > self._rules.slow_seconds)

    def failed(self, permit: Permit, now: float) -> None:
        """A call failed: no answer, or one that says that the other side is broken."""
        if permit.period != self._period:
            return
        if self._state is State.HALF_OPEN:
            self._open(now)
            return
        self._count(now, failed=True)

    def dropped(self, permit: Permit) -> None:
        """Nothing is known of a call: it was not made, or given up by us."""
        if permit.period == self._period and self._state is State.HALF_OPEN:
            self._out -= 1

    def hold(self, now: float, seconds: float) -> None:
        """Let nothing through for `seconds`: the other side asked for that."""
        self._held_until = max(self._held_until, now + seconds)

    def _count(self, now: float, *, failed: bool = False, slow: bool = False) -> None:
        rules, number = self._rules, int(now / self._rules.window_seconds * _BUCKETS)
        while self._buckets and self._buckets[0].number <= number - _BUCKETS:
            self._buckets.popleft()
        if not self._buckets or self._buckets[-1].number != number:
            self._buckets.append(_Bucket(number))
        bucket = self._buckets[-1]
        bucket.calls += 1
        bucket.failures += failed
        bucket.slow += slow
        calls = sum(b.calls for b in self._buckets)
        if calls < rules.least_calls or not (failed or slow):
            return
        failures, slows = sum(b.failures for b in self._buckets), sum(b.slow for b in self._buckets)
        if failures >= rules.failure_share * calls or failures + slows >= rules.slow_share * calls:
            self._open(now)

    def _open(self, now: float) -> None:
        rules = self._rules
        pause = min(rules.first_pause_seconds * 2.0 ** min(self._opened, 64), rules.longest_pause_seconds)
        self._opened += 1
        self._ends = now + pause
        self._change(State.OPEN)

    def _change(self, state: State) -> None:
        self._state = state
        self._period += 1
        self._out = self._answered = 0
        self._buckets.clear()
