"""The archive on real servers: all that stood in the streams, once, whatever dies or is full, and it says what is gone.

The archiver is stepped by hand, with a clock that only the test moves.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from connectors import metrics
from connectors.metric_kinds import REGISTRY
from connectors.parquet import Gap, files, gaps
from connectors.parquet_writer import ShardArchive
from connectors.redis_reader import ARCHIVE, Reader
from connectors.redis_source import ShardSource
from connectors.redis_streams import ARCHIVE_GROUP, forget_reader, log_key, reader_ages
from flows.archive import Archiver, Hooks, serve
from flows.embedded import EmbeddedValkey, free_ports
from flows.settings import Settings
from models.records.errors import ConfigError
from models.records.event import SHARDS
from models.records.raw import RawEntry
from tests.connectors.archives import read, some
from tests.faults.harness import story
from tests.flows.conftest import KEY, Guard
from tests.helpers import wait_until

FLUSH = timedelta(seconds=60)


class Standing:
    """An archiver as a process has it, and a clock for it."""

    def __init__(
        self, url: str, directory: Path, *, shards: Sequence[int] = range(SHARDS), held: int = 1 << 24
    ) -> None:
        self.seconds = 0.0
        self.archives = [ShardArchive(directory, shard) for shard in shards]
        self.reader = Reader(
            url,
            durable=True,
            retention=timedelta(hours=1),
            now_ms=lambda: time.time_ns() // 1_000_000,
            monotonic=lambda: self.seconds,
            hooks=Hooks(),
            role=ARCHIVE,
        )
        self.archiver = Archiver(self.reader, self.archives, flush=FLUSH, flush_bytes=held, clock=lambda: self.seconds)

    def step(self, times: int = 1, *, seconds: float = 10.0) -> None:
        """Let time pass and take a step, so often."""
        for _ in range(times):
            self.seconds += seconds
            self.archiver.step()

    def settle(self) -> None:
        """Read what there is, make it durable, and tell the server."""
        self.step(30)

    def end(self) -> None:
        """Be killed."""
        for archive in self.archives:
            archive.close()
        self.archives = []
        self.reader.close()


@pytest.fixture
def standing(tmp_path: Path) -> Iterator[Callable[..., Standing]]:
    made: list[Standing] = []

    def make(url: str, **named: Any) -> Standing:
        for one in made:
            one.end()
        made[:] = [Standing(url, tmp_path, **named)]
        return made[0]

    yield make
    for one in made:
        one.end()


def connected(url: str) -> Any:
    return redis.Redis.from_url(url, protocol=2)


@pytest.fixture
def client(any_redis_url: str) -> Iterator[Any]:
    with connected(any_redis_url) as made:
        yield made


def put(client: Any, shard: int, first: int, count: int) -> None:
    """Append entries that are told apart by their numbers."""
    pipe = client.pipeline(transaction=False)
    for entry in some(first, count):
        name, value = entry.fields
        pipe.xadd(log_key(shard), {name: value})
    pipe.execute()


def stream(client: Any, shard: int) -> list[RawEntry]:
    """What stands in a stream, counted from 1."""
    found = client.xrange(log_key(shard))
    ids = [tuple(map(int, entry_id.split(b"-"))) for entry_id, _ in found]
    fields = [next(iter(pairs.items())) for _, pairs in found]
    return [RawEntry(n, ms, seq, pair) for n, ((ms, seq), pair) in enumerate(zip(ids, fields, strict=True), 1)]


def group(client: Any, shard: int) -> dict[str, Any]:
    """What the server says of the archive's cursor."""
    found: list[dict[str, Any]] = client.xinfo_groups(log_key(shard))
    return next(one for one in found if one["name"] == ARCHIVE_GROUP.encode())


def missing(shard: int, kind: str) -> float:
    return REGISTRY.get_sample_value("guard_archive_missing_total", {"shard": str(shard), "kind": kind}) or 0.0


def test_every_entry_of_a_story_is_archived_as_it_stands_and_the_server_knows(
    any_redis_url: str, client: Any, tmp_path: Path, standing: Any, seed: int
) -> None:
    pipe = client.pipeline(transaction=False)
    for number, told in enumerate(story(seed, hours=0.2)):
        pipe.xadd(log_key(told.shard), {told.name: told.value}, id=f"{told.at_ms}-{number}")
    pipe.execute()
    standing(any_redis_url).settle()
    for shard in range(SHARDS):
        wanted = stream(client, shard)
        assert read(tmp_path, shard) == wanted
        assert (group(client, shard)["entries-read"], group(client, shard)["lag"]) == (len(wanted), 0)
    assert reader_ages(client, now_ms=2**43) == {"archive": 0}


def test_entries_wait_for_others_to_share_a_file_with_but_not_for_ever(
    any_redis_url: str, client: Any, tmp_path: Path, standing: Any
) -> None:
    archiver = standing(any_redis_url)
    put(client, 3, 1, 5)
    archiver.step()
    put(client, 3, 6, 5)
    archiver.step(5)
    assert files(tmp_path) == []
    assert group(client, 3)["entries-read"] == 0
    assert REGISTRY.get_sample_value("guard_archive_waiting_seconds") == 50
    archiver.step()
    assert [(file.first, file.last) for file in files(tmp_path)] == [(1, 10)]
    assert REGISTRY.get_sample_value("guard_archive_waiting_seconds") == 0
    archiver.step()
    assert group(client, 3)["entries-read"] == 10


def test_with_much_in_hand_nothing_waits(any_redis_url: str, client: Any, tmp_path: Path, standing: Any) -> None:
    archiver = standing(any_redis_url, held=20_000)
    put(client, 3, 1, 300)
    put(client, 4, 1, 30)
    archiver.step(12, seconds=1)
    assert len(read(tmp_path, 3)) > 200


def test_a_kill_between_the_file_and_the_word_to_the_server_doubles_nothing(
    any_redis_url: str, client: Any, tmp_path: Path, standing: Any
) -> None:
    put(client, 3, 1, 5)
    archiver = standing(any_redis_url)
    archiver.step(1)
    archiver.archiver.flush()
    assert len(files(tmp_path)) == 1
    assert group(client, 3)["entries-read"] == 0
    put(client, 3, 6, 5)
    standing(any_redis_url).settle()
    assert read(tmp_path, 3) == stream(client, 3)
    assert group(client, 3)["entries-read"] == 10


def test_an_archive_that_lost_its_files_holds_back_trimming_from_where_it_begins_again(
    any_redis_url: str, client: Any, tmp_path: Path, standing: Any
) -> None:
    put(client, 3, 1, 5)
    standing(any_redis_url).settle()
    (file,) = files(tmp_path)
    file.path.unlink()
    again = standing(any_redis_url)
    again.step(2)
    assert group(client, 3)["last-delivered-id"] == b"0-0"
    again.settle()
    assert read(tmp_path, 3) == stream(client, 3)


def test_the_flow_trims_only_what_the_archive_has_durably_and_all_of_it_once_that_is_forgotten(
    any_redis_url: str, client: Any, tmp_path: Path, standing: Any
) -> None:
    client.config_set("stream-node-max-entries", 1)  # so that an approximate trim is an exact one
    try:
        archiver = standing(any_redis_url)
        archiver.step()
        put(client, 3, 1, 5)
        flow = Flow(any_redis_url)
        flow.commit()
        assert client.xlen(log_key(3)) == 5
        archiver.settle()
        flow.commit()
        assert client.xlen(log_key(3)) == 1
        archiver.end()
        put(client, 3, 6, 5)
        flow.commit()
        assert client.xlen(log_key(3)) == 6
        assert forget_reader(client, ARCHIVE_GROUP) == SHARDS
        flow.commit()
        assert client.xlen(log_key(3)) == 1
        flow.close()
    finally:
        client.config_set("stream-node-max-entries", 100)


class Flow:
    """The flow's side of shard 3: reads, makes durable, trims at once."""

    def __init__(self, url: str) -> None:
        self.seconds = 0.0
        self.source = ShardSource(
            url,
            start=lambda _: ("0-0", 0),
            durable=True,
            retention=timedelta(milliseconds=1),
            now_ms=lambda: 2**43,
            monotonic=lambda: self.seconds,
            hooks=Hooks(),
        )
        self.part = self.source.build_part("flow.source", "03", None)

    def commit(self) -> None:
        """Read to the end, take a snapshot, and be polled after it."""
        for turn in range(8):
            self.seconds += 10
            self.part.next_batch()
            if turn % 2:
                self.part.snapshot()

    def close(self) -> None:
        """Hang up."""
        self.part.close()


# --- what is gone


def test_what_was_trimmed_while_the_archive_was_forgotten_is_a_gap_and_positions_go_on_as_the_flow_counts(
    any_redis_url: str, client: Any, tmp_path: Path, standing: Any
) -> None:
    before = missing(3, "trimmed")
    put(client, 3, 1, 5)
    standing(any_redis_url).settle()
    forget_reader(client, ARCHIVE_GROUP)
    put(client, 3, 6, 5)
    client.xtrim(log_key(3), maxlen=2, approximate=False)
    again = standing(any_redis_url)
    again.settle()
    assert missing(3, "trimmed") == before + 3
    assert gaps(tmp_path, 3) == [Gap(6, 8)]
    assert [entry.fields for entry in read(tmp_path, 3)] == [*some(1, 5).fields, *some(9, 2).fields]
    assert group(client, 3)["lag"] == 0
    standing(any_redis_url).settle()
    assert missing(3, "trimmed") == before + 3


def test_what_is_removed_while_the_archive_runs_is_noticed_after_its_next_file(
    any_redis_url: str, client: Any, tmp_path: Path, standing: Any
) -> None:
    put(client, 3, 1, 5)
    archiver = standing(any_redis_url)
    archiver.step(3)
    put(client, 3, 6, 5)
    client.xtrim(log_key(3), maxlen=1, approximate=False)
    archiver.step(12)
    put(client, 3, 11, 1)
    archiver.settle()
    assert [entry.fields for entry in read(tmp_path, 3)] == [*some(1, 5).fields, *some(10, 2).fields]
    assert sum(gap.last - gap.first + 1 for gap in gaps(tmp_path, 3)) == 4


def test_the_first_archive_of_an_old_stream_counts_what_went_before(
    any_redis_url: str, client: Any, tmp_path: Path, standing: Any
) -> None:
    put(client, 3, 1, 10)
    client.xtrim(log_key(3), maxlen=4, approximate=False)
    standing(any_redis_url).settle()
    assert [entry.position for entry in read(tmp_path, 3)] == [7, 8, 9, 10]
    assert gaps(tmp_path, 3) == [Gap(1, 6)]


def test_a_server_that_lost_its_newest_entries_is_noticed_and_what_comes_then_is_archived(
    any_redis_url: str, client: Any, tmp_path: Path, standing: Any
) -> None:
    before = missing(3, "lost_tail")
    put(client, 3, 1, 5)
    standing(any_redis_url).settle()
    client.flushall()
    put(client, 3, 6, 2)
    standing(any_redis_url).settle()
    put(client, 3, 8, 2)
    standing(any_redis_url).settle()
    assert [entry.fields for entry in read(tmp_path, 3)] == list(some(1, 9).fields)
    assert missing(3, "lost_tail") == before + 3
    assert group(client, 3)["lag"] == 0


# --- what is away or full


def test_a_server_that_is_away_is_waited_for(own_valkey: EmbeddedValkey, tmp_path: Path, standing: Any) -> None:
    with connected(own_valkey.url) as client:
        put(client, 3, 1, 5)
        archiver = standing(own_valkey.url)
        archiver.step(3)
        own_valkey.kill()
        archiver.step(20)
        assert len(read(tmp_path, 3)) == 5
        own_valkey.start()
        put(client, 3, 6, 5)
        archiver.settle()
        assert read(tmp_path, 3) == stream(client, 3)
        assert group(client, 3)["lag"] == 0


def test_a_full_disk_is_waited_for_with_bounded_hands_and_nothing_trimmed(
    any_redis_url: str, client: Any, tmp_path: Path, standing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    archiver = standing(any_redis_url, held=20_000)
    tried = 0

    def full(*_: object, **__: object) -> None:
        nonlocal tried
        tried += 1
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("connectors.parquet_writer.write", full)
        for turn in range(10):
            put(client, 3, 1 + 40 * turn, 40)
            archiver.step(10)
    assert 3 < tried < 120
    held = sum(len(part) for fields in archiver.archiver.in_hand(3).fields for part in fields)
    assert 20_000 <= held < 60_000
    assert group(client, 3)["entries-read"] == 0
    assert files(tmp_path) == []
    archiver.step(100)
    assert read(tmp_path, 3) == stream(client, 3)


# --- the process and the command


@pytest.fixture
def environ(guard: Guard, monkeypatch: pytest.MonkeyPatch, redis_url: str, tmp_path: Path) -> dict[str, str]:
    set_ = {
        "GUARD_REDIS__URL": redis_url,
        "GUARD_REDACTION__KEY": KEY,
        "GUARD_ARCHIVE__DIRECTORY": str(tmp_path / "archive"),
        "GUARD_ARCHIVE__FLUSH": "1s",
        "GUARD_ARCHIVE__METRICS_PORT": str(free_ports()),
    }
    for name, value in set_.items():
        monkeypatch.setenv(name, value)
    return set_


def test_two_processes_share_the_shards_and_a_third_is_turned_away(
    environ: dict[str, str], redis_url: str, tmp_path: Path
) -> None:
    client = connected(redis_url)
    for shard in range(SHARDS):
        put(client, shard, 1, 5)
    settings, stop = Settings.load(environ), threading.Event()
    served = [threading.Thread(target=serve, args=(settings, stop), kwargs={"number": n, "of": 2}) for n in range(2)]
    for thread in served:
        thread.start()
    try:
        directory = tmp_path / "archive"
        wait_until(lambda: sum(file.entries for file in files(directory)) == 5 * SHARDS, within=30)
        third = Settings.load(environ | {"GUARD_ARCHIVE__METRICS_PORT": str(free_ports())})
        with pytest.raises(ConfigError, match=r"shard 00 of .* is archived by another process"):
            serve(third, stop)
    finally:
        stop.set()
        for thread in served:
            thread.join()
        client.close()


def archived(environ: dict[str, str], directory: Path, entries: int) -> None:
    """Run the archive until it has so many."""
    stop = threading.Event()
    thread = threading.Thread(target=serve, args=(Settings.load(environ), stop))
    thread.start()
    try:
        wait_until(lambda: sum(file.entries for file in files(directory)) >= entries, within=30)
    finally:
        stop.set()
        thread.join()


def test_check_reconciles_the_archive_with_the_streams_and_says_what_is_missing(
    guard: Guard, environ: dict[str, str], redis_url: str, tmp_path: Path
) -> None:
    client, directory = connected(redis_url), tmp_path / "archive"
    for shard in range(SHARDS):
        put(client, shard, 1, 5)
    archived(environ, directory, 5 * SHARDS)
    put(client, 3, 6, 2)
    said = guard("archive", "--check", "--json")
    assert (said.status, said.json()["unreachable"]) == (0, [])
    assert [one["waiting"] for one in said.json()["shards"]] == [2 if shard == 3 else 0 for shard in range(SHARDS)]
    assert {one["entries"] for one in said.json()["shards"]} == {5}
    client.xtrim(log_key(3), maxlen=1, approximate=False)
    (file,) = files(directory, 4)
    file.path.write_bytes(file.path.read_bytes()[:-9])
    said = guard("archive", "--check")
    assert said.status == 3
    assert "1 entries after position 5, which were trimmed before they were archived" in said.out
    assert f"positions 1 to 5: {file.path}" in said.out.replace("\n", "")
    client.close()


def test_check_without_redis_still_looks_at_the_files(
    guard: Guard, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GUARD_REDIS__URL", f"unix://{tmp_path}/nobody.sock")
    said = guard("archive", "--check")
    assert said.status == 1
    assert "Redis" in said.err
    assert "archive" in said.lines[0]


def test_forget_says_where_the_archive_was_registered(guard: Guard, environ: dict[str, str], redis_url: str) -> None:
    with connected(redis_url) as client:
        client.xgroup_create(log_key(3), ARCHIVE_GROUP, "0", mkstream=True)
    assert guard("archive", "--forget").lines == ["the archive was registered on 1 shards, and is no more"]
    assert guard("archive", "--forget").lines == ["the archive was registered on 0 shards, and is no more"]


@pytest.mark.parametrize("words", [("--number", "2", "--of", "2"), ("--number", "-1"), ("--of", "13")])
def test_a_share_that_cannot_be_is_refused(guard: Guard, environ: dict[str, str], words: tuple[str, ...]) -> None:
    said = guard("archive", *words)
    assert said.status == 2
    assert "--number and --of: expected 0 <= number < of <= 12" in said.err


@pytest.mark.parametrize("words", [(), ("--check",)])
def test_a_directory_must_be_set(
    guard: Guard, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.delenv("GUARD_ARCHIVE__DIRECTORY")
    said = guard("archive", *words)
    assert (said.status, said.complaints) == (2, ["guard: archive.directory: must be set to do this"])


def test_what_is_archived_is_counted(any_redis_url: str, client: Any, standing: Any) -> None:
    def count(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, labels) or 0.0

    before = count("guard_archive_entries_total", shard="3"), count("guard_archive_bytes_total")
    put(client, 3, 1, 5)
    standing(any_redis_url).settle()
    assert count("guard_archive_entries_total", shard="3") == before[0] + 5
    assert count("guard_archive_bytes_total") > before[1]
    assert metrics.guard_archive_entries_total.of == ("archive",)
