"""A door is shut when what is behind it is broken, says so at once, and opens again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from benchmarks.world.web import Answer, Asked, serving
from connectors.breaker import State
from connectors.http import Api, Client, Limits
from connectors.platforms import PLATFORMS
from flows.doors import Door
from flows.log_reading import Clocks
from models.records.calls import Ambiguous, Done, Refused, RerunJob, Unavailable

RETRY = RerunJob(platform="gitlab", instance="main", repository="acme/shop", pipeline_id="5", job_id="7")
OK = Answer(201, b'{"id": 8}')


class Behind:
    """A server that answers what it is told to, and a clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.answers: Answer = OK
        self.asked: list[Asked] = []
        self.seconds = 1000.0
        self.reached = asyncio.Event()

    def answer(self, asked: Asked) -> Answer:
        """What it answers."""
        self.asked.append(asked)
        self.reached.set()
        return self.answers


def through(what: Callable[[Behind, Door], Awaitable[Any]], *, places: int = 4) -> None:
    async def main() -> None:
        behind = Behind()
        async with serving(behind.answer) as port:
            client = Client(Api(f"http://127.0.0.1:{port}/api/v4"), Limits(read_seconds=10.0))
            clocks = Clocks(lambda: 1_775_040_000.0, lambda: behind.seconds)
            door = Door("acme.act", client, places=places, clocks=clocks)
            try:
                await what(behind, door)
            finally:
                await door.close()

    asyncio.run(main())


def asking() -> Any:
    return PLATFORMS["gitlab"].ask(RETRY)


async def fail(behind: Behind, door: Door, answer: Answer, times: int = 8) -> None:
    behind.answers = answer
    for _ in range(times):
        await door.hold(asking())


@pytest.mark.parametrize(
    "broken", [Answer(500), Answer(401), Answer(body=None), Answer(201, b"<html>")], ids=["500", "401", "none", "html"]
)
def test_too_many_failures_shut_it_and_two_that_pass_open_it(broken: Answer) -> None:
    async def what(behind: Behind, door: Door) -> None:
        await fail(behind, door, broken)
        assert door.is_shut()
        ended = await door.hold(asking())
        assert ended == Unavailable("acme.act is asked no more for now", 2.0)
        assert len(behind.asked) == 8
        behind.seconds += 2.0
        behind.answers = OK
        assert [type(await door.hold(asking())) for _ in range(2)] == [Done, Done]
        assert door.breaker.state(behind.seconds) is State.CLOSED
        assert not door.is_shut()

    through(what)


def test_it_is_never_shut_for_longer_than_half_a_minute() -> None:
    async def what(behind: Behind, door: Door) -> None:
        await fail(behind, door, Answer(500))
        for _ in range(10):
            ended = await door.hold(asking())
            assert isinstance(ended, Unavailable)
            assert ended.retry_after is not None
            assert ended.retry_after <= 30.0
            behind.seconds += ended.retry_after
            assert isinstance(await door.hold(asking()), Ambiguous)  # it is tried out, and is still broken

    through(what)


def test_half_of_eight_calls_are_too_many_and_three_are_not() -> None:
    async def what(behind: Behind, door: Door) -> None:
        await fail(behind, door, Answer(500), 3)
        await fail(behind, door, OK, 4)
        await fail(behind, door, Answer(404), 2)
        assert door.breaker.state(behind.seconds) is State.CLOSED
        await fail(behind, door, Answer(500), 6)
        assert door.breaker.state(behind.seconds) is State.OPEN

    through(what)


def test_nothing_is_asked_before_the_platform_wants_to_be() -> None:
    async def what(behind: Behind, door: Door) -> None:
        behind.answers = Answer(429, b"", {"retry-after": "60"})
        assert await door.hold(asking()) == Unavailable("HTTP 429", 60.0)
        behind.answers = OK
        behind.seconds += 59.0
        assert await door.hold(asking()) == Unavailable("acme.act is asked no more for now", 1.0)
        behind.seconds += 1.0
        assert isinstance(await door.hold(asking()), Done)
        assert len(behind.asked) == 2

    through(what)


def test_a_refusal_says_that_the_platform_is_well() -> None:
    async def what(behind: Behind, door: Door) -> None:
        await fail(behind, door, Answer(403), 20)
        assert isinstance(await door.hold(asking()), Refused)

    through(what)


def test_no_more_are_asked_at_once_than_there_are_places() -> None:
    async def what(behind: Behind, door: Door) -> None:
        behind.answers = Answer(201, b'{"id": 8}', after=30.0)
        first = asyncio.create_task(door.hold(asking()))
        await behind.reached.wait()
        waiting = asking()
        assert await door.hold(waiting) == Unavailable("too much waits for it", 1.0)
        assert waiting.gi_frame is None  # it is closed
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        behind.answers = OK
        assert isinstance(await door.hold(asking()), Done)

    through(what, places=1)


def test_headers_go_with_every_request() -> None:
    async def what(behind: Behind, door: Door) -> None:
        await door.hold(asking(), {"authorization": "Bearer x"})
        assert [one.headers["authorization"] for one in behind.asked] == ["Bearer x"]

    through(what)
