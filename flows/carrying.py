"""Carrying out one act: read the run, ask, and where nobody knows whether it happened, find out.

    read      the run as it stands now: a person was faster, the branch has moved on, it goes on still: nothing is asked
    fence     before the request is a row that says that it goes out, and that only we may send it
    ask       once; the last thing before that is a look at the kill switch and at how much of the lease is left
    find out  after an answer that may have come too late, and after a healer that died in between: the run is read
              again, and only what did not happen is ever asked for again

Nothing is retried blindly: see connectors/platforms/acting.py for what an answer means.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple, Protocol, TypeAlias

from analytics.guards import happened, moved_on, told_by_reading
from connectors.backoff import pause
from connectors.platforms import PLATFORMS
from connectors.platforms.acting import Acting, Send
from connectors.platforms.platform import Platform
from connectors.postgres_ledger import Act, Case
from flows.acting_apis import Hands, Way
from models.records.calls import (
    Ambiguous,
    Call,
    Cancel,
    Done,
    Notify,
    Quarantine,
    Refusal,
    Refused,
    Result,
    RunState,
    Unavailable,
)
from models.records.event import OPEN
from models.records.ledger import ActState, Why

_TRIES: Final = 3
_GOES_ON_SECONDS: Final = 15.0
_STOPPED_SECONDS: Final = 5.0
_FIRST_PAUSE_SECONDS: Final = 2.0
_LONGEST_PAUSE_SECONDS: Final = 60.0
_FOUND_OUT_WITHIN_SECONDS: Final = 6 * 3600.0
_LOOKS_SECONDS: Final = (0.5, 2.0, 5.0)
"""How long after an answer that says nothing the run is read, and again."""


class Settled(NamedTuple):
    """It is known what became of it."""

    state: ActState
    reason: str | None
    result: Result | None


class Later(NamedTuple):
    """It is to be looked at again in so many seconds. `asked`: nobody knows yet whether it happened."""

    why: Why
    seconds: float
    asked: bool = False


Ended: TypeAlias = Settled | Later | None
"""What a visit to an act came to; None: the case is not ours any more."""


class Book(Protocol):
    """What is written down on the way; each comes back only when it is durable."""

    async def renew(self, case: Case) -> bool:
        """Have the case for another lease."""

    async def asking(self, case: Case, act: Act, before: RunState | None) -> float | None:
        """Note that the request goes out now; until when it may, by the monotonic clock. None: it must not."""

    async def not_asked(self, case: Case, act: Act, before: RunState | None) -> None:
        """Note that nothing came of it; `before`: how the run stood before a request of which something may yet."""


class Carrier:
    """Carries out acts. `stopped` is the kill switch, asked before anything that has an effect goes out."""

    def __init__(
        self,
        book: Book,
        hands: Mapping[Way, Hands],
        *,
        notify: Callable[[Notify], Awaitable[Result]],
        set_aside: Callable[[Case, Quarantine], Awaitable[Result]],
        stopped: Callable[[], bool],
        draw: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._book = book
        self._hands = hands
        self._notify = notify
        self._set_aside = set_aside
        self._stopped = stopped
        self._draw = draw
        self._monotonic = monotonic
        self._sleep = sleep

    async def carry_out(self, case: Case, act: Act) -> Ended:
        """Bring `act` as far as it can be brought now."""
        if isinstance(act.call, Notify | Quarantine):
            ourselves = self._tell_people if isinstance(act.call, Notify) else self._put_aside
            return await ourselves(case, act)
        hands = self._hands.get((act.call.platform, act.call.instance))
        platform = PLATFORMS[act.call.platform]
        talk = platform.ask(act.call)
        if hands is None or talk is None:
            return Settled(ActState.DROPPED, Why.NO_ACTION, None)
        talk.close()
        way = _Way(hands, platform, case, act)
        if act.asked is not None:
            return await self._found_out(way, act.before)
        stood = await self._looked(way) if act.call.moves_run else None
        return stood if isinstance(stood, Settled | Later) else await self._ask(way, stood)

    async def _looked(self, way: _Way) -> RunState | Settled | Later:
        """How the run stands, if it stands so that it may be asked for."""
        act, state = way.act, await self._read(way)
        if not isinstance(state, RunState):
            return self._unread(way, state)
        late = None if act.before is None else _became(act.call, act.before, state)
        if late is not None:
            return late
        why = moved_on(act.call, state)
        if why is Why.RUN_IN_PROGRESS:
            return Later(why, _GOES_ON_SECONDS)
        return state if why is None else Settled(ActState.DROPPED, why, None)

    async def _ask(self, way: _Way, before: RunState | None) -> Ended:
        case, act = way.case, way.act
        if self._stopped():
            return Later(Why.STOPPED, _STOPPED_SECONDS)
        until = await self._book.asking(case, act, act.before or before)
        if until is None:
            return None
        gate = _Gate(self._stopped, lambda: self._monotonic() >= until)
        result = await way.hands.hold(gate.through(way.talk()), act.call.repository, calls=(act.action,))
        if gate.shut:
            await self._book.not_asked(case, act, act.before)
            return Later(Why.STOPPED, _STOPPED_SECONDS) if self._stopped() else None
        return await self._answered(way._replace(act=act._replace(tries=act.tries + 1)), before, result)

    async def _answered(self, way: _Way, before: RunState | None, result: Result) -> Ended:
        act = way.act
        match result:
            case Done():
                return Settled(ActState.DONE, None, result)
            case Refused(refusal=Refusal.STATE):
                return await self._stands_otherwise(way, result)
            case Refused(refusal=Refusal.LOGIN):
                return await self._again(way, act.before, None, Why.LOGIN)
            case Refused():
                return Settled(ActState.REFUSED, result.refusal, result)
            case Unavailable():
                return await self._again(way, act.before, result.retry_after)
            case Ambiguous():
                return await self._found_out(way, act.before or before)

    async def _stands_otherwise(self, way: _Way, refused: Refused) -> Ended:
        """The platform says that the run does not stand so that it could be done: perhaps it only goes on still."""
        act = way.act
        state = await self._read(way)
        if act.before is not None and isinstance(state, RunState):
            late = _became(act.call, act.before, state)
            if late is not None:
                return late
        why = moved_on(act.call, state) if isinstance(state, RunState) else None
        if why is Why.RUN_IN_PROGRESS and act.tries < _TRIES:
            await self._book.not_asked(way.case, act, act.before)
            return Later(why, _GOES_ON_SECONDS)
        if why is not None and why is not Why.RUN_IN_PROGRESS:
            return Settled(ActState.DROPPED, why, refused)
        return Settled(ActState.REFUSED, refused.refusal, refused)

    async def _found_out(self, way: _Way, before: RunState | None) -> Ended:
        """Whether it happened, after an answer that does not say so."""
        case, act = way.case, way.act
        if not told_by_reading(act.call):  # what is repeatable
            if act.tries >= _TRIES:
                return Settled(ActState.UNKNOWN, Why.UNKNOWN, None)
            return await self._again(way, None, None)
        said: Refused | Unavailable | Ambiguous | None = None
        seen = False
        for seconds in _LOOKS_SECONDS:
            await self._sleep(seconds)
            if not await self._book.renew(case):
                return None
            state = await self._read(way)
            if not isinstance(state, RunState):
                said = state
                continue
            seen = True
            became = _became(act.call, before, state)
            if became is not None:
                return became
        return await self._again(way, before, None) if seen else self._unseen(way, said)

    def _unseen(self, way: _Way, said: Refused | Unavailable | Ambiguous | None) -> Ended:
        """It may have happened, and the run cannot be read: that is tried again for hours, and then given up."""
        refused = isinstance(said, Refused) and said.refusal is not Refusal.LOGIN
        if refused or way.case.now - (way.act.asked or way.case.now) > _FOUND_OUT_WITHIN_SECONDS:
            return Settled(ActState.UNKNOWN, Why.UNKNOWN, said)
        return Later(Why.PLATFORM_AWAY, _LONGEST_PAUSE_SECONDS, asked=True)

    async def _again(
        self, way: _Way, before: RunState | None, after: float | None, why: Why = Why.PLATFORM_AWAY
    ) -> Ended:
        """It did not happen, and may be asked for again, a few times; as often as the platform says when."""
        if way.act.tries >= _TRIES and after is None:
            return Settled(ActState.DROPPED, Why.GIVEN_UP, None)
        await self._book.not_asked(way.case, way.act, before)
        return Later(why, self._wait(way, after))

    def _unread(self, way: _Way, stop: Refused | Unavailable | Ambiguous) -> Settled | Later:
        if isinstance(stop, Refused):
            if stop.refusal is Refusal.LOGIN:  # whoever set it up can mend it, and nothing is lost until then
                return Later(Why.LOGIN, _LONGEST_PAUSE_SECONDS)
            return Settled(ActState.REFUSED, stop.refusal, stop)
        return Later(Why.PLATFORM_AWAY, self._wait(way, stop.retry_after))

    def _wait(self, way: _Way, after: float | None) -> float:
        """For how long: the longer, the more often it was asked for, and the longer it has waited already."""
        waited = max(0.0, way.case.now - way.act.intended)
        first = max(_FIRST_PAUSE_SECONDS, waited / 2)
        spread = pause(way.act.tries + 1, self._draw(), first=first, longest=_LONGEST_PAUSE_SECONDS)
        return (after or 0.0) + spread

    async def _read(self, way: _Way) -> RunState | Refused | Unavailable | Ambiguous:
        call = way.act.call
        return await way.hands.hold(way.platform.look(call), call.repository)

    async def _put_aside(self, case: Case, act: Act) -> Ended:
        """Nobody is asked for it: it is a row of our own, which is there once however often it is written."""
        if self._stopped():
            return Later(Why.STOPPED, _STOPPED_SECONDS)
        if act.asked is None and await self._book.asking(case, act, None) is None:
            return None
        assert isinstance(act.call, Quarantine)
        return Settled(ActState.DONE, None, await self._set_aside(case, act.call))

    async def _tell_people(self, case: Case, act: Act) -> Ended:
        if self._stopped():
            return Later(Why.STOPPED, _STOPPED_SECONDS)
        if act.asked is not None:
            return Settled(ActState.UNKNOWN, Why.UNKNOWN, None)  # said twice is worse than perhaps not said
        if await self._book.asking(case, act, None) is None:
            return None
        assert isinstance(act.call, Notify)
        result = await self._notify(act.call)
        match result:
            case Done():
                return Settled(ActState.DONE, None, result)
            case Refused():
                return Settled(ActState.REFUSED, result.refusal, result)
            case Ambiguous():
                return Settled(ActState.UNKNOWN, Why.UNKNOWN, result)
            case Unavailable(retry_after=after) if act.tries + 1 < _TRIES or after is not None:
                await self._book.not_asked(case, act, None)
                return Later(Why.PLATFORM_AWAY, (after or 0.0) + _FIRST_PAUSE_SECONDS * 2**act.tries)
            case Unavailable():
                return Settled(ActState.DROPPED, Why.GIVEN_UP, None)


class _Way(NamedTuple):
    """By whom what is asked, on whose behalf."""

    hands: Hands
    platform: Platform
    case: Case
    act: Act

    def talk(self) -> Acting:
        """The conversation that carries it out."""
        talk = self.platform.ask(self.act.call)
        assert talk is not None
        return talk


class _Gate:
    """Lets a conversation pass until something is to be changed and must not be any more: it is the last to be asked.

    A token may have had to be fetched in between, or this process may have been stopped for a while.
    """

    def __init__(self, *shut: Callable[[], bool]) -> None:
        self.shut = False
        self._shut = shut

    def through(self, talk: Acting) -> Acting:
        """`talk`, ended before it changes anything if the gate is shut by then."""
        try:
            step = next(talk)
            while True:
                if isinstance(step, Send) and step.changes and any(shut() for shut in self._shut):
                    self.shut = True
                    return Unavailable("it may not be asked for any more", 0.0)
                step = talk.send((yield step))
        except StopIteration as ended:
            result: Result = ended.value
            return result
        finally:
            talk.close()


def _became(call: Call, before: RunState | None, state: RunState) -> Settled | None:
    """What became of a request that may have got through, as far as its run shows; None: nothing yet."""
    if happened(call, before, state):
        return Settled(ActState.DONE, None, _made(call, state))
    if isinstance(call, Cancel) and state.outcome not in OPEN:
        # A run that was stopped after some of its jobs had failed may be called failed, as one that ended by itself is.
        return Settled(ActState.UNKNOWN, Why.UNKNOWN, None)
    return None


def _made(call: Call, state: RunState) -> Done:
    """What a rerun made that nobody told us of, as far as the run tells."""
    return Done(
        already=True,
        attempt=state.attempt if call.platform == "github" else None,
        job_id=state.successor if call.platform == "gitlab" else None,
        workflow_id=state.successor if call.platform == "circleci" else None,
    )
