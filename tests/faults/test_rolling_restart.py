"""F2: told to go, a receiver answers what it took, and the flow resumes where it was."""

from __future__ import annotations

import random
import time

import pytest

from benchmarks.world.deliveries import Weather
from tests.contracts import oracle
from tests.faults.harness import Flow, Ground, happen
from tests.faults.receiving import Receiver, Senders, out_of_order, promised
from tests.helpers import wait_until

pytestmark = [pytest.mark.fault, pytest.mark.timeout(240)]


def test_receivers_and_flow_are_restarted_in_turn_under_load_and_nobody_notices(
    ground: Ground, rng: random.Random
) -> None:
    weather = Weather(duplicates=0.05, disorder=1.0)
    deliveries = happen(rng.randrange(1 << 30), seconds=3600, weather=weather, epoch=time.time(), speed=180)
    pair = [Receiver(ground, "one"), Receiver(ground, "two")]
    with pair[0], pair[1], Flow(ground) as flow:
        with Senders(deliveries, pair, ground.directory / "ledger", seconds=60) as senders:
            flow.first_output()
            for turn in range(4):
                taken = min(len(senders.answers) + rng.randint(10, 50), len(deliveries))
                wait_until(lambda taken=taken: len(senders.answers) >= taken, within=30, what="more deliveries")  # type: ignore[misc]  # a default is no parameter
                assert pair[turn % 2].end() == 0
                pair[turn % 2].__enter__()
                if turn % 2:
                    born = len(flow.births)
                    flow.processes[0].terminate()
                    wait_until(lambda born=born: len(flow.births) > born, what="a restart")  # type: ignore[misc]  # as above
                    flow.first_output()
        ground.drain(flow)
        assert [receiver.end() for receiver in pair] == [0, 0]
    print(senders.statuses, "of", len(deliveries))  # noqa: T201
    unanswered = [answer.error for answer in senders.answers if answer.status not in {200, 202}]
    assert unanswered == []
    ground.check(promised=promised(senders.answers)).must_be_exact()
    assert out_of_order(oracle.read_log(ground.client), senders.answers) == []
