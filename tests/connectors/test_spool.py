"""What the spool took is there after anything, and comes out in order."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
import random
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from connectors.delivery import Delivery
from connectors.spool import Durable, Landed, Spool, _from_bytes, _to_bytes
from connectors.spool_files import SpoolFiles
from models.records.entry import Encoding, Entry, Kind
from models.records.errors import ConfigError, Unavailable
from tests.connectors.streams import Streams, until

MIB = 1 << 20


def _delivery(number: int, *, shard: int = 0, size: int = 20) -> Delivery:
    payload = f"{number}".encode().ljust(size, b".")
    entry = Entry(Kind.EVENT, Encoding.JSON, 1_700_000_000_000 + number, payload, bytes(range(25)))
    passed = ((f"job-{number}", f"run {number}".encode()),)
    return Delivery(shard, ((entry, f"mark-{number}"),), (f"log {number}".encode(),), passed)


@asynccontextmanager
async def _opened(directory: Path, *, most_bytes: int = MIB) -> AsyncIterator[Spool]:
    spool = await Spool.open(directory, most_bytes=most_bytes)
    try:
        yield spool
    finally:
        await spool.close()


async def _drained(spool: Spool, streams: Streams) -> None:
    draining = asyncio.create_task(spool.drain(streams.append))
    try:
        await until(lambda: spool.depth == 0)
    finally:
        draining.cancel()


def _segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.spool"))


def _run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_what_was_put_comes_out_unchanged_and_in_order(tmp_path: Path) -> None:
    async def work() -> None:
        streams = Streams()
        put = [_delivery(number, shard=number % 3) for number in range(50)]
        async with _opened(tmp_path / "spool") as spool:
            await asyncio.gather(*(spool.put(delivery) for delivery in put))
            assert spool.depth == 50
            await _drained(spool, streams)
            for shard in range(3):
                assert streams.of(shard) == [delivery for delivery in put if delivery.shard == shard]
            assert spool.size_bytes == 0
        assert not _segments(tmp_path / "spool")

    _run(work())


def test_it_outlives_its_process(tmp_path: Path) -> None:
    async def work() -> None:
        put = [_delivery(number) for number in range(10)]
        for delivery in put:
            async with _opened(tmp_path) as spool:
                await spool.put(delivery)
        streams = Streams()
        async with _opened(tmp_path) as spool:
            assert spool.depth == 10
            await _drained(spool, streams)
        assert streams.seen == put

    _run(work())


def test_the_directory_is_for_its_owner_alone_and_for_one_process(tmp_path: Path) -> None:
    async def work() -> None:
        async with _opened(tmp_path / "a" / "spool"):
            assert stat.S_IMODE((tmp_path / "a" / "spool").stat().st_mode) == 0o700
            with pytest.raises(ConfigError, match="belongs to another running receiver"):
                await Spool.open(tmp_path / "a" / "spool", most_bytes=MIB)

    _run(work())


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"receiver\.spool_dir: .*file"):
        _run(Spool.open(tmp_path / "file", most_bytes=MIB))  # type: ignore[arg-type] # it never returns


@pytest.mark.parametrize("cut", [1, 7, 8, 30, 90])
def test_a_torn_tail_is_cut_and_counted_and_the_rest_stays(tmp_path: Path, cut: int) -> None:
    async def work() -> None:
        async with _opened(tmp_path) as spool:
            for number in range(3):
                await spool.put(_delivery(number))
        (segment,) = _segments(tmp_path)
        whole = segment.read_bytes()
        segment.write_bytes(whole[:-cut])
        streams = Streams()
        async with _opened(tmp_path) as spool:
            assert spool.depth == 2
            assert spool.torn_bytes > 0
            await spool.put(_delivery(9))
            await _drained(spool, streams)
        assert streams.seen == [_delivery(0), _delivery(1), _delivery(9)]

    _run(work())


@pytest.mark.parametrize("tail", [b"\0" * 4096, b"\xff" * 5, b"\x04\0\0\0\0\0\0\0abcd"])
def test_a_tail_of_anything_is_cut(tmp_path: Path, tail: bytes) -> None:
    async def work() -> None:
        async with _opened(tmp_path) as spool:
            await spool.put(_delivery(0))
        (segment,) = _segments(tmp_path)
        segment.write_bytes(segment.read_bytes() + tail)
        async with _opened(tmp_path) as spool:
            assert (spool.depth, spool.torn_bytes) == (1, len(tail))

    _run(work())


def test_a_segment_torn_within_its_first_line_is_removed(tmp_path: Path) -> None:
    (tmp_path / "0000000000000007.spool").write_bytes(b"guard-")
    files = SpoolFiles(tmp_path)
    assert (files.records, files.torn_bytes) == (0, 6)
    assert not _segments(tmp_path)
    files.close()


def test_a_segment_of_another_release_is_refused_not_dropped(tmp_path: Path) -> None:
    (tmp_path / "0000000000000007.spool").write_bytes(b"guard-spool 2\nxxxxxxxxx")
    with pytest.raises(ConfigError, match="not written by this release"):
        SpoolFiles(tmp_path)
    assert _segments(tmp_path)


def test_a_damaged_record_costs_itself_only_and_is_counted(tmp_path: Path) -> None:
    async def work() -> None:
        async with _opened(tmp_path) as spool:
            for number in range(5):
                await spool.put(_delivery(number))
        (segment,) = _segments(tmp_path)
        data = bytearray(segment.read_bytes())
        data[data.index(b"mark-2")] ^= 1
        segment.write_bytes(data)
        streams = Streams()
        async with _opened(tmp_path) as spool:
            await _drained(spool, streams)
            assert spool.damaged == 1
        assert streams.seen == [_delivery(number) for number in (0, 1, 3, 4)]

    _run(work())


def test_a_damaged_segment_does_not_stop_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.spool_files.SEGMENT_BYTES", 1)

    async def work() -> None:
        streams = Streams()
        async with _opened(tmp_path) as spool:
            await spool.put(_delivery(0))
            await spool.put(_delivery(1))
            first = _segments(tmp_path)[0]
            first.write_bytes(first.read_bytes().replace(b"mark-0", b"mork-0"))
            await _drained(spool, streams)
            assert spool.damaged == 1
        assert streams.seen == [_delivery(1)]

    _run(work())


def test_segments_are_removed_as_they_are_drained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.spool_files.SEGMENT_BYTES", 500)

    async def work() -> None:
        streams = Streams()
        async with _opened(tmp_path) as spool:
            for number in range(30):
                await spool.put(_delivery(number))
            before = len(_segments(tmp_path))
            assert before > 3
            await spool.drain_some(streams.append)
            assert len(_segments(tmp_path)) == before - 1
            await _drained(spool, streams)
        assert streams.seen == [_delivery(number) for number in range(30)]

    _run(work())


def test_a_full_spool_refuses_and_takes_again_once_drained(tmp_path: Path) -> None:
    async def work() -> None:
        streams = Streams()
        async with _opened(tmp_path, most_bytes=100_000) as spool:
            await spool.put(_delivery(0, size=60_000))
            room_when_full = spool.has_room
            with pytest.raises(Unavailable, match="at most 100000 bytes"):
                await spool.put(_delivery(1, size=60_000))
            assert spool.depth == 1
            await _drained(spool, streams)
            assert (room_when_full, spool.has_room) == (False, True)
            await spool.put(_delivery(1, size=60_000))

    _run(work())


def test_a_disk_that_fails_refuses_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        streams = Streams()
        async with _opened(tmp_path) as spool:
            await spool.put(_delivery(0))
            monkeypatch.setattr("os.fsync", _no_space)
            with pytest.raises(Unavailable, match="cannot be written"):
                await spool.put(_delivery(1))
            monkeypatch.undo()
            assert spool.depth == 1
            await spool.put(_delivery(2))
            await _drained(spool, streams)
        assert streams.seen == [_delivery(0), _delivery(2)]

    _run(work())


def _no_space(_descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_was_acknowledged_is_not_appended_again_in_this_process(tmp_path: Path) -> None:
    async def work() -> None:
        streams = Streams()
        async with _opened(tmp_path) as spool:
            for number in range(10):
                await spool.put(_delivery(number))
            streams.fail_after = 4
            with pytest.raises(Unavailable):
                await spool.drain_some(streams.append)
            assert (spool.depth, len(streams.seen), streams.calls) == (10, 4, 5)
            streams.fail_after = None
            await _drained(spool, streams)
        assert (len(streams.seen), streams.calls) == (10, 11)

    _run(work())


def test_nothing_newer_overtakes_what_waits(tmp_path: Path) -> None:
    async def work() -> None:
        streams = Streams()
        async with _opened(tmp_path) as spool:
            durable = Durable(streams, spool)
            assert await durable.take(_delivery(0)) is Landed.APPENDED
            assert await durable.take(_delivery(0)) is Landed.DUPLICATE
            streams.away = True
            assert await durable.take(_delivery(1)) is Landed.SPOOLED
            streams.away = False
            assert await durable.take(_delivery(2)) is Landed.SPOOLED
            await _drained(spool, streams)
            assert await durable.take(_delivery(3)) is Landed.APPENDED
        assert streams.seen == [_delivery(number) for number in range(4)]

    _run(work())


def test_order_per_shard_holds_through_random_outages(tmp_path: Path, seed: int) -> None:
    async def work() -> None:
        rng = random.Random(seed)
        streams = Streams()
        async with _opened(tmp_path) as spool:
            durable = Durable(streams, spool)
            draining = asyncio.create_task(durable.drain())
            for number in range(300):
                if rng.random() < 0.05:
                    streams.away = not streams.away
                await durable.take(_delivery(number, shard=rng.randrange(3)))
            streams.away = False
            await until(lambda: spool.depth == 0)
            draining.cancel()
        for shard in range(3):
            at = [delivery.items[0][0].received_ms for delivery in streams.of(shard)]
            assert at == sorted(at)
        assert len(streams.seen) == 300

    _run(work())


def test_without_a_spool_an_outage_is_told(tmp_path: Path) -> None:
    async def work() -> None:
        streams = Streams()
        streams.away = True
        with pytest.raises(Unavailable):
            await Durable(streams, None).take(_delivery(0))

    _run(work())


def test_an_append_that_hangs_is_an_outage(tmp_path: Path) -> None:
    class Hanging:
        async def append(self, delivery: Delivery) -> int:
            await asyncio.Event().wait()
            return 1

    async def work() -> None:
        async with _opened(tmp_path) as spool:
            assert await Durable(Hanging(), spool, patience=0.01).take(_delivery(0)) is Landed.SPOOLED

    _run(work())


_WRITER = """
import asyncio, sys
from pathlib import Path
from connectors.spool import Spool
from tests.connectors.test_spool import _delivery

async def main():
    spool = await Spool.open(Path(sys.argv[1]), most_bytes=1 << 30)
    async def client(first):
        for number in range(first, 1 << 40, 8):
            await spool.put(_delivery(number, size=2000))
            sys.stdout.write(f"{number}\\n")
            sys.stdout.flush()
    await asyncio.gather(*(client(first) for first in range(8)))

asyncio.run(main())
"""


@pytest.mark.fault
def test_a_kill_in_the_middle_of_writing_loses_nothing_acknowledged(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        acknowledged = {int(process.stdout.readline()) for _ in range(300)}
        process.send_signal(signal.SIGKILL)
        acknowledged |= {int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")}

    async def work() -> None:
        streams = Streams()
        async with _opened(tmp_path, most_bytes=1 << 30) as spool:
            await _drained(spool, streams)
        numbers = [delivery.items[0][0].received_ms - 1_700_000_000_000 for delivery in streams.seen]
        assert acknowledged <= set(numbers)
        assert all(ours == sorted(ours) for first in range(8) if (ours := [n for n in numbers if n % 8 == first]))

    _run(work())


def test_a_record_written_before_passing_runs_were_remembered_is_still_read() -> None:
    delivery = _delivery(7)
    shard, items, requests, _ = msgspec.msgpack.decode(_to_bytes(delivery))
    assert _from_bytes(msgspec.msgpack.encode([shard, items, requests])) == dataclasses.replace(delivery, passed=())
