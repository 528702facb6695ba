"""What only GitLab does: two schemes of proof, its words, and jobs with a failure reason that did not fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from connectors.platforms import PLATFORMS
from connectors.platforms.gitlab import GitLab
from connectors.platforms.platform import Request, Secret
from models.records.errors import BadSignature, MalformedPayload
from models.records.event import EventType, Outcome
from tests.connectors.platforms.cases import BY_NAME, PROOFS, event_of, normalised, sign_gitlab, sign_token

KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
VECTOR = Request(
    {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    },
    b'{"test": 2432232314}',
    1614265330.0,
)
GITLAB = PLATFORMS["gitlab"]
SIGNED = next(proof for proof in PROOFS if proof.kind == "signing_token")
BODY = Request({}, b"{}", 1_775_040_000.0)

# PLATFORMS.md 4
STATUSES = [
    "created",
    "waiting_for_resource",
    "preparing",
    "pending",
    "running",
    "success",
    "failed",
    "canceling",
    "canceled",
    "skipped",
    "manual",
    "scheduled",
]
REASONS = [
    "unknown_failure",
    "script_failure",
    "api_failure",
    "stuck_or_timeout_failure",
    "runner_system_failure",
    "missing_dependency_failure",
    "runner_unsupported",
    "stale_schedule",
    "job_execution_timeout",
    "archived_failure",
    "unmet_prerequisites",
    "scheduler_failure",
    "data_integrity_failure",
    "forward_deployment_failure",
    "user_blocked",
    "project_deleted",
    "ci_quota_exceeded",
    "pipeline_loop_detected",
    "no_matching_runner",
    "trace_size_exceeded",
    "builds_disabled",
    "environment_creation_failure",
    "deployment_rejected",
    "failed_outdated_deployment_job",
    "job_execution_server_timeout",
    "stuck_pending_with_matching_runners",
    "stuck_pending_no_matching_runners",
    "no_updates_running",
    "no_updates_canceling",
    "server_timeout_running",
    "server_timeout_canceling",
    "runner_configuration_error",
    "runner_external_dependency_failure",
    "runner_interrupted",
    "protected_environment_failure",
    "insufficient_bridge_permissions",
    "downstream_bridge_project_not_found",
    "invalid_bridge_trigger",
    "upstream_bridge_project_not_found",
    "insufficient_upstream_permissions",
    "bridge_pipeline_is_child_pipeline",
    "downstream_pipeline_creation_failed",
    "secrets_provider_not_found",
    "reached_max_descendant_pipelines_depth",
    "ip_restriction_failure",
    "reached_max_pipeline_hierarchy_size",
    "reached_downstream_pipeline_trigger_rate_limit",
    "duo_workflow_not_allowed",
    "job_router_failure",
    "job_token_expired",
    "id_token_burned_project_path",
    "downstream_project_trigger_resolved_to_empty",
]


def _with(request: Request, **headers: str) -> Request:
    return replace(request, headers={**request.headers, **{k.replace("_", "-"): v for k, v in headers.items()}})


def test_the_vector_of_standard_webhooks_is_proven() -> None:
    assert GITLAB.verify(VECTOR, [Secret("signing_token", KEY)]) == 0
    assert GITLAB.verify(VECTOR, [Secret("signing_token", KEY.removeprefix("whsec_"))]) == 0


def test_one_right_signature_among_several_is_enough() -> None:
    signature = VECTOR.headers["webhook-signature"]
    request = _with(VECTOR, webhook_signature=f"v2,AAAA v1,AAAA {signature} v1,BBBB")
    assert GITLAB.verify(request, [Secret("signing_token", KEY)]) == 0


@pytest.mark.parametrize("late", [-300, 300])
def test_five_minutes_of_difference_are_borne(late: int) -> None:
    assert GITLAB.verify(replace(VECTOR, received_at=VECTOR.received_at + late), [Secret("signing_token", KEY)]) == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda r: replace(r, received_at=r.received_at + 301),
        lambda r: replace(r, received_at=r.received_at - 301),
        lambda r: _with(r, webhook_timestamp="1614265331"),
        lambda r: _with(r, webhook_timestamp="-1614265330"),
        lambda r: _with(r, webhook_timestamp="1614265330.0"),
        lambda r: _with(r, webhook_timestamp="9" * 5000),
        lambda r: _with(r, webhook_timestamp="\u0661"),
        lambda r: _with(r, webhook_id="other"),
        lambda r: _with(r, webhook_signature=r.headers["webhook-signature"].replace("v1,", "v2,")),
        lambda r: _with(r, webhook_signature=r.headers["webhook-signature"].replace("v1,", "")),
        lambda r: replace(r, headers={k: v for k, v in r.headers.items() if k != "webhook-id"}),
        lambda r: replace(r, headers={k: v for k, v in r.headers.items() if k != "webhook-timestamp"}),
    ],
)
def test_a_spoiled_signature_is_refused(spoil: Callable[[Request], Request]) -> None:
    with pytest.raises(BadSignature):
        GITLAB.verify(spoil(VECTOR), [Secret("signing_token", KEY)])


def test_a_signing_token_that_is_no_key_proves_nothing() -> None:
    for value in ("whsec_%%%", "whsec_", "whsec_abc"):
        with pytest.raises(BadSignature):
            GITLAB.verify(VECTOR, [Secret("signing_token", value)])


def test_the_token_never_makes_good_for_a_wrong_signature() -> None:
    secrets = [Secret("signing_token", SIGNED.values[0]), Secret("token", "plain")]
    wrong = sign_token(sign_gitlab(BODY, SIGNED.values[1]), "plain")
    with pytest.raises(BadSignature):
        GITLAB.verify(wrong, secrets)
    assert GITLAB.verify(sign_token(sign_gitlab(BODY, SIGNED.values[0]), "other"), secrets) == 0


def test_the_token_counts_where_no_signature_came_or_none_can_be_checked() -> None:
    secrets = [Secret("signing_token", SIGNED.values[0]), Secret("token", "plain")]
    assert GITLAB.verify(sign_token(BODY, "plain"), secrets) == 1
    assert GITLAB.verify(sign_token(sign_gitlab(BODY, SIGNED.values[0]), "plain"), [Secret("token", "plain")]) == 0


def test_line_breaks_in_a_token_count_for_nothing() -> None:
    assert GITLAB.verify(sign_token(BODY, "plain"), [Secret("token", "pl\r\nain\n")]) == 0
    with pytest.raises(BadSignature):
        GITLAB.verify(sign_token(BODY, ""), [Secret("token", "\r\n")])


def test_every_word_is_mapped() -> None:
    assert set(STATUSES) == set(GitLab.OUTCOME)
    assert len(REASONS) == 52
    assert set(REASONS) == set(GitLab.FAILURE_REASON)
    assert Outcome.UNKNOWN not in {*GitLab.OUTCOME.values(), *GitLab.FAILURE_REASON.values()}


@pytest.mark.parametrize("word", STATUSES)
@pytest.mark.parametrize(
    ("name", "field"), [("pipeline.passed_iso", "object_attributes__status"), ("job.running", "build_status")]
)
def test_each_status_is_told(name: str, field: str, word: str) -> None:
    event = event_of("gitlab", name, **{field: word})
    assert (event.metadata.outcome, event.metadata.vendor_status) == (GitLab.OUTCOME[word], word)
    started = word in {"created", "waiting_for_resource", "preparing", "pending", "scheduled", "running", "canceling"}
    kind = EventType.STARTED if started else EventType.FAILED if word == "failed" else EventType.COMPLETED
    assert event.event_type is kind


@pytest.mark.parametrize("reason", REASONS)
def test_a_reason_counts_only_where_the_job_failed(reason: str) -> None:
    failed = event_of("gitlab", "job.failed_script", build_failure_reason=reason)
    assert failed.metadata.outcome is GitLab.FAILURE_REASON[reason]
    assert failed.event_type is EventType.FAILED
    assert failed.failure_context.reason == reason
    for name in ("job.running", "job.passed_deployment"):
        other = event_of("gitlab", name, build_failure_reason=reason)
        assert other.failure_context is None
        assert other.event_type is not EventType.FAILED


def test_a_new_reason_is_a_failure_and_kept() -> None:
    event = event_of("gitlab", "job.failed_new_reason")
    assert (event.metadata.outcome, event.failure_context.reason) == (Outcome.FAILED, "cosmic_ray")


def test_a_failed_pipeline_names_the_first_job_that_it_may_not_do_without() -> None:
    event = event_of("gitlab", "pipeline.failed")
    assert (event.metadata.stage, event.failure_context.reason) == ("test", "script_failure")
    assert event.metadata.is_deploy is True  # another of its failed jobs deploys


def test_a_merge_request_from_elsewhere_is_a_fork() -> None:
    event = event_of("gitlab", "pipeline.failed_merge_request_of_fork")
    assert (event.metadata.is_fork, event.metadata.is_default_branch) == (True, False)
    assert event.metadata.is_deploy is None


@pytest.mark.parametrize(
    ("environment", "deploys"),
    [
        ({"name": "prod", "action": "start"}, True),
        ({"name": "prod", "action": None}, True),
        ({"name": "prod", "action": "stop"}, True),
        ({"name": "prod", "action": "verify"}, False),
        ({"name": "prod", "action": "prepare"}, False),
        ({"name": "prod", "action": "access"}, False),
        (None, False),
    ],
)
def test_a_job_deploys_if_it_changes_an_environment(environment: object, deploys: bool) -> None:
    assert event_of("gitlab", "job.running", environment=environment).metadata.is_deploy is deploys


def test_an_old_job_hook_gets_its_project_from_the_home_page() -> None:
    old, new = event_of("gitlab", "job.failed_of_old"), event_of("gitlab", "job.failed_script")
    assert old.repository == new.repository == "acme/motors/engine"
    assert old.id == new.id
    assert old.metadata.is_deploy is None
    assert old.metadata.logs_url == new.metadata.logs_url


def test_a_gitlab_under_a_path_of_its_own_is_not_part_of_the_project() -> None:
    event = event_of("gitlab", "job.under_a_path")
    assert event.repository == "acme/engine"
    assert event.metadata.logs_url == "https://example.com/gitlab/api/v4/projects/77/jobs/8004/trace"


@pytest.mark.parametrize("homepage", ["", "/", "https://[broken", "https://gitlab.example.com/", "x/" * 600, None])
def test_a_home_page_that_names_no_project_is_malformed(homepage: str | None) -> None:
    with pytest.raises(MalformedPayload):
        event_of("gitlab", "job.failed_of_old", repository={"homepage": homepage})


def test_a_page_that_does_not_end_in_the_project_gives_no_address_of_its_own() -> None:
    event = event_of("gitlab", "job.running", project__web_url="https://elsewhere.example/x", project_id=None)
    assert event.repository == "acme/motors/engine"
    assert event.metadata.logs_url is None


def test_system_hooks_say_the_same_as_project_hooks() -> None:
    case = BY_NAME["gitlab", "job.failed_script"]
    system = replace(case, headers={**case.headers, "X-Gitlab-Event": "System Hook"})
    assert normalised(system) == normalised(case)


def test_native_retries_are_told_where_gitlab_counts_them() -> None:
    assert event_of("gitlab", "job.failed_script").metadata.native_retries == 1
    assert event_of("gitlab", "job.failed_of_old").metadata.native_retries is None
    assert event_of("gitlab", "job.failed_script").metadata.attempt == 1
