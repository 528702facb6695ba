"""What goes with the entries of a delivery: requests for logs, and the runs of jobs that passed."""

from __future__ import annotations

import msgspec
import pytest

from connectors.deliveries import LogRequest, Normaliser
from connectors.delivery import Delivery
from connectors.platforms import PLATFORMS
from connectors.platforms.asking import JobRun
from connectors.redaction import Redactor
from models.records.entry import Kind, trace_of, traceparent
from models.records.event import Event, EventType, Outcome, shard_of
from models.records.payload import from_json
from tests.connectors.platforms.cases import BY_NAME, CASES, INSTANCE, Case

NORMALISER = Normaliser(Redactor(b"a key of the tests, 32 bytes lng"), lambda count: bytes(range(1, count + 1)))


def delivered(case: Case, instance: str = INSTANCE) -> list[Delivery]:
    """What the receiver makes durable of a recorded delivery."""
    return list(NORMALISER.normalise("acme", PLATFORMS[case.platform], instance, case.request()).deliveries)


def events(delivery: Delivery) -> list[Event]:
    return [from_json(entry.payload) for entry, _ in delivery.items if entry.kind is Kind.EVENT]


def requests(delivery: Delivery) -> list[LogRequest]:
    return [msgspec.json.decode(request, type=LogRequest) for request in delivery.log_requests]


def run_of(event: Event) -> JobRun:
    metadata = event.metadata
    return JobRun(
        event.repository, event.pipeline_id, event.job_id, metadata.attempt, metadata.job_number, metadata.job_name
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.platform}/{case.name}")
def test_the_log_of_each_failed_job_is_asked_for_and_each_passed_job_is_remembered(case: Case) -> None:
    for delivery in delivered(case):
        told = [e for e in events(delivery) if e.job_id is not None or e.metadata.job_name is not None]
        failed = [event for event in told if event.event_type is EventType.FAILED]
        asked = requests(delivery)
        assert [request.event_id for request in asked] == [event.id for event in failed]
        assert [request.run for request in asked] == [run_of(event) for event in failed]
        assert all(shard_of(request.instance, request.repository) == delivery.shard for request in asked)
        passed = [e for e in told if e.metadata.outcome is Outcome.PASSED and e.metadata.job_name is not None]
        assert [msgspec.json.decode(run, type=JobRun) for _, run in delivery.passed] == [run_of(e) for e in passed]


def test_every_platform_has_a_failed_job_to_ask_about_and_a_passed_one_to_remember() -> None:
    everything = [(case.platform, delivery) for case in CASES for delivery in delivered(case)]
    assert {platform for platform, delivery in everything if delivery.log_requests} == set(PLATFORMS)
    assert {platform for platform, delivery in everything if delivery.passed} == set(PLATFORMS)


def test_run_level_events_ask_for_nothing_but_where_run_and_job_are_one() -> None:
    run_level = {case.platform for case in CASES for d in delivered(case) for r in requests(d) if r.job_id is None}
    assert run_level == {"jenkins"}


def test_the_key_of_a_job_is_the_same_run_after_run_and_differs_by_instance_workflow_and_name() -> None:
    case = BY_NAME["github", "workflow_job.failed"]

    def key(changes: dict[str, object], instance: str = INSTANCE) -> str | None:
        body = {**case.body, "workflow_job": {**case.body["workflow_job"], **changes}}
        changed = Case(case.platform, case.name, case.headers, body, case.golden)
        return requests(delivered(changed, instance)[0])[0].job_key

    usual = key({})
    assert key({"id": 7, "run_id": 8, "run_attempt": 9, "head_branch": "other"}) == usual
    assert len({usual, key({"name": "x"}), key({"workflow_name": "x"}), key({}, "elsewhere")}) == 4
    assert key({"name": None}) is None


def test_a_request_written_before_it_had_more_fields_is_still_read() -> None:
    old = {
        "event_id": "e",
        "platform": "github",
        "instance": "i",
        "repository": "a/b",
        "pipeline_id": "1",
        "job_id": "2",
        "attempt": 3,
        "traceparent": None,
    }
    request = msgspec.json.decode(msgspec.json.encode(old), type=LogRequest)
    assert request.run == JobRun("a/b", "1", "2", 3)
    assert request.job_key is None


def test_a_trace_goes_through_its_header_and_back() -> None:
    trace = bytes(range(1, 26))
    assert trace_of(traceparent(trace)) == trace
    for none in (None, "", "00-x-y-01", "00-" + "0" * 32, traceparent(trace[:-1] + b"\x01") and "01"):
        assert trace_of(none) == bytes(25)
