"""What enters the shards, on Valkey and on the machine's own Redis."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.delivery import Delivery
from connectors.redis_append import Appender, heartbeat
from connectors.redis_streams import (
    BACKLOG_SAMPLE,
    GROUP,
    LOG_REQUEST_FIELD,
    MOST_LOG_REQUESTS,
    append_entry,
    backlog,
    log_key,
    mark_key,
    publish,
    requests_key,
)
from flows.embedded import EmbeddedValkey
from models.records.entry import Encoding, Entry, Kind, decode, encode
from models.records.errors import Unavailable
from models.records.event import SHARDS


def event(number: int, *, size: int = 0) -> Entry:
    return Entry(Kind.EVENT, Encoding.JSON, 1000 + number, b'{"n":%d}' % number + b" " * size)


def delivery(shard: int, *numbers: int, marked: bool = True, requests: tuple[bytes, ...] = ()) -> Delivery:
    return Delivery(shard, tuple((event(n), f"m{n}" if marked else None) for n in numbers), requests)


def connected(url: str) -> Any:
    return redis.Redis.from_url(url, protocol=2)


@pytest.fixture
def client(any_redis_url: str) -> Iterator[Any]:
    with connected(any_redis_url) as client:
        yield client


def entries(client: Any, shard: int) -> list[Entry]:
    return [decode(*next(iter(fields.items()))) for _, fields in client.xrange(log_key(shard))]


def numbers(client: Any, shard: int) -> list[int]:
    return [entry.received_ms - 1000 for entry in entries(client, shard)]


def test_all_keys_of_a_shard_share_their_hash_tag() -> None:
    keys = [log_key(7), requests_key(7), mark_key(7, "x{y}")]
    assert {key.partition("{")[2].partition("}")[0] for key in keys} == {"07"}


def test_what_was_appended_stands_there_to_the_byte_and_in_order(any_redis_url: str, client: Any) -> None:
    async def append() -> list[int]:
        appender = Appender(any_redis_url)
        counts = [await appender.append(delivery(3, n, n + 100)) for n in range(5)]
        await appender.close()
        return counts

    assert asyncio.run(append()) == [2] * 5
    assert entries(client, 3) == [event(n) for base in range(5) for n in (base, base + 100)]


def test_a_delivery_seen_before_is_left_out_and_adds_no_log_request(any_redis_url: str, client: Any) -> None:
    async def append() -> list[int]:
        appender = Appender(any_redis_url)
        counts = [await appender.append(delivery(0, *some, requests=(b"read me",))) for some in ([1], [1], [1, 2])]
        await appender.close()
        return counts

    assert asyncio.run(append()) == [1, 0, 1]
    assert numbers(client, 0) == [1, 2]
    assert [fields for _, fields in client.xrange(requests_key(0))] == [{LOG_REQUEST_FIELD: b"read me"}] * 2
    assert 71 * 3600 < client.ttl(mark_key(0, "m1")) <= 72 * 3600


def test_requests_for_logs_do_not_pile_up_without_end(any_redis_url: str, client: Any) -> None:
    many = tuple(b"%d" % n for n in range(1000))
    publish(client, [delivery(0, n, requests=many) for n in range(13)])
    assert MOST_LOG_REQUESTS <= client.xlen(requests_key(0)) < MOST_LOG_REQUESTS + 1000


def test_an_entry_without_a_mark_is_appended_each_time(any_redis_url: str, client: Any) -> None:
    async def append() -> None:
        appender = Appender(any_redis_url)
        for _ in range(2):
            assert await appender.append(delivery(0, 1, marked=False)) == 1
        await appender.close()

    asyncio.run(append())
    assert numbers(client, 0) == [1, 1]
    assert client.keys("*seen*") == []


def test_concurrent_appends_share_round_trips_and_each_gets_its_own_answer(any_redis_url: str, client: Any) -> None:
    async def append() -> list[int]:
        appender = Appender(any_redis_url)
        await appender.ping()
        before = reads(client)
        counts = await asyncio.gather(*(appender.append(delivery(n % 3, n // 2)) for n in range(300)))
        assert reads(client) - before < 40
        await appender.close()
        return counts

    counts = asyncio.run(append())
    assert sum(counts) == client.xlen(log_key(0)) + client.xlen(log_key(1)) + client.xlen(log_key(2))
    for shard in range(3):
        assert numbers(client, shard) == list(dict.fromkeys(n // 2 for n in range(300) if n % 3 == shard))


def reads(client: Any) -> int:
    """How often the server read from its clients."""
    return int(client.info("stats")["total_reads_processed"])


def test_a_server_that_forgot_the_script_is_taught_it_again_in_order(any_redis_url: str, client: Any) -> None:
    async def append() -> list[int]:
        appender = Appender(any_redis_url)
        await appender.append(delivery(0, 0))
        client.script_flush()
        counts = await asyncio.gather(*(appender.append(delivery(0, n)) for n in range(1, 20)))
        await appender.close()
        return counts

    assert asyncio.run(append()) == [1] * 19
    assert numbers(client, 0) == list(range(20))


def test_a_full_server_is_unavailable_and_keeps_nothing_of_the_delivery(any_redis_url: str, client: Any) -> None:
    async def append() -> None:
        appender = Appender(any_redis_url)
        client.config_set("maxmemory", 1)
        try:
            with pytest.raises(Unavailable, match="memory"):
                await appender.append(delivery(0, 1))
        finally:
            client.config_set("maxmemory", 0)
        assert await appender.append(delivery(0, 1)) == 1
        await appender.close()

    asyncio.run(append())


@pytest.mark.fault
def test_appends_survive_a_killed_server_and_no_acknowledged_one_is_lost_or_doubled(
    own_valkey: EmbeddedValkey,
) -> None:
    async def append() -> int:
        appender, failed = Appender(own_valkey.url), asyncio.Event()

        async def stubborn(n: int) -> None:
            while True:
                try:
                    await appender.append(delivery(n % SHARDS, n))
                except Unavailable:
                    failed.set()
                    await asyncio.sleep(0.02)
                else:
                    return

        async def trouble() -> None:
            for _ in range(2):
                await asyncio.sleep(0.05)
                await asyncio.to_thread(own_valkey.kill)
                failed.clear()
                with pytest.raises(Unavailable):
                    await appender.ping()
                await failed.wait()
                own_valkey.start()  # in this thread: the server dies with the one that started it

        count, killing = 0, asyncio.create_task(trouble())
        while not killing.done():
            await asyncio.gather(*(stubborn(count + shard) for shard in range(SHARDS)))
            count += SHARDS
        await killing
        await appender.close()
        return count

    count = asyncio.run(append())
    with connected(own_valkey.url) as client:
        for shard in range(SHARDS):
            assert numbers(client, shard) == list(range(shard, count, SHARDS))


def test_a_closed_appender_refuses_and_has_written_all_that_waited(any_redis_url: str, client: Any) -> None:
    async def append() -> None:
        appender = Appender(any_redis_url)
        waiting = [asyncio.create_task(appender.append(delivery(0, n))) for n in range(50)]
        await asyncio.sleep(0)
        await appender.close()
        assert await asyncio.gather(*waiting) == [1] * 50
        with pytest.raises(Unavailable):
            await appender.append(delivery(0, 99))

    asyncio.run(append())
    assert numbers(client, 0) == list(range(50))


def test_a_server_that_does_not_answer_is_unavailable_within_the_timeout() -> None:
    async def append(port: int) -> float:
        appender = Appender(f"redis://127.0.0.1:{port}", timeout=0.2)
        began = time.monotonic()
        with pytest.raises(Unavailable):
            await appender.append(delivery(0, 1))
        took = time.monotonic() - began
        await appender.close()
        return took

    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert asyncio.run(append(silent.getsockname()[1])) < 1


def test_a_caller_that_gives_up_does_not_disturb_the_others(any_redis_url: str, client: Any) -> None:
    async def append() -> None:
        appender = Appender(any_redis_url)
        tasks = [asyncio.create_task(appender.append(delivery(0, n))) for n in range(4)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        assert await asyncio.gather(*tasks[:1], *tasks[2:]) == [1, 1, 1]
        await appender.close()

    asyncio.run(append())
    assert numbers(client, 0) == [0, 1, 2, 3]


def test_a_heartbeat_reaches_every_shard(any_redis_url: str, client: Any) -> None:
    async def beat() -> None:
        appender = Appender(any_redis_url)
        await heartbeat(appender, 77)
        await appender.close()

    asyncio.run(beat())
    for shard in range(SHARDS):
        assert entries(client, shard) == [Entry(Kind.HEARTBEAT, Encoding.JSON, 77, b"{}")]


def test_publishing_keeps_the_order_and_absorbs_duplicates(client: Any) -> None:
    plain = [delivery(n % 2, n, marked=False) for n in range(100)]
    marked = [delivery(2, n % 30) for n in range(100)]
    assert publish(client, [*plain, *marked], batch=7) == 130
    assert numbers(client, 0) == list(range(0, 100, 2))
    assert numbers(client, 1) == list(range(1, 100, 2))
    assert numbers(client, 2) == list(range(30))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    history=st.lists(
        st.tuples(st.integers(0, 2), st.lists(st.integers(0, 6), min_size=1, max_size=3), st.booleans()), max_size=12
    )
)
def test_appending_and_publishing_say_the_same_of_any_history(
    redis_url: str, history: list[tuple[int, list[int], bool]]
) -> None:
    deliveries = [delivery(shard, *some, marked=marked) for shard, some, marked in history]

    async def append() -> int:
        appender = Appender(redis_url)
        counts = await asyncio.gather(*map(appender.append, deliveries))
        await appender.close()
        return sum(counts)

    with connected(redis_url) as client:
        ways: list[Callable[[], int]] = [
            lambda: asyncio.run(append()),
            lambda: publish(client, deliveries, batch=3),
        ]
        stand = []
        for way in ways:
            client.flushall()
            stand.append((way(), [numbers(client, shard) for shard in range(3)]))
    assert stand[0] == stand[1]
    seen: set[tuple[int, int]] = set()
    expected: list[list[int]] = [[], [], []]
    for shard, some, marked in history:
        for n in some:
            if not marked or (shard, n) not in seen:
                expected[shard].append(n)
            if marked:
                seen.add((shard, n))
    assert stand[0] == (sum(map(len, expected)), expected)


def test_depth_counts_unread_events_and_age_is_that_of_the_oldest(client: Any) -> None:
    now = 1_000_000
    beat = dict([encode(Entry(Kind.HEARTBEAT, Encoding.JSON, 1, b"{}"))])
    one = dict([encode(event(1))])
    for ms, fields in ((100, one), (200, beat), (300, one), (400, beat), (500, one)):
        client.xadd(log_key(4), fields, id=f"{ms}-1")
    client.xadd(log_key(5), beat, id="600-1")
    client.execute_command("XGROUP", "CREATE", log_key(4), GROUP, "100-1", "ENTRIESREAD", 1)
    client.execute_command("XGROUP", "CREATE", log_key(5), GROUP, "0-0", "ENTRIESREAD", 0)
    found = backlog(client, now_ms=now)
    assert [shard.shard for shard in found] == list(range(SHARDS))
    assert (found[4].depth, found[4].oldest_age_ms) == (2, now - 300)
    assert (found[5].depth, found[5].oldest_age_ms) == (0, 0)
    assert (found[0].depth, found[0].oldest_age_ms) == (0, 0)


def test_depth_without_a_cursor_counts_all_and_is_estimated_beyond_the_sample(client: Any) -> None:
    beat = Entry(Kind.HEARTBEAT, Encoding.JSON, 1, b"{}")
    half = [Delivery(0, ((event(n) if n % 2 else beat, None),)) for n in range(3 * BACKLOG_SAMPLE)]
    publish(client, half)
    assert backlog(client, now_ms=0)[0].depth == 1.5 * BACKLOG_SAMPLE


def test_an_entry_of_our_own_is_appended_whole_and_its_id_told(client: Any) -> None:
    entry_id = append_entry(client, 6, event(5))
    assert client.xinfo_stream(log_key(6))["last-generated-id"] == entry_id.encode()
    assert entries(client, 6) == [event(5)]
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(Unavailable):
            append_entry(client, 6, event(5))
    finally:
        client.config_set("maxmemory", 0)


def test_a_server_that_is_not_there_is_unavailable_to_all(own_valkey: EmbeddedValkey, rng: random.Random) -> None:
    with connected(own_valkey.url) as client:
        own_valkey.kill()
        with pytest.raises(Unavailable):
            publish(client, [delivery(0, rng.randrange(9))])
        with pytest.raises(Unavailable):
            backlog(client, now_ms=0)
        own_valkey.start()
        assert client.ping()
