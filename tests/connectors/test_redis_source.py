"""What leaves the shards: exactly what entered, from exactly where it was left, on Valkey and the machine's own Redis.

The partitions are driven by hand, as the engine drives them, with a clock that only the test moves.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.delivery import Delivery
from connectors.redis_reader import GapKind
from connectors.redis_source import KEYS, PART_OF, Lead, ShardPartition, ShardSource
from connectors.redis_streams import GROUP, READER_GROUPS, backlog, log_key, publish
from flows.embedded import EmbeddedValkey
from models.records.entry import Encoding, Entry, Kind, decode, encode
from models.records.event import SHARDS
from models.records.raw import RawEntry
from tests.helpers import wait_until

START_MS = 1_800_000_000_000


class Clock:
    """Time as the test says."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now_ms(self) -> int:
        """Unix milliseconds."""
        return START_MS + int(self.seconds * 1000)

    def monotonic(self) -> float:
        """Seconds."""
        return self.seconds


class Hooks:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.durables: list[tuple[int, str, int]] = []
        self.gaps: list[tuple[int, GapKind, int]] = []
        self.troubles: list[Exception] = []
        self.epochs: list[tuple[int, int]] = []

    def durable(self, shard: int, entry_id: str, position: int) -> None:
        """Keep it."""
        self.durables.append((shard, entry_id, position))

    def gap(self, shard: int, kind: GapKind, count: int) -> None:
        """Keep it."""
        self.gaps.append((shard, kind, count))

    def trouble(self, error: Exception) -> None:
        """Keep it."""
        self.troubles.append(error)

    def epoch(self, shard: int, batches: int) -> None:
        """Keep it."""
        self.epochs.append((shard, batches))


class Engine:
    """Polls the partitions of one worker in order."""

    def __init__(
        self,
        url: str,
        states: dict[int, Any] | None = None,
        *,
        durable: bool = True,
        retention: timedelta = timedelta(hours=1),
        start: Callable[[int], tuple[str, int]] = lambda _: ("0-0", 0),
    ) -> None:
        self.clock = Clock()
        self.hooks = Hooks()
        self.source = ShardSource(
            url,
            start=start,
            durable=durable,
            retention=retention,
            now_ms=self.clock.now_ms,
            monotonic=self.clock.monotonic,
            hooks=self.hooks,
        )
        states = states or {}
        self.parts: list[ShardPartition] = [
            self.source.build_part("flow.source", part, states.get(int(part))) for part in self.source.list_parts()
        ]
        self.read: dict[int, list[RawEntry]] = {shard: [] for shard in range(SHARDS)}

    def poll(self) -> int:
        """One round over all partitions, each one due; how many entries came."""
        self.clock.seconds += 10
        came = 0
        for part in self.parts:
            for key, entries in part.next_batch():
                self.read[PART_OF[key]] += entries
                came += len(entries)
        return came

    def drain(self) -> None:
        """Poll until nothing comes."""
        while self.poll():
            pass

    def snapshot(self) -> dict[int, Any]:
        """The state of every shard."""
        return {shard: part.snapshot() for shard, part in enumerate(self.parts)}

    def commit(self) -> dict[int, Any]:
        """A snapshot, made durable; with the round after the proof the server is told."""
        states = self.snapshot()
        self.poll()
        self.poll()
        return states

    def numbers(self, shard: int) -> list[int]:
        """What was read of a shard: the numbers that put() was given."""
        return [decode(*entry.fields).received_ms for entry in self.read[shard]]

    def close(self) -> None:
        """Close every partition."""
        for part in self.parts:
            part.close()


@pytest.fixture
def engines() -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def make(*args: Any, **named: Any) -> Engine:
        made.append(Engine(*args, **named))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def connected(url: str) -> Any:
    return redis.Redis.from_url(url, protocol=2)


@pytest.fixture
def client(any_redis_url: str) -> Iterator[Any]:
    with connected(any_redis_url) as client:
        yield client


def put(client: Any, shard: int, *numbers: int, size: int = 0) -> None:
    publish(
        client,
        [Delivery(shard, ((Entry(Kind.EVENT, Encoding.JSON, n, b"{}" + b" " * size), None),)) for n in numbers],
    )


def put_at(client: Any, shard: int, *ids: int) -> None:
    """Entries whose ids are these milliseconds, and whose numbers are the same."""
    for ms in ids:
        client.xadd(log_key(shard), dict([encode(Entry(Kind.EVENT, Encoding.JSON, ms, b"{}"))]), id=f"{ms}-0")


def group(client: Any, shard: int) -> dict[str, Any]:
    found: dict[str, Any] = client.xinfo_groups(log_key(shard))[0]
    return found


def test_every_entry_comes_once_in_order_with_its_id_and_running_count(
    any_redis_url: str, client: Any, engines: Callable[..., Engine]
) -> None:
    for shard in range(SHARDS):
        put(client, shard, *range(shard * 1000, shard * 1000 + 7 * shard))
    engine = engines(any_redis_url)
    engine.drain()
    for shard in range(SHARDS):
        assert engine.numbers(shard) == list(range(shard * 1000, shard * 1000 + 7 * shard))
        stand = [tuple(map(int, entry_id.split(b"-"))) for entry_id, _ in client.xrange(log_key(shard))]
        assert [(entry.entry_ms, entry.entry_seq) for entry in engine.read[shard]] == stand
        assert [entry.position for entry in engine.read[shard]] == list(range(1, 7 * shard + 1))


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps=st.lists(st.sampled_from(["put", "many", "poll", "snapshot", "crash"]), max_size=30))
def test_whatever_happens_after_a_snapshot_reading_resumes_exactly_there(redis_url: str, steps: list[str]) -> None:
    with connected(redis_url) as client:
        client.flushall()
        engine, states = Engine(redis_url), dict[int, Any]()
        kept: list[int] = []
        written = 0
        for step in steps:
            if step in ("put", "many"):
                count = 150 if step == "many" else 1
                put(client, 5, *range(written, written + count))
                written += count
            elif step == "poll":
                engine.poll()
            elif step == "snapshot":
                states, kept = engine.snapshot(), kept + engine.numbers(5)
                engine.read[5] = []
            else:
                engine.close()
                engine = Engine(redis_url, states)
        engine.drain()
        assert kept + engine.numbers(5) == list(range(written))
        assert engine.hooks.gaps == []
        engine.close()


def test_a_snapshot_covers_what_was_emitted_and_not_what_was_read_ahead(
    any_redis_url: str, client: Any, engines: Callable[..., Engine]
) -> None:
    put(client, 0, 1)
    put(client, 1, 2)
    engine = engines(any_redis_url)
    engine.clock.seconds += 10
    assert engine.parts[0].next_batch()
    assert engine.parts[1].snapshot()["position"] == 0
    again = engines(any_redis_url, engine.snapshot())
    again.drain()
    assert (again.numbers(0), again.numbers(1)) == ([], [2])


def test_one_round_over_all_shards_is_one_command(
    any_redis_url: str, client: Any, engines: Callable[..., Engine]
) -> None:
    engine = engines(any_redis_url)
    engine.poll()
    before = client.info("commandstats")["cmdstat_xread"]["calls"]
    engine.poll()
    assert client.info("commandstats")["cmdstat_xread"]["calls"] == before + 1


def test_an_idle_stream_never_blocks_and_is_asked_after_entries_could_gather(
    any_redis_url: str, client: Any, engines: Callable[..., Engine]
) -> None:
    engine = engines(any_redis_url)
    part = engine.parts[0]
    waits = []
    put(client, 0, 1)
    for _ in range(8):
        engine.clock.seconds += 1
        began = time.monotonic()
        part.next_batch()
        assert time.monotonic() - began < 0.5
        awake = part.next_awake()
        assert awake is not None
        assert awake.tzinfo is UTC
        waits.append((awake - datetime.fromtimestamp(engine.clock.now_ms() / 1000, UTC)).total_seconds())
    assert waits == pytest.approx([0.020] * 8, abs=1e-4)


def test_a_backlog_is_read_at_once_in_batches_that_grow_and_stay_bounded_in_bytes(
    any_redis_url: str, client: Any, engines: Callable[..., Engine]
) -> None:
    put(client, 0, *range(6000))
    put(client, 1, *range(600), size=20_000)
    put(client, 2, *range(30), size=300_000)
    engine = engines(any_redis_url)
    sizes: dict[int, list[int]] = {0: [], 1: [], 2: []}
    engine.clock.seconds += 10
    while sum(sizes[0]) < 6000 or sum(sizes[1]) < 600 or sum(sizes[2]) < 30:
        for shard, came in sizes.items():
            came += [len(entries) for _, entries in engine.parts[shard].next_batch()]
        engine.clock.seconds += 0.003
    assert engine.parts[0].next_awake() is not None
    assert sizes[0][:3] == [4, 16, 64]
    assert max(sizes[0]) > 1500
    assert max(sizes[1]) * 20_000 <= 2 << 20
    assert max(sizes[2]) * 300_000 <= 2 << 20


def test_the_first_poll_after_a_snapshot_proves_it_durable_and_moves_the_cursor_there(
    any_redis_url: str, client: Any, engines: Callable[..., Engine]
) -> None:
    put(client, 2, 1, 2, 3)
    engine = engines(any_redis_url)
    engine.drain()
    state = engine.snapshot()[2]
    put(client, 2, 4)
    assert engine.hooks.durables == []
    assert group(client, 2)["last-delivered-id"] == b"0-0"
    engine.poll()
    assert (2, state["entry"], 3) in engine.hooks.durables
    engine.poll()
    assert group(client, 2)["last-delivered-id"].decode() == state["entry"]
    assert (group(client, 2)["entries-read"], group(client, 2)["lag"]) == (3, 1)
    assert backlog(client, now_ms=engine.clock.now_ms())[2].depth == 1


def test_without_a_recovery_store_nothing_moves_and_nothing_is_trimmed(
    any_redis_url: str, client: Any, engines: Callable[..., Engine]
) -> None:
    put_at(client, 0, 1, 2, 3)
    engine = engines(any_redis_url, durable=False, retention=timedelta(0))
    engine.drain()
    engine.commit()
    engine.commit()
    assert engine.numbers(0) == [1, 2, 3]
    assert client.xlen(log_key(0)) == 3
    assert client.xinfo_groups(log_key(0)) == []


def test_only_what_every_reader_is_past_and_is_old_enough_is_trimmed(
    any_redis_url: str, client: Any, engines: Callable[..., Engine]
) -> None:
    client.config_set("stream-node-max-entries", 1)  # so that an approximate trim is an exact one
    try:
        old, late = START_MS - 7_200_000, START_MS - 1000
        put_at(client, 0, old, old + 1, old + 2, old + 3, late)
        client.xgroup_create(log_key(0), READER_GROUPS + "archive", id=f"{old + 1}-0")
        client.xgroup_create(log_key(0), "somebody", id="0-0")
        engine = engines(any_redis_url)
        engine.drain()

        def left() -> list[int]:
            return [int(entry_id.split(b"-")[0]) for entry_id, _ in client.xrange(log_key(0))]

        engine.commit()
        assert left() == [old + 1, old + 2, old + 3, late]
        client.xgroup_setid(log_key(0), READER_GROUPS + "archive", id=f"{late}-0")
        engine.commit()
        assert left() == [late]
    finally:
        client.config_set("stream-node-max-entries", 100)


def test_unread_entries_are_never_trimmed(any_redis_url: str, client: Any, engines: Callable[..., Engine]) -> None:
    client.config_set("stream-node-max-entries", 1)
    try:
        put_at(client, 0, 1, 2, 3)
        engine = engines(any_redis_url)
        engine.drain()
        states = engine.snapshot()
        put_at(client, 0, 4, 5)
        engine.poll()
        engine.close()
        again = engines(any_redis_url, states)
        again.drain()
        assert again.numbers(0) == [4, 5]
        assert again.hooks.gaps == []
    finally:
        client.config_set("stream-node-max-entries", 100)


def test_a_server_that_lost_its_newest_entries_is_noticed_and_read_on(
    any_redis_url: str, client: Any, engines: Callable[..., Engine]
) -> None:
    put_at(client, 3, 10, 20, 30, 40, 50)
    engine = engines(any_redis_url)
    engine.drain()
    states = engine.commit()
    client.delete(log_key(3))
    put_at(client, 3, 10, 20, 30)
    again = engines(any_redis_url, states)
    again.poll()
    assert again.hooks.gaps == [(3, "lost_tail", 2)]
    put_at(client, 3, 45, 60)
    again.drain()
    assert again.numbers(3) == [45, 60]
    assert [entry.position for entry in again.read[3]] == [6, 7]
    third = engines(any_redis_url, again.commit())
    put_at(client, 3, 70)
    third.drain()
    assert third.numbers(3) == [70]
    assert third.hooks.gaps == []
    third.commit()
    assert group(client, 3)["lag"] == 0


def test_a_loss_that_newer_entries_hide_is_noticed_by_the_count(
    any_redis_url: str, client: Any, engines: Callable[..., Engine]
) -> None:
    put_at(client, 3, 10, 20, 30, 40, 50)
    engine = engines(any_redis_url)
    engine.drain()
    states = engine.commit()
    client.delete(log_key(3))
    put_at(client, 3, 10, 60)
    again = engines(any_redis_url, states)
    again.drain()
    assert again.hooks.gaps == [(3, "lost_tail", 3)]
    assert again.numbers(3) == [60]
    again.commit()
    again.commit()
    third = engines(any_redis_url, again.commit())
    third.drain()
    assert third.hooks.gaps == []
    assert third.parts[3].snapshot()["skew"] == -4  # learnt when it stood at the end


def test_an_emptied_server_is_noticed_and_read_on(
    any_redis_url: str, client: Any, engines: Callable[..., Engine]
) -> None:
    put(client, 3, 1, 2)
    engine = engines(any_redis_url)
    engine.drain()
    states = engine.commit()
    client.flushall()
    put(client, 3, 3)
    again = engines(any_redis_url, states)
    again.drain()
    assert again.hooks.gaps == [(3, "lost_tail", 1)]
    assert again.numbers(3) == [3]


def test_unread_entries_that_someone_trimmed_are_counted(
    any_redis_url: str, client: Any, engines: Callable[..., Engine]
) -> None:
    put(client, 4, *range(10))
    engine = engines(any_redis_url)
    engine.drain()
    states = engine.commit()
    put(client, 4, *range(10, 20))
    client.xtrim(log_key(4), maxlen=3, approximate=False)
    again = engines(any_redis_url, states)
    again.drain()
    assert again.hooks.gaps == [(4, "trimmed", 7)]
    assert again.numbers(4) == [17, 18, 19]
    third = engines(any_redis_url, again.commit())
    third.drain()
    assert third.hooks.gaps == []
    assert group(client, 4)["lag"] == 0


def test_all_unread_entries_gone_is_a_gap_too(any_redis_url: str, client: Any, engines: Callable[..., Engine]) -> None:
    put(client, 4, 1, 2, 3)
    client.xtrim(log_key(4), maxlen=0, approximate=False)
    engine = engines(any_redis_url)
    engine.drain()
    assert engine.hooks.gaps == [(4, "trimmed", 3)]


def test_what_was_read_may_be_trimmed_without_a_gap(
    any_redis_url: str, client: Any, engines: Callable[..., Engine]
) -> None:
    put(client, 4, 1, 2, 3)
    engine = engines(any_redis_url)
    engine.drain()
    states = engine.commit()
    client.xtrim(log_key(4), maxlen=0, approximate=False)
    put(client, 4, 4)
    again = engines(any_redis_url, states)
    again.drain()
    assert again.numbers(4) == [4]
    assert again.hooks.gaps == []


def test_a_shard_without_state_begins_where_it_is_told(
    any_redis_url: str, client: Any, engines: Callable[..., Engine]
) -> None:
    put_at(client, 0, 10, 20, 30)
    engine = engines(any_redis_url, start=lambda shard: ("20-0", 2) if shard == 0 else ("0-0", 0))
    engine.drain()
    assert [(entry.entry_ms, entry.position) for entry in engine.read[0]] == [(30, 3)]
    assert engine.hooks.gaps == []
    for _ in range(3):
        engine.commit()
    assert group(client, 0)["lag"] == 0


@pytest.mark.fault
def test_a_killed_server_is_waited_for_and_nothing_is_lost_or_read_twice(
    own_valkey: EmbeddedValkey, engines: Callable[..., Engine]
) -> None:
    engine = engines(own_valkey.url)
    with connected(own_valkey.url) as client:
        put(client, 0, *range(100))
        engine.drain()
        own_valkey.kill()
        pauses = []
        for _ in range(8):
            began = time.monotonic()
            assert engine.poll() == 0
            assert time.monotonic() - began < 2
            awake = engine.parts[0].next_awake()
            assert awake is not None
            pauses.append(awake.timestamp() - engine.clock.now_ms() / 1000)
        assert len(engine.hooks.troubles) == 8
        assert 0.02 < pauses[0] < 0.06
        assert 2.4 < pauses[-1] <= 5.0
        own_valkey.start()
        put(client, 0, *range(100, 150))
        engine.drain()
        assert engine.numbers(0) == list(range(150))
        assert engine.hooks.gaps == []
        engine.commit()
        assert group(client, 0)["lag"] == 0


def test_a_server_that_accepts_and_says_nothing_blocks_no_longer_than_two_seconds(
    engines: Callable[..., Engine],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        engine = engines(f"redis://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        assert engine.poll() == 0
        assert time.monotonic() - began < 2
        assert [type(error) for error in engine.hooks.troubles] == [redis.TimeoutError]


def test_a_group_removed_under_way_is_made_anew(
    any_redis_url: str, client: Any, engines: Callable[..., Engine]
) -> None:
    put(client, 0, 1, 2)
    engine = engines(any_redis_url)
    engine.drain()
    client.xgroup_destroy(log_key(0), GROUP)
    engine.commit()
    assert len(engine.hooks.troubles) == 1
    engine.poll()
    assert group(client, 0)["lag"] == 0


def test_a_full_server_is_read_all_the_same(any_redis_url: str, client: Any, engines: Callable[..., Engine]) -> None:
    put(client, 0, 1, 2)
    client.config_set("maxmemory", 1)
    try:
        engine = engines(any_redis_url)
        engine.drain()
        assert engine.numbers(0) == [1, 2]
    finally:
        client.config_set("maxmemory", 0)


def test_a_key_of_another_type_is_an_error_that_does_not_pass(
    any_redis_url: str, client: Any, engines: Callable[..., Engine]
) -> None:
    client.set(log_key(0), "no stream")
    engine = engines(any_redis_url)
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        engine.poll()


def test_the_polls_of_each_epoch_are_told(any_redis_url: str, engines: Callable[..., Engine]) -> None:
    engine = engines(any_redis_url)
    for _ in range(3):
        engine.poll()
    engine.snapshot()
    engine.poll()
    engine.snapshot()
    assert engine.hooks.epochs == [(s, 3) for s in range(SHARDS)] + [(s, 1) for s in range(SHARDS)]


def test_the_connection_of_a_worker_is_closed_with_its_last_partition(
    any_redis_url: str, client: Any, engines: Callable[..., Engine]
) -> None:
    before = len(client.client_list())
    engine = engines(any_redis_url)
    engine.poll()
    assert len(client.client_list()) == before + 1
    for part in engine.parts[:-1]:
        part.close()
    assert len(client.client_list()) == before + 1
    engine.parts[-1].close()
    engine.parts[-1].close()
    wait_until(lambda: len(client.client_list()) == before)


def test_the_first_poll_after_a_long_wait_takes_what_would_have_been_read_meanwhile() -> None:
    clock = Clock()
    lead = Lead(clock.monotonic)
    for _ in range(10):  # an epoch of ten polls of 10 ms
        assert lead.poll() == 1
        lead.brought(1)
        clock.seconds += 0.01
    lead.epoch_ended()
    clock.seconds += 0.2
    assert lead.poll() == 20
    lead.brought(20)
    clock.seconds += 0.2
    assert lead.poll() == 1


def test_a_short_wait_or_an_idle_epoch_asks_for_no_more() -> None:
    clock = Clock()
    lead = Lead(clock.monotonic)
    for came, wait in ((1, 0.009), (0, 0.2)):
        for _ in range(10):
            assert lead.poll() == 1
            lead.brought(came)
            clock.seconds += 0.01 if came else 1.0
        lead.epoch_ended()
        clock.seconds += wait
    assert lead.poll() == 1


def test_there_is_one_key_for_each_shard() -> None:
    assert [PART_OF[key] for key in KEYS] == list(range(SHARDS))
