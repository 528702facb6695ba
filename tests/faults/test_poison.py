"""F17 and F18: what nobody can read is an item with its reason, never a crash; too much of it stops the flow."""

from __future__ import annotations

import gzip
import random
import time
from typing import NamedTuple

import httpx2
import pytest

from analytics.shard import REJECT_WINDOW
from benchmarks.world.deliveries import Weather, sign
from benchmarks.world.records import Message
from connectors.postgres import connect
from flows.supervise import HOPELESS
from models.records.event import shard_of
from tests.contracts import oracle
from tests.faults.harness import SOURCES, Flow, Ground, Told, happen, story, unreadable
from tests.faults.receiving import Receiver, Senders, promised

pytestmark = [pytest.mark.fault, pytest.mark.timeout(240)]


def test_each_unreadable_entry_is_a_dead_letter_with_reason_and_place_and_the_good_ones_are_exact(
    ground: Ground, rng: random.Random
) -> None:
    entries = story(rng.randrange(1 << 30), hours=0.5, poison=False)
    planted: dict[int, set[int]] = {}
    for bad in unreadable() * 3:
        where = rng.randrange(len(entries))
        entries.insert(where, Told(entries[where].shard, entries[where].at_ms, *bad))
    counts = dict.fromkeys(range(12), 0)
    with Flow(ground) as flow:
        flow.first_output()  # its control entries stand before all
        counts = ground.lengths()
        kinds = set(unreadable())
        for told in entries:
            counts[told.shard] += 1
            if (told.name, told.value) in kinds:
                planted.setdefault(told.shard, set()).add(counts[told.shard])
        ground.publish(entries)
        ground.drain(flow)
        assert len(flow.births) == 1
    ground.check().must_be_exact()
    with connect(ground.postgres_url) as connection:
        letters = oracle.stored(connection)["dead_letters"]
    found: dict[int, set[int]] = {}
    for letter in letters:
        found.setdefault(letter["shard"], set()).add(letter["position"])
        assert letter["detail"]
    assert found == planted
    reasons = {letter["reason"].partition("\ufffd")[0] for letter in letters}
    assert reasons == {"malformed_payload", "bad_checksum", "unknown_schema", "bad_control"}


@pytest.mark.parametrize("processes", [1, 2])
def test_a_stream_that_is_mostly_unreadable_stops_the_flow_for_good_and_is_not_drained(
    ground: Ground, rng: random.Random, processes: int
) -> None:
    entries = story(rng.randrange(1 << 30), hours=0.1)
    last = entries[-1].at_ms
    ground.publish(entries)
    garbage = [Told(7, last + i, b"event.json.1", b"garbage %d" % i) for i in range(3 * REJECT_WINDOW)]
    ground.publish(garbage)
    with Flow(ground, processes=processes) as flow:
        assert flow.wait(within=60) == HOPELESS
        assert "cannot be read" in flow.words()
        starts = len(flow.births) // processes
        assert starts == 1 if processes == 1 else starts <= 5
    with connect(ground.postgres_url) as connection:
        row = connection.execute("SELECT count(*) FROM guard.dead_letters WHERE shard = 7").fetchone()
    assert row is not None
    assert row[0] <= 2 * REJECT_WINDOW // 2, "no more than half of each thousand goes to the dead letters"


class Poison(NamedTuple):
    """What is posted, and what must be answered."""

    status: int
    body: bytes
    headers: dict[str, str] = {}  # noqa: RUF012 - read only
    signed: bool = True


GOOD = b'{"action": "completed", "workflow_job": %s}'
POISON = {
    "no json": Poison(200, b"{"),
    "nothing": Poison(200, b""),
    "an array": Poison(200, b"[1, 2, 3]"),
    "not utf-8": Poison(200, b'{"action": "\xff\xfe"}'),
    "deep": Poison(200, b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
    "a lone surrogate": Poison(200, GOOD % b'{"id": 1, "name": "\\ud800"}'),
    "nul": Poison(200, GOOD % b'{"id": 1, "name": "a\\u0000b"}'),
    "1e400": Poison(200, GOOD % b'{"id": 1e400}'),
    "an evil text": Poison(200, GOOD % (b'{"id": 1, "name": "' + b"a" * 200_000 + b'!"}')),
    "25 MB": Poison(413, b" " * (25 << 20)),
    "wrong hmac": Poison(401, b"{}", {"x-hub-signature-256": "sha256=" + "0" * 64}, signed=False),
    "no hmac": Poison(401, b"{}", signed=False),
    "gzip": Poison(415, gzip.compress(b"{}"), {"content-encoding": "gzip"}),
    "a form of another kind": Poison(415, b"a=b", {"content-type": "text/plain"}),
}


def post(url: str, name: str, poison: Poison) -> int:
    message = Message(
        f"poison {name}", {"content-type": "application/json", "x-github-event": "workflow_job"}, poison.body
    )
    path, headers = sign("hub", SOURCES["hub"], message, time.time())
    if not poison.signed:
        del headers["x-hub-signature-256"]
    answer = httpx2.post(url + path, content=poison.body, headers=headers | poison.headers, timeout=20, trust_env=False)
    return answer.status_code


def test_poison_through_the_receiver_gets_its_status_or_a_dead_letter_and_the_good_deliveries_are_exact(
    ground: Ground, rng: random.Random
) -> None:
    weather = Weather(duplicates=0.05, disorder=1.0)
    deliveries = happen(rng.randrange(1 << 30), seconds=1200, weather=weather, epoch=time.time(), speed=120)
    with Receiver(ground, "one") as receiver, Flow(ground) as flow:
        with Senders(deliveries, [receiver], ground.directory / "ledger", seconds=5) as senders:
            answered = {name: post(receiver.url, name, poison) for name, poison in POISON.items()}
        ground.drain(flow)
        assert len(flow.births) == 1
        assert receiver.end() == 0
    assert answered == {name: poison.status for name, poison in POISON.items()}
    assert set(senders.statuses) <= {200, 202}
    ground.check(promised=promised(senders.answers)).must_be_exact()
    with connect(ground.postgres_url) as connection:
        letters = oracle.stored(connection)["dead_letters"]
    assert {letter["source"] for letter in letters} == {"hub"}
    assert {letter["shard"] for letter in letters} == {shard_of("hub", "hub")}
    assert len(letters) == sum(poison.status == 200 for poison in POISON.values()), [row["detail"] for row in letters]
    assert all(letter["reason"] == "malformed_payload" for letter in letters)
