"""What only GitHub does: its signature, its words, and what its payloads contradict themselves in."""

from __future__ import annotations

import pytest

from connectors.platforms import PLATFORMS
from connectors.platforms.github import GitHub
from connectors.platforms.platform import Request, Secret
from models.records.errors import BadSignature, MalformedPayload
from models.records.event import FAILING, OPEN, EventType, Outcome
from tests.connectors.platforms.cases import BY_NAME, FORM, INSTANCE, RECEIVED_AT, event_of, normalised

SECRET = "It's a Secret to Everybody"
SIGNATURE = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"

# PLATFORMS.md 4
RUN_CONCLUSIONS = [
    "action_required",
    "cancelled",
    "failure",
    "neutral",
    "skipped",
    "stale",
    "success",
    "timed_out",
    "startup_failure",
]
JOB_CONCLUSIONS = ["success", "failure", "skipped", "cancelled", "action_required", "neutral", "timed_out"]
CHECK_CONCLUSIONS = [*RUN_CONCLUSIONS, "waiting", "pending"]
STATUSES = ["requested", "queued", "pending", "waiting", "in_progress", "completed"]
COMMIT_STATES = ["pending", "success", "failure", "error"]


def _request(body: bytes, **headers: str) -> Request:
    return Request({name.replace("_", "-"): value for name, value in headers.items()}, body, RECEIVED_AT)


def test_the_vector_of_its_documentation_is_proven() -> None:
    request = _request(b"Hello, World!", x_hub_signature_256=SIGNATURE)
    assert PLATFORMS["github"].verify(request, [Secret("signature", SECRET)]) == 0


@pytest.mark.parametrize(
    "value",
    [SIGNATURE.removeprefix("sha256="), SIGNATURE.replace("sha256", "sha1"), f" {SIGNATURE}", f"{SIGNATURE}\n"],
)
def test_a_signature_in_another_form_is_refused(value: str) -> None:
    with pytest.raises(BadSignature):
        PLATFORMS["github"].verify(_request(b"Hello, World!", x_hub_signature_256=value), [Secret("signature", SECRET)])


def test_the_legacy_signature_proves_nothing() -> None:
    legacy = "sha1=3dca279e731c97c38e3019a075dee9ebbd0a99f0"  # the right one
    with pytest.raises(BadSignature, match="no X-Hub-Signature-256"):
        PLATFORMS["github"].verify(_request(b"Hello, World!", x_hub_signature=legacy), [Secret("signature", SECRET)])


def test_every_word_is_mapped() -> None:
    words = {*CHECK_CONCLUSIONS, *JOB_CONCLUSIONS, *STATUSES, *COMMIT_STATES}
    assert words == set(GitHub.OUTCOME)
    assert {word for word in words if GitHub.OUTCOME[word] is Outcome.UNKNOWN} == {"completed"}


@pytest.mark.parametrize("word", RUN_CONCLUSIONS)
def test_each_conclusion_of_a_run_ends_it(word: str) -> None:
    event = event_of("github", "workflow_run.passed", workflow_run__conclusion=word)
    failed = word in {"failure", "timed_out", "startup_failure"}
    assert event.event_type is (EventType.FAILED if failed else EventType.COMPLETED)
    assert event.metadata.vendor_status == word
    assert event.metadata.duration_ms == 450_000
    assert (event.failure_context is None) is not failed


@pytest.mark.parametrize("word", JOB_CONCLUSIONS)
def test_each_conclusion_of_a_job_ends_it(word: str) -> None:
    event = event_of("github", "workflow_job.failed", workflow_job__conclusion=word)
    assert event.metadata.outcome is GitHub.OUTCOME[word]
    assert event.metadata.outcome not in OPEN
    assert (event.metadata.step == "Run pytest") is (event.metadata.outcome in FAILING)


@pytest.mark.parametrize("word", CHECK_CONCLUSIONS)
def test_each_conclusion_of_a_check_is_told(word: str) -> None:
    assert event_of("github", "check_run.passed", check_run__conclusion=word).metadata.outcome is GitHub.OUTCOME[word]


@pytest.mark.parametrize("status", [word for word in STATUSES if word != "completed"])
@pytest.mark.parametrize("thing", ["workflow_run", "workflow_job"])
def test_each_status_before_the_end_is_a_start(thing: str, status: str) -> None:
    name = "workflow_run.requested" if thing == "workflow_run" else "workflow_job.queued"
    event = event_of("github", name, **{f"{thing}__status": status})
    assert event.event_type is EventType.STARTED
    assert event.metadata.outcome is (Outcome.RUNNING if status == "in_progress" else Outcome.QUEUED)
    assert event.metadata.duration_ms is None


@pytest.mark.parametrize(
    ("name", "outcome", "kind"),
    [
        ("completed_but_queued", Outcome.QUEUED, EventType.STARTED),
        ("in_progress_with_old_conclusion", Outcome.RUNNING, EventType.STARTED),
        ("requested_but_action_required", Outcome.BLOCKED, EventType.COMPLETED),
        ("new_conclusion", Outcome.UNKNOWN, EventType.COMPLETED),
        ("new_status", Outcome.UNKNOWN, EventType.STARTED),
    ],
)
def test_status_and_conclusion_decide_and_never_the_action(name: str, outcome: Outcome, kind: EventType) -> None:
    event = event_of("github", f"workflow_run.{name}")
    assert (event.metadata.outcome, event.event_type) == (outcome, kind)


def test_a_new_word_is_kept_and_tells_its_events_apart() -> None:
    event = event_of("github", "workflow_run.new_conclusion")
    other = event_of("github", "workflow_run.new_conclusion", workflow_run__conclusion="condensed")
    assert event.metadata.vendor_status == "evaporated"
    assert event.id != other.id


def test_a_second_attempt_is_another_event_and_was_not_queued_since_the_first() -> None:
    second = event_of("github", "workflow_run.failed_second_attempt")
    first = event_of("github", "workflow_run.failed_second_attempt", workflow_run__run_attempt=1)
    assert (first.metadata.attempt, second.metadata.attempt) == (1, 2)
    assert first.id != second.id
    assert second.metadata.queued_ms is None


def test_the_default_branch_of_a_fork_is_not_ours() -> None:
    event = event_of("github", "workflow_run.fork_timed_out")
    assert (event.metadata.is_fork, event.metadata.is_default_branch) == (True, False)
    assert event_of("github", "workflow_run.deleted_fork").metadata.is_fork is None


def test_a_job_and_its_run_wait_for_the_end_of_the_run() -> None:
    for name in ("workflow_run.passed", "workflow_job.failed"):
        assert event_of("github", name).metadata.rerun_after == "run"


def test_a_job_with_a_deployment_deploys() -> None:
    metadata = event_of("github", "workflow_job.passed_deployment").metadata
    assert (metadata.is_deploy, metadata.environment) == (True, "production")
    assert event_of("github", "workflow_job.failed").metadata.is_deploy is False
    assert event_of("github", "workflow_run.triggered_by_deployment").metadata.is_deploy is True


def test_a_form_says_what_the_json_says() -> None:
    plain, form = BY_NAME["github", "workflow_job.failed"], BY_NAME["github", "workflow_job.failed_form"]
    assert normalised(plain) == normalised(form)
    assert FORM in PLATFORMS["github"].content_types


@pytest.mark.parametrize("body", [b"", b"other=1", b"payload=%7B%7D&payload=%7B%7D", b"payload=%ff", b"a=1&" * 20])
def test_a_form_without_one_payload_is_malformed(body: bytes) -> None:
    request = _request(body, x_github_event="workflow_run", content_type=f"{FORM}; charset=utf-8")
    with pytest.raises(MalformedPayload):
        PLATFORMS["github"].events(request, INSTANCE)


def test_a_delivery_without_its_event_header_is_malformed() -> None:
    with pytest.raises(MalformedPayload, match="X-GitHub-Event"):
        PLATFORMS["github"].events(_request(b"{}"), INSTANCE)


def test_what_is_missing_is_named_by_its_path() -> None:
    with pytest.raises(MalformedPayload, match=r"workflow_run\.id: an id was expected, it is null"):
        event_of("github", "workflow_run.passed", workflow_run__id=None)
    steps = [{"name": "a", "conclusion": "success"}, {"conclusion": "skipped"}, {"name": True}]
    with pytest.raises(MalformedPayload, match=r"workflow_job\.steps\[2\]\.name: text was expected, it is a boolean"):
        event_of("github", "workflow_job.failed", workflow_job__steps=steps)
