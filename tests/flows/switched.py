"""A kill switch that is kept up to date, and waiting for what it says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from flows.stopping import Switch


async def comes(condition: Callable[[], Any], within: float = 10.0) -> float:
    """Seconds until `condition` held."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within, "it did not come true"
        await asyncio.sleep(0.002)
    return time.monotonic() - began


@asynccontextmanager
async def watching(switch: Switch) -> AsyncIterator[Switch]:
    """`switch`, while it watches."""
    task = asyncio.create_task(switch.watch())
    try:
        yield switch
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def watched(path: Path | None, url: str, healer: str = "one") -> AbstractAsyncContextManager[Switch]:
    """The switch of a healer, while it watches."""
    return watching(Switch(path, url, healer=healer))
