"""guard quarantine: what is set aside is listed, and ended by a person through its shard."""

from __future__ import annotations

import asyncio
import json
from uuid import uuid4

import msgspec
import redis

from analytics.errands import RELEASE
from connectors import redis_streams
from connectors.postgres import connect, connect_async
from connectors.postgres_quarantines import begin, lasting
from models.records import entry as wire
from models.records.acted import Acted
from models.records.entry import Kind
from models.records.event import shard_of, uuid5_text
from tests.connectors.test_quarantines import CALL
from tests.flows.conftest import Guard

ID, CASE = uuid5_text("a", "decision"), uuid5_text("a", "case")


def _begin(database: str) -> None:
    async def work() -> None:
        async with await connect_async(database, application_name="test") as connection:
            await begin(connection, CALL, decision_id=ID, case_id=CASE, begun_by="ann")

    asyncio.run(work())


def test_what_is_in_quarantine_is_listed(guard: Guard, servers: None, database: str) -> None:
    assert json.loads(guard("quarantine", "list", "--json").out) == []
    _begin(database)
    (row,) = json.loads(guard("quarantine", "list", "--json").out)
    assert (row["decision_id"], row["job_name"], row["test"]) == (ID, "test", CALL.test)
    assert any(ID in line for line in guard("quarantine", "list").lines)
    assert any(ID in line for line in guard("quarantine", "list", "--over").lines)


def test_a_person_ends_it_and_its_shard_is_told(guard: Guard, servers: None, database: str, redis_url: str) -> None:
    _begin(database)
    said = guard("quarantine", "release", ID)
    assert (said.status, said.lines) == (0, ["test in org/repo: its quarantine ends"])
    with connect(database) as connection:
        assert lasting(connection) == []
    with redis.Redis.from_url(redis_url) as client:
        ((_, fields),) = client.xrange(redis_streams.log_key(shard_of(CALL.instance, CALL.repository)))
    entry = wire.decode(*next(iter(fields.items())))
    acted = msgspec.json.decode(entry.payload, type=Acted)
    assert (entry.kind, acted.action, acted.case_id, acted.decision_id) == (Kind.OUTCOME, RELEASE, CASE, ID)
    assert guard("quarantine", "release", ID).status == 1


def test_one_that_there_is_not_is_said_to_be_none(guard: Guard, servers: None) -> None:
    said = guard("quarantine", "release", str(uuid4()))
    assert said.status == 1
