"""How a shard takes time, duplicates, bad entries, rulebooks and restarts."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from analytics import rulebook as rulebooks
from analytics.shard import FUTURE_MS, Shard, TooManyRejectsError
from models.records import columns, event_pb2, payload
from models.records.entry import Encoding, Entry, Kind
from models.records.errors import ConfigError
from models.records.event import Outcome
from models.records.outputs import ShardOutput
from tests.analytics.log import (
    MINUTE,
    OTHER_RULEBOOK,
    RESOLVE,
    RULEBOOK,
    SCORER,
    T0,
    Log,
    fresh,
    one_by_one,
    play,
)
from tests.analytics.snapshots import as_version_4, as_version_5
from tests.analytics.workload import full_log
from tests.events import make_event

HOUR = 60 * MINUTE
RUN: dict[str, Any] = {"job_id": None, "job_name": None}
TRANSIENT = {"step": "Set up job"}


def test_a_second_copy_is_counted_and_changes_nothing() -> None:
    log = Log()
    event = log.say(Outcome.FAILED, T0, **TRANSIENT)
    log.event(event, T0 + 8000)
    shard = fresh()
    said = shard.process(columns.decode(log.entries))
    assert (len(said.failures), said.stats.events, said.stats.duplicates) == (1, 2, 1)


def test_event_times_are_capped_to_a_little_ahead_of_stream_time() -> None:
    log = Log()
    log.say(Outcome.FAILED, T0 + 99 * HOUR, received_ms=T0, **TRANSIENT)
    said, shard = play(log.entries)
    assert said.failures[0].occurred_ms == T0 + FUTURE_MS
    assert shard.stream_ms == T0
    log.heartbeats(T0, T0 + FUTURE_MS + 2 * MINUTE)
    said, _ = play(log.entries, sizes=one_by_one(), restores=lambda: True)
    assert [(row.minute_ms, row.failed) for row in said.aggregates] == [(T0 + FUTURE_MS, 1)]


def test_stream_time_is_the_lesser_of_both_clocks_and_never_goes_back() -> None:
    log, shard = Log(), fresh()
    value = Entry(Kind.HEARTBEAT, Encoding.JSON, T0 + 5000, b"")
    log.put(value)
    log.entries[0] = log.entries[0]._replace(entry_ms=T0 + 1000)
    shard.process(columns.decode(log.entries))
    assert shard.stream_ms == T0 + 1000
    back = Log()
    back.say(Outcome.RUNNING, T0 - HOUR)
    shard.process(columns.decode(back.entries))
    assert shard.stream_ms == T0 + 1000


def _minutes(said: ShardOutput) -> list[tuple[int, int, int, int, int]]:
    return [
        ((row.minute_ms - T0) // MINUTE, row.started, row.completed, row.failed, row.late) for row in said.aggregates
    ]


def test_a_minute_is_written_once_a_minute_after_it_ended() -> None:
    log = Log()
    log.say(Outcome.RUNNING, T0)
    log.say(Outcome.PASSED, T0 + 59_999, duration_ms=2000)
    log.heartbeats(T0 + 2 * MINUTE - 1, T0 + 2 * MINUTE - 1)
    said, shard = play(log.entries)
    assert said.aggregates == []
    more = Log()
    more.heartbeats(T0 + 2 * MINUTE, T0 + 2 * MINUTE)
    said, _ = play(more.entries, shard)
    assert _minutes(said) == [(0, 1, 1, 0, 0)]
    assert (said.aggregates[0].duration_ms_sum, said.aggregates[0].durations[2]) == (2000, 1)


def test_what_comes_after_its_minute_closed_is_late_in_the_minute_that_is_open() -> None:
    log = Log()
    log.say(Outcome.RUNNING, T0 + 1, received_ms=T0 + 2 * MINUTE - 1)
    log.say(Outcome.PASSED, T0 + 2, received_ms=T0 + 2 * MINUTE)
    log.heartbeats(T0 + 2 * MINUTE, T0 + 6 * MINUTE)
    said, _ = play(log.entries)
    assert _minutes(said) == [(0, 1, 0, 0, 0), (2, 0, 0, 0, 1)]


def test_minutes_of_which_a_part_was_counted_by_a_lost_state_are_not_written() -> None:
    log = Log()
    log.say(Outcome.RUNNING, T0)
    log.say(Outcome.PASSED, T0 + MINUTE)
    log.heartbeats(T0 + MINUTE, T0 + 6 * MINUTE)
    said, _ = play(log.entries, fresh(from_ms=T0 + 1), sizes=one_by_one(), restores=lambda: True)
    assert _minutes(said) == [(1, 0, 1, 0, 0)]


def test_an_absurd_duration_is_counted_as_unknown() -> None:
    log = Log()
    for i, duration in enumerate((2**62, 2**62, -5, 1000)):
        log.say(Outcome.PASSED, T0, job_id=str(i), duration_ms=duration)
    log.heartbeats(T0, T0 + 3 * MINUTE)
    said, _ = play(log.entries)
    (row,) = said.aggregates
    assert (row.completed, row.duration_ms_sum, sum(row.durations)) == (4, 1000, 1)


def test_rejects_go_to_the_dead_letters_with_what_the_receiver_said() -> None:
    log = Log()
    told = {"reason": "malformed_payload", "detail": "no `id`\0", "source": "gh", "body": "..."}
    log.put(Entry(Kind.REJECT, Encoding.JSON, T0, msgspec.json.encode(told)))
    log.put(Entry(Kind.REJECT, Encoding.JSON, T0, msgspec.json.encode({"reason": "r"})))
    said, _ = play(log.entries)
    first, second = said.dead_letters
    assert (first.reason, first.detail, first.source) == ("malformed_payload", "no `id`\N{REPLACEMENT CHARACTER}", "gh")
    assert first.payload == msgspec.json.encode(told)
    assert (first.position, first.entry_id, first.part, first.received_ms) == (1, f"{T0}-0", 0, T0)
    assert (second.reason, second.detail, second.source) == ("r", "", None)


BAD_JSON = [b"", b"garbage", b"[]", b"{}", b'{"rulebook":5,"reason":5}', b'"\xff"', b"[" * 100_000]


@pytest.mark.parametrize("value", BAD_JSON, ids=lambda v: repr(v[:20]))
@pytest.mark.parametrize(
    ("kind", "reason"), [(Kind.REJECT, "malformed_payload"), (Kind.CONTROL, "bad_control")], ids=["reject", "control"]
)
def test_what_cannot_be_read_is_a_dead_letter_and_never_a_crash(kind: Kind, reason: str, value: bytes) -> None:
    log = Log()
    log.put(Entry(kind, Encoding.JSON, T0, value))
    said, shard = play(log.entries)
    assert [(d.reason, d.payload) for d in said.dead_letters] == [(reason, value)]
    assert shard.rulebook is RULEBOOK


def test_a_rulebook_that_is_not_to_be_had_is_a_dead_letter() -> None:
    log = Log()
    log.put(Entry(Kind.CONTROL, Encoding.JSON, T0, b'{"rulebook":"moon"}'))
    said, shard = play(log.entries)
    assert [(d.reason, d.detail) for d in said.dead_letters] == [("bad_control", "no rulebook moon")]
    assert shard.rulebook is RULEBOOK


def test_each_bad_event_of_a_packed_entry_is_a_dead_letter_of_its_own() -> None:
    good = make_event(Outcome.FAILED, T0, **TRANSIENT)
    bad = event_pb2.Event.FromString(payload.to_protobuf(good))
    bad.repository = "a\0b"
    packed = event_pb2.EventBatch(events=[bad, event_pb2.Event.FromString(payload.to_protobuf(good)), bad])
    log = Log()
    log.put(Entry(Kind.EVENT, Encoding.PACKED, T0, packed.SerializeToString()))
    said, _ = play(log.entries)
    assert [d.part for d in said.dead_letters] == [0, 2]
    assert len({d.dead_letter_id for d in said.dead_letters}) == 2
    assert len(said.failures) == 1


def _unreadable(count: int, good: int = 0) -> Log:
    log = Log()
    for i in range(count):
        log.put(Entry(Kind.EVENT, Encoding.JSON, T0 + i, b"{garbage}"))
    log.heartbeats(T0 + count, T0 + count + good, 1)
    return log


def test_too_many_unreadable_entries_stop_the_flow_instead_of_draining_the_stream() -> None:
    said, _ = play(_unreadable(5).entries, fresh(most_bad=5))
    assert len(said.dead_letters) == 5
    with pytest.raises(TooManyRejectsError, match=r"shard 3: more than 5 of 1000 entries before entry .*JSON parse"):
        play(_unreadable(6).entries, fresh(most_bad=5))


def test_the_count_of_unreadable_entries_survives_a_restart_and_begins_anew_every_thousand() -> None:
    log, shard = _unreadable(6), fresh(most_bad=5)
    _, shard = play(log.entries[:5], shard)
    with pytest.raises(TooManyRejectsError):
        play(log.entries[5:], Shard.restore(shard.snapshot(), RESOLVE, most_bad=5))
    _, shard = play(log.entries[:5], fresh(most_bad=5))
    moved = [e._replace(position=e.position + 1000) for e in log.entries[:5]]
    said, _ = play(moved, shard)
    assert len(said.dead_letters) == 5


def test_a_rulebook_decides_from_its_control_entry_on() -> None:
    log = Log()
    log.say(Outcome.FAILED, T0, pipeline_id="1", job_name="a", **TRANSIENT)
    log.control(T0, OTHER_RULEBOOK)
    log.say(Outcome.FAILED, T0, pipeline_id="2", job_name="b", **TRANSIENT)
    said, shard = play(log.entries)
    assert [(d.reason, d.rulebook) for d in said.decisions] == [
        ("run_in_progress", RULEBOOK.digest),
        ("awaiting_log", OTHER_RULEBOOK.digest),
    ]
    again = Shard.restore(shard.snapshot(), RESOLVE)
    assert again.rulebook is OTHER_RULEBOOK


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("as_version", [as_version_4, as_version_5])
def test_a_snapshot_of_an_earlier_version_is_read(seed: int, as_version: Callable[[bytes], dict[str, Any]]) -> None:
    entries = full_log(random.Random(seed)).entries
    middle = len(entries) // 2
    _, shard = play(entries[:middle])
    old = Shard.restore(msgspec.msgpack.encode(as_version(shard.snapshot())), RESOLVE)
    assert play(entries[middle:], old)[0] == play(entries[middle:], shard)[0]


def test_a_snapshot_of_another_version_or_without_its_rulebook_is_refused() -> None:
    snapshot = fresh().snapshot()
    other = msgspec.msgpack.encode({**msgspec.msgpack.decode(snapshot), "v": 99})
    with pytest.raises(ConfigError, match="a snapshot of version 99; this release reads 3, 4, 5, 6"):
        Shard.restore(other, RESOLVE)
    with pytest.raises(ConfigError, match="a snapshot that this release does not read"):
        Shard.restore((100).to_bytes(8, "little") + b"packed", RESOLVE)
    with pytest.raises(ConfigError, match="no rulebook"):
        Shard.restore(fresh(rulebooks.compose()).snapshot(), RESOLVE)


def test_a_shard_that_saw_nothing_comes_back_as_it_was() -> None:
    shard = Shard.restore(fresh(from_ms=5).snapshot(), RESOLVE)
    assert shard.snapshot() == fresh(from_ms=5).snapshot()
    assert (shard.number, shard.position, shard.stream_ms) == (3, 0, 0)


def test_an_empty_batch_says_nothing() -> None:
    shard = fresh()
    said = shard.process(columns.decode([]))
    assert (said.failures, said.findings, said.decisions, said.aggregates, said.dead_letters) == ([], [], [], [], [])
    assert shard.position == 0


def test_a_finding_due_within_the_second_of_a_snapshot_is_still_cleared() -> None:
    log = Log()
    for ms in (300, 400, 500):
        log.say(Outcome.FAILED, T0 + ms, pipeline_id=str(ms), job_id=str(ms), commit_sha=None)
    log.heartbeats(T0 + 600, T0 + 30 * MINUTE + 350, 30 * MINUTE)  # the first has left the window, its second not come
    log.heartbeats(T0 + 30 * MINUTE + 2000, T0 + 40 * MINUTE)
    whole, _ = play(log.entries)
    restarted, _ = play(log.entries, sizes=one_by_one(), restores=lambda: True)
    assert [row.state for row in whole.findings] == ["raised", "cleared"]
    assert restarted.findings == whole.findings


def test_scores_are_those_of_the_rulebook_in_force() -> None:
    log = Log()
    log.say(Outcome.FAILED, T0, **TRANSIENT)
    said, _ = play(log.entries)
    assert said.failures[0].model == SCORER["version"]


_NO_CYCLES = """
import gc, random
from models.records import columns
from tests.analytics.log import play
from tests.analytics.workload import full_log

entries = full_log(random.Random(1)).entries
middle = len(entries) // 3
_, shard = play(entries[:middle])
gc.collect()
gc.disable()
gc.set_debug(gc.DEBUG_SAVEALL)
for begin in range(middle, len(entries), 100):
    shard.process(columns.decode(entries[begin : begin + 100]))
    shard.snapshot()
gc.collect()
assert not gc.garbage, gc.garbage
"""


def test_a_shard_makes_no_cycles() -> None:
    """flows/garbage.py relies on it: what stays for a while is never looked at again.

    In a process of its own: what other tests leave behind is none of the shard's.
    """
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", _NO_CYCLES], cwd=root, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
