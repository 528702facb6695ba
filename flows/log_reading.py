"""One visit to a platform for one log: the conversation that its file lays down, held over its client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Final, NamedTuple, Protocol

from connectors.http import Answer, Client
from connectors.platforms.asking import Decoder, Denied, Ending, Found, Get, JobRun, NotThere, Reply, Step, TryLater
from connectors.platforms.platform import Platform
from models.records.errors import InputError, Refused, Unavailable

SMALL_BYTES: Final = 8 << 20
"""An answer that is not itself a log may have so many bytes."""

_MOST_STEPS: Final = 100
_OK: Final = range(200, 300)
_NOTHING: Final = Reply(0, {})


class Sink(Protocol):
    """Where the text of a log goes."""

    def feed(self, chunk: bytes) -> None:
        """Take in the next piece of it."""


class Clocks(NamedTuple):
    """`now` is Unix seconds; `monotonic`, in seconds, never goes back."""

    now: Callable[[], float]
    monotonic: Callable[[], float]


class Visit:
    """One visit. `begin` makes the sink; it is awaited when text is about to come, and once at most."""

    def __init__(
        self,
        platform: Platform,
        client: Client,
        begin: Callable[[], Awaitable[Sink]],
        *,
        most_bytes: int,
        clocks: Clocks,
    ) -> None:
        self.text_bytes = 0  # of the log, so far
        self.cut = False  # there were more than `most_bytes` of it; what came first went to the sink
        self.seconds = 0.0  # for which the slowest answer was waited for
        self._platform = platform
        self._client = client
        self._begin = begin
        self._sink: Sink | None = None
        self._most_bytes = most_bytes
        self._clocks = clocks

    async def read(self, job: JobRun) -> Ending:
        """Read the log of `job` into the sink; how that ended. Text that came before it ended badly is of no use."""
        steps = self._platform.log(job)
        try:
            step = next(steps)
            for _ in range(_MOST_STEPS):
                reply = await self._done(step)
                if self.cut:
                    return Found()
                step = steps.send(reply)
        except StopIteration as ended:
            ending: Ending = ended.value
            return ending
        except (InputError, Refused) as error:
            return Denied(str(error))
        except Unavailable as error:
            return TryLater(str(error), error.retry_after)
        finally:
            steps.close()
        return Denied(f"more than {_MOST_STEPS} questions")

    async def _done(self, step: Step) -> Reply:
        if not isinstance(step, Get):
            await asyncio.sleep(step.seconds)
            return _NOTHING
        began = self._clocks.monotonic()
        asked = (
            self._client.get(step.path, accept=step.accept)
            if step.path
            else self._client.get_elsewhere(step.elsewhere, accept=step.accept)
        )
        async with asked as answer:
            self.seconds = max(self.seconds, self._clocks.monotonic() - began)
            at, body, text_bytes = self._clocks.now(), b"", 0
            if answer.status in _OK and step.text is None:
                body = await answer.read(SMALL_BYTES)
            elif answer.status in _OK and step.text is not None:
                text_bytes = await self._stream(answer, step.text())
            return Reply(answer.status, answer.headers, at, answer.redirected, body, text_bytes)

    async def _stream(self, answer: Answer, decoder: Decoder) -> int:
        """Hand on the text of `answer`; how many bytes of it there were."""
        if self._sink is None:
            self._sink = await self._begin()
        before = self.text_bytes
        async with aclosing(answer.pieces()) as pieces:
            async for piece in pieces:
                for text in decoder.feed(piece):
                    self._sink.feed(text[: self._most_bytes - self.text_bytes])
                    self.text_bytes += len(text)
                    if self.text_bytes > self._most_bytes:
                        self.cut = True
                        return self.text_bytes - before
                if decoder.ended:
                    break
        self.cut = self.cut or answer.cut
        return self.text_bytes - before


def why(ending: Ending) -> str:
    """Why there is no text of a log, in a few words."""
    return "" if isinstance(ending, Found) else ending.why


def is_final(ending: Ending) -> bool:
    """Whether asking again would get the same."""
    return isinstance(ending, Found | NotThere | Denied)
