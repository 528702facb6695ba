"""What every platform tells when it is asked what happened of late: what its webhooks told, by the same names."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest

from benchmarks.world.deliveries import Source, Weather, deliveries
from benchmarks.world.records import Repository
from benchmarks.world.sim import Habits
from connectors.platforms import PLATFORMS
from connectors.platforms.acting import Send, Silence
from connectors.platforms.asking import Reply
from connectors.platforms.past import Recent
from connectors.platforms.platform import Request
from models.records.calls import Refusal, Refused, Unavailable
from models.records.event import OPEN, Event, EventType
from tests.benchmarks.world.apis import Lab
from tests.connectors.platforms.acts import hold, says

HOURS = 3600.0
SOURCES = {
    "hub": Source("github", "signature", "a secret of the hub"),
    "lab": Source("gitlab", "token", "a secret of the lab"),
    "butler": Source("jenkins", "signature", "a secret of the butler"),
    "circle": Source("circleci", "signature", "a secret of the circle"),
}
NAMES = {"github": "acme/shop", "gitlab": "acme/tools/shop", "jenkins": "acme/shop/main", "circleci": "gh/acme/shop"}
SINCE = datetime(2026, 4, 1, tzinfo=UTC)

each_platform = pytest.mark.parametrize("platform", sorted(PLATFORMS))


@cache
def lab() -> Lab:
    """A world that went on for some hours, in which people run again what failed; the clock is the wall's."""
    made = Lab(habits=Habits(pushes_per_second=1 / 200, breaks=0.2, hangs=0.03, reruns=0.3), speed=1.0)
    made.go_on(5 * HOURS)
    return made


def repositories(platform: str) -> list[Repository]:
    return [one for one in lab().world.runs if one.platform == platform]


def names(repository: Repository) -> list[str]:
    """What the platform calls what it builds there; of a Jenkins each workflow is a job of its own."""
    if repository.platform == "jenkins":
        return [f"{repository.full_name}/{workflow.name}" for workflow in repository.workflows]
    return [f"gh/{repository.full_name}" if repository.platform == "circleci" else repository.full_name]


@cache
def told(platform: str) -> dict[str, Event]:
    """All that the webhooks told, by the events' ids."""
    world = lab()
    posted = deliveries(world.told, SOURCES, world.clock, Weather(), seed=1)
    events: dict[str, Event] = {}
    for one in posted:
        if SOURCES[one.source].platform == platform:
            request = Request(dict(one.headers), one.body, one.at)
            events |= {event.id: event for event in PLATFORMS[platform].events(request, "main").events}
    return events


@cache
def found(platform: str, since_seconds: float) -> dict[str, Event]:
    """All that is found by asking."""
    world, since = lab(), datetime.fromtimestamp(lab().clock.seconds(since_seconds), UTC)
    events: dict[str, Event] = {}
    for repository in repositories(platform):
        for name in names(repository):
            held = world.hold(platform, PLATFORMS[platform].recent(name, since, "main"))
            assert isinstance(held.ended, Recent), held.ended
            assert not held.ended.unreadable
            assert not held.changes
            events |= {event.id: event for event in held.ended.events}
    return events


def ends(events: dict[str, Event]) -> dict[str, Event]:
    """Those of jobs that have ended; of a Jenkins, builds."""
    return {
        key: event
        for key, event in events.items()
        if event.metadata.outcome not in OPEN and (event.job_id is not None or event.platform == "jenkins")
    }


@each_platform
def test_every_failure_that_the_webhooks_told_is_found(platform: str) -> None:
    failed = {key for key, event in ends(told(platform)).items() if event.event_type is EventType.FAILED}
    assert len(failed) > 10
    assert failed <= found(platform, 0.0).keys()


@each_platform
def test_nothing_is_found_that_the_webhooks_would_have_called_otherwise(platform: str) -> None:
    assert ends(found(platform, 0.0)).keys() <= told(platform).keys()


@each_platform
def test_every_end_of_a_run_is_found_as_it_stands(platform: str) -> None:
    runs = {key: event for key, event in found(platform, 0.0).items() if event.job_id is None}
    over = {key for key, event in runs.items() if event.metadata.outcome not in OPEN}
    assert len(over) > 10
    assert over <= told(platform).keys()


@each_platform
def test_what_is_found_says_what_the_webhooks_said(platform: str) -> None:
    same = ends(found(platform, 0.0)).keys() & told(platform).keys()
    for key in same:
        one, other = found(platform, 0.0)[key], told(platform)[key]
        assert abs(one.timestamp - other.timestamp) < timedelta(seconds=2)
        for name in ("commit_sha", "branch", "workflow", "job_name", "job_number", "stage", "step", "attempt"):
            assert getattr(one.metadata, name) == getattr(other.metadata, name), name
        if one.event_type is EventType.FAILED:
            assert bool(one.metadata.is_deploy) is bool(other.metadata.is_deploy)
            assert one.metadata.environment == other.metadata.environment
        for name in ("is_default_branch", "is_fork", "rerun_after", "workflow_id", "native_retries", "vendor_status"):
            assert getattr(one.metadata, name) == getattr(other.metadata, name), name
        reason = (
            one.failure_context and one.failure_context.reason,
            other.failure_context and other.failure_context.reason,
        )
        assert reason[0] == reason[1]


@each_platform
def test_what_ended_before_is_not_asked_for_again(platform: str) -> None:
    late = lab().clock.seconds(4 * HOURS)
    failed = {
        k
        for k, e in ends(told(platform)).items()
        if e.timestamp.timestamp() >= late and e.event_type is EventType.FAILED
    }
    assert failed
    some = found(platform, 4 * HOURS)
    assert failed <= some.keys()
    assert len(some) < len(found(platform, 0.0))


def _asked(platform: str, answering: Callable[[Send], Reply | Silence]) -> Any:
    return hold(PLATFORMS[platform].recent(NAMES[platform], SINCE, "main"), answering)


@each_platform
@pytest.mark.parametrize(
    ("answer", "ended"),
    [
        (says(401), Refused(Refusal.LOGIN, "HTTP 401")),
        (says(403), Refused(Refusal.PERMISSION, "HTTP 403")),
        (says(404), Refused(Refusal.NOT_FOUND, "HTTP 404")),
        (says(429, retry_after="7"), Unavailable("HTTP 429", 7.0)),
        (says(302, location="https://elsewhere.example"), Refused(Refusal.MOVED, "HTTP 302")),
        (says(500), Unavailable("HTTP 500")),
        (says(200, b"<html>"), Unavailable("the body is not JSON in UTF-8, at character 0")),
        (Silence("no answer in time", sent=True), Unavailable("no answer in time")),
    ],
    ids=["401", "403", "404", "429", "302", "500", "html", "silence"],
)
def test_every_answer_has_its_consequence(platform: str, answer: Reply | Silence, ended: Any) -> None:
    held = _asked(platform, lambda _: answer)
    assert held.ended == ended
    assert len(held.sent) == 1


@each_platform
def test_a_name_that_no_address_can_be_made_of_ends_it_at_once(platform: str) -> None:
    held = hold(PLATFORMS[platform].recent("../..", SINCE, "main"), lambda _: says(200, {}))
    assert isinstance(held.ended, Refused)
    assert held.sent == []


@each_platform
def test_questions_change_nothing_and_hold_no_credential(platform: str) -> None:
    world, repository = lab(), repositories(platform)[0]
    talk = PLATFORMS[platform].recent(names(repository)[0], SINCE, "main")
    for step in world.hold(platform, talk).sent:
        assert (step.method, step.body, step.changes) == ("GET", b"", False)
        assert not {"authorization", "cookie", "circle-token", "private-token"} & set(step.headers)
