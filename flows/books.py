"""The ledger as the tasks of a healer share it: a few connections, each for one at a time, made anew where they broke.

Only two things must be on disk before a healer goes on: that a request goes out, and what came of it. Everything else,
where PostgreSQL forgets it, is done again: a claim that was lost was not acted on, since the row that says that the
request goes out comes after it in PostgreSQL's log and carries it to the disk; a case whose end was lost is taken again
once its lease is over, and has nothing left to do. So those two have connections of their own, several, whose commits
reach the disk together, and the rest has one that does not wait for the disk.
"""

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
_DURABLE_LINES: Final = 4

_log = structlog.get_logger()
T = TypeVar("T")


class Books:
    """See the module. What is asked of it by `insist` is repeated until it is done."""

    def __init__(self, url: str, *, name: str, lease_seconds: float) -> None:
        self.lease_seconds: Final = lease_seconds
        self._light = _Line(url, f"guard {name}", durable=False)
        self._durable = [_Line(url, f"guard {name}", durable=True) for _ in range(_DURABLE_LINES)]

    @asynccontextmanager
    async def open(self, *, durable: bool = False) -> AsyncIterator[Ledger]:
        """The ledger, for nobody else meanwhile; `durable`: what is written is on disk when it says so.

        Raises:
            Unavailable: PostgreSQL is away; a transaction that was going on did not happen, or nobody knows.
        """
        line = min(self._durable, key=lambda one: one.wanted) if durable else self._light
        async with line.open() as ledger:
            yield ledger

    async def insist(self, work: Callable[[Ledger], Awaitable[T]], *, durable: bool = False) -> T:
        """What `work` gives; again and again while PostgreSQL is away. To be done twice must be as to be done once."""
        tried = 0
        while True:
            try:
                async with self.open(durable=durable) as ledger:
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
            async with self.open(durable=True) as ledger:
                asked = await ledger.asking(case, act, before, lease_seconds=self.lease_seconds)
        except Unavailable:
            return None
        return until if asked is not None else None

    async def not_asked(self, case: Case, act: Act, before: RunState | None) -> None:
        """Note that nothing came of it; `before`: how the run stood before a request of which something may yet."""
        await self.insist(lambda ledger: ledger.not_asked(case, act, before))

    async def close(self) -> None:
        """Close the connections."""
        for line in (self._light, *self._durable):
            await line.close()


class _Line:
    """One connection, for one at a time."""

    def __init__(self, url: str, name: str, *, durable: bool) -> None:
        self.wanted = 0  # by so many, one of whom has it
        self._url = url
        self._name = name
        self._is_durable = durable
        self._turn = asyncio.Lock()
        self._ledger: Ledger | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Ledger]:
        """As of `Books`."""
        self.wanted += 1
        try:
            async with self._turn:
                try:
                    yield await self._connected()
                except psycopg.OperationalError as error:
                    await self._forget()
                    raise Unavailable(f"PostgreSQL: {str(error).strip()}") from error
                except asyncio.CancelledError:
                    await self._forget()  # in the middle of a statement: nobody knows what the server still says
                    raise
        finally:
            self.wanted -= 1

    async def close(self) -> None:
        """Close it."""
        async with self._turn:
            await self._forget()

    async def _connected(self) -> Ledger:
        if self._ledger is None:
            connection = await connect_async(self._url, application_name=self._name)
            self._ledger = Ledger(connection)
            if not self._is_durable:
                await connection.execute("SET synchronous_commit = off")
        return self._ledger

    async def _forget(self) -> None:
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            with suppress(psycopg.Error):
                await ledger.connection.close()


def pause_seconds(tried: int) -> float:
    """How long to wait for PostgreSQL."""
    drawn = random.random()  # noqa: S311 - jitter, not a secret
    return pause(tried, drawn, first=_FIRST_PAUSE_SECONDS, longest=_LONGEST_PAUSE_SECONDS)
