"""Requests for logs among several readers, on Valkey and on the machine's own Redis."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis

from connectors.delivery import Delivery
from connectors.redis_requests import GROUP, Held, Requests
from connectors.redis_streams import log_backlog, log_key, passed_key, passing_key, publish, requests_key
from models.records.entry import Encoding, Entry, Kind, decode
from models.records.errors import Unavailable
from models.records.event import SHARDS
from tests.helpers import wait_until

EVIDENCE = Entry(Kind.EVIDENCE, Encoding.JSON, 1000, b'{"reading":"read"}')


@pytest.fixture
def client(any_redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(any_redis_url, protocol=2) as client:
        yield client


@asynccontextmanager
async def reader(url: str, name: str = "a") -> AsyncIterator[Requests]:
    requests = Requests(url, name)
    try:
        await requests.prepare()
        yield requests
    finally:
        await requests.close()


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await work()

    asyncio.run(main())


def ask(client: Any, *payloads: bytes, shard: int = 3) -> None:
    publish(client, [Delivery(shard, ((Entry(Kind.EVENT, Encoding.JSON, 1, b"{}"), None),), payloads)])


def evidence(client: Any, shard: int = 3) -> list[bytes]:
    entries = [decode(*next(iter(fields.items()))) for _, fields in client.xrange(log_key(shard))]
    return [entry.payload for entry in entries if entry.kind is Kind.EVIDENCE]


def lapse(client: Any, name: str, *, shard: int = 3) -> None:
    """Let the lease of a reader run out."""
    ids = [row["message_id"] for row in client.xpending_range(requests_key(shard), GROUP, "-", "+", 100, name)]
    client.xclaim(requests_key(shard), GROUP, name, 0, ids, idle=60_000, justid=True)


def texts(held: list[Held]) -> list[bytes]:
    return sorted(one.payload for one in held)


def test_each_request_goes_to_one_reader_even_those_that_came_before_there_was_any(
    any_redis_url: str, client: Any
) -> None:
    async def work() -> None:
        ask(client, b"1", b"2", b"3")
        ask(client, b"4", shard=11)
        async with reader(any_redis_url) as one, reader(any_redis_url, "b") as other:
            first = await one.take(most=2, wait_ms=1)
            second = await other.take(most=8, wait_ms=1)
            assert texts(first + second) == [b"1", b"2", b"3", b"4"]
            assert {held.shard for held in first} == {3, 11}
            assert await one.take(most=8, wait_ms=1) == []
            assert first[0].at_ms == int(first[0].entry_id.split("-")[0])

    run(work)


def test_taking_waits_for_the_first_to_come(any_redis_url: str, client: Any) -> None:
    async def work() -> None:
        async with reader(any_redis_url) as one:
            taking = asyncio.create_task(one.take(most=8, wait_ms=5000))
            blocked = lambda: client.info("clients")["blocked_clients"]  # noqa: E731 - what is waited for
            await asyncio.to_thread(wait_until, blocked, what="a reader that waits")
            await asyncio.to_thread(ask, client, b"1")
            assert texts(await taking) == [b"1"]

    run(work)


def test_settling_appends_the_evidence_and_removes_the_request_together_and_once(
    any_redis_url: str, client: Any
) -> None:
    async def work() -> None:
        ask(client, b"1")
        async with reader(any_redis_url) as one:
            (held,) = await one.take(most=8, wait_ms=1)
            assert await one.settle(held, "event-1", EVIDENCE)
            assert not await one.settle(held, "event-1", EVIDENCE)
        assert evidence(client) == [EVIDENCE.payload]
        assert client.xlen(requests_key(3)) == 0
        assert client.xpending(requests_key(3), GROUP)["pending"] == 0

    run(work)


def test_a_second_request_about_an_event_gives_no_second_evidence(any_redis_url: str, client: Any) -> None:
    async def work() -> None:
        ask(client, b"1", b"1")
        async with reader(any_redis_url) as one:
            first, second = await one.take(most=8, wait_ms=1)
            assert await one.settle(first, "event-1", EVIDENCE)
            assert not await one.settle(second, "event-1", EVIDENCE)
        assert len(evidence(client)) == 1
        assert client.xlen(requests_key(3)) == 0

    run(work)


def test_what_a_dead_reader_had_is_taken_over_once_its_lease_is_out_and_not_before(
    any_redis_url: str, client: Any
) -> None:
    async def work() -> None:
        ask(client, b"1", b"2")
        async with reader(any_redis_url) as dead, reader(any_redis_url, "b") as other:
            had = await dead.take(most=8, wait_ms=1)
            assert await other.take_over() == []
            lapse(client, "a")
            taken = await other.take_over()
            assert texts(taken) == [b"1", b"2"]
            assert {held.begun for held in taken} == {2}
            assert await other.take_over() == []
            assert await dead.settle(had[0], "event-1", EVIDENCE)
            assert not await other.settle(taken[0], "event-1", EVIDENCE)
        assert len(evidence(client)) == 1

    run(work)


def test_a_lease_that_is_renewed_does_not_run_out(any_redis_url: str, client: Any) -> None:
    async def work() -> None:
        ask(client, b"1")
        async with reader(any_redis_url) as one, reader(any_redis_url, "b") as other:
            held = await one.take(most=8, wait_ms=1)
            lapse(client, "a")
            await one.renew(held)
            assert await other.take_over() == []
            await one.renew([])

    run(work)


def test_what_is_given_back_is_taken_over_at_once(any_redis_url: str, client: Any) -> None:
    async def work() -> None:
        ask(client, b"1")
        async with reader(any_redis_url) as one, reader(any_redis_url, "b") as other:
            await one.give_back(await one.take(most=8, wait_ms=1))
            assert texts(await other.take_over()) == [b"1"]

    run(work)


def test_a_reader_that_comes_back_finds_what_it_had(any_redis_url: str, client: Any) -> None:
    async def work() -> None:
        ask(client, *(b"%d" % n for n in range(100)))
        async with reader(any_redis_url) as one, reader(any_redis_url, "b") as other:
            await one.take(most=90, wait_ms=1)
            await other.take(most=10, wait_ms=1)
        async with reader(any_redis_url) as again:
            assert len(await again.take_over(own=True)) == 90

    run(work)


def test_what_counts_is_how_often_a_request_was_begun_not_how_often_it_changed_hands(
    any_redis_url: str, client: Any
) -> None:
    async def work() -> None:
        ask(client, b"1")
        async with reader(any_redis_url) as one, reader(any_redis_url, "b") as other:
            await one.take(most=8, wait_ms=1)
            for _ in range(4):
                lapse(client, "a")
                (held,) = await other.take_over()
                assert held.begun == 2
                lapse(client, "b")
                (held,) = await one.take_over()
                assert held.begun == 2
            for begun in (3, 4, 5):
                await one.begin(held)
                await one.renew([held])
                lapse(client, "a")
                (held,) = await one.take_over()
                assert held.begun == begun

    run(work)


def test_a_request_that_was_trimmed_away_is_nobodys(any_redis_url: str, client: Any) -> None:
    async def work() -> None:
        ask(client, b"1")
        async with reader(any_redis_url) as one, reader(any_redis_url, "b") as other:
            (held,) = await one.take(most=8, wait_ms=1)
            client.xtrim(requests_key(3), maxlen=0)
            lapse(client, "a")
            assert await other.take_over() == []
            assert await one.settle(held, "event-1", EVIDENCE)
        assert len(evidence(client)) == 1

    run(work)


def test_a_request_can_be_dropped_without_evidence(any_redis_url: str, client: Any) -> None:
    async def work() -> None:
        ask(client, b"garbage")
        async with reader(any_redis_url) as one:
            (held,) = await one.take(most=8, wait_ms=1)
            await one.drop(held)
        assert evidence(client) == []
        assert client.xlen(requests_key(3)) == 0

    run(work)


def test_a_server_that_lost_its_state_is_prepared_anew(any_redis_url: str, client: Any) -> None:
    async def work() -> None:
        async with reader(any_redis_url) as one:
            for lost in (one.take(most=8, wait_ms=1), one.take_over()):
                client.flushall()
                with pytest.raises(Unavailable, match="NOGROUP"):
                    await lost
            ask(client, b"1")
            assert texts(await one.take(most=8, wait_ms=1)) == [b"1"]

    run(work)


def test_the_newest_passing_run_of_a_job_and_its_index_are_there_until_they_expire(
    any_redis_url: str, client: Any
) -> None:
    async def work() -> None:
        entry = Entry(Kind.EVENT, Encoding.JSON, 1, b"{}")
        for mark, told in (("m1", b"run 1"), ("m2", b"run 2"), ("m2", b"told again")):
            publish(client, [Delivery(3, ((entry, mark),), (), (("job", told),))])
        async with reader(any_redis_url) as one:
            assert await one.passed(3, "job") == (b"run 2", None)
            assert await one.passed(3, "other") == (None, None)
            await one.keep_index(3, "job", b"index", ttl_ms=60_000)
            assert await one.passed(3, "job") == (b"run 2", b"index")
        assert 6 * 24 * 3600 < client.ttl(passed_key(3, "job")) <= 7 * 24 * 3600
        assert 0 < client.ttl(passing_key(3, "job")) <= 60

    run(work)


def test_the_backlog_is_what_is_not_settled(any_redis_url: str, client: Any) -> None:
    assert log_backlog(client, now_ms=10**15) == (0, 0)
    ask(client, b"1", b"2")
    ask(client, b"3", shard=7)

    async def work() -> None:
        async with reader(any_redis_url) as one:
            held = await one.take(most=8, wait_ms=1)
            oldest = min(one.at_ms for one in held)
            assert log_backlog(client, now_ms=oldest + 5000) == (3, 5000)
            for n, one_held in enumerate(held):
                await one.settle(one_held, f"event-{n}", EVIDENCE)

    run(work)
    assert log_backlog(client, now_ms=10**15) == (0, 0)


def test_all_keys_of_one_script_share_their_hash_tag() -> None:
    for shard in range(SHARDS):
        keys = (log_key(shard), requests_key(shard), passed_key(shard, "x"), passing_key(shard, "x"))
        assert {key.partition("{")[2].partition("}")[0] for key in keys} == {f"{shard:02d}"}


def test_a_server_that_is_away_is_unavailable(tmp_path: Any) -> None:
    async def work() -> None:
        requests = Requests(f"unix://{tmp_path}/nobody.sock", "a")
        held = Held(0, "1-0", b"")
        for asked in (
            requests.prepare(),
            requests.take(most=1, wait_ms=1),
            requests.take_over(),
            requests.renew([held]),
            requests.begin(held),
            requests.settle(held, "e", EVIDENCE),
            requests.drop(held),
            requests.passed(0, "x"),
            requests.keep_index(0, "x", b"", ttl_ms=1),
        ):
            with pytest.raises(Unavailable):
                await asked
        await requests.close()

    run(work)


def test_whoever_is_told_to_stop_asking_stops_and_what_it_left_half_asked_disturbs_nobody(
    any_redis_url: str, rng: random.Random
) -> None:
    async def work() -> None:
        async with reader(any_redis_url) as one:

            async def ask_on() -> None:
                while True:
                    await one.take(most=8, wait_ms=1)
                    await one.renew([Held(3, "1-1", b"")])
                    await one.take_over()

            for _ in range(200):
                asking = asyncio.create_task(ask_on())
                await asyncio.sleep(rng.random() * 0.004)
                asking.cancel()
                await asyncio.wait([asking], timeout=5)
                assert asking.cancelled()

    run(work)
