"""Promise 8 where the receiver did not stand in the way: what strangers wrote into the streams is redacted too."""

from __future__ import annotations

import json
import random

import pytest

from connectors.postgres import connect
from connectors.postgres_rows import TABLES
from models.records.entry import Encoding, Entry, Kind, encode
from tests.connectors.test_canaries import _assert_found_nowhere, _canaries
from tests.faults.harness import BEGINS, Flow, Ground, Told, story

pytestmark = pytest.mark.fault

AT_MS = int(BEGINS * 1000)


def entries_with(line: str) -> list[tuple[bytes, bytes]]:
    """Every way in which an entry becomes a dead letter, with `line` in it."""
    text = json.dumps(line)
    return [
        encode(Entry(Kind.EVENT, Encoding.JSON, AT_MS, f'{{"repository": {text}}}'.encode())),
        encode(Entry(Kind.CONTROL, Encoding.JSON, AT_MS, f'{{"rulebook": {text}}}'.encode())),
        encode(Entry(Kind.REJECT, Encoding.JSON, AT_MS, f'{{"reason": "odd", "detail": {text}}}'.encode())),
        encode(Entry(Kind.EVIDENCE, Encoding.JSON, AT_MS, line.encode())),
        (b"event.json.1", line.encode()),
        (b"event.json.77", b"x" * 40 + b"\n" + line.encode()),
    ]


def test_canaries_in_dead_letters_reach_neither_postgresql_nor_the_log(ground: Ground, rng: random.Random) -> None:
    canaries = _canaries(rng)
    ground.publish(story(rng.randrange(1 << 30), hours=0.1, poison=False))
    last = AT_MS + 3_600_000
    planted = [entry for _, line in canaries for entry in entries_with(line)]
    ground.publish(Told(number % 12, last + number, *entry) for number, entry in enumerate(planted))
    with Flow(ground, flow__reject_share_limit=1.0, logging__level="debug") as flow:
        ground.drain(flow)
        assert len(flow.births) == 1
    with connect(ground.postgres_url) as connection:
        found = [row for table in TABLES for row in connection.execute(f"SELECT * FROM guard.{table}".encode())]
        count = connection.execute("SELECT count(*) FROM guard.dead_letters").fetchone()
    assert count == (len(planted),)
    everything = repr(found).encode()
    assert everything.count(b"[REDACTED:") > len(planted)
    _assert_found_nowhere(everything, canaries)
    _assert_found_nowhere(flow.words().encode(), canaries)
