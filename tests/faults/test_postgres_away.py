"""F11: PostgreSQL is killed under a running flow. It waits, and no row shows it."""

from __future__ import annotations

import random
import time

import pytest

from analytics.rulebook import compose
from connectors.postgres import connect, put_rulebook
from connectors.redis_streams import append_entry
from flows.embedded import EmbeddedPostgres
from flows.rulebooks import control
from models.records.event import SHARDS
from tests.faults.harness import Flow, Ground, pace, story
from tests.helpers import wait_until

pytestmark = [pytest.mark.fault, pytest.mark.timeout(240)]


def test_postgres_killed_twice_stops_no_process_and_changes_no_row(
    own_ground: Ground, own_postgres: EmbeddedPostgres, rng: random.Random
) -> None:
    stricter = compose(detectors={"RepeatedFailure": {"threshold": 2}})
    with connect(own_ground.postgres_url) as connection:
        put_rulebook(connection, stricter.digest, stricter.body, created_by="test")
    with Flow(own_ground) as flow:
        with pace(own_ground, story(rng.randrange(1 << 30)), seconds=14):
            flow.first_output()
            for rulebook in (stricter, compose()):
                time.sleep(rng.uniform(0.2, 1.5))  # the moment of the kill is drawn
                own_postgres.kill()
                for shard in range(SHARDS):  # what it names must be read from PostgreSQL, or waited for
                    append_entry(own_ground.client, shard, control(rulebook, 1))
                tried = flow.metric("guard_postgres_retries_total")
                wait_until(lambda tried=tried: flow.metric("guard_postgres_retries_total") > tried, what="a retry")  # type: ignore[misc]  # a default is no parameter
                time.sleep(rng.uniform(0.0, 1.5))  # and so is how long it is away
                own_postgres.start()
                flow.goes_on()
        own_ground.drain(flow)
        assert len(flow.births) == 1, f"the flow crashed:\n{flow.words()[-3000:]}"
    own_ground.check().must_be_exact()


def test_a_flow_killed_while_postgres_is_away_is_started_until_it_is_back(
    own_ground: Ground, own_postgres: EmbeddedPostgres, rng: random.Random
) -> None:
    with Flow(own_ground) as flow:
        with pace(own_ground, story(rng.randrange(1 << 30), hours=0.5), seconds=6):
            flow.first_output()
            own_postgres.kill()
            flow.kill(rng)
            born = len(flow.births)
            wait_until(lambda: len(flow.births) > born + 1, within=30, what="another start in vain")
            flow.must_run()
            own_postgres.start()
            flow.first_output()
        own_ground.drain(flow)
        assert "Traceback" not in flow.words(), "what is away is told in a line"
    own_ground.check().must_be_exact()
