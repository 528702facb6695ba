"""Decoding several shards together gives each what it would have had alone."""

from __future__ import annotations

import pickle
import random
from concurrent.futures import ThreadPoolExecutor

from models.records import columns
from models.records.columns import Batch, Decoding
from models.records.entry import Encoding, Entry, Kind, encode
from models.records.event import Outcome
from models.records.joint import decode_each
from models.records.raw import RawEntry
from tests.events import make_event, raw_event


def _group(rng: random.Random, first: int, length: int) -> list[RawEntry]:
    entries = []
    for position in range(first, first + length):
        encoding = rng.choice(list(Encoding))
        raw = raw_event(position, make_event(rng.choice(list(Outcome)), rng.randrange(1, 10**6)), 5, encoding)
        match rng.randrange(6):
            case 0:
                raw = raw._replace(fields=(b"event.json.1", b"rubbish"))
            case 1:
                raw = raw._replace(fields=encode(Entry(Kind.HEARTBEAT, Encoding.JSON, 5, b"")))
        entries.append(raw)
    return entries


def _alike(one: Batch, other: Batch) -> bool:
    same = (one.marks, one.last, one.entries) == (other.marks, other.last, other.entries)
    return same and one.events.equals(other.events)


def test_each_group_is_as_if_decoded_alone(rng: random.Random) -> None:
    for _ in range(50):
        groups = [_group(rng, rng.randrange(1, 10**9), rng.randrange(1, 9)) for _ in range(rng.randrange(1, 7))]
        for group, batch in zip(groups, decode_each(groups), strict=True):
            assert _alike(batch, columns.decode(group))


def test_many_entries_are_decoded_group_by_group(rng: random.Random) -> None:
    groups = [_group(rng, 1, 1500), _group(rng, 7, 1500)]
    for group, batch in zip(groups, decode_each(groups), strict=True):
        assert _alike(batch, columns.decode(group))


def test_what_is_parsed_elsewhere_is_the_same_and_arrives_whole_in_another_process(rng: random.Random) -> None:
    with ThreadPoolExecutor(1) as pool:
        for _ in range(20):
            group = _group(rng, rng.randrange(1, 10**9), rng.randrange(1, 40))
            under_way = [Decoding(group, lambda parse: pool.submit(parse).result) for _ in range(2)]
            alone = columns.decode(group)
            assert _alike(under_way[0].batch(), alone)
            assert _alike(pickle.loads(pickle.dumps(under_way[1])), alone)
