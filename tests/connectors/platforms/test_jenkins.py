"""What only Jenkins does: no webhook of its own, three plugins, one build told up to four times."""

from __future__ import annotations

from dataclasses import replace

import pytest

from connectors.platforms import PLATFORMS
from connectors.platforms.jenkins import Jenkins
from connectors.platforms.platform import Request, Secret
from models.records.errors import BadSignature, MalformedPayload
from models.records.event import EventType, Outcome
from tests.connectors.platforms.cases import BY_NAME, event_of, normalised, sign_basic, sign_guard, sign_path

JENKINS = PLATFORMS["jenkins"]
BODY = Request({}, b"{}", 1_775_040_000.0)
ALL = [Secret("signature", "s"), Secret("basic", "u:p"), Secret("path", "x")]

# PLATFORMS.md 4
RESULTS = ["SUCCESS", "UNSTABLE", "FAILURE", "NOT_BUILT", "ABORTED"]
STAGES = ["SUCCESS", "FAILED", "ABORTED", "UNSTABLE", "IN_PROGRESS", "PAUSED_PENDING_INPUT", "NOT_EXECUTED"]
PHASES = ["QUEUED", "STARTED", "COMPLETED", "FINALIZED", "NONE"]


def test_each_proof_is_taken_where_it_is_the_only_one() -> None:
    assert JENKINS.verify(sign_guard(BODY, "s"), ALL) == 0
    assert JENKINS.verify(sign_basic(BODY, "u:p"), ALL) == 1
    assert JENKINS.verify(sign_path(BODY, "x"), ALL) == 2


def test_a_weaker_proof_never_makes_good_for_a_wrong_stronger_one() -> None:
    for wrong in (
        sign_path(sign_basic(sign_guard(BODY, "wrong"), "u:p"), "x"),
        sign_path(sign_basic(BODY, "u:wrong"), "x"),
    ):
        with pytest.raises(BadSignature):
            JENKINS.verify(wrong, ALL)


def test_a_proof_of_a_kind_that_is_not_configured_is_passed_over() -> None:
    request = sign_path(sign_basic(sign_guard(BODY, "wrong"), "u:wrong"), "x")
    assert JENKINS.verify(request, [Secret("path", "x")]) == 0


@pytest.mark.parametrize("value", ["Bearer dTpw", "Basic", "Basic %%%", "Basic dTpwé", "dTpw", ""])
def test_an_authorization_that_is_not_basic_is_refused(value: str) -> None:
    with pytest.raises(BadSignature):
        JENKINS.verify(replace(BODY, headers={"authorization": value}), ALL)


def test_basic_authentication_takes_any_case_of_its_name() -> None:
    assert JENKINS.verify(replace(BODY, headers={"authorization": "basic dTpw"}), ALL) == 1


def test_every_word_is_mapped() -> None:
    assert {*RESULTS, *STAGES} == set(Jenkins.OUTCOME)
    assert set(PHASES) == set(Jenkins.PHASE)
    assert Outcome.UNKNOWN not in {*Jenkins.OUTCOME.values(), *Jenkins.PHASE.values(), *Jenkins.OUTBOUND.values()}


@pytest.mark.parametrize("status", [*RESULTS, "FAILED"])
@pytest.mark.parametrize("phase", ["COMPLETED", "FINALIZED"])
def test_each_result_ends_the_build(phase: str, status: str) -> None:
    event = event_of("jenkins", "notification.completed_success", build__phase=phase, build__status=status)
    assert event.metadata.outcome is Jenkins.OUTCOME[status]
    assert event.event_type is (EventType.FAILED if status.startswith("FAIL") else EventType.COMPLETED)
    assert (event.job_id, event.metadata.job_name, event.metadata.rerun_after) == (None, "engine", "job")


def test_completed_and_finalized_of_one_build_are_one_event() -> None:
    completed = event_of("jenkins", "notification.completed_failure")
    assert completed.id == event_of("jenkins", "notification.finalized_failure").id
    assert event_of("jenkins", "notification.completed_failure", build__number=13).id != completed.id
    unknown = "notification.completed_without_status"
    assert event_of("jenkins", unknown).id == event_of("jenkins", unknown, build__phase="FINALIZED").id


def test_two_plugins_tell_of_one_build_with_one_id() -> None:
    url = "job/acme/job/engine/"
    cloud = event_of("jenkins", "cloudevents.failed", url=url, build__number=12)
    assert cloud.id == event_of("jenkins", "notification.completed_failure").id


def test_unstable_is_completed_and_no_failure() -> None:
    event = event_of("jenkins", "notification.completed_unstable")
    assert (event.metadata.outcome, event.event_type) == (Outcome.UNSTABLE, EventType.COMPLETED)
    assert event.failure_context is None


@pytest.mark.parametrize("phase", ["QUEUED", "STARTED", "NONE"])
def test_a_build_that_has_not_ended_has_not_failed(phase: str) -> None:
    event = event_of("jenkins", "notification.completed_failure", build__phase=phase)
    assert event.event_type is EventType.STARTED
    assert event.metadata.duration_ms is None


def test_the_end_of_a_long_log_is_kept() -> None:
    excerpt = event_of("jenkins", "notification.long_log").failure_context.excerpt
    assert excerpt.endswith("line 1199 of a long build log é")
    assert 16_000 < len(excerpt.encode()) <= 16 * 1024


def test_failed_tests_are_counted() -> None:
    assert event_of("jenkins", "notification.completed_failure").failure_context.tests_failed == 1


def test_the_repository_is_the_path_of_the_job_through_its_folders() -> None:
    assert event_of("jenkins", "notification.queued").repository == "acme/engine"
    assert event_of("jenkins", "cloudevents.started").repository == "acme/my engine"
    view = "https://ci.example.com/jenkins/view/All/job/a/view/x/job/job/7/"
    assert event_of("jenkins", "notification.queued", url=None, build__full_url=view).repository == "a/job"
    bare = {"url": None, "build__full_url": None}
    assert event_of("jenkins", "notification.queued", **bare).repository == "acme/engine"
    with pytest.raises(MalformedPayload, match="url"):
        event_of("jenkins", "notification.queued", **bare, build__url=None)


def test_a_type_in_the_header_decides_before_the_body() -> None:
    case = BY_NAME["jenkins", "cloudevents.failed"]
    other = replace(case, headers={**case.headers, "ce-type": "org.jenkinsci.job.updated"})
    assert normalised(other).ignored == Jenkins.IGNORED["org.jenkinsci.job.updated"]


def test_a_build_event_without_a_build_is_malformed() -> None:
    case = BY_NAME["jenkins", "cloudevents.failed"]
    with pytest.raises(MalformedPayload, match="build"):
        normalised(case, {"name": "engine"})


@pytest.mark.parametrize("url", [None, "", "https://ci.example.com/job/x/", "https://ci.example.com/16", "job/x/²/"])
def test_an_outbound_webhook_without_the_address_of_a_build_is_malformed(url: str | None) -> None:
    with pytest.raises(MalformedPayload, match="rl: "):
        event_of("jenkins", "outbound.failure", buildUrl=url)


def test_an_outbound_webhook_without_event_is_malformed() -> None:
    with pytest.raises(MalformedPayload, match="event"):
        event_of("jenkins", "outbound.failure", event=None)


@pytest.mark.parametrize("word", sorted(Jenkins.OUTBOUND))
def test_an_outbound_webhook_tells_of_a_build(word: str) -> None:
    event = event_of("jenkins", "outbound.failure", event=word)
    assert (event.repository, event.pipeline_id) == ("my engine", "16")
    assert event.metadata.outcome is Jenkins.OUTBOUND[word]
