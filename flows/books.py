"""The ledger as the tasks of a healer share it: one connection, one at a time, made anew where it broke."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeVar

import psycopg
import structlog

from connectors.backoff import pause
from connectors.postgres import connect_async
from connectors.postgres_ledger import Act, Case, Ledger
from models.records.calls import RunState
from models.records.errors import Unavailable

_FIRST_PAUSE_SECONDS: Final = 0.2
_LONGEST_PAUSE_SECONDS: Final = 5.0

_log = structlog.get_logger()
T = TypeVar("T")


class Books:
    """See the module. What is asked of it by `insist` is repeated until it is known to be durable."""

    def __init__(self, url: str, *, name: str, lease_seconds: float) -> None:
        self._url = url
        self._name = name
        self.lease_seconds: Final = lease_seconds
        self._turn = asyncio.Lock()
        self._ledger: Ledger | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Ledger]:
        """The ledger, for nobody else meanwhile.

        Raises:
            Unavailable: PostgreSQL is away; a transaction that was going on did not happen, or nobody knows.
        """
        async with self._turn:
            if self._ledger is None:
                self._ledger = Ledger(await connect_async(self._url, application_name=f"guard {self._name}"))
            try:
                yield self._ledger
            except psycopg.OperationalError as error:
                await self._forget()
                raise Unavailable(f"PostgreSQL: {str(error).strip()}") from error
            except asyncio.CancelledError:
                await self._forget()  # in the middle of a statement: nobody knows what the server still says
                raise

    async def insist(self, work: Callable[[Ledger], Awaitable[T]]) -> T:
        """What `work` gives; again and again while PostgreSQL is away. To be done twice must be as to be done once."""
        tried = 0
        while True:
            try:
                async with self.open() as ledger:
                    return await work(ledger)
            except Unavailable as error:
                tried += 1
                _log.warning("the ledger is away", why=str(error), tried=tried)
                await asyncio.sleep(pause_seconds(tried))

    async def renew(self, case: Case) -> bool:
        """Have the case for another lease."""
        return await self.insist(lambda ledger: ledger.renew(case, lease_seconds=self.lease_seconds))

    async def asking(self, case: Case, act: Act, before: RunState | None) -> float | None:
        """Note that the request goes out now; until when it may, by the monotonic clock: for half a lease.

        The other half is for its answer: it has come, or is given up, before anybody else can take the case. Where
        nobody knows whether that was written, it does not go out: it is found out later, as after a crash.
        """
        until = time.monotonic() + self.lease_seconds / 2
        try:
            async with self.open() as ledger:
                asked = await ledger.asking(case, act, before, lease_seconds=self.lease_seconds)
        except Unavailable:
            return None
        return until if asked is not None else None

    async def not_asked(self, case: Case, act: Act, before: RunState | None) -> None:
        """Note that nothing came of it; `before`: how the run stood before a request of which something may yet."""
        await self.insist(lambda ledger: ledger.not_asked(case, act, before))

    async def close(self) -> None:
        """Close the connection."""
        async with self._turn:
            await self._forget()

    async def _forget(self) -> None:
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            with suppress(psycopg.Error):
                await ledger.connection.close()


def pause_seconds(tried: int) -> float:
    """How long to wait for PostgreSQL."""
    drawn = random.random()  # noqa: S311 - jitter, not a secret
    return pause(tried, drawn, first=_FIRST_PAUSE_SECONDS, longest=_LONGEST_PAUSE_SECONDS)
