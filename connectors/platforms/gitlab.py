"""GitLab CI: Pipeline Hook and Job Hook, of projects, groups and the whole instance."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import ClassVar, Final
from urllib.parse import urlsplit

from connectors.platforms.acting import Acting, Looking, Talk
from connectors.platforms.asking import Found, Get, JobRun, NotThere, Plain, Steps, meaning, number, segments
from connectors.platforms.calls import gitlab as acts
from connectors.platforms.calls import gitlab_past
from connectors.platforms.past import Hook, Recent
from connectors.platforms.platform import Credential, Normalised, Platform, Request, Secret
from connectors.platforms.proving import has, header, hmac_sha256, prove
from connectors.platforms.reading import Fields, decode_object, head
from connectors.platforms.rights import Asked
from connectors.platforms.telling import tell
from models.records.calls import Call
from models.records.errors import BadSignature, MalformedPayload
from models.records.event import OPEN, FailureContext, Metadata, Outcome

TOLERANCE: Final = timedelta(minutes=5)
_MAX_TIMESTAMP_DIGITS: Final = 12


class GitLab(Platform):
    """GitLab.com, GitLab Self-Managed and GitLab Dedicated."""

    name = "gitlab"
    secret_kinds = frozenset({"token", "signing_token"})

    api = "https://gitlab.com/api/v4"
    logins = frozenset({"token"})
    anonymous_logs = True  # of public projects

    # https://docs.gitlab.com/api/pipelines/ and https://docs.gitlab.com/api/jobs/: status of pipelines and jobs.
    OUTCOME: ClassVar[dict[str, Outcome]] = {
        "created": Outcome.QUEUED,
        "waiting_for_resource": Outcome.QUEUED,
        "preparing": Outcome.QUEUED,
        "pending": Outcome.QUEUED,
        "scheduled": Outcome.QUEUED,
        "running": Outcome.RUNNING,
        "canceling": Outcome.RUNNING,
        "success": Outcome.PASSED,
        "failed": Outcome.FAILED,
        "canceled": Outcome.CANCELLED,
        "skipped": Outcome.SKIPPED,
        "manual": Outcome.BLOCKED,
    }

    # https://gitlab.com/gitlab-org/gitlab/-/blob/master/app/models/concerns/enums/ci/commit_status.rb: why a job
    # failed. Read only where the status says that it did: running and passed jobs carry unknown_failure too.
    FAILURE_REASON: ClassVar[dict[str, Outcome]] = {
        "unknown_failure": Outcome.FAILED,
        "script_failure": Outcome.FAILED,
        "api_failure": Outcome.ERRORED,
        "stuck_or_timeout_failure": Outcome.TIMED_OUT,
        "runner_system_failure": Outcome.ERRORED,
        "missing_dependency_failure": Outcome.ERRORED,
        "runner_unsupported": Outcome.ERRORED,
        "stale_schedule": Outcome.ERRORED,
        "job_execution_timeout": Outcome.TIMED_OUT,
        "archived_failure": Outcome.ERRORED,
        "unmet_prerequisites": Outcome.ERRORED,
        "scheduler_failure": Outcome.ERRORED,
        "data_integrity_failure": Outcome.ERRORED,
        "forward_deployment_failure": Outcome.ERRORED,
        "user_blocked": Outcome.ERRORED,
        "project_deleted": Outcome.ERRORED,
        "ci_quota_exceeded": Outcome.ERRORED,
        "pipeline_loop_detected": Outcome.ERRORED,
        "no_matching_runner": Outcome.ERRORED,
        "trace_size_exceeded": Outcome.FAILED,  # the script wrote more than the log may hold
        "builds_disabled": Outcome.ERRORED,
        "environment_creation_failure": Outcome.ERRORED,
        "deployment_rejected": Outcome.ERRORED,
        "failed_outdated_deployment_job": Outcome.ERRORED,
        "job_execution_server_timeout": Outcome.TIMED_OUT,
        "stuck_pending_with_matching_runners": Outcome.TIMED_OUT,
        "stuck_pending_no_matching_runners": Outcome.TIMED_OUT,
        "no_updates_running": Outcome.TIMED_OUT,
        "no_updates_canceling": Outcome.TIMED_OUT,
        "server_timeout_running": Outcome.TIMED_OUT,
        "server_timeout_canceling": Outcome.TIMED_OUT,
        "runner_configuration_error": Outcome.ERRORED,
        "runner_external_dependency_failure": Outcome.ERRORED,
        "runner_interrupted": Outcome.ERRORED,
        "protected_environment_failure": Outcome.ERRORED,
        "insufficient_bridge_permissions": Outcome.ERRORED,
        "downstream_bridge_project_not_found": Outcome.ERRORED,
        "invalid_bridge_trigger": Outcome.ERRORED,
        "upstream_bridge_project_not_found": Outcome.ERRORED,
        "insufficient_upstream_permissions": Outcome.ERRORED,
        "bridge_pipeline_is_child_pipeline": Outcome.ERRORED,
        "downstream_pipeline_creation_failed": Outcome.ERRORED,
        "secrets_provider_not_found": Outcome.ERRORED,
        "reached_max_descendant_pipelines_depth": Outcome.ERRORED,
        "ip_restriction_failure": Outcome.ERRORED,
        "reached_max_pipeline_hierarchy_size": Outcome.ERRORED,
        "reached_downstream_pipeline_trigger_rate_limit": Outcome.ERRORED,
        "duo_workflow_not_allowed": Outcome.ERRORED,
        "job_router_failure": Outcome.ERRORED,
        "job_token_expired": Outcome.ERRORED,
        "id_token_burned_project_path": Outcome.ERRORED,
        "downstream_project_trigger_resolved_to_empty": Outcome.ERRORED,
    }

    def verify(self, request: Request, secrets: Sequence[Secret]) -> int:
        """By the signature where the hook has a signing token, else by the plain secret token.

        https://docs.gitlab.com/user/project/integrations/webhooks/
        A signature that is there must pass once a signing token is configured; the token, which a proxy's log may hold,
        never makes good for it.
        """
        if header(request, "webhook-signature") is not None and has(secrets, "signing_token"):
            return _verify_signature(request, secrets)
        given = header(request, "x-gitlab-token")
        if given is None:
            raise BadSignature("neither a webhook-signature nor an X-Gitlab-Token that could be checked")
        return prove(secrets, "token", [given], lambda key: key.translate(None, b"\r\n"))

    def events(self, request: Request, instance: str) -> Normalised:
        """https://docs.gitlab.com/user/project/integrations/webhook_events/."""
        body = decode_object(request.body)
        kind = body.text("object_kind")
        if kind is None and body.text("event_name") is not None:
            return Normalised(
                ignored=f"system event {head(body.text('event_name') or '', 64)} says nothing of a pipeline"
            )
        if kind is None:
            raise MalformedPayload("object_kind: missing; a custom webhook template cannot be read")
        read = _READERS.get(kind)
        if read is None:
            return Normalised(ignored=f"object_kind {head(kind, 64)} says nothing of a pipeline or job")
        return read(body, instance, request.headers.get("x-gitlab-instance"))

    def login(self, credential: Credential) -> Mapping[str, str]:
        """https://docs.gitlab.com/api/rest/authentication/: personal, project, group and OAuth tokens alike."""
        return {"authorization": f"Bearer {credential.value}"}

    def log(self, job: JobRun) -> Steps:
        """https://docs.gitlab.com/api/jobs/#retrieve-a-job-log-file: empty where the job never wrote one."""
        project = "%2F".join(segments(job.repository, "repository", least=2))
        reply = yield Get(f"/projects/{project}/jobs/{number(job.job_id, 'job_id')}/trace", text=Plain)
        return meaning(reply) or (Found() if reply.text_bytes else NotThere("an empty log"))

    def ask(self, call: Call) -> Acting | None:
        """See connectors/platforms/calls/gitlab.py."""
        return acts.ask(call)

    def rights(self, repository: str, calls: Collection[str]) -> Asked:
        """See connectors/platforms/calls/gitlab.py."""
        return acts.rights(repository, calls)

    def look(self, call: Call) -> Looking:
        """See connectors/platforms/calls/gitlab.py."""
        return acts.look(call, self.OUTCOME)

    def recent(self, repository: str, since: datetime, instance: str) -> Talk[Recent]:
        """See connectors/platforms/calls/gitlab_past.py."""
        return gitlab_past.recent(repository, since, lambda kind, body: _READERS[kind](body, instance, None).events)

    def hook(self, name: str) -> Talk[Hook] | None:
        """See connectors/platforms/calls/gitlab_past.py."""
        return gitlab_past.hook(name)


def _verify_signature(request: Request, secrets: Sequence[Secret]) -> int:
    # https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md: GitLab names no
    # tolerance of its own; five minutes are what the scheme's own libraries allow.
    identity, stamp, signatures = (header(request, f"webhook-{part}") for part in ("id", "timestamp", "signature"))
    if identity is None or stamp is None or signatures is None:
        raise BadSignature("a webhook-signature without webhook-id or webhook-timestamp")
    if not stamp.isdigit() or len(stamp) > _MAX_TIMESTAMP_DIGITS:
        raise BadSignature("webhook-timestamp is no Unix time")
    if abs(request.received_at - int(stamp)) > TOLERANCE.total_seconds():
        raise BadSignature("webhook-timestamp is more than five minutes off")
    message = b".".join((identity, stamp, request.body))
    given = [value.removeprefix(b"v1,") for value in signatures.split(b" ") if value.startswith(b"v1,")]
    return prove(secrets, "signing_token", given, lambda key: _signature(key, message))


def _signature(token: bytes, message: bytes) -> bytes | None:
    try:
        key = base64.b64decode(token.strip().removeprefix(b"whsec_"), validate=True)
    except binascii.Error:
        return None
    return base64.b64encode(hmac_sha256(key, message)) if key else None


def _author(person: Fields, committer: Fields, *, name: str, email: str) -> str | None:
    """Who wrote the commit, or who set it off. A mail address only where there is no name: it becomes a pseudonym."""
    return committer.text(name) or person.text("name") or person.text("username") or committer.text(email)


def _deploys(job: Fields) -> bool | None:
    """Whether a job changes an environment; not known where GitLab is too old to say.

    https://docs.gitlab.com/ci/yaml/#environmentaction: prepare, verify and access only look at one.
    """
    if "environment" not in job:
        return None
    environment = job.inner("environment")
    return bool(environment) and environment.text("action") not in ("prepare", "verify", "access")


def _failure(job: Fields) -> tuple[bool, str, str, str]:
    """Sorts the failed jobs of a pipeline: those that it may not do without first, then by when they ended."""
    return (
        bool(job.flag("allow_failure")),
        job.text("finished_at") or "~",
        job.text("stage") or "",
        job.identity("id"),
    )


def _is_fork(body: Fields) -> bool | None:
    if "merge_request" not in body:
        return None
    request = body.inner("merge_request")
    return request.maybe_identity("source_project_id") != request.maybe_identity("target_project_id")


def _pipeline(body: Fields, instance: str, _base: str | None) -> Normalised:
    # https://docs.gitlab.com/user/project/integrations/webhook_events/#pipeline-events
    pipeline, project = body.required("object_attributes"), body.required("project")
    word = pipeline.text("status")
    outcome = GitLab.OUTCOME.get(word or "", Outcome.UNKNOWN)
    failed = sorted((job for job in body.each("builds") if job.text("status") == "failed"), key=_failure)
    cause = failed[0] if failed and outcome is Outcome.FAILED else Fields({})
    branch = None if pipeline.flag("tag") else pipeline.text("ref")
    default, is_fork = project.text("default_branch"), _is_fork(body)
    pipeline_id, web_url = pipeline.identity("id"), project.url("web_url")
    duration = None if outcome in OPEN else pipeline.duration_ms("duration", unit_ms=1000)
    ends = ("created_at", "finished_at") if outcome in OPEN else ("finished_at", "created_at")
    metadata = Metadata(
        instance=instance,
        outcome=outcome,
        commit_sha=pipeline.maybe_identity("sha"),
        branch=branch,
        author=_author(body.inner("user"), body.inner("commit").inner("author"), name="name", email="email"),
        url=pipeline.url("url") or (f"{web_url}/-/pipelines/{pipeline_id}" if web_url else None),
        workflow=pipeline.text("name"),
        vendor_status=word,
        stage=cause.text("stage"),
        trigger=pipeline.text("source"),
        environment=cause.inner("environment").text("name"),
        is_default_branch=None if branch is None or default is None else branch == default and not is_fork,
        is_fork=is_fork,
        is_deploy=True if outcome is Outcome.FAILED and any(map(_deploys, failed)) else None,
        rerun_after="job",
        queued_ms=pipeline.duration_ms("queued_duration", unit_ms=1000),
        duration_ms=duration,
    )
    event = tell(
        platform="gitlab",
        at=pipeline.first_time(*ends),
        repository=project.identity("path_with_namespace"),
        pipeline_id=pipeline_id,
        job_id=None,
        metadata=metadata,
        failure=FailureContext(reason=cause.text("failure_reason"), duration_ms=duration),
        ended=pipeline.time("finished_at") is not None,
    )
    return Normalised(events=[event])


def _project(body: Fields, base: str | None) -> tuple[str, str | None, str | None]:
    """Path of the job's project, its page and the address of its GitLab.

    Older versions send no `project`: then both come from the home page of the repository. A GitLab under a path of its
    own is told from the project's path by X-Gitlab-Instance.
    """
    project, repository = body.inner("project"), body.inner("repository")
    page = (project.url("web_url") or repository.url("homepage") or "").rstrip("/")
    if project.text("path_with_namespace") is not None:
        path = project.identity("path_with_namespace")
    else:
        root = (base or "").rstrip("/")
        path = (page.removeprefix(root) if root and page.startswith(root + "/") else _path(page)).strip("/")
        if not path:
            raise body.malformed("project", "an object")
        path = Fields({"homepage": path}, "repository.").identity("homepage")
    return path, page or None, page.removesuffix(path).rstrip("/") if page.endswith("/" + path) else base


def _path(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError:
        return ""


def _job(body: Fields, instance: str, base: str | None) -> Normalised:
    # https://docs.gitlab.com/user/project/integrations/webhook_events/#job-events
    path, page, root = _project(body, base)
    word, reason = body.text("build_status"), body.text("build_failure_reason")
    outcome = GitLab.OUTCOME.get(word or "", Outcome.UNKNOWN)
    if outcome is Outcome.FAILED:
        outcome = GitLab.FAILURE_REASON.get(reason or "", Outcome.FAILED)
    branch = None if body.flag("tag") else body.text("ref")
    default = body.inner("project").text("default_branch")
    job_id, project_id = body.identity("build_id"), body.maybe_identity("project_id")
    duration = None if outcome in OPEN else body.duration_ms("build_duration", unit_ms=1000)
    runner = body.inner("runner")
    metadata = Metadata(
        instance=instance,
        outcome=outcome,
        commit_sha=body.maybe_identity("sha"),
        branch=branch,
        author=_author(body.inner("user"), body.inner("commit"), name="author_name", email="author_email"),
        logs_url=f"{root}/api/v4/projects/{project_id}/jobs/{job_id}/trace" if root and project_id else None,
        url=f"{page}/-/jobs/{job_id}" if page else None,
        workflow=body.inner("commit").text("name"),
        job_name=body.text("build_name"),
        vendor_status=word,
        stage=body.text("build_stage"),
        runner=runner.text("description"),
        runner_labels=runner.texts("tags"),
        environment=body.inner("environment").text("name"),
        is_default_branch=None if branch is None or default is None else branch == default,
        is_deploy=_deploys(body),
        allow_failure=body.flag("build_allow_failure"),
        native_retries=body.count("retries_count"),
        rerun_after="job",
        queued_ms=body.duration_ms("build_queued_duration", unit_ms=1000),
        duration_ms=duration,
    )
    event = tell(
        platform="gitlab",
        at=body.first_time(*_times(outcome)),
        repository=path,
        pipeline_id=body.identity("pipeline_id"),
        job_id=job_id,
        metadata=metadata,
        failure=FailureContext(reason=reason, duration_ms=duration),
        ended=body.time("build_finished_at") is not None,
    )
    return Normalised(events=[event])


def _times(outcome: Outcome) -> tuple[str, ...]:
    """Which of a job's times says when it came to stand so."""
    if outcome is Outcome.QUEUED:
        return ("build_created_at", "build_started_at", "build_finished_at")
    if outcome is Outcome.RUNNING:
        return ("build_started_at", "build_created_at", "build_finished_at")
    return ("build_finished_at", "build_started_at", "build_created_at")


_READERS: Final[dict[str, Callable[[Fields, str, str | None], Normalised]]] = {"pipeline": _pipeline, "build": _job}
