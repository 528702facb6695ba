"""Requests to read logs, as the readers of all shards share them: a consumer group on the requests of each shard.

A request that a reader took stays pending until its evidence stands on the shard. One script appends the evidence,
marks it as given and removes the request, so that a reader killed at any moment neither loses one nor gives one twice.
Who has taken requests renews its lease on them every few seconds; what nobody has renewed for LEASE is taken over by
the next one who looks. Two readers may then read one log; the first evidence counts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import redis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from connectors.redis_streams import (
    LOG_REQUEST_FIELD,
    MARK_TTL_MS,
    MOST_LOG_REQUESTS,
    log_key,
    mark_key,
    passed_key,
    passing_key,
    requests_key,
)
from connectors.redis_wire import unavailable
from models.records.entry import Entry, encode
from models.records.errors import Unavailable
from models.records.event import SHARDS

GROUP: Final = "readers"
LEASE_MS: Final = 15_000

_TIMEOUT_SECONDS: Final = 5.0  # longer than any question waits
_TAKEN_OVER: Final = 64  # of one shard at once; the rest is looked for the next time
_SHARDS: Final[Mapping[bytes, int]] = {requests_key(shard).encode(): shard for shard in range(SHARDS)}
_GIVEN_BACK_MS: Final = 24 * 3600 * 1000  # idle for so long, as far as the others can see

_SETTLE: Final = """
local new = redis.call('SET', KEYS[3], '1', 'NX', 'PX', ARGV[3])
if new then redis.call('XADD', KEYS[1], '*', ARGV[4], ARGV[5]) end
redis.call('XACK', KEYS[2], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[2], ARGV[2])
return new and 1 or 0
"""

# The counter of deliveries is ours: it counts how often a request was begun, not how often it changed hands.
_TAKE_OVER: Final = """
local pending
if ARGV[3] == '0' then
  pending = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', ARGV[4], ARGV[2])
else
  pending = redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[3], '-', '+', ARGV[4])
end
local taken = {}
for _, one in ipairs(pending) do
  local entry = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], one[1], 'RETRYCOUNT', one[4])[1]
  if entry then taken[#taken + 1] = {one[1], entry[2][2], one[4]} end
end
return taken
"""


class Held(NamedTuple):
    """A request in hand: where it stands, what it says, and how often it was begun, this time included."""

    shard: int
    entry_id: str
    payload: bytes
    begun: int = 1

    @property
    def at_ms(self) -> int:
        """When it was appended, Unix milliseconds."""
        return int(self.entry_id.partition("-")[0])


class Requests:
    """The requests of all shards, for one reader. `consumer` is its name, the same after a restart and no other's."""

    def __init__(self, url: str, consumer: str) -> None:
        self._consumer = consumer
        self._redis: Redis = Redis.from_url(
            url,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
        )
        self._settle = self._redis.register_script(_SETTLE)
        self._take_over = self._redis.register_script(_TAKE_OVER)

    async def close(self) -> None:
        """Hang up."""
        await self._redis.aclose()

    async def prepare(self) -> None:
        """Make the consumer group of each shard, where it is not there: all requests that are there are new to it.

        Raises:
            Unavailable: Redis cannot be asked.
        """
        with unavailable():
            for shard in range(SHARDS):
                try:
                    await self._redis.xgroup_create(requests_key(shard), GROUP, "0", mkstream=True)
                except redis.ResponseError as error:
                    if not str(error).startswith("BUSYGROUP"):
                        raise

    async def take(self, *, most: int, wait_ms: int) -> list[Held]:
        """New requests, at most `most` of each shard; waits for the first one.

        Raises:
            Unavailable: Redis cannot be asked.
        """
        streams: dict[Any, Any] = {requests_key(shard): ">" for shard in range(SHARDS)}
        async with self._grouped():
            found: Any = await self._redis.xreadgroup(GROUP, self._consumer, streams, count=most, block=wait_ms)
        return [
            Held(_SHARDS[key], entry_id.decode(), fields.get(LOG_REQUEST_FIELD, b""))
            for key, entries in found or ()
            for entry_id, fields in entries
        ]

    async def take_over(self, *, own: bool = False) -> list[Held]:
        """Requests that nobody has renewed; or, with `own`, all that this reader had when it was last here.

        Raises:
            Unavailable: Redis cannot be asked.
        """
        taken = []
        for shard in range(SHARDS):
            idle_ms, most = (0, MOST_LOG_REQUESTS) if own else (LEASE_MS, _TAKEN_OVER)
            async with self._grouped():
                found = await self._take_over([requests_key(shard)], [GROUP, self._consumer, idle_ms, most])
            taken += [Held(shard, entry_id.decode(), payload, begun + 1) for entry_id, payload, begun in found]
        return taken

    async def begin(self, held: Held) -> None:
        """Note that a request which had been begun before is begun again, before it does what it did last time.

        Raises:
            Unavailable: it is not noted.
        """
        with unavailable():
            await self._claim(held.shard, [held.entry_id], begun=held.begun)

    async def renew(self, held: Iterable[Held]) -> None:
        """Renew the lease on all that is in hand.

        Raises:
            Unavailable: Redis cannot be asked.
        """
        await self._each_shard(held)

    async def give_back(self, held: Iterable[Held]) -> None:
        """Let others have what is in hand at once.

        Raises:
            Unavailable: they will have it when the lease has run out.
        """
        await self._each_shard(held, idle_ms=_GIVEN_BACK_MS)

    async def settle(self, held: Held, event_id: str, evidence: Entry) -> bool:
        """Append `evidence`, about that event, and remove the request; False if evidence of it was there already.

        Raises:
            Unavailable: it is not known to be there; asking again does no harm.
        """
        keys = [log_key(held.shard), requests_key(held.shard), mark_key(held.shard, f"evidence:{event_id}")]
        with unavailable():
            return bool(await self._settle(keys, [GROUP, held.entry_id, MARK_TTL_MS, *encode(evidence)]))

    async def drop(self, held: Held) -> None:
        """Remove a request without evidence.

        Raises:
            Unavailable: it may be there still.
        """
        with unavailable():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.xack(requests_key(held.shard), GROUP, held.entry_id)
                pipe.xdel(requests_key(held.shard), held.entry_id)
                await pipe.execute()

    async def passed(self, shard: int, job_key: str) -> tuple[bytes | None, bytes | None]:
        """Of a job: its newest run that passed, and the index of a log of it, each where it is known.

        Raises:
            Unavailable: Redis cannot be asked.
        """
        with unavailable():
            found: Any = await self._redis.mget(passed_key(shard, job_key), passing_key(shard, job_key))
        run, index = found
        return run, index

    async def keep_index(self, shard: int, job_key: str, index: bytes, *, ttl_ms: int) -> None:
        """Keep the index of a passing log for a while.

        Raises:
            Unavailable: it is not kept.
        """
        with unavailable():
            await self._redis.set(passing_key(shard, job_key), index, px=ttl_ms)

    @asynccontextmanager
    async def _grouped(self) -> AsyncIterator[None]:
        """As `unavailable`, but that a group which is gone, with the server's state, is made anew for the next time."""
        try:
            with unavailable():
                yield
        except Unavailable as error:
            if "NOGROUP" in str(error):
                await self.prepare()
            raise

    async def _each_shard(self, held: Iterable[Held], *, idle_ms: int | None = None) -> None:
        by_shard: dict[int, list[Any]] = {}
        for one in held:
            by_shard.setdefault(one.shard, []).append(one.entry_id)
        with unavailable():
            for shard, ids in by_shard.items():
                await self._claim(shard, ids, idle_ms=idle_ms)

    async def _claim(self, shard: int, ids: list[Any], *, idle_ms: int | None = None, begun: int | None = None) -> None:
        """Take what is pending, from whomever."""
        await self._redis.xclaim(
            requests_key(shard), GROUP, self._consumer, 0, ids, idle=idle_ms, retrycount=begun, justid=True
        )
