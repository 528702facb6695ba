"""A small HTTP/1.1 server whose answers may be as bad as those of the real world: late, endless, cut off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, NamedTuple

_MOST_HEAD_BYTES: Final = 64 << 10
_MOST_BODY_BYTES: Final = 1 << 20


class Asked(NamedTuple):
    """One request: the target with its query, and the headers by lower-case name."""

    target: str
    headers: Mapping[str, str]
    method: str = "GET"
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, `after` so many seconds. A body that comes in pieces is sent in chunks; None hangs up instead."""

    status: int = 200
    body: bytes | AsyncIterable[bytes] | None = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    after: float = 0.0


@asynccontextmanager
async def serving(answer: Callable[[Asked], Answer], *, port: int = 0) -> AsyncIterator[int]:
    """Serve on a port of the loopback, any free one if none is given; the port."""
    open_now: set[asyncio.Task[object]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_now.add(task)
        task.add_done_callback(open_now.discard)
        with suppress(OSError, EOFError, asyncio.CancelledError):  # a task of a server must not end as cancelled
            await _serve(reader, writer, answer)
        writer.transport.abort()

    server = await asyncio.start_server(connected, "127.0.0.1", port, limit=_MOST_HEAD_BYTES, backlog=1024)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        tasks = list(open_now)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Callable[[Asked], Answer]) -> None:
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > _MOST_BODY_BYTES:
            return
        said = answer(Asked(target, headers, method, await reader.readexactly(int(length))))
        await asyncio.sleep(said.after)
        if said.body is None:
            return
        await _send(writer, said.status, said.headers, said.body)


async def _send(
    writer: asyncio.StreamWriter, status: int, headers: Mapping[str, str], body: bytes | AsyncIterable[bytes]
) -> None:
    length = {"content-length": str(len(body))} if isinstance(body, bytes) else {"transfer-encoding": "chunked"}
    if status == HTTPStatus.NO_CONTENT:
        length = {}
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{k}: {v}" for k, v in {**length, **headers}.items())]
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
    if isinstance(body, bytes):
        writer.write(body)
    else:
        async for piece in body:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
    await writer.drain()
