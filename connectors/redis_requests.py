"""Requests to read logs, as the readers of all shards share them: a consumer group on the requests of each shard.

A request that a reader took stays pending until its evidence stands on the shard. One script appends the evidence,
marks it as given and removes the request, so that a reader killed at any moment neither loses one nor gives one twice.
Who has taken requests renews its lease on them every few seconds; what nobody has renewed for LEASE is taken over by
the next one who looks. Two readers may then read one log; the first evidence counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import redis

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
from connectors.redis_wire import Command, asked, open_line, unavailable
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

_DROP: Final = """
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
return redis.call('XDEL', KEYS[1], ARGV[2])
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
        self._taking = open_line(url, timeout=_TIMEOUT_SECONDS)
        self._line = open_line(url, timeout=_TIMEOUT_SECONDS)
        self._turn = asyncio.Lock()

    async def close(self) -> None:
        """Hang up."""
        await self._taking.disconnect()
        await self._line.disconnect()

    async def prepare(self) -> None:
        """Make the consumer group of each shard, where it is not there: all requests that are there are new to it.

        Raises:
            Unavailable: Redis cannot be asked.
        """
        keys = map(requests_key, range(SHARDS))
        with unavailable():
            async with self._turn:
                replies = await asked(self._line, [("XGROUP", "CREATE", key, GROUP, "0", "MKSTREAM") for key in keys])
            _refused(reply for reply in replies if not str(reply).startswith("BUSYGROUP"))

    async def take(self, *, most: int, wait_ms: int) -> list[Held]:
        """New requests, at most `most` of each shard; waits for the first one.

        Raises:
            Unavailable: Redis cannot be asked.
        """
        options: Command = ("GROUP", GROUP, self._consumer, "COUNT", most, "BLOCK", wait_ms, "STREAMS")
        async with self._grouped():
            replies = await asked(self._taking, [("XREADGROUP", *options, *_SHARDS, *[">"] * SHARDS)])
            _refused(replies)
        return [
            Held(_SHARDS[key], entry_id.decode(), dict(zip(pairs[::2], pairs[1::2], strict=True))[LOG_REQUEST_FIELD])
            for key, entries in replies[0] or ()
            for entry_id, pairs in entries
        ]

    async def take_over(self, *, own: bool = False) -> list[Held]:
        """Requests that nobody has renewed; or, with `own`, all that this reader had when it was last here.

        Raises:
            Unavailable: Redis cannot be asked.
        """
        idle_ms, most = (0, MOST_LOG_REQUESTS) if own else (LEASE_MS, _TAKEN_OVER)
        options: Command = (GROUP, self._consumer, idle_ms, most)
        async with self._grouped():
            replies = await self._asked(*(("EVAL", _TAKE_OVER, 1, key, *options) for key in _SHARDS))
        return [
            Held(shard, entry_id.decode(), payload, begun + 1)
            for shard, taken in enumerate(replies)
            for entry_id, payload, begun in taken
        ]

    async def begin(self, held: Held) -> None:
        """Note that a request which had been begun before is begun again, before it does what it did last time.

        Raises:
            Unavailable: it is not noted.
        """
        with unavailable():
            await self._claim([held], "RETRYCOUNT", held.begun)

    async def renew(self, held: Iterable[Held]) -> None:
        """Renew the lease on all that is in hand.

        Raises:
            Unavailable: Redis cannot be asked.
        """
        with unavailable():
            await self._claim(held)

    async def give_back(self, held: Iterable[Held]) -> None:
        """Let others have what is in hand at once.

        Raises:
            Unavailable: they will have it when the lease has run out.
        """
        with unavailable():
            await self._claim(held, "IDLE", _GIVEN_BACK_MS)

    async def settle(self, held: Held, event_id: str, evidence: Entry) -> bool:
        """Append `evidence`, about that event, and remove the request; False if evidence of it was there already.

        Raises:
            Unavailable: it is not known to be there; asking again does no harm.
        """
        keys = (log_key(held.shard), requests_key(held.shard), mark_key(held.shard, f"evidence:{event_id}"))
        with unavailable():
            command = ("EVAL", _SETTLE, 3, *keys, GROUP, held.entry_id, MARK_TTL_MS, *encode(evidence))
            return bool((await self._asked(command))[0])

    async def drop(self, held: Held) -> None:
        """Remove a request without evidence.

        Raises:
            Unavailable: it may be there still.
        """
        with unavailable():
            await self._asked(("EVAL", _DROP, 1, requests_key(held.shard), GROUP, held.entry_id))

    async def passed(self, shard: int, job_key: str) -> tuple[bytes | None, bytes | None]:
        """Of a job: its newest run that passed, and the index of a log of it, each where it is known.

        Raises:
            Unavailable: Redis cannot be asked.
        """
        with unavailable():
            ((run, index),) = await self._asked(("MGET", passed_key(shard, job_key), passing_key(shard, job_key)))
        return run, index

    async def keep_index(self, shard: int, job_key: str, index: bytes, *, ttl_ms: int) -> None:
        """Keep the index of a passing log for a while.

        Raises:
            Unavailable: it is not kept.
        """
        with unavailable():
            await self._asked(("SET", passing_key(shard, job_key), index, "PX", ttl_ms))

    async def _asked(self, *commands: Command) -> list[Any]:
        async with self._turn:
            replies = await asked(self._line, commands)
        _refused(replies)
        return replies

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

    async def _claim(self, held: Iterable[Held], *options: str | int) -> None:
        """Take what is pending, from whomever; what counts how often it was begun stays as it is."""
        by_key: dict[str, list[str]] = {}
        for one in held:
            by_key.setdefault(requests_key(one.shard), []).append(one.entry_id)
        if by_key:
            claim = (GROUP, self._consumer, 0)
            await self._asked(*(("XCLAIM", key, *claim, *ids, *options, "JUSTID") for key, ids in by_key.items()))


def _refused(replies: Iterable[Any]) -> None:
    """Raise the first of `replies` that is a refusal."""
    for reply in replies:
        if isinstance(reply, redis.ResponseError):
            raise reply
