"""guard publish: JSON lines of events onto the streams, checked, redacted, in order, none lost without a word."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
import redis

from connectors import redis_streams
from connectors.delivery import Delivery
from connectors.redaction import Redactor
from flows.publish import EventClock, Publisher, lines_of, paced
from models.records import entry as wire
from models.records.columns import decode
from models.records.entry import Encoding, Entry
from models.records.errors import Unavailable
from models.records.event import SHARDS, Event, Outcome, shard_of
from models.records.payload import from_json, to_json
from models.records.raw import RawEntry
from tests.events import make_event
from tests.flows.conftest import KEY, Guard
from tests.helpers import wait_until

ROOT = Path(__file__).parents[2]
AT_MS = 1_700_000_000_000


@pytest.fixture(scope="module")
def redactor() -> Redactor:
    return Redactor(KEY.encode())


def events(count: int) -> list[Event]:
    """Events of many repositories, a second apart."""
    return [
        make_event(Outcome.PASSED, AT_MS + 1000 * number, repository=f"org/repo-{number % 40}", pipeline_id=str(number))
        for number in range(count)
    ]


@pytest.fixture
def lines(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of lines."""

    def write(*content: bytes) -> Path:
        path = tmp_path / "events.jsonl"
        path.write_bytes(b"\n".join(content) + b"\n")
        return path

    return write


def entries(redis_url: str) -> dict[int, list[Entry]]:
    """What stands on each shard."""
    with redis.Redis.from_url(redis_url) as client:
        return {
            shard: [
                wire.decode(*next(iter(fields.items()))) for _, fields in client.xrange(redis_streams.log_key(shard))
            ]
            for shard in range(SHARDS)
        }


def ids(of: dict[int, list[Entry]]) -> dict[int, list[str]]:
    """The events of each shard, as the flow would read them."""
    return {
        shard: decode([RawEntry(n, 1, n, wire.encode(e)) for n, e in enumerate(some, 1)])
        .events.column("id")
        .to_pylist()
        for shard, some in of.items()
    }


@pytest.mark.parametrize("encoding", ["json", "pb", "pbs"])
def test_events_stand_on_their_shards_in_their_order(
    guard: Guard, servers: None, redis_url: str, lines: Callable[..., Path], encoding: str
) -> None:
    given = events(200)
    said = guard("publish", lines(*map(to_json, given)), "--encoding", encoding)
    assert (said.status, said.out) == (0, "")
    found = entries(redis_url)
    assert ids(found) == {
        shard: [e.id for e in given if shard_of(e.metadata.instance, e.repository) == shard] for shard in range(SHARDS)
    }
    assert {entry.encoding for some in found.values() for entry in some} == {Encoding(encoding)}
    count = sum(map(len, found.values()))
    assert said.err == f"200 lines: 200 events, {count} new entries\n"
    assert (count < 13) is (encoding == "pbs")


def test_what_is_there_already_is_left_out_unless_marks_are_given_up(
    guard: Guard, servers: None, redis_url: str, lines: Callable[..., Path]
) -> None:
    path = lines(*map(to_json, events(10)))
    guard("publish", path)
    assert guard("publish", path).err == "10 lines: 10 events, 0 new entries, 10 known already\n"
    assert guard("publish", path, "--no-marks").err == "10 lines: 10 events, 10 new entries\n"
    assert sum(map(len, entries(redis_url).values())) == 20


def test_bad_lines_are_named_and_left_out_and_the_rest_is_published(
    guard: Guard, servers: None, redis_url: str, lines: Callable[..., Path]
) -> None:
    good = events(3)
    bad = json.loads(to_json(good[0]))
    said = guard(
        "publish",
        lines(
            to_json(good[0]),
            b"{nonsense",
            b"",
            json.dumps({**bad, "id": "no uuid"}).encode(),
            to_json(good[1]),
            json.dumps({**bad, "repository": "r" * 600}).encode(),
            json.dumps({**bad, "metadata": {**bad["metadata"], "branch": "a\0b"}}).encode(),
            json.dumps({**bad, "timestamp": "2026-01-01T00:00:00"}).encode(),
            to_json(good[2]),
        ),
    )
    assert said.status == 3
    assert [line.split(":")[1].strip() for line in said.complaints[:-1]] == [
        "line 2",
        "line 4",
        "line 6",
        "line 7",
        "line 8",
    ]
    assert said.complaints[-1] == "9 lines: 3 events, 3 new entries, 5 bad lines left out"
    assert sorted(id_ for some in ids(entries(redis_url)).values() for id_ in some) == sorted(e.id for e in good)


def test_a_file_without_a_last_line_break_loses_nothing(guard: Guard, servers: None, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\n".join(map(to_json, events(2))))
    assert guard("publish", path).err.startswith("2 lines: 2 events")


def test_secrets_do_not_reach_the_streams(
    guard: Guard, servers: None, redis_url: str, lines: Callable[..., Path]
) -> None:
    canary = "ghp_" + "1aB2" * 9
    event = make_event(Outcome.FAILED, AT_MS, excerpt=f"token {canary}", author="wile@acme.example")
    guard("publish", lines(to_json(event)))
    ((entry,),) = [some for some in entries(redis_url).values() if some]
    assert canary.encode() not in entry.payload
    assert b"wile@" not in entry.payload


def test_a_replay_is_received_when_it_happened(
    guard: Guard, servers: None, redis_url: str, lines: Callable[..., Path]
) -> None:
    given = events(5)
    guard("publish", lines(*map(to_json, given)))
    found = [(e.received_ms, from_json(e.payload)) for some in entries(redis_url).values() for e in some]
    assert all(received == int(event.timestamp.timestamp() * 1000) for received, event in found)


def test_with_now_the_first_event_happens_now_and_the_rest_as_far_from_it_as_they_were(
    guard: Guard, servers: None, redis_url: str, lines: Callable[..., Path]
) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    guard("publish", lines(*map(to_json, events(5))), "--now")
    after = datetime.now(UTC)
    found = sorted(from_json(e.payload).timestamp for some in entries(redis_url).values() for e in some)
    assert before <= found[0] <= after
    assert {later - earlier for earlier, later in pairwise(found)} == {timedelta(seconds=1)}
    assert all(before.timestamp() * 1000 - 1 <= e.received_ms for some in entries(redis_url).values() for e in some)


def test_a_redis_that_is_away_is_said_with_how_far_it_came(
    guard: Guard, servers: None, lines: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GUARD_REDIS__URL", f"unix://{tmp_path}/nobody.sock")
    said = guard("publish", lines(*map(to_json, events(3))))
    assert (said.status, len(said.complaints)) == (1, 1)
    assert said.err.endswith("on the streams so far: 0 lines: 0 events, 0 new entries\n")


def test_what_comes_through_a_pipe_is_published_as_it_comes(redis_url: str) -> None:
    first, second = events(2)
    environ = {"PATH": os.environ["PATH"], "GUARD_REDIS__URL": redis_url, "GUARD_REDACTION__KEY": KEY}
    command = [sys.executable, "-c", "import sys; from flows.cli import main; sys.exit(main())", "publish", "-"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environ, stdin=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin is not None
        process.stdin.write(to_json(first) + b"\n")
        wait_until(lambda: any(entries(redis_url).values()), within=30, what="the first event")
        _, err = process.communicate(to_json(second) + b"\n", timeout=60)
    assert (process.returncode, err) == (0, b"2 lines: 2 events, 2 new entries\n")


# --- its parts, without a server


def test_lines_are_numbered_whatever_pieces_they_come_in(rng: random.Random) -> None:
    content = [b"x" * rng.randrange(50) for _ in range(200)]
    reading, writing = os.pipe()

    def feed() -> None:
        whole = b"\n".join(content) + b"\nlast"
        with os.fdopen(writing, "wb", buffering=0) as file:
            while whole:
                size = rng.randrange(1, 400)
                file.write(whole[:size])
                whole = whole[size:]

    feeder = threading.Thread(target=feed)
    feeder.start()
    with os.fdopen(reading, "rb") as file:
        found = [line for batch in lines_of(file) for line in batch]
    feeder.join()
    assert found == list(enumerate([*content, b"last"], 1))


def test_nothing_is_made_of_nothing() -> None:
    assert list(lines_of(io.BytesIO(b""))) == []


def test_a_rate_is_kept() -> None:
    clock = [100.0]
    batches = iter([[(number, b"") for number in range(1, 301)]])
    sent = [
        (clock[0], len(batch))
        for batch in paced(
            batches, 100, monotonic=lambda: clock[0], sleep=lambda seconds: clock.__setitem__(0, clock[0] + seconds)
        )
    ]
    assert sum(size for _, size in sent) == 300
    assert all(sum(size for at, size in sent if at <= until) <= (until - 100) * 100 + 5.001 for until, _ in sent)
    assert sent[-1][0] == pytest.approx(103, abs=0.1)


def test_a_rate_below_one_a_tick_is_kept() -> None:
    waits: list[float] = []
    clock = [0.0]

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        clock[0] += seconds

    assert list(paced(iter([[(1, b""), (2, b"")]]), 0.5, monotonic=lambda: clock[0], sleep=sleep)) == [
        [(1, b"")],
        [(2, b"")],
    ]
    assert waits == [2.0]


def test_without_a_rate_nothing_is_held_back() -> None:
    batch = [(1, b"")]
    assert list(paced(iter([batch]), None, monotonic=lambda: 0.0, sleep=lambda _: pytest.fail("it slept"))) == [batch]


def test_a_replays_clock_never_goes_back_nor_past_the_wall_clock() -> None:
    clock = EventClock(lambda: AT_MS + 5000, to_now=False)
    received = [clock.told(make_event(Outcome.PASSED, AT_MS + ms))[1] - AT_MS for ms in (1000, 500, 3000, 9000)]
    assert received == [1000, 1000, 3000, 5000]


def test_what_was_not_appended_is_not_counted(redactor: Redactor) -> None:
    sent: list[Sequence[Delivery]] = []

    def append(deliveries: Sequence[Delivery]) -> int:
        if sent:
            raise Unavailable("away")
        sent.append(deliveries)
        return len(deliveries)

    publisher = Publisher(
        append,
        redactor=redactor,
        clock=EventClock(lambda: AT_MS, to_now=False),
        complain=lambda *_: pytest.fail("no line is bad"),
    )
    good = [(number, to_json(event)) for number, event in enumerate(events(4), 1)]
    publisher.publish(good[:3])
    with pytest.raises(Unavailable):
        publisher.publish(good[3:])
    assert (publisher.done.lines, publisher.done.events) == (3, 3)


def test_a_pack_is_bounded(redactor: Redactor) -> None:
    sent: list[Delivery] = []

    def append(deliveries: Sequence[Delivery]) -> int:
        sent.extend(deliveries)
        return len(deliveries)

    publisher = Publisher(
        append,
        redactor=redactor,
        clock=EventClock(lambda: AT_MS, to_now=False),
        complain=lambda *_: pytest.fail("no line is bad"),
        encoding=Encoding.PACKED,
    )
    one = [make_event(Outcome.PASSED, AT_MS, pipeline_id=str(number)) for number in range(1001)]
    publisher.publish([(number, to_json(event)) for number, event in enumerate(one, 1)])
    assert (len(sent), publisher.done.events) == (3, 1001)
