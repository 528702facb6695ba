"""HTTP servers of a process, beside whatever else it does, until it is told to stop."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

from granian.constants import HTTPModes, Interfaces
from granian.log import LogLevels
from granian.server.embed import Server
from starlette.types import ASGIApp

from models.records.errors import Unavailable

_OUR_HANDLERS: Final = {"incremental": True, "handlers": {}, "loggers": {"_granian": {"propagate": True}}}
LEAVING_SECONDS: Final = 1.0
"""For so long after it was told to go everything is still answered, while /readyz already says no: a balancer sends
elsewhere before the port closes, which resets connections that nobody has taken yet. It also covers that Granian
misses a stop that comes before its worker has begun."""
_LAST_WORDS_SECONDS: Final = 5.0
"""For so long the threads of a server that has ended are waited for; one that is not of it may go on for ever."""
_BACKLOG: Final = 1024  # connections not yet taken: a burst of deliveries must not meet a refused one


def server(app: ASGIApp, host: str, port: int) -> Server:
    """What serves `app` there once it is run."""
    return Server(
        app,
        host,
        port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        websockets=False,
        backlog=_BACKLOG,
        log_level=LogLevels.error,
        log_dictconfig=_OUR_HANDLERS,
    )


async def _serving(server: Server) -> None:
    try:
        await server.serve()
        until = time.monotonic() + _LAST_WORDS_SECONDS
        while _native_threads_in_python() and time.monotonic() < until:  # noqa: ASYNC110 - nothing tells us of it
            await asyncio.sleep(0.001)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise Unavailable(f"{server.bind_addr}:{server.bind_port} cannot be had: {reason}") from None


def _native_threads_in_python() -> bool:
    """Whether a thread that Python did not start runs Python code.

    A thread of Granian's tells the event loop of its end from there. Before CPython 3.14 one that wants back in while
    the interpreter is taken apart is unwound, which Rust answers with abort (PyO3/pyo3 4874).
    """
    running = sys._current_frames()  # noqa: SLF001 - documented, in spite of its name
    return not running.keys() <= {thread.ident for thread in threading.enumerate()}


async def all_until(
    stop: asyncio.Event,
    servers: Sequence[Server],
    background: Sequence[Callable[[], Awaitable[None]]],
    *,
    finishing: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> None:
    """Run all side by side until `stop`; whatever ends before that ends all, with its error.

    `finishing` ends by itself once `stop` is set, and is waited for.
    """
    stopping = asyncio.create_task(stop.wait())
    serving = [asyncio.create_task(_serving(server)) for server in servers]
    working = [asyncio.ensure_future(work()) for work in background]
    last = [asyncio.create_task(finishing())] if finishing is not None else []
    await asyncio.wait([stopping, *serving, *working, *last], return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(LEAVING_SECONDS)
    if stop.is_set():
        await asyncio.gather(*last, return_exceptions=True)
    for server, serving_task in zip(servers, serving, strict=True):
        if not serving_task.done():
            server.stop()  # type: ignore[no-untyped-call] # Granian does not say that it returns nothing
    ended = await asyncio.gather(*serving, return_exceptions=True)
    stopping.cancel()
    for task in (*working, *last):
        task.cancel()
    ended += await asyncio.gather(*working, *last, return_exceptions=True)
    for error in ended:
        if error is not None and not isinstance(error, asyncio.CancelledError):
            raise error
    if not stop.is_set():
        raise RuntimeError("a part of the process ended by itself")
