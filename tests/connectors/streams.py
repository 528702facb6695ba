"""A Redis in memory, for tests of what stands in front of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from connectors.delivery import Delivery
from models.records.errors import Unavailable


class Streams:
    """Keeps deliveries in order, drops what it has seen by their marks, and is away when told so."""

    def __init__(self) -> None:
        self.away = False
        self.seen: list[Delivery] = []
        self.calls = 0
        self.fail_after: int | None = None
        self._marks: set[str] = set()

    async def append(self, delivery: Delivery) -> int:
        """As connectors.redis_streams.Appender does."""
        await asyncio.sleep(0)
        self.calls += 1
        if self.away or (self.fail_after is not None and self.calls > self.fail_after):
            raise Unavailable("away")
        new = [mark for _, mark in delivery.items if mark is None or mark not in self._marks]
        if new:
            self.seen.append(delivery)
            self._marks.update(mark for mark in new if mark is not None)
        return len(new)

    def of(self, shard: int) -> list[Delivery]:
        """What stands on one shard."""
        return [delivery for delivery in self.seen if delivery.shard == shard]


async def until(condition: Callable[[], bool], *, within: float = 20.0) -> None:
    """Return once `condition` holds; fails the test when it does not `within` seconds."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - a condition of the tests has no event
            await asyncio.sleep(0.002)
