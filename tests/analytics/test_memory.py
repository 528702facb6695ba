"""What a shard remembers is bounded, forgets in turns, and comes back from a snapshot as it was."""

from __future__ import annotations

import random
from typing import Any
from uuid import UUID

import msgspec
import pytest

from analytics.journal import Journal
from analytics.memory import Durations, Generations, Ids, Timers
from analytics.panes import BUCKETS


def _again(state: Any) -> Any:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(state))


def test_what_was_put_in_stays_for_one_turn_and_goes_with_the_second() -> None:
    memory: Generations[int] = Generations(10)
    memory.put("a", 0)
    memory.turn()
    memory.put("b", 2)
    assert (memory.get("a"), memory.get("b"), memory.get("c")) == (0, 2, None)
    memory.turn()
    assert (memory.get("a"), memory.get("b")) == (None, 2)


def test_the_newest_value_of_a_key_counts() -> None:
    memory: Generations[int] = Generations(10)
    memory.put("a", 1)
    memory.turn()
    memory.put("a", 2)
    assert memory.get("a") == 2


def test_a_flood_makes_a_memory_turn_early() -> None:
    memory: Generations[int] = Generations(3)
    for i in range(100):
        memory.put(str(i), i)
        assert len(memory.young) + len(memory.old) <= 6
    assert [memory.get(str(i)) for i in (99, 98, 97)] == [99, 98, 97]
    memory.put("99", 5)
    assert memory.get("99") == 5


def test_generations_come_back_from_their_state() -> None:
    memory: Generations[int] = Generations(10)
    memory.put("a", 1)
    memory.turn()
    memory.put("b", 2)
    other: Generations[int] = Generations(10)
    other.load(_again(memory.state()))
    assert (other.old, other.young) == ({"a": 1}, {"b": 2})


def test_generations_come_back_whenever_their_state_was_taken(rng: random.Random) -> None:
    memory: Generations[int] = Generations(1000)
    for step in range(3000):
        match rng.randrange(20):
            case 1 if step % 7 == 0:
                memory.turn()
            case 2:
                chunks = memory.state()
                other: Generations[int] = Generations(1000)
                other.load(_again(chunks))
                assert (other.old, other.young) == (memory.old, memory.young)
                assert other.state() == chunks
                memory = rng.choice([memory, other])
            case _:
                memory.put(str(rng.randrange(50)), step)


def test_a_journal_is_written_anew_before_it_grows_without_end() -> None:
    journal, items = Journal(), {"a": 0}
    sizes = []
    for step in range(3000):
        items["a"] = step
        journal.changed.append("a")
        sizes.append(sum(map(len, journal.written(items))))
    assert max(sizes[1500:]) <= 1.1 * max(sizes[:1500])
    assert Journal().read(journal.written(items)) == {"a": 2999}


def test_ids_come_back_from_their_state_whenever_it_was_taken(rng: random.Random) -> None:
    ids, known = Ids(), set()
    for step in range(200):
        new = str(UUID(int=rng.getrandbits(128)))
        ids.young.add(new)
        ids.fresh.append(new)
        known.add(new)
        if step % 7 == 0:
            other = Ids()
            other.load(_again(ids.state()))
            assert (other.old, other.young) == (ids.old, ids.young)
            assert other.state() == ids.state()
            ids = other
        if step % 50 == 0:
            ids.turn()
    assert ids.old | ids.young == known - {i for i in known if i not in ids.old and i not in ids.young}
    ids.turn()
    ids.turn()
    assert (ids.old, ids.young, ids.state()) == (set(), set(), [[], []])


def _popped(timers: Timers, now_ms: int) -> list[tuple[int, list[tuple[str, Any]]]]:
    return [(second, list(due)) for second, due in timers.pop(now_ms)]


def test_what_is_due_comes_at_the_first_whole_second_in_order() -> None:
    timers = Timers()
    assert timers.at(1000, "run", "b") == 1
    assert timers.at(1001, "run", "c") == 2
    assert timers.at(999, "run", "a") == 1
    assert timers.at(1, "case", "z") == 1
    assert timers.at(5000, "pane", 10) == 5
    assert timers.at(5000, "pane", 9) == 5
    assert timers.next_ms == 1000
    assert _popped(timers, 999) == []
    assert _popped(timers, 2500) == [(1, [("case", "z"), ("run", "a"), ("run", "b")]), (2, [("run", "c")])]
    assert timers.next_ms == 5000
    assert [key for _, due in _popped(timers, 9000) for _, key in due] == [10, 9]
    assert timers.next_ms > 1 << 60


def test_the_same_thing_is_due_once_a_second() -> None:
    timers = Timers()
    for _ in range(3):
        timers.at(1000, "run", "a")
    assert _popped(timers, 1000) == [(1, [("run", "a")])]


def test_what_becomes_due_meanwhile_is_seen_too() -> None:
    timers = Timers()
    timers.at(1000, "run", "a")
    seen = []
    for second, due in timers.pop(3000):
        seen += [(second, *d) for d in due]
        if second < 3:
            timers.at((second + 1) * 1000, "run", f"after {second}")
            timers.at(9000, "run", "later")
    assert seen == [(1, "run", "a"), (2, "run", "after 1"), (3, "run", "after 2")]
    assert timers.next_ms == 9000


def _counts(**at: int) -> list[int]:
    return [at.get(f"b{i}", 0) for i in range(BUCKETS)]


def test_the_usual_duration_is_the_edge_of_the_95th_percentile() -> None:
    durations = Durations(BUCKETS, 10)
    assert durations.usual_ms("job") is None
    durations.add("job", _counts(b7=1))
    assert durations.usual_ms("job") == 128_000, "one run says more than none"
    durations.add("job", _counts(b3=18))
    assert durations.usual_ms("job") == 128_000, "of 19 the longest"
    durations.add("job", _counts(b7=1))
    assert durations.usual_ms("job") == 128_000
    durations.add("job", _counts(b3=20))
    assert durations.usual_ms("job") == 8_000, "38 of 40 are 95 %"


def test_old_durations_weigh_less_and_their_shares_stay() -> None:
    durations = Durations(BUCKETS, 10)
    for _ in range(50):
        durations.add("job", _counts(b2=90, b5=10))
    counts = durations._form.unpack(durations.state()["job"])
    assert 900 < sum(counts) <= 2000
    assert counts[2] / sum(counts) == pytest.approx(0.9, abs=0.02)
    for _ in range(60):
        durations.add("job", _counts(b9=100))
    assert durations.usual_ms("job") == 512_000


def test_a_minute_of_very_many_runs_fits() -> None:
    durations = Durations(BUCKETS, 10)
    durations.add("job", _counts(b1=1_000_000, b2=100))
    assert sum(durations._form.unpack(durations.state()["job"])) <= 2000
    assert durations.usual_ms("job") == 2_000


def test_the_job_longest_without_a_run_is_forgotten_first() -> None:
    durations = Durations(BUCKETS, 2)
    for job in ("a", "b", "a", "c"):
        durations.add(job, _counts(b1=30))
    assert [durations.usual_ms(job) for job in ("a", "b", "c")] == [2_000, None, 2_000]


def test_durations_come_back_from_their_state_in_their_order() -> None:
    durations = Durations(BUCKETS, 2)
    for job in ("b", "a", "b"):
        durations.add(job, _counts(b4=25))
    other = Durations(BUCKETS, 2)
    other.load(_again(durations.state()))
    assert list(other.state().items()) == list(durations.state().items())
    other.add("c", _counts(b1=1))
    assert list(other.state()) == ["b", "c"]
