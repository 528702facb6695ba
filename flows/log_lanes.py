"""One lane for each API and credential: what happens in one holds up no other.

A lane has places, so that no platform is asked more at once than it bears, a breaker, and connections of its own. Who
waits in a lane waits there alone, and for so long as its patience lasts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from connectors import metrics
from connectors.breaker import Breaker, Permit, State
from connectors.http import Client
from connectors.platforms.asking import Denied, Ending, TryLater
from connectors.platforms.platform import Platform
from models.records.errors import Unavailable

_LEAST_WAIT_SECONDS: Final = 0.1  # between two looks at a breaker that is not closed
_MOST_WAIT_SECONDS: Final = 1.0
_SPARE_SHARE: Final = 4  # one place in so many may be used for what could be done without


class Turn:
    """One visit to an API, with leave to make it; what came of it is what the breaker learns."""

    def __init__(self, breaker: Breaker, permit: Permit, clock: Callable[[], float]) -> None:
        self._breaker = breaker
        self._permit: Permit | None = permit
        self._clock = clock

    def came(self, ending: Ending, seconds: float) -> None:
        """Say how the visit ended, and how long the slowest answer in it was waited for."""
        permit, self._permit = self._permit, None
        if permit is None:
            return
        now = self._clock()
        if isinstance(ending, TryLater) and ending.retry_after is not None:
            self._breaker.hold(now, ending.retry_after)
            self._breaker.dropped(permit)
        elif isinstance(ending, TryLater) or (isinstance(ending, Denied) and ending.login):
            self._breaker.failed(permit, now)
        else:
            self._breaker.answered(permit, now, seconds)

    def leave(self) -> None:
        """End the visit; nothing is known of it, unless something came of it before."""
        if self._permit is not None:
            self._breaker.dropped(self._permit)
            self._permit = None


class Lane:
    """All that is asked of one API with one credential. `clock` is in seconds and never goes back."""

    def __init__(
        self,
        name: str,
        platform: Platform,
        client: Client,
        *,
        places: int,
        clock: Callable[[], float],
        breaker: Breaker | None = None,
    ) -> None:
        self.name = name
        self.platform = platform
        self.client = client
        self.waiting = 0  # requests that are in this lane's hands
        self.breaker = breaker or Breaker()
        self._clock = clock
        self._places = asyncio.Semaphore(places)
        self._spare = asyncio.Semaphore(max(1, places // _SPARE_SHARE))
        metrics.guard_breaker_state(api=name).set_function(lambda: float(self.breaker.state(self._clock())))

    @asynccontextmanager
    async def turn(self, seconds: float) -> AsyncIterator[Turn]:
        """A visit, as soon as there is a place and the breaker lets it through; waits at most `seconds`.

        Raises:
            Unavailable: it did not come to that; the message says what was in the way.
        """
        until = self._clock() + seconds
        try:
            async with asyncio.timeout(seconds):
                await self._places.acquire()
        except TimeoutError:
            raise Unavailable(self._in_the_way()) from None
        try:
            turn = Turn(self.breaker, await self._admitted(until), self._clock)
            try:
                yield turn
            finally:
                turn.leave()
        finally:
            self._places.release()

    @asynccontextmanager
    async def spare_turn(self) -> AsyncIterator[Turn | None]:
        """A visit for what could be done without: at once, while few make one and all is well; else None."""
        if self._spare.locked() or self._places.locked() or self.breaker.state(self._clock()) is not State.CLOSED:
            yield None
            return
        async with self._spare:
            permit = self.breaker.admit(self._clock())
            turn = Turn(self.breaker, permit, self._clock) if permit else None
            try:
                yield turn
            finally:
                if turn is not None:
                    turn.leave()

    async def _admitted(self, until: float) -> Permit:
        while (permit := self.breaker.admit(self._clock())) is None:
            now = self._clock()
            wait = max(self.breaker.wait(now), _LEAST_WAIT_SECONDS)
            if now + wait > until:
                raise Unavailable(self._in_the_way())
            await asyncio.sleep(min(wait, _MOST_WAIT_SECONDS))
        return permit

    def _in_the_way(self) -> str:
        state = self.breaker.state(self._clock())
        if state is not State.CLOSED:
            return "it failed too often of late and is asked no more for now"
        return "it asked us to wait" if self.breaker.wait(self._clock()) else "too many logs wait for it"
