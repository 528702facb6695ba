"""GitHub Actions: workflow runs and jobs, and the checks that other apps report to GitHub."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import ClassVar, Final
from urllib.parse import parse_qsl

from connectors.platforms.acting import Acting, Looking, Talk
from connectors.platforms.archive import Member
from connectors.platforms.asking import (
    Ending,
    Found,
    Get,
    JobRun,
    NotThere,
    Plain,
    Reply,
    Steps,
    TryLater,
    meaning,
    number,
    segments,
    until,
)
from connectors.platforms.calls import github as acts
from connectors.platforms.calls import github_past
from connectors.platforms.past import Hook, Recent, Undelivered
from connectors.platforms.platform import Credential, Normalised, Platform, Request, Secret
from connectors.platforms.proving import header, hex_hmac, prove
from connectors.platforms.reading import Fields, decode_object, head, milliseconds
from connectors.platforms.rights import Asked
from connectors.platforms.telling import MAX_EXCERPT_BYTES, tell
from models.records.calls import Call
from models.records.errors import BadSignature, MalformedPayload
from models.records.event import FAILING, OPEN, FailureContext, Metadata, Outcome

_FORM: Final = "application/x-www-form-urlencoded"
_MAX_FORM_FIELDS: Final = 8
_NOT_FOUND: Final = 404
_LIMITED: Final = frozenset({403, 429})
_NOT_STORED: Final = frozenset({403, 404})


class GitHub(Platform):
    """GitHub.com and GitHub Enterprise Server."""

    name = "github"
    secret_kinds = frozenset({"signature"})
    content_types = frozenset({"application/json", _FORM})

    # https://docs.github.com/en/rest/about-the-rest-api/api-versions; a GitHub Enterprise Server has its API at
    # https://HOST/api/v3, and its logs where its administrator put them.
    api = "https://api.github.com"
    api_headers: ClassVar[Mapping[str, str]] = {"x-github-api-version": "2022-11-28"}
    logins = frozenset({"token"})
    # https://docs.github.com/en/actions/reference/runners/github-hosted-runners: the hosts that keep logs.
    log_hosts = ("blob.core.windows.net", "actions.githubusercontent.com")
    # https://docs.github.com/en/actions/reference/limits: the one after is no error, but fails without having run.
    most_reruns, rerun_days = 50, 30

    # https://docs.github.com/en/rest/checks/runs, https://docs.github.com/en/rest/actions/workflow-runs and
    # https://docs.github.com/en/rest/commits/statuses: status and conclusion of runs, jobs, steps, checks and suites.
    OUTCOME: ClassVar[dict[str, Outcome]] = {
        "requested": Outcome.QUEUED,
        "queued": Outcome.QUEUED,
        "pending": Outcome.QUEUED,  # held back by a concurrency limit
        "waiting": Outcome.QUEUED,  # for a deployment protection rule: it will go on, or be cancelled
        "in_progress": Outcome.RUNNING,
        "completed": Outcome.UNKNOWN,  # without a conclusion
        "success": Outcome.PASSED,
        "failure": Outcome.FAILED,
        "timed_out": Outcome.TIMED_OUT,
        "startup_failure": Outcome.ERRORED,
        "error": Outcome.ERRORED,
        "cancelled": Outcome.CANCELLED,
        "stale": Outcome.CANCELLED,  # GitHub gave up waiting for it after 14 days
        "skipped": Outcome.SKIPPED,
        "neutral": Outcome.NEUTRAL,
        "action_required": Outcome.BLOCKED,
    }

    IGNORED: ClassVar[dict[str, str]] = {
        "ping": "a ping: GitHub says that the webhook is set up",
        "status": "a commit status: it names no run, and what it reports comes from its own CI platform",
    }

    def verify(self, request: Request, secrets: Sequence[Secret]) -> int:
        """By X-Hub-Signature-256 alone; the legacy SHA-1 header proves nothing.

        https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
        """
        given = header(request, "x-hub-signature-256")
        if given is None:
            raise BadSignature("no X-Hub-Signature-256")
        return prove(secrets, "signature", [given], hex_hmac(request.body, b"sha256="))

    def events(self, request: Request, instance: str) -> Normalised:
        """https://docs.github.com/en/webhooks/webhook-events-and-payloads."""
        kind = request.headers.get("x-github-event")
        if not kind:
            raise MalformedPayload("X-GitHub-Event: missing")
        body = decode_object(_json(request))
        read = _READERS.get(kind)
        if read is None:
            return Normalised(ignored=self.IGNORED.get(kind, f"event {head(kind, 64)} says nothing of a run"))
        return read(body, instance)

    def login(self, credential: Credential) -> Mapping[str, str]:
        """https://docs.github.com/en/rest/authentication/authenticating-to-the-rest-api."""
        return {"authorization": f"Bearer {credential.value}"}

    def log(self, job: JobRun) -> Steps:
        """The job's own log, or its part of the archive of the attempt where GitHub has the log no more.

        https://docs.github.com/en/rest/actions/workflow-jobs#download-job-logs-for-a-workflow-run
        https://docs.github.com/en/rest/actions/workflow-runs#download-workflow-run-attempt-logs
        """
        actions = "/repos/{}/{}/actions".format(*segments(job.repository, "repository", least=2, most=2))
        reply = yield Get(f"{actions}/jobs/{number(job.job_id, 'job_id')}/logs", text=Plain)
        ended = _of_log(reply)
        if reply.status == _NOT_FOUND and isinstance(ended, NotThere) and job.job_name is not None:
            path = f"{actions}/runs/{number(job.pipeline_id, 'pipeline_id')}/attempts/{job.attempt}/logs"
            ended = _of_log((yield Get(path, text=partial(Member, job.job_name))))
        return ended

    def ask(self, call: Call) -> Acting | None:
        """See connectors/platforms/calls/github.py."""
        return acts.ask(call)

    def rights(self, repository: str, calls: Collection[str]) -> Asked:
        """See connectors/platforms/calls/github.py."""
        return acts.rights(repository, calls)

    def look(self, call: Call) -> Looking:
        """See connectors/platforms/calls/github.py."""
        return acts.look(call, self.OUTCOME)

    def recent(self, repository: str, since: datetime, instance: str) -> Talk[Recent]:
        """See connectors/platforms/calls/github_past.py."""
        return github_past.recent(repository, since, lambda kind, body: _READERS[kind](body, instance).events)

    def hook(self, name: str) -> Talk[Hook] | None:
        """See connectors/platforms/calls/github_past.py."""
        return github_past.hook(name)

    def undelivered(self, hook: str, since: str) -> Talk[Undelivered]:
        """See connectors/platforms/calls/github_past.py."""
        return github_past.undelivered(hook, since)

    def redeliver(self, hook: str, delivery_id: int) -> Acting:
        """See connectors/platforms/calls/github_past.py."""
        return github_past.redeliver(hook, delivery_id)


def _of_log(reply: Reply) -> Ending:
    """What an answer that should be a log is."""
    # https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api: 403 or 429, and when it ends.
    if reply.status in _LIMITED and reply.headers.get("x-ratelimit-remaining") == "0":
        reset = reply.headers.get("x-ratelimit-reset", "")
        at = float(reset) if reset.isascii() and reset.isdigit() else None
        return TryLater(f"HTTP {reply.status}: rate limit", until(at, reply))
    if reply.redirected and reply.status in _NOT_STORED:
        return TryLater(f"HTTP {reply.status} from where the log is kept")  # not yet, or the signature has run out
    return meaning(reply) or (Found() if reply.text_bytes else NotThere("an empty log"))


def _json(request: Request) -> bytes:
    """The JSON of the delivery; a webhook may be configured to send it as the form field `payload`."""
    if not request.headers.get("content-type", "").lower().startswith(_FORM):
        return request.body
    try:
        fields = parse_qsl(request.body.decode(), strict_parsing=True, errors="strict", max_num_fields=_MAX_FORM_FIELDS)
    except ValueError:
        raise MalformedPayload("the body is not a form in UTF-8") from None
    payloads = [value for name, value in fields if name == "payload"]
    if len(payloads) != 1:
        raise MalformedPayload(f"payload: one such form field was expected, there are {len(payloads)}")
    return payloads[0].encode()


def _state(thing: Fields) -> tuple[str | None, Outcome, bool]:
    """The deciding word, what it means, and whether it is an end.

    `action` is no proof of anything, and a re-run may still show the conclusion of the attempt before: only what is
    completed has a conclusion.
    """
    status, conclusion = thing.text("status"), thing.text("conclusion")
    ended = status == "completed" or (status is None and conclusion is not None)
    word = conclusion or status if ended else status
    return word, GitHub.OUTCOME.get(word or "", Outcome.UNKNOWN), ended


def _failed_step(job: Fields) -> str | None:
    """The first failed step; a step that ran into the job's time limit is called cancelled."""
    steps = [(step.text("conclusion"), step.text("name")) for step in job.each("steps")]
    for words in (("failure", "timed_out"), ("cancelled",)):
        for conclusion, name in steps:
            if conclusion in words:
                return name
    return None


def _run(body: Fields, instance: str) -> Normalised:
    # https://docs.github.com/en/webhooks/webhook-events-and-payloads#workflow_run
    repository, run = body.required("repository"), body.required("workflow_run")
    name = repository.identity("full_name")
    word, outcome, ended = _state(run)
    started = run.time("run_started_at")
    updated = run.first_time("updated_at", "run_started_at", "created_at")
    duration = milliseconds(started, updated) if ended else None
    is_fork = _is_fork(run, name)
    trigger, attempt = run.text("event"), run.count("run_attempt") or 1
    metadata = Metadata(
        instance=instance,
        outcome=outcome,
        commit_sha=run.maybe_identity("head_sha"),
        branch=run.text("head_branch"),
        author=_author(run) or run.inner("actor").text("login") or body.inner("sender").text("login"),
        logs_url=run.url("logs_url"),
        artifacts_url=run.url("artifacts_url"),
        url=run.url("html_url"),
        workflow=run.text("name") or body.inner("workflow").text("name") or run.text("path"),
        attempt=attempt,
        vendor_status=word,
        trigger=trigger,
        is_default_branch=_is_default(run.text("head_branch"), repository, is_fork=is_fork),
        is_fork=is_fork,
        is_deploy=True if trigger == "deployment" else None,
        rerun_after="run",
        queued_ms=milliseconds(run.time("created_at"), started) if attempt == 1 and outcome not in OPEN else None,
        duration_ms=duration,
    )
    event = tell(
        platform="github",
        at=updated,
        repository=name,
        pipeline_id=run.identity("id"),
        job_id=None,
        metadata=metadata,
        failure=FailureContext(reason=word, duration_ms=duration),
        ended=ended,
    )
    return Normalised(events=[event])


def _author(run: Fields) -> str | None:
    return run.inner("head_commit").inner("author").text("name")


def _is_fork(run: Fields, repository: str) -> bool | None:
    """Whether the code comes from elsewhere; not known where the fork has been deleted."""
    source = run.inner("head_repository").text("full_name")
    return None if source is None else source != repository


def _is_default(branch: str | None, repository: Fields, *, is_fork: bool | None) -> bool | None:
    default = repository.text("default_branch")
    if branch is None or default is None:
        return None
    return branch == default and not is_fork


def _times(outcome: Outcome, *, ended: bool) -> tuple[str, ...]:
    """Which of a job's times says when it came to stand so."""
    if ended:
        return ("completed_at", "started_at", "created_at")
    if outcome is Outcome.QUEUED:
        return ("created_at", "started_at")
    return ("started_at", "created_at")


def _job(body: Fields, instance: str) -> Normalised:
    # https://docs.github.com/en/webhooks/webhook-events-and-payloads#workflow_job
    repository, job = body.required("repository"), body.required("workflow_job")
    word, outcome, ended = _state(job)
    created, started, completed = job.time("created_at"), job.time("started_at"), job.time("completed_at")
    deployment = body.inner("deployment")
    api, job_id, run_id = repository.url("url"), job.identity("id"), job.identity("run_id")
    duration = milliseconds(started, completed) if ended else None
    metadata = Metadata(
        instance=instance,
        outcome=outcome,
        commit_sha=job.maybe_identity("head_sha"),
        branch=job.text("head_branch"),
        author=body.inner("sender").text("login"),
        logs_url=f"{api}/actions/jobs/{job_id}/logs" if api else None,
        artifacts_url=f"{api}/actions/runs/{run_id}/artifacts" if api else None,
        url=job.url("html_url"),
        workflow=job.text("workflow_name"),
        job_name=job.text("name"),
        attempt=job.count("run_attempt") or 1,
        vendor_status=word,
        step=_failed_step(job) if outcome in FAILING else None,
        runner=job.text("runner_name"),
        runner_labels=job.texts("labels"),
        environment=deployment.text("environment"),
        is_default_branch=_is_default(job.text("head_branch"), repository, is_fork=None),
        is_deploy=bool(deployment),
        rerun_after="run",
        queued_ms=None if outcome is Outcome.QUEUED else milliseconds(created, started),
        duration_ms=duration,
    )
    event = tell(
        platform="github",
        at=job.first_time(*_times(outcome, ended=ended)),
        repository=repository.identity("full_name"),
        pipeline_id=run_id,
        job_id=job_id,
        metadata=metadata,
        failure=FailureContext(reason=word, duration_ms=duration),
        ended=ended,
    )
    return Normalised(events=[event])


_REQUESTS: Final = {
    # https://docs.github.com/en/rest/guides/using-the-rest-api-to-interact-with-checks
    "requested": "asks an app to begin its checks, which say themselves when they do",
    "rerequested": "asks an app to check once more, which says itself when it does",
    "requested_action": "a person pressed a button that an app offered",
}


def _not_ours(body: Fields, check: Fields) -> str | None:
    """Why a check or suite is no event: it only asks for something, or it is how GitHub shows its own Actions."""
    if check.inner("app").text("slug") == "github-actions":
        return "a check of GitHub Actions itself: workflow_run and workflow_job say the same, and more"
    return _REQUESTS.get(body.text("action") or "")


def _excerpt(check: Fields) -> str | None:
    output = check.inner("output")
    parts: Iterable[str | None] = (output.text(key, MAX_EXCERPT_BYTES) for key in ("title", "summary", "text"))
    return head("\n".join(part for part in parts if part), MAX_EXCERPT_BYTES) or None


def _check_run(body: Fields, instance: str) -> Normalised:
    # https://docs.github.com/en/webhooks/webhook-events-and-payloads#check_run
    repository, check = body.required("repository"), body.required("check_run")
    ignored = _not_ours(body, check)
    if ignored is not None:
        return Normalised(ignored=ignored)
    suite, app = check.required("check_suite"), check.inner("app")
    word, outcome, ended = _state(check)
    duration = milliseconds(check.time("started_at"), check.time("completed_at")) if ended else None
    order = ("completed_at", "started_at") if ended else ("started_at", "completed_at")
    metadata = Metadata(
        instance=instance,
        outcome=outcome,
        commit_sha=check.maybe_identity("head_sha"),
        branch=suite.text("head_branch"),
        author=body.inner("sender").text("login"),
        url=check.url("html_url") or check.url("details_url"),
        workflow=app.text("name") or app.text("slug"),
        job_name=check.text("name"),
        vendor_status=word,
        is_default_branch=_is_default(suite.text("head_branch"), repository, is_fork=None),
        is_deploy=bool(check.inner("deployment")),
        duration_ms=duration,
    )
    event = tell(
        platform="github",
        at=check.first_time(*order),
        repository=repository.identity("full_name"),
        pipeline_id=suite.identity("id"),
        job_id=check.identity("id"),
        metadata=metadata,
        failure=FailureContext(reason=word, duration_ms=duration, excerpt=_excerpt(check)),
        ended=ended,
    )
    return Normalised(events=[event])


def _check_suite(body: Fields, instance: str) -> Normalised:
    # https://docs.github.com/en/webhooks/webhook-events-and-payloads#check_suite
    repository, suite = body.required("repository"), body.required("check_suite")
    ignored = _not_ours(body, suite)
    if ignored is not None:
        return Normalised(ignored=ignored)
    word, outcome, ended = _state(suite)
    updated = suite.first_time("updated_at", "created_at")
    duration = milliseconds(suite.time("created_at"), updated) if ended else None
    app = suite.inner("app")
    metadata = Metadata(
        instance=instance,
        outcome=outcome,
        commit_sha=suite.maybe_identity("head_sha"),
        branch=suite.text("head_branch"),
        author=_author(suite) or body.inner("sender").text("login"),
        workflow=app.text("name") or app.text("slug"),
        vendor_status=word,
        is_default_branch=_is_default(suite.text("head_branch"), repository, is_fork=None),
        duration_ms=duration,
    )
    event = tell(
        platform="github",
        at=updated,
        repository=repository.identity("full_name"),
        pipeline_id=suite.identity("id"),
        job_id=None,
        metadata=metadata,
        failure=FailureContext(reason=word, duration_ms=duration),
        ended=ended,
    )
    return Normalised(events=[event])


_READERS: Final[dict[str, Callable[[Fields, str], Normalised]]] = {
    "workflow_run": _run,
    "workflow_job": _job,
    "check_run": _check_run,
    "check_suite": _check_suite,
}
