"""F4: Redis is killed under load. What was answered 2xx is on the log when it is back, in order; the rest got 503."""

from __future__ import annotations

import random
import time

import pytest

from benchmarks.world.deliveries import Weather
from flows.embedded import EmbeddedValkey
from tests.contracts import oracle
from tests.faults.harness import Flow, Ground, happen
from tests.faults.receiving import Receiver, Senders, out_of_order, promised
from tests.helpers import wait_until

pytestmark = [pytest.mark.fault, pytest.mark.timeout(240)]

WEATHER = Weather(duplicates=0.05, disorder=1.0)


def test_redis_killed_twice_under_load_loses_nothing_that_was_answered(
    ground: Ground, own_valkey: EmbeddedValkey, rng: random.Random
) -> None:
    deliveries = happen(rng.randrange(1 << 30), seconds=2400, weather=WEATHER, epoch=time.time(), speed=120)
    with Receiver(ground, "one") as receiver, Flow(ground) as flow:
        with Senders(deliveries, [receiver], ground.directory / "ledger", seconds=60) as senders:
            flow.first_output()
            for _ in range(2):
                time.sleep(rng.uniform(0.5, 2.0))  # the moment of the kill is drawn
                own_valkey.kill()
                spooled = receiver.metric("guard_webhook_requests_total", 'outcome="spooled"')
                wait_until(
                    lambda spooled=spooled: (
                        receiver.metric("guard_webhook_requests_total", 'outcome="spooled"') > spooled
                    ),  # type: ignore[misc]  # a default is no parameter
                    what="a spooled delivery",
                )
                time.sleep(rng.uniform(0.0, 1.0))  # and so is how long it is away
                own_valkey.start()
                flow.goes_on()
        wait_until(lambda: receiver.metric("guard_spool_entries") == 0, within=30, what="an empty spool")
        ground.drain(flow)
        assert len(flow.births) == 1, f"the flow crashed:\n{flow.words()[-3000:]}"
        assert receiver.end() == 0
    print(senders.statuses, "of", len(deliveries))  # noqa: T201
    assert set(senders.statuses) <= {200, 202, 503}
    assert senders.statuses[202] > len(deliveries) / 2
    ground.check(promised=promised(senders.answers)).must_be_exact()
    assert out_of_order(oracle.read_log(ground.client), senders.answers) == []


def test_without_a_spool_what_redis_cannot_take_is_answered_503_and_never_2xx(
    ground: Ground, own_valkey: EmbeddedValkey, rng: random.Random
) -> None:
    deliveries = happen(rng.randrange(1 << 30), seconds=900, weather=WEATHER, epoch=time.time(), speed=120)
    with Receiver(ground, "one", spool=False) as receiver, Flow(ground) as flow:
        with Senders(deliveries, [receiver], ground.directory / "ledger", seconds=60) as senders:
            flow.first_output()
            own_valkey.kill()
            wait_until(lambda: senders.statuses[503], what="a 503")
            own_valkey.start()
            flow.goes_on()
        ground.drain(flow)
    assert set(senders.statuses) <= {200, 202, 503}
    ground.check(promised=promised(senders.answers)).must_be_exact()
