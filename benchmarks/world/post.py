"""Posts deliveries when they are due and writes down what became of each.

No platform waits for an answer before it sends the next delivery, and none but CircleCI sends one again that failed;
so nothing is sent again here, and what was refused stands in the ledger with its status.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import Any, Final, NamedTuple, TextIO

import httpx2
import msgspec

from benchmarks.world.deliveries import Delivery

TIMEOUT_SECONDS: Final = 10.0  # what GitHub, GitLab and CircleCI allow a receiver
_MOST_POSTED: Final = 20_000
NO_ANSWER: Final = 0  # stands for the status where there was none


class Ledger:
    """An append-only file of JSON lines: what is true of every job, and what became of every delivery."""

    def __init__(self, file: TextIO | None) -> None:
        self._file = file

    def write(self, record: str, row: Mapping[str, Any]) -> None:
        """Append one line; it is on its way to the file when this returns."""
        if self._file is not None:
            self._file.write(msgspec.json.encode({"record": record, **row}).decode() + "\n")
            self._file.flush()


class Posted(NamedTuple):
    """A delivery that was posted, and what was answered: NO_ANSWER where nothing was."""

    number: int
    delivery: Delivery
    at: float  # Unix seconds
    status: int
    again: bool


class Poster:
    """Posts to the receiver at `url` over at most `connections` connections that are kept alive.

    `posted` has the latest of what was posted, and `again` posts one once more.
    """

    def __init__(
        self, url: str, ledger: Ledger, *, connections: int = 32, clock: Callable[[], float] = time.time
    ) -> None:
        self._url = url.rstrip("/")
        self._ledger = ledger
        self._clock = clock
        self._free = asyncio.Semaphore(connections)
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._client = httpx2.AsyncClient(timeout=TIMEOUT_SECONDS, limits=limits, trust_env=False)
        self.statuses: Counter[int] = Counter()
        self.posted: deque[Posted] = deque(maxlen=_MOST_POSTED)
        self._numbers = count(10**15)
        self._again: set[asyncio.Task[None]] = set()

    async def post_all(self, due: Iterable[Delivery], stop: asyncio.Event) -> None:
        """Post each delivery at its time, or at once where that has passed, until all are answered or `stop` is set."""
        async with self._client, asyncio.TaskGroup() as group:
            for delivery in due:
                await self._wait(delivery.at, stop)
                if stop.is_set():
                    return
                await self._free.acquire()
                group.create_task(self._post(delivery))

    def again(self, posted: Posted) -> None:
        """Post it once more, soon."""
        task = asyncio.get_running_loop().create_task(self._once_more(posted.delivery))
        self._again.add(task)
        task.add_done_callback(self._again.discard)

    async def _once_more(self, delivery: Delivery) -> None:
        await self._free.acquire()
        await self._post(delivery, again=True)

    async def _wait(self, until: float, stop: asyncio.Event) -> None:
        seconds = until - self._clock()
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(seconds):
                await stop.wait()
        except TimeoutError:
            return

    async def _post(self, delivery: Delivery, *, again: bool = False) -> None:
        posted, error = self._clock(), None
        try:
            answer = await self._client.post(
                self._url + delivery.path, content=delivery.body, headers=dict(delivery.headers)
            )
            status = answer.status_code
        except httpx2.HTTPError as failure:
            status, error = NO_ANSWER, type(failure).__name__
        finally:
            self._free.release()
        self.statuses[status] += 1
        self.posted.append(Posted(next(self._numbers), delivery, posted, status, again))
        self._ledger.write(
            "delivery",
            {
                "id": delivery.id,
                "copy": delivery.copy,
                "source": delivery.source,
                "sha256": hashlib.sha256(delivery.body).hexdigest(),
                "bytes": len(delivery.body),
                "status": status,
                "error": error,
                "due": round(delivery.at, 3),
                "posted": round(posted, 3),
                "answered": round(self._clock(), 3),
                "says": delivery.says,
            },
        )
