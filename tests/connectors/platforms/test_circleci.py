"""What only CircleCI does: its signature list, and ends without beginnings."""

from __future__ import annotations

import pytest

from connectors.platforms import PLATFORMS
from connectors.platforms.circleci import CircleCI
from connectors.platforms.platform import Request, Secret
from models.records.errors import BadSignature, MalformedPayload
from models.records.event import EventType, Outcome
from tests.connectors.platforms.cases import BY_NAME, event_of, normalised

CIRCLECI = PLATFORMS["circleci"]
VECTORS = [
    ("secret", "hello world", "734cc62f32841568f45715aeb9f4d7891324e6d948e4c6c60c0621cdac48623a"),
    ("another-secret", "lalala", "daa220016c8f29a8b214fbfc3671aeec2145cfb1e6790184ffb38b6d0425fa00"),
    ("hunter123", "an-important-request-payload", "9be2242094a9a8c00c64306f382a7f9d691de910b4a266f67bd314ef18ac49fa"),
    ("secret", "foo", "773ba44693c7553d6ee20f61ea5d2757a9a4f4a44d2841ae4e95b52e4cd62db4"),
]
_, _, DIGEST = VECTORS[0]

# PLATFORMS.md 4
WEBHOOK_WORKFLOW = ["success", "failed", "error", "canceled", "unauthorized"]
WEBHOOK_JOB = ["success", "failed", "canceled", "unauthorized"]
WORDS = {
    *WEBHOOK_WORKFLOW,
    *WEBHOOK_JOB,
    *["success", "running", "not_run", "failed", "error", "failing", "on_hold", "canceled", "unauthorized", "queued"],
    *[
        "success",
        "running",
        "not_run",
        "failed",
        "retried",
        "queued",
        "not_running",
        "infrastructure_fail",
        "timedout",
        "on_hold",
    ],
    *["terminated-unknown", "blocked", "canceled", "unauthorized"],
    *["created", "errored", "pending", "setup", "setup-pending"],
    *[
        "retried",
        "canceled",
        "infrastructure_fail",
        "timedout",
        "not_run",
        "running",
        "failed",
        "queued",
        "not_running",
        "no_tests",
        "fixed",
    ],
    *["queued", "not_run", "not_running", "running", "finished"],
    *["created", "queued", "started", "ended", "succeeded", "failed", "canceled", "unauthorized", "not_run", "errored"],
}


def _request(body: str, signature: str) -> Request:
    return Request({"circleci-signature": signature}, body.encode(), 0.0)


@pytest.mark.parametrize(("secret", "body", "digest"), VECTORS)
def test_the_vectors_of_its_documentation_are_proven(secret: str, body: str, digest: str) -> None:
    assert CIRCLECI.verify(_request(body, f"v1={digest}"), [Secret("signature", secret)]) == 0


@pytest.mark.parametrize("signature", [f"v1={DIGEST},v2=abc", f"v2=abc, v1={DIGEST}", f"v0,v1={DIGEST},=,"])
def test_other_versions_beside_the_right_one_are_passed_over(signature: str) -> None:
    assert CIRCLECI.verify(_request("hello world", signature), [Secret("signature", "secret")]) == 0


@pytest.mark.parametrize(
    "signature",
    [
        f"v2={DIGEST}",
        f"v1={DIGEST},v1={DIGEST}",
        f"v1=00,v1={DIGEST}",
        f"v1=={DIGEST}",
        f"v1={DIGEST}=",
        f"v1={DIGEST.upper()}",
        f"V1={DIGEST}",
        "v1=",
        "v1",
        DIGEST,
        "",
    ],
)
def test_a_signature_in_another_form_is_refused(signature: str) -> None:
    with pytest.raises(BadSignature):
        CIRCLECI.verify(_request("hello world", signature), [Secret("signature", "secret")])


def test_every_word_is_mapped() -> None:
    assert set(CircleCI.OUTCOME) == WORDS
    unknown = {word for word in WORDS if CircleCI.OUTCOME[word] is Outcome.UNKNOWN}
    assert unknown == {"ended", "finished"}


@pytest.mark.parametrize("word", sorted(WORDS))
@pytest.mark.parametrize("thing", ["workflow", "job"])
def test_each_status_is_told(thing: str, word: str) -> None:
    event = event_of("circleci", f"{thing}.failed", **{f"{thing}__status": word})
    assert (event.metadata.outcome, event.metadata.vendor_status) == (CircleCI.OUTCOME[word], word)


@pytest.mark.parametrize("word", WEBHOOK_WORKFLOW)
def test_each_status_of_a_webhook_is_an_end(word: str) -> None:
    event = event_of("circleci", "workflow.passed", workflow__status=word)
    assert event.event_type is (EventType.FAILED if word in {"failed", "error"} else EventType.COMPLETED)


def test_a_workflow_begins_once_however_many_of_its_jobs_say_so() -> None:
    names = ("job.failed", "job.passed", "workflow.passed", "workflow.failed")
    starts = [normalised(BY_NAME["circleci", name]).events[0] for name in names]
    assert all(start == starts[0] for start in starts)
    assert starts[0].event_type is EventType.STARTED
    assert starts[0].job_id is None


def test_a_job_begins_where_it_was_started() -> None:
    start = normalised(BY_NAME["circleci", "job.failed"]).events[1]
    assert (start.event_type, start.metadata.outcome) == (EventType.STARTED, Outcome.RUNNING)
    assert start.timestamp.isoformat() == "2026-05-05T12:01:00+00:00"
    assert len(normalised(BY_NAME["circleci", "job.unauthorized"]).events) == 2


def test_what_has_not_ended_gets_no_beginning() -> None:
    assert len(normalised(BY_NAME["circleci", "workflow.running"]).events) == 1


def test_the_pipeline_is_the_pipeline_and_the_workflow_the_run_in_it() -> None:
    event = event_of("circleci", "job.failed")
    body = BY_NAME["circleci", "job.failed"].body
    assert event.pipeline_id == body["pipeline"]["id"]
    assert event.metadata.workflow_id == body["workflow"]["id"]
    assert (event.job_id, event.metadata.job_number) == (body["job"]["id"], 301)
    assert (event.metadata.attempt, event.metadata.rerun_after) == (1, "run")
    rerun = event_of("circleci", "job.failed", workflow__id="another")
    assert rerun.id != event.id


def test_the_newer_integrations_tell_the_commit_elsewhere() -> None:
    metadata = event_of("circleci", "workflow.error_of_app").metadata
    assert metadata.commit_sha == "5d41402abc4b2a76b9719d911017c592aaaaaaaa"
    assert (metadata.branch, metadata.author) == ("main", "Mary Shelley")


def test_a_delivery_without_type_is_malformed() -> None:
    with pytest.raises(MalformedPayload, match="type"):
        event_of("circleci", "ping", type=None)
