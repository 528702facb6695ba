"""A world whose APIs are asked over the network, and settings of a reconciler that asks them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from benchmarks.world.web import serving
from flows.settings import Settings
from tests.benchmarks.world.apis import CREDENTIALS, Lab

PLATFORMS = {"hub": "github", "lab": "gitlab", "butler": "jenkins", "circle": "circleci"}
"""The platform of each instance."""

KEY = "a redaction key of the tests"


@contextmanager
def answering(lab: Lab) -> Iterator[str]:
    """Serve the APIs of `lab` from a thread of their own; their address."""
    ready, port = threading.Event(), 0
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        nonlocal port
        async with serving(lab.api.answer) as port:
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="apis")
    thread.start()
    assert ready.wait(10)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def settings(
    redis_url: str,
    postgres_url: str,
    url: str,
    *,
    instances: tuple[str, ...] = tuple(PLATFORMS),
    acting: Mapping[str, str] | None = None,
    hooks: Mapping[str, list[str]] | None = None,
    repositories: Mapping[str, list[str]] | None = None,
    **reconcile: Any,
) -> Settings:
    """Settings by which `instances` are asked at `url`; `acting` has the credentials of those that may be acted on."""
    platforms: dict[str, Any] = {}
    for instance in instances:
        platform = PLATFORMS[instance]
        kind = "basic" if platform == "jenkins" else "token"
        platforms[instance] = {
            "platform": platform,
            "instance": instance,
            "url": f"{url}/{platform}",
            "read_credential": {"kind": kind, "value": CREDENTIALS[platform]},
            "hooks": (hooks or {}).get(instance, []),
            "repositories": (repositories or {}).get(instance, []),
        }
        if acting and instance in acting:
            platforms[instance]["act_credential"] = {"kind": kind, "value": acting[instance]}
    given = {
        "redis": {"url": redis_url},
        "postgres": {"url": postgres_url},
        "redaction": {"key": KEY},
        "platforms": platforms,
        "reconcile": reconcile,
    }
    return Settings.load({}, given=given)
