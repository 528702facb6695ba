"""A conversation with a platform (connectors/platforms/acting.py), held over its client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from connectors.http import Client, Unanswered
from connectors.platforms.acting import Send, Silence, Stop, Talk
from connectors.platforms.asking import Pause, Reply
from models.records.errors import Refused

MOST_BYTES: Final = 8 << 20
"""What an answer may hold."""

_NOTHING: Final = Reply(0, {})
T = TypeVar("T")


async def hold(client: Client, talk: Talk[T], now: Callable[[], float]) -> T | Stop:
    """Ask what `talk` wants asked, once each, until it ends; how it did. `now` is in Unix seconds."""
    try:
        step = next(talk)
        while True:
            step = talk.send(await _said(client, step, now))
    except StopIteration as ended:
        result: T | Stop = ended.value
        return result
    finally:
        talk.close()


async def _said(client: Client, step: Send | Pause, now: Callable[[], float]) -> Reply | Silence:
    if isinstance(step, Pause):
        await asyncio.sleep(step.seconds)
        return _NOTHING
    answered = False
    try:
        async with client.send(step.method, step.path, headers=step.headers, body=step.body, up=step.up) as answer:
            answered = True
            return Reply(answer.status, answer.headers, now(), body=await answer.read(MOST_BYTES))
    except Unanswered as error:
        return Silence(str(error), sent=error.sent)
    except Refused as error:
        return Silence(str(error), sent=answered)
