"""Minutes are added up to the same integers however the rows were grouped, and no duration falls into two buckets."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics import panes as panes_module
from analytics.panes import BUCKETS, Minute, Panes, bucket_of

KEYS = ("platform", "instance", "repository", "job_key")
SUMS = ("started", "completed", "failed", "late", "duration_ms")


@pytest.mark.parametrize(
    ("duration_ms", "bucket"),
    [
        (-1, -1),
        (-(2**60), -1),
        (0, 0),
        (1, 0),
        (999, 0),
        (1000, 1),
        (1001, 1),
        (1999, 1),
        (2000, 2),
        (2001, 2),
        (3999, 2),
        (4000, 3),
        (16_383_999, 14),
        (16_384_000, 15),
        (2**62, 15),
    ],
)
def test_a_bucket_holds_what_lies_below_its_edge(duration_ms: int, bucket: int) -> None:
    assert bucket_of(np.array([duration_ms])).tolist() == [bucket]


def test_every_edge_is_exact() -> None:
    for i in range(BUCKETS - 1):
        edge = 1000 * 2**i
        assert bucket_of(np.array([edge - 1, edge, edge + 1])).tolist() == [i, i + 1, i + 1]


@given(st.integers(0, 2**40))
def test_a_duration_lies_below_its_edge_and_not_below_the_one_before(duration_ms: int) -> None:
    (bucket,) = bucket_of(np.array([duration_ms])).tolist()
    assert bucket == BUCKETS - 1 or duration_ms < 1000 * 2**bucket
    assert bucket == 0 or duration_ms >= 1000 * 2 ** (bucket - 1)


Row = dict[str, Any]


def _row(rng: random.Random) -> Row:
    repository = f"org/{rng.randrange(3)}"
    kind = rng.choice(["started", "completed", "failed", "late"])
    ended = kind in {"completed", "failed"} and rng.random() < 0.9
    duration = rng.choice([0, 999, 1000, 5000, 10**8]) if ended else -1
    return {
        "minute": rng.randrange(3),
        "platform": "github",
        "instance": rng.choice(["a", "b"]),
        "repository": repository,
        "job_key": f"{repository}/{rng.randrange(3)}",
        "bucket": int(bucket_of(np.array([duration]))[0]),
        **{name: int(kind == name) for name in SUMS[:4]},
        "duration_ms": max(duration, 0),
    }


def _add(panes: Panes, rows: list[Row]) -> None:
    numbers = {name: np.array([r[name] for r in rows], np.int64) for name in ("minute", "bucket", *SUMS)}
    panes.add({**{name: pa.array([r[name] for r in rows], pa.string()) for name in KEYS}, **numbers})


def _restored(panes: Panes) -> Panes:
    again = Panes()
    again.load(msgspec.msgpack.decode(msgspec.msgpack.encode(panes.state())))
    return again


def _by_hand(rows: list[Row], minute: int) -> tuple[list[Minute], dict[str, list[int]]]:
    repositories: dict[Any, Row] = defaultdict(lambda: {**dict.fromkeys(SUMS, 0), "durations": [0] * BUCKETS})
    jobs: dict[str, list[int]] = defaultdict(lambda: [0] * BUCKETS)
    for row in rows:
        if row["minute"] == minute:
            known = repositories[row["platform"], row["instance"], row["repository"]]
            for name in SUMS:
                known[name] += row[name]
            if row["bucket"] >= 0:
                known["durations"][row["bucket"]] += 1
                jobs[row["job_key"]][row["bucket"]] += 1
    minutes = [
        Minute(
            key[0],
            key[1],
            key[2],
            k["started"],
            k["completed"],
            k["failed"],
            k["duration_ms"],
            k["durations"],
            k["late"],
        )
        for key, k in sorted(repositories.items())
    ]
    return minutes, dict(sorted(jobs.items()))


@pytest.mark.parametrize("fold", [1, 10, 8192])
def test_the_sums_are_those_counted_by_hand_however_rows_came(
    rng: random.Random, monkeypatch: pytest.MonkeyPatch, fold: int
) -> None:
    monkeypatch.setattr(panes_module, "_FOLD_ROWS", fold)
    rows = [_row(rng) for _ in range(400)]
    for _ in range(5):
        panes, begin = Panes(), 0
        while begin < len(rows):
            size = rng.choice([0, 1, 5, 60])
            _add(panes, rows[begin : begin + size])
            begin += size
            if rng.random() < 0.3:
                panes = _restored(panes)
        for minute in range(3):
            assert panes.close(minute) == _by_hand(rows, minute)


def test_many_minutes_with_a_few_rows_each_are_added_up_alike(rng: random.Random) -> None:
    """A batch that spans many minutes, between others that do not, and a snapshot in the middle."""
    rows = [{**_row(rng), "minute": minute} for minute in range(40) for _ in range(rng.randrange(4))]
    rng.shuffle(rows)
    dense = [{**_row(rng), "minute": rng.randrange(10, 12)} for _ in range(30)]
    panes = Panes()
    for some in (rows[:30], dense[:20], rows[30:], dense[20:]):
        _add(panes, some)
    for minute in range(11):
        assert panes.close(minute) == _by_hand(rows + dense, minute)
    panes = _restored(panes)
    for minute in range(11, 41):
        assert panes.close(minute) == _by_hand(rows + dense, minute)
    assert not panes._few


def test_a_minute_is_given_once() -> None:
    rng = random.Random(1)
    panes = Panes()
    assert panes.close(0) == ([], {})
    _add(panes, [{**_row(rng), "minute": 7} for _ in range(5)])
    assert panes.close(6) == ([], {})
    assert len(panes.close(7)[0]) > 0
    assert panes.close(7) == ([], {})


def test_no_panes_come_back_as_none() -> None:
    assert _restored(Panes()).close(0) == ([], {})
    assert _restored(Panes()).state() == Panes().state()


def test_reading_the_state_changes_nothing() -> None:
    rows = [_row(random.Random(i)) for i in range(50)]
    panes = Panes()
    _add(panes, rows)
    assert panes.state() == panes.state() == _restored(panes).state()
    assert panes.close(1) == _by_hand(rows, 1)
