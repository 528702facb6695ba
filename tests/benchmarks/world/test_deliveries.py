from __future__ import annotations

import random
from collections import Counter
from urllib.parse import unquote

import pytest

from benchmarks.world.deliveries import Delivery, Source, Weather, sign, truth
from benchmarks.world.records import Happening, Message
from connectors.platforms.circleci import CircleCI
from connectors.platforms.github import GitHub
from connectors.platforms.gitlab import GitLab
from connectors.platforms.jenkins import Jenkins
from connectors.platforms.platform import Platform, Request, Secret
from models.records.errors import BadSignature
from models.records.event import FAILING, Event, EventType, Outcome
from tests.benchmarks.world.conftest import SOURCES, deliver, happen

PLATFORMS: dict[str, Platform] = {p.name: p for p in (GitHub(), GitLab(), Jenkins(), CircleCI())}
STORM = Weather(duplicates=0.2, disorder=1.0, delayed=0.1, delay=5.0, lost=0.1)


def _request(delivery: Delivery, body: bytes | None = None) -> Request:
    _, _, path_secret = delivery.path.removeprefix("/").partition("/")
    headers = {name.lower(): value for name, value in delivery.headers.items()}
    return Request(headers, body or delivery.body, delivery.at, unquote(path_secret) or None)


def _verify(delivery: Delivery, body: bytes | None = None) -> int:
    source = SOURCES[delivery.source]
    return PLATFORMS[source.platform].verify(_request(delivery, body), [Secret(source.kind, source.secret)])


def _events(delivery: Delivery) -> list[Event]:
    normalised = PLATFORMS[SOURCES[delivery.source].platform].events(_request(delivery), "world")
    assert normalised.ignored is None
    return list(normalised.events)


def test_the_same_seed_gives_the_same_deliveries_byte_for_byte() -> None:
    once, twice = deliver(happen(seconds=900), STORM), deliver(happen(seconds=900), STORM)
    assert once == twice
    assert once != deliver(happen(8, seconds=900), STORM)


def test_every_delivery_proves_itself_and_an_altered_body_does_not(calm: list[Delivery]) -> None:
    assert {d.source for d in calm} == set(SOURCES)
    for delivery in calm[:: max(len(calm) // 300, 1)]:
        assert _verify(delivery) == 0
        if SOURCES[delivery.source].kind in ("signature", "signing_token"):
            with pytest.raises(BadSignature):
                _verify(delivery, delivery.body + b" ")


def test_bodies_have_the_size_of_real_ones(calm: list[Delivery]) -> None:
    runs = [d for d in calm if d.headers.get("x-github-event") == "workflow_run"]
    jobs = [d for d in calm if d.headers.get("x-github-event") == "workflow_job"]
    assert all(18_000 <= len(d.body) <= 23_000 for d in runs)
    assert all(7_500 <= len(d.body) <= 14_000 for d in jobs)


EXPECTED = {
    None: {Outcome.QUEUED, Outcome.RUNNING},
    "passed": {Outcome.PASSED},
    "failed": FAILING,
    "timed_out": FAILING | {Outcome.CANCELLED},  # Jenkins calls it ABORTED
    "cancelled": {Outcome.CANCELLED},
    "skipped": {Outcome.SKIPPED},
}


def test_what_a_delivery_becomes_is_what_was_true(calm: list[Delivery]) -> None:
    seen: Counter[tuple[str, str]] = Counter()
    for delivery in calm:
        says = delivery.says
        *_, event = _events(delivery)
        job = None if SOURCES[delivery.source].platform == "jenkins" else says["job"]
        told = (event.repository, event.pipeline_id, event.metadata.workflow_id, event.metadata.attempt, event.job_id)
        assert told == (says["repository"], says["pipeline"], says["workflow"], says["attempt"], job)
        assert event.metadata.outcome in EXPECTED[says["ending"]]
        assert (event.event_type is EventType.FAILED) == (event.metadata.outcome in FAILING)
        seen[event.platform, event.metadata.outcome] += 1
    for platform in PLATFORMS:
        assert seen[platform, Outcome.PASSED], platform
        assert seen[platform, Outcome.FAILED], platform


def test_every_failure_of_github_names_its_step_unless_the_machine_was_lost(happenings: list[Happening]) -> None:
    lost = {str(h.job.number) for h in happenings if h.job and h.job.trouble and h.job.trouble.lost}
    for delivery in deliver(happenings):
        if delivery.source == "hub" and delivery.says["job"] and delivery.says["ending"] == "failed":
            *_, event = _events(delivery)
            assert (event.metadata.step is None) == (event.job_id in lost)


def test_jenkins_shows_the_log_of_what_failed(calm: list[Delivery]) -> None:
    failed = [d for d in calm if d.source.startswith("butler") and d.says["ending"] == "failed"]
    assert failed
    for delivery in failed:
        *_, event = _events(delivery)
        assert event.failure_context is not None
        assert "Finished: FAILURE" in (event.failure_context.excerpt or "")


def test_a_redelivery_repeats_id_and_body(happenings: list[Happening]) -> None:
    storm = deliver(happenings, STORM)
    first = {d.id: d for d in storm if d.copy == 0}
    copies = [d for d in storm if d.copy]
    assert 0.1 < len(copies) / len(first) < 0.3
    for copy in copies:
        assert (copy.body, copy.says) == (first[copy.id].body, first[copy.id].says)
        assert _verify(copy) == 0


def test_disorder_is_bounded_and_what_is_lost_stays_lost(happenings: list[Happening], calm: list[Delivery]) -> None:
    storm = deliver(happenings, STORM)
    due = {d.id: d.at for d in calm}
    assert [d.at for d in storm] == sorted(d.at for d in storm)
    assert all(due[d.id] <= d.at <= due[d.id] + 8.0 for d in storm)
    assert [d.id for d in storm if d.copy == 0] != [d.id for d in calm]
    lost = 1 - len({d.id for d in storm}) / len(due)
    assert 0.05 < lost < 0.15
    assert {d.id for d in calm} == set(due)
    assert len(due) == len(calm)


def test_truth_is_told_once_of_every_job(happenings: list[Happening]) -> None:
    told = [row for row in map(truth, happenings) if row is not None]
    names = Counter((row["source"], row["repository"], row["pipeline"], row["job"]) for row in told)
    assert max(names.values()) == 1
    for row in told:
        assert (row["cause"] is not None) == (row["ending"] in ("failed", "timed_out", None))
        assert row["flaky"] == (row["kind"] not in (None, "real"))


def test_a_platform_that_cannot_prove_itself_that_way_is_refused() -> None:
    rng = random.Random(1)
    message = Message("id", {}, rng.randbytes(8))
    with pytest.raises(ValueError, match="github proves nothing by path"):
        sign("hub", Source("github", "path", "x"), message, 0.0)
