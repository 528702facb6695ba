"""Healers, PostgreSQL and Redis killed at random, under platforms that fail in every way: no act twice, none lost.

In full (`make faults-long`) with 200 kills and the time-outs that last for as long as they last.
"""

from __future__ import annotations

import os
import random
import time
from typing import Any, Final

import pytest
import redis

from benchmarks.world.faults import FAULTS
from connectors.postgres import connect
from flows.embedded import EmbeddedPostgres, EmbeddedValkey
from models.records.errors import Unavailable
from models.records.outputs import DecisionRow
from tests.connectors.healing import decide
from tests.faults.harness import Ground
from tests.flows.healers import Healers, Town, check, healers, hurry, in_ledger, standings, told
from tests.helpers import wait_until

pytestmark = [pytest.mark.fault, pytest.mark.timeout(2400)]

KILLS: Final = int(os.environ.get("GUARD_TEST_HEALER_KILLS", "8"))
HEALERS: Final = 3
_LONG: Final = KILLS > 20
_QUICK: Final = tuple(name for name in FAULTS if _LONG or not name.startswith("timeout"))


def _kill(healer: Healers, postgres: EmbeddedPostgres, valkey: EmbeddedValkey, rng: random.Random) -> str:
    """Kill something: mostly a healer, sometimes several at once, sometimes a server; or let a healer sleep."""
    drawn = rng.random()
    if drawn < 0.12:
        postgres.kill()
        time.sleep(rng.uniform(0.0, 1.0))
        postgres.start()
        return "postgres"
    if drawn < 0.24:
        valkey.kill()
        time.sleep(rng.uniform(0.0, 1.0))
        valkey.start()
        return "redis"
    if drawn < 0.36:
        healer.pause(rng.randrange(HEALERS), rng.uniform(1.0, 6.0))  # the lease ends meanwhile, or does not
        return "pause"
    numbers = rng.sample(range(HEALERS), rng.choice((1, 1, 2, HEALERS)))
    for number in numbers:
        healer.kill(number)
    return "healer"


def _decide(postgres: str, rows: list[DecisionRow]) -> None:
    wait_until(lambda: _decided(postgres, rows), within=30, what="PostgreSQL")


def _decided(postgres: str, rows: list[DecisionRow]) -> bool:
    try:
        decide(postgres, *rows)
    except Unavailable:
        return False
    return True


def _wait_for_some(town: Town, healer: Healers, rng: random.Random) -> None:
    """Until healers are in the middle of it: after so many requests that they sent."""
    wanted = town.requests + rng.randint(1, 24)
    deadline = time.monotonic() + 10.0
    while town.requests < wanted and time.monotonic() < deadline:
        healer.revive()
        time.sleep(0.001)


def _over(postgres: str, client: Any, cases: int) -> bool:
    time.sleep(0.3)  # between two looks: healers are to do something meanwhile
    hurry(postgres)
    stand = standings(postgres)
    if stand.total() < cases or any(state not in {"finished", "refused"} for state, _ in stand):
        return False
    return told(client).total() == in_ledger(postgres, "done", "refused", "dropped", "unknown").total()


def test_no_act_is_done_twice_and_none_is_lost_whatever_is_killed(
    own_ground: Ground, own_postgres: EmbeddedPostgres, own_valkey: EmbeddedValkey, rng: random.Random, seed: int
) -> None:
    town = Town(seed=seed, repositories=800 if _LONG else 200)
    postgres = own_ground.postgres_url
    rows = town.failures(5 * KILLS + 60)
    rng.shuffle(rows)
    kills: dict[str, int] = {}
    town.faults(0.2, _QUICK)
    began = time.monotonic()
    given = {"redis": own_ground.redis_url, "postgres": postgres, "count": HEALERS}
    with town.served() as port, healers(own_ground.directory, world=port, **given) as healer:
        for kill in range(KILLS):
            _decide(postgres, rows[kill::KILLS])
            _wait_for_some(town, healer, rng)
            what = _kill(healer, own_postgres, own_valkey, rng)
            kills[what] = kills.get(what, 0) + 1
        town.faults(0.0)
        healer.revive()
        with redis.Redis.from_url(own_ground.redis_url, protocol=2) as client:
            wait_until(lambda: _over(postgres, client, len(rows)), within=240 if _LONG else 60, what="the end of all")
            healer.must_run()
            figures = check(town, postgres, client, {row.case_id: row for row in rows})
    faults = dict(sorted(town.api.faults.items()))
    seconds = round(time.monotonic() - began)
    print({"kills": kills, "seconds": seconds, **figures, **town.counts(), "faults": faults})  # noqa: T201
    print(standings(postgres))  # noqa: T201
    assert figures["done"] > len(rows) / 4  # or the test proves nothing
    with connect(postgres) as connection:
        kept = connection.execute(
            "SELECT coalesce(sum((b ->> 3)::int), 0)"
            " FROM guard.acts, jsonb_array_elements(budgets) b WHERE b ->> 0 = 'fleet'"
        ).fetchone()
        spent = connection.execute("SELECT sum(acts) FROM guard.budgets WHERE scope = 'fleet'").fetchone()
    assert kept == spent
