"""A fifth of all deliveries never comes, and for a while nobody listens: a look at the platforms finds all of it."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta

import pytest

from benchmarks.world.deliveries import Delivery, Weather, deliveries
from benchmarks.world.sim import Habits
from connectors.postgres import connect
from connectors.redaction import Redactor
from connectors.redis_streams import publish
from flows.reconcile import once
from models.records.entry import Kind
from models.records.event import Event, EventType
from models.records.payload import from_json
from tests.benchmarks.world.apis import FAILING, Lab
from tests.faults.harness import KEY, SOURCES, Flow, Ground, normalise
from tests.flows.reconciling import answering, settings

pytestmark = [pytest.mark.fault, pytest.mark.timeout(240)]

HOURS, LOST = 3, 0.2


def _events(one: Delivery, redactor: Redactor) -> list[Event]:
    """What a delivery says."""
    items = [entry for delivery in normalise(one, redactor).deliveries for entry, _ in delivery.items]
    return [from_json(entry.payload) for entry in items if entry.kind is Kind.EVENT]


def _lists(sets: Mapping[str, set[str]]) -> dict[str, list[str]]:
    return {name: sorted(some) for name, some in sets.items()}


def _failed(said: list[Event]) -> set[str]:
    """The failed jobs among `said`; of a Jenkins, builds."""
    jobs = [event for event in said if event.job_id is not None or event.platform == "jenkins"]
    return {event.id for event in jobs if event.event_type is EventType.FAILED}


def test_after_a_fifth_of_the_deliveries_was_lost_the_failures_are_those_that_were(
    ground: Ground, rng: random.Random
) -> None:
    habits = Habits(pushes_per_second=1 / 120, breaks=0.2, hangs=0.02, reruns=0.3)
    lab = Lab(seed=rng.randrange(1 << 30), habits=habits, speed=1.0, epoch=time.time() - HOURS * 3600 - 600)
    lab.go_on(HOURS * 3600)
    sent = list(deliveries(lab.told, SOURCES, lab.clock, Weather(), seed=1))
    away = rng.uniform(0.5, 2.0) * 3600  # from then on nobody listened for half an hour
    came = [
        one
        for one in sent
        if rng.random() >= LOST and not away <= lab.clock.at(one.at) <= away + 1800 and one.at <= lab.now()
    ]
    redactor = Redactor(KEY.encode())
    told = [event for one in sent if one.at <= lab.now() for event in _events(one, redactor)]
    true = _failed(told)
    heard = {event.repository for one in came for event in _events(one, redactor)}
    never: dict[str, set[str]] = {}  # of what nobody ever heard of, somebody must tell the reconciler
    for event in told:
        if event.repository not in heard:
            never.setdefault(event.metadata.instance, set()).add(event.repository)
    with Flow(ground) as flow, answering(lab) as url:
        publish(ground.client, [delivery for one in came for delivery in normalise(one, redactor).deliveries])
        ground.drain(flow)
        before = _rows(ground)
        chosen = settings(
            ground.redis_url, ground.postgres_url, url, instances=tuple(SOURCES), repositories=_lists(never)
        )
        done = once(chosen, since=timedelta(hours=HOURS + 1))
        ground.drain(flow)
        after = _rows(ground)
        again = once(chosen, since=timedelta(hours=HOURS + 1))
    assert true - before.keys(), "the loss cost something"
    assert done.unread == []
    assert done.left == 0
    assert after.keys() & true == true, "and all of it was found"
    assert {key for key, job in after.items() if job} - true == set(), "and nothing else"
    assert max(after.values(), default=0) >= 1
    assert sum(look.reconciled.found for look in again.looks) == 0, "a second look finds nothing more"
    assert not lab.site.invalid
    jobs = [job for attempts in lab.world.attempts.values() for attempt in attempts for job in attempt.jobs]
    ended = [job for job in jobs if job.ending in FAILING and job.ended(lab.at)]
    assert len(true) >= len(ended) * 0.9, "the truth is the world's"
    ground.check().must_be_exact()


def _rows(ground: Ground) -> dict[str, int]:
    """How many rows each failure has; 0 of one that names no job though its platform has jobs."""
    with connect(ground.postgres_url) as connection:
        rows = connection.execute("SELECT failure_id::text, job_id, platform FROM guard.failures").fetchall()
    counted = Counter(failure for failure, _, _ in rows)
    return {
        failure: counted[failure] if job is not None or platform == "jenkins" else 0 for failure, job, platform in rows
    }
