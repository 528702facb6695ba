"""One connection to a Redis, used plainly: commands go out together, replies come back as hiredis parsed them.

redis-py brings the address, TLS, password and packing. Its reply callbacks cost half of what a reader does, and its
retries would block longer than promised and append twice, so neither is used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

import redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.connection import ConnectionPool as AsyncConnectionPool
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool
from redis.retry import Retry

from models.records.errors import Unavailable

Command: TypeAlias = Sequence[bytes | str | int]

TIMEOUT_SECONDS: Final = 1.0
"""How long a connection, or one reply, is waited for."""

_READ_BYTES: Final = 1 << 20


def connect(url: str) -> Any:  # noqa: ANN401 - redis-py types its connections half
    """A connection that is made when first used, and again when used after it broke."""
    pool = ConnectionPool.from_url(
        url,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        socket_read_size=_READ_BYTES,
    )
    return pool.make_connection()


def pipelined(connection: Any, commands: Sequence[Command]) -> list[Any]:  # noqa: ANN401 - as connect()
    """The reply to each command, in one round trip; a command that was refused has its ResponseError in its place.

    Raises:
        redis.ConnectionError, redis.TimeoutError: nothing is known of what the commands did; the connection is closed.
    """
    connection.send_packed_command(connection.pack_commands(commands))
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(connection.read_response())
        except redis.ResponseError as error:
            replies.append(error)
    return replies


def open_line(url: str, *, timeout: float) -> AbstractConnection:
    """As `connect`, for asyncio; `timeout` is how long a connection and each reply may take, in seconds."""
    pool = AsyncConnectionPool.from_url(
        url, protocol=2, retry=AsyncRetry(NoBackoff(), 0), socket_timeout=timeout, socket_connect_timeout=timeout
    )
    return pool.make_connection()  # type: ignore[no-any-return,no-untyped-call]  # redis-py


async def asked(connection: AbstractConnection, commands: Sequence[Command]) -> list[Any]:
    """As `pipelined`, for asyncio. Who gives up while it waits leaves the connection closed, as it has to be."""
    replies: list[Any] = []
    try:
        await connection.send_packed_command(connection.pack_commands(commands))
        _go_if_told()
        for _ in commands:
            try:
                replies.append(await connection.read_response())
            except redis.ResponseError as error:
                replies.append(error)
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return replies


def _go_if_told() -> None:
    """Raise the cancellation that redis-py may have swallowed: it sends within asyncio.wait_for, which does so in 3.11.

    https://github.com/python/cpython/issues/86296
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


@contextmanager
def unavailable() -> Iterator[None]:
    """Whatever Redis says against it, what was asked is not done and may be asked again.

    Raises:
        Unavailable: in place of what redis-py raises.
    """
    try:
        yield
    except redis.RedisError as error:
        raise Unavailable(f"Redis: {error}") from error
