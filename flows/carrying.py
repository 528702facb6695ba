"""Carrying out one act: read the run, ask, and where nobody knows whether it happened, find out.

    read      the run as it stands now: a person was faster, the branch has moved on, it goes on still: nothing is asked
    fence     the last thing before the request is a row that says that it goes out, and that only we may send it
    ask       once
    find out  after an answer that may have come too late, and after a healer that died in between: the run is read
              again, and only what did not happen is ever asked for again

Nothing is retried blindly: see connectors/platforms/acting.py for what an answer means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple, Protocol, TypeAlias

from analytics.guards import happened, moved_on
from connectors.backoff import pause
from connectors.platforms import PLATFORMS
from connectors.platforms.platform import Platform
from connectors.postgres_ledger import Act, Case
from flows.acting_apis import Hands, Way
from models.records.calls import (
    Ambiguous,
    Call,
    Done,
    Notify,
    Quarantine,
    Refusal,
    Refused,
    Result,
    RunState,
    Unavailable,
)
from models.records.ledger import ActState, Why

_TRIES: Final = 3
_GOES_ON_SECONDS: Final = 15.0
_STOPPED_SECONDS: Final = 5.0
_FIRST_PAUSE_SECONDS: Final = 2.0
_LONGEST_PAUSE_SECONDS: Final = 60.0
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

    async def asking(self, case: Case, act: Act, before: RunState | None) -> bool:
        """Note that the request goes out now; False: it must not."""

    async def not_asked(self, case: Case, act: Act) -> None:
        """Note that nothing came of it."""


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
    ) -> None:
        self._book = book
        self._hands = hands
        self._notify = notify
        self._set_aside = set_aside
        self._stopped = stopped
        self._draw = draw

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
        if act.asked is not None:
            return await self._found_out(hands, platform, case, act, act.before)
        if not act.call.moves_run:
            return await self._ask(hands, platform, case, act, None)
        state = await self._read(hands, platform, act.call)
        if not isinstance(state, RunState):
            return self._unread(act, state)
        why = moved_on(act.call, state)
        if why is Why.RUN_IN_PROGRESS:
            return Later(why, _GOES_ON_SECONDS)
        if why is not None:
            return Settled(ActState.DROPPED, why, None)
        return await self._ask(hands, platform, case, act, state)

    async def _ask(self, hands: Hands, platform: Platform, case: Case, act: Act, before: RunState | None) -> Ended:
        if self._stopped():
            return Later(Why.STOPPED, _STOPPED_SECONDS)
        if not await self._book.asking(case, act, before):
            return None
        talk = platform.ask(act.call)
        assert talk is not None
        result = await hands.hold(talk, act.call.repository, calls=(act.action,))
        act = act._replace(tries=act.tries + 1)
        match result:
            case Done():
                return Settled(ActState.DONE, None, result)
            case Refused(refusal=Refusal.STATE):
                return await self._stands_otherwise(hands, platform, case, act, result)
            case Refused():
                return Settled(ActState.REFUSED, result.refusal, result)
            case Unavailable():
                return await self._again(case, act, result.retry_after)
            case Ambiguous():
                return await self._found_out(hands, platform, case, act, before)

    async def _stands_otherwise(
        self, hands: Hands, platform: Platform, case: Case, act: Act, refused: Refused
    ) -> Ended:
        """The platform says that the run does not stand so that it could be done: perhaps it only goes on still."""
        state = await self._read(hands, platform, act.call)
        why = moved_on(act.call, state) if isinstance(state, RunState) else None
        if why is Why.RUN_IN_PROGRESS and act.tries < _TRIES:
            await self._book.not_asked(case, act)
            return Later(why, _GOES_ON_SECONDS)
        if why is not None and why is not Why.RUN_IN_PROGRESS:
            return Settled(ActState.DROPPED, why, refused)
        return Settled(ActState.REFUSED, refused.refusal, refused)

    async def _found_out(
        self, hands: Hands, platform: Platform, case: Case, act: Act, before: RunState | None
    ) -> Ended:
        """Whether it happened, after an answer that does not say so."""
        if act.call.repeatable:
            return await self._again(case, act, None)
        seen: RunState | None = None
        for seconds in _LOOKS_SECONDS:
            await asyncio.sleep(seconds)
            if not await self._book.renew(case):
                return None
            state = await self._read(hands, platform, act.call)
            if isinstance(state, RunState):
                seen = state
                if happened(before, state):
                    return Settled(ActState.DONE, None, _made(act.call, state))
        if seen is None:
            return Later(Why.PLATFORM_AWAY, _LONGEST_PAUSE_SECONDS, asked=True)
        return await self._again(case, act, None)

    async def _again(self, case: Case, act: Act, after: float | None) -> Ended:
        """It did not happen, and may be asked for again, a few times; as often as the platform says when."""
        if act.tries >= _TRIES and after is None:
            return Settled(ActState.DROPPED, Why.GIVEN_UP, None)
        await self._book.not_asked(case, act)
        return Later(Why.PLATFORM_AWAY, self._wait(act, after))

    def _unread(self, act: Act, stop: Refused | Unavailable | Ambiguous) -> Ended:
        if isinstance(stop, Refused):
            return Settled(ActState.REFUSED, stop.refusal, stop)
        return Later(Why.PLATFORM_AWAY, self._wait(act, stop.retry_after))

    def _wait(self, act: Act, after: float | None) -> float:
        spread = pause(act.tries + 1, self._draw(), first=_FIRST_PAUSE_SECONDS, longest=_LONGEST_PAUSE_SECONDS)
        return (after or 0.0) + spread

    async def _read(self, hands: Hands, platform: Platform, call: Call) -> RunState | Refused | Unavailable | Ambiguous:
        return await hands.hold(platform.look(call), call.repository)

    async def _put_aside(self, case: Case, act: Act) -> Ended:
        """Nobody is asked for it: it is a row of our own, which is there once however often it is written."""
        if self._stopped():
            return Later(Why.STOPPED, _STOPPED_SECONDS)
        if act.asked is None and not await self._book.asking(case, act, None):
            return None
        assert isinstance(act.call, Quarantine)
        return Settled(ActState.DONE, None, await self._set_aside(case, act.call))

    async def _tell_people(self, case: Case, act: Act) -> Ended:
        if self._stopped():
            return Later(Why.STOPPED, _STOPPED_SECONDS)
        if act.asked is not None:
            return Settled(ActState.UNKNOWN, Why.UNKNOWN, None)  # said twice is worse than perhaps not said
        if not await self._book.asking(case, act, None):
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
            case Unavailable():
                return await self._again(case, act._replace(tries=act.tries + 1), result.retry_after)


def _made(call: Call, state: RunState) -> Done:
    """What a rerun made that nobody told us of, as far as the run tells."""
    return Done(
        already=True,
        attempt=state.attempt if call.platform == "github" else None,
        job_id=state.successor if call.platform == "gitlab" else None,
        workflow_id=state.successor if call.platform == "circleci" else None,
    )
