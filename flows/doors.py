"""One API, opened with one credential: every conversation with it but those about logs goes through its door.

A door has places, so that no platform is asked more at once than it bears, and a breaker: once too much failed of late,
it is shut, and who comes is told at once when to come again. Nothing waits here for longer than a moment, so that what
was allowed a moment ago is still allowed when it is asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, TypeVar

from connectors import metrics
from connectors.breaker import Breaker, Permit
from connectors.holding import hold
from connectors.http import Client
from connectors.platforms.acting import Send, Stop, Talk
from flows.log_reading import Clocks
from models.records.calls import Ambiguous, Refusal, Refused, Unavailable

_PLACE_SECONDS: Final = 1.0
_LEAST_WAIT_SECONDS: Final = 0.5  # where it depends on others that are being tried

T = TypeVar("T")


class Door:
    """All that is asked of one API with one credential. `name` is the label of its breaker's metric."""

    def __init__(
        self, name: str, client: Client, *, places: int, clocks: Clocks, breaker: Breaker | None = None
    ) -> None:
        self.name = name
        self.breaker = breaker or Breaker()
        self._client = client
        self._clocks = clocks
        self._places = asyncio.Semaphore(places)
        metrics.guard_breaker_state(api=name).set_function(lambda: float(self.breaker.state(clocks.monotonic())))

    async def hold(self, talk: Talk[T], headers: Mapping[str, str] | None = None) -> T | Stop:
        """How `talk` ended; Unavailable at once where the door is shut. `headers` go with every request of it."""
        try:
            async with asyncio.timeout(_PLACE_SECONDS):
                await self._places.acquire()
        except TimeoutError:
            talk.close()
            return Unavailable("too much waits for it", _PLACE_SECONDS)
        try:
            permit = self.breaker.admit(self._clocks.monotonic())
            if permit is None:
                talk.close()
                return self._shut()
            return await self._held(talk, headers or {}, permit)
        finally:
            self._places.release()

    def is_shut(self) -> bool:
        """Whether who comes now is sent away."""
        return self.breaker.wait(self._clocks.monotonic()) > 0

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()

    def _shut(self) -> Unavailable:
        wait = self.breaker.wait(self._clocks.monotonic())
        return Unavailable(f"{self.name} is asked no more for now", max(wait, _LEAST_WAIT_SECONDS))

    async def _held(self, talk: Talk[T], headers: Mapping[str, str], permit: Permit) -> T | Stop:
        watched = _Watched(self._clocks)
        try:
            ended = await hold(self._client, watched.talk(talk, headers), self._clocks.now)
        except BaseException:
            self.breaker.dropped(permit)
            raise
        self._learn(permit, ended, watched.slowest_seconds)
        return ended

    def _learn(self, permit: Permit, ended: object, seconds: float) -> None:
        now = self._clocks.monotonic()
        if isinstance(ended, Unavailable | Ambiguous) and ended.retry_after is not None:
            self.breaker.hold(now, ended.retry_after)
        if isinstance(ended, Unavailable) and ended.retry_after is not None:
            self.breaker.dropped(permit)  # it is well, and has enough of us
        elif isinstance(ended, Unavailable | Ambiguous) or _is_no_login(ended):
            self.breaker.failed(permit, now)
        else:
            self.breaker.answered(permit, now, seconds)


def _is_no_login(ended: object) -> bool:
    return isinstance(ended, Refused) and ended.refusal is Refusal.LOGIN


class _Watched:
    """Passes a conversation on, with `headers`, and notes for how long the slowest answer was waited for."""

    def __init__(self, clocks: Clocks) -> None:
        self.slowest_seconds = 0.0
        self._clocks = clocks

    def talk(self, talk: Talk[T], headers: Mapping[str, str]) -> Talk[T]:
        try:
            step = next(talk)
            while True:
                began = self._clocks.monotonic()
                said = yield replace(step, headers={**step.headers, **headers}) if isinstance(step, Send) else step
                if isinstance(step, Send):
                    self.slowest_seconds = max(self.slowest_seconds, self._clocks.monotonic() - began)
                step = talk.send(said)
        except StopIteration as ended:
            result: T | Stop = ended.value
            return result
        finally:
            talk.close()
