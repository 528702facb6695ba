"""The receiver's way into the shards: appends of many requests at once, in one round trip and one fsync."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import redis

from connectors.delivery import Delivery
from connectors.redis_streams import APPEND, MARK_TTL_MS, append_arguments
from connectors.redis_wire import Command, asked, open_line, unavailable
from models.records.entry import Encoding, Entry, Kind
from models.records.errors import Unavailable
from models.records.event import SHARDS

_BATCH: Final = 512  # deliveries in one round trip
_BATCH_BYTES: Final = 4 << 20


@dataclass(slots=True)
class _Waiting:
    command: Command
    size: int
    done: asyncio.Future[int]


class Appender:
    """Appends deliveries; all that wait while a round trip is on its way go with the next one (group commit).

    A delivery is appended at least once: where the reply was lost, the caller cannot know and asks again, and the marks
    of the first time keep the second one out.
    """

    def __init__(self, url: str, *, ttl_ms: int = MARK_TTL_MS, timeout: float = 2.0) -> None:
        """`timeout` is how long a connection and each reply may take, in seconds."""
        self._connection = open_line(url, timeout=timeout)
        self._ttl_ms = ttl_ms
        self._waiting: deque[_Waiting] = deque()
        self._turn = asyncio.Lock()
        self._flusher: asyncio.Task[None] | None = None
        self._script = ""
        self._closed = False

    async def append(self, delivery: Delivery) -> int:
        """Make `delivery` durable; the number of its entries that were new, 0 where all were duplicates.

        Raises:
            Unavailable: it is not known to be there.
        """
        if self._closed:
            raise Unavailable("the appender is closed")
        size = sum(len(entry.payload) for entry, _ in delivery.items) + sum(map(len, delivery.log_requests))
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(append_arguments(delivery, self._ttl_ms), size, done))
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())
        return await done

    async def ping(self) -> None:
        """Ask the server whether it is there.

        Raises:
            Unavailable: it did not say so.
        """
        async with self._turn:
            with unavailable():
                await self._asked([("PING",)])

    async def close(self) -> None:
        """Append what still waits, then close the connection."""
        self._closed = True
        if self._flusher is not None:
            await self._flusher
        await self._connection.disconnect()

    async def _flush(self) -> None:
        batch: list[_Waiting] = []
        try:
            while self._waiting:
                batch = self._batch()
                try:
                    async with self._turn:
                        replies = await self._appended([waiting.command for waiting in batch])
                except (redis.RedisError, OSError) as error:
                    replies = [error] * len(batch)
                for waiting, reply in zip(batch, replies, strict=True):
                    _settle(waiting.done, reply)
        except BaseException as error:
            for waiting in (*batch, *self._waiting):
                _settle(waiting.done, error)
            self._waiting.clear()
            raise
        finally:
            self._flusher = None

    def _batch(self) -> list[_Waiting]:
        batch, size = [self._waiting.popleft()], 0
        while self._waiting and len(batch) < _BATCH and (size := size + batch[-1].size) < _BATCH_BYTES:
            batch.append(self._waiting.popleft())
        return batch

    async def _appended(self, commands: list[Command]) -> list[Any]:
        """The reply to each append; those that came before the server knew the script are sent again, in order."""
        if not self._script:
            self._script = await self._loaded()
        replies = await self._asked([("EVALSHA", self._script, *command) for command in commands])
        unknown = [i for i, reply in enumerate(replies) if isinstance(reply, redis.exceptions.NoScriptError)]
        if unknown:
            self._script = await self._loaded()
            again = await self._asked([("EVALSHA", self._script, *commands[i]) for i in unknown])
            for i, reply in zip(unknown, again, strict=True):
                replies[i] = reply
        return replies

    async def _loaded(self) -> str:
        reply = (await self._asked([("SCRIPT", "LOAD", APPEND)]))[0]
        if isinstance(reply, redis.ResponseError):
            raise reply
        return str(reply, "ascii")

    async def _asked(self, commands: list[Command]) -> list[Any]:
        return await asked(self._connection, commands)


def _settle(done: asyncio.Future[int], reply: int | BaseException) -> None:
    if done.done():  # its request was given up
        return
    if isinstance(reply, int):
        done.set_result(reply)
    elif isinstance(reply, redis.RedisError | OSError):
        refused = Unavailable(f"Redis: {reply}")
        refused.__cause__ = reply
        done.set_exception(refused)
    elif isinstance(reply, Exception):
        done.set_exception(reply)
    else:
        done.cancel()


async def heartbeat(appender: Appender, now_ms: int) -> None:
    """Append a heartbeat to every shard, so that the stream time of silent shards goes on.

    Raises:
        Unavailable: at least one is not known to be there.
    """
    entry = Entry(Kind.HEARTBEAT, Encoding.JSON, now_ms, b"{}")
    await asyncio.gather(*(appender.append(Delivery(shard, ((entry, None),))) for shard in range(SHARDS)))
