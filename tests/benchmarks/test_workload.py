from __future__ import annotations

from collections import Counter, defaultdict
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import workload
from benchmarks.workload import FAILED_SHARE, Workload, cached, entries, events, milliseconds
from models.records.columns import decode
from models.records.entry import Encoding
from models.records.event import FAILING, OPEN, Event, shard_of
from models.records.payload import from_json, to_json
from models.records.raw import RawEntry

SMALL = Workload(events=4000, repositories=50)


@pytest.fixture(scope="module")
def stream() -> list[Event]:
    return list(events(SMALL))


def _raw(planned: list[workload.Planned]) -> list[RawEntry]:
    return [RawEntry(i + 1, p.received_ms, 0, (p.name, p.value)) for i, p in enumerate(planned)]


def test_the_same_seed_gives_the_same_events(stream: list[Event]) -> None:
    assert list(events(SMALL)) == stream
    assert list(events(Workload(events=100, seed=8))) != stream[:100]


def test_a_longer_workload_begins_as_a_shorter_one(stream: list[Event]) -> None:
    assert list(events(Workload(events=500, repositories=50))) == stream[:500]


def test_time_advances_at_the_rate(stream: list[Event]) -> None:
    assert stream[0].timestamp == SMALL.start
    assert {b.timestamp - a.timestamp for a, b in pairwise(stream)} == {timedelta(milliseconds=1)}


def test_every_id_is_told_once(stream: list[Event]) -> None:
    assert len({event.id for event in stream}) == len(stream)


def test_what_ends_has_begun_and_the_run_ends_last(stream: list[Event]) -> None:
    begun: set[tuple[str, str | None]] = set()
    ended: defaultdict[str, list[str | None]] = defaultdict(list)
    for event in stream:
        thing = (event.pipeline_id, event.job_id)
        if event.metadata.outcome in OPEN:
            assert event.pipeline_id not in ended
            begun.add(thing)
        else:
            assert thing in begun
            assert event.platform == "jenkins" or None not in ended[event.pipeline_id]
            ended[event.pipeline_id].append(event.job_id)


def test_one_ended_job_in_five_failed_and_says_why(stream: list[Event]) -> None:
    jobs = [e for e in stream if e.metadata.job_name and e.metadata.outcome not in OPEN]
    failed = [e for e in jobs if e.metadata.outcome in FAILING]
    assert len(failed) / len(jobs) == pytest.approx(FAILED_SHARE, abs=0.03)
    assert all(e.failure_context and e.failure_context.reason for e in failed)
    assert {e.platform for e in failed} == {"github", "gitlab", "jenkins", "circleci"}


def test_a_run_fails_when_one_of_its_jobs_did(stream: list[Event]) -> None:
    failed: Counter[str] = Counter()
    for event in stream:
        if event.metadata.outcome not in OPEN:
            if event.metadata.job_name is not None:
                failed[event.pipeline_id] += event.metadata.outcome in FAILING
            else:
                assert (event.metadata.outcome in FAILING) == (failed[event.pipeline_id] > 0)


@pytest.mark.parametrize("encoding", [Encoding.JSON, Encoding.PROTOBUF])
def test_entries_of_one_event_hold_the_stream_in_order(stream: list[Event], encoding: Encoding) -> None:
    planned = list(entries(SMALL, encoding))
    assert [p.shard for p in planned] == [shard_of(e.metadata.instance, e.repository) for e in stream]
    assert [p.received_ms for p in planned] == [milliseconds(e.timestamp) for e in stream]
    batch = decode(_raw(planned))
    assert not batch.marks
    assert batch.events.column("id").to_pylist() == [e.id for e in stream]


def test_packed_entries_hold_each_shard_in_order(stream: list[Event]) -> None:
    planned = list(entries(SMALL, Encoding.PACKED, per_entry=64))
    assert sum(p.events for p in planned) == len(stream)
    assert max(p.events for p in planned) == 64
    for shard in range(12):
        batch = decode(_raw([p for p in planned if p.shard == shard]))
        ids = [e.id for e in stream if shard_of(e.metadata.instance, e.repository) == shard]
        assert not batch.marks
        assert batch.events.column("id").to_pylist() == ids


def test_events_survive_the_wire(stream: list[Event]) -> None:
    assert [from_json(to_json(event)) for event in stream[:200]] == stream[:200]


def test_the_second_time_entries_come_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = list(cached(SMALL, Encoding.JSON, folder=tmp_path))
    assert made == list(entries(SMALL, Encoding.JSON))
    monkeypatch.setattr(workload, "entries", None)
    assert list(cached(SMALL, Encoding.JSON, folder=tmp_path)) == made
    assert len(list(tmp_path.iterdir())) == 1
