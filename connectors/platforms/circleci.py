"""CircleCI: workflow-completed and job-completed, the only two things that its webhooks tell."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import ClassVar, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from connectors.platforms.acting import Acting, Looking, Talk
from connectors.platforms.asking import Found, Get, JobRun, NotThere, Steps, TryLater, meaning, number, segments
from connectors.platforms.calls import circleci as acts
from connectors.platforms.calls import circleci_past
from connectors.platforms.messages import Messages
from connectors.platforms.past import Recent
from connectors.platforms.platform import Credential, Normalised, Platform, Request, Secret
from connectors.platforms.proving import header, hex_hmac, prove
from connectors.platforms.reading import Fields, decode_object, head, milliseconds
from connectors.platforms.rights import Asked
from connectors.platforms.telling import tell
from models.records.calls import Call
from models.records.errors import BadSignature
from models.records.event import FAILING, OPEN, Event, FailureContext, Metadata, Outcome

_MOST_OUTPUTS: Final = 64


class CircleCI(Platform):
    """CircleCI cloud and server. An event's run is a workflow; its pipeline may have several."""

    name = "circleci"
    secret_kinds = frozenset({"signature"})

    api = "https://circleci.com"
    logins = frozenset({"token"})
    anonymous_logs = True  # of projects that build in public
    # https://circleci.com/docs/guides/security/ip-ranges/: step output is kept in S3.
    log_hosts = ("s3.amazonaws.com", "s3.us-east-1.amazonaws.com")
    rerun_days = 90  # https://circleci.com/docs/guides/orchestrate/workflows/

    # https://circleci.com/docs/outbound-webhooks-reference/ and https://circleci.com/docs/api/v2/: the words of the
    # webhooks (success, failed, error, canceled, unauthorized), of the APIs v1.1, v2 and v3, and of a pipeline's state.
    OUTCOME: ClassVar[dict[str, Outcome]] = {
        "success": Outcome.PASSED,
        "succeeded": Outcome.PASSED,
        "fixed": Outcome.PASSED,  # v1.1: passed, where the one before had failed
        "failed": Outcome.FAILED,
        "error": Outcome.ERRORED,
        "errored": Outcome.ERRORED,
        "infrastructure_fail": Outcome.ERRORED,
        "terminated-unknown": Outcome.ERRORED,
        "timedout": Outcome.TIMED_OUT,
        "canceled": Outcome.CANCELLED,
        "unauthorized": Outcome.BLOCKED,
        "on_hold": Outcome.BLOCKED,
        "not_run": Outcome.SKIPPED,
        "no_tests": Outcome.NEUTRAL,
        "retried": Outcome.NEUTRAL,  # what became of it is told by the job that took its place
        "created": Outcome.QUEUED,
        "pending": Outcome.QUEUED,
        "setup": Outcome.QUEUED,
        "setup-pending": Outcome.QUEUED,
        "queued": Outcome.QUEUED,
        "not_running": Outcome.QUEUED,
        "blocked": Outcome.QUEUED,  # by jobs that have not ended
        "started": Outcome.RUNNING,
        "running": Outcome.RUNNING,
        "failing": Outcome.RUNNING,
        "ended": Outcome.UNKNOWN,  # without how
        "finished": Outcome.UNKNOWN,
    }

    def verify(self, request: Request, secrets: Sequence[Secret]) -> int:
        """By the v1 signature, the only version there is; another version is never looked at, nor is a second v1.

        https://circleci.com/docs/outbound-webhooks/#validate-webhooks
        """
        value = header(request, "circleci-signature")
        if value is None:
            raise BadSignature("no circleci-signature")
        pairs = [part.strip().split(b"=", maxsplit=1) for part in value.split(b",")]
        given = [pair[1] for pair in pairs if pair[0] == b"v1" and len(pair) > 1]
        if len(given) != 1:
            raise BadSignature(f"one v1 signature was expected, there are {len(given)}")
        return prove(secrets, "signature", given, hex_hmac(request.body))

    def events(self, request: Request, instance: str) -> Normalised:
        """https://circleci.com/docs/outbound-webhooks-reference/."""
        body = decode_object(request.body)
        kind = body.text("type")
        if kind is None:
            raise body.malformed("type", "text")
        if kind == "ping":
            return Normalised(ignored="a ping: CircleCI tests the webhook")
        if kind in _READERS:
            return Normalised(events=_READERS[kind](body, instance))
        return Normalised(ignored=f"event {head(kind, 64)} says nothing of a workflow or job")

    def login(self, credential: Credential) -> Mapping[str, str]:
        """https://circleci.com/docs/api/v1/index.html#authentication."""
        return {"circle-token": credential.value}

    def log(self, job: JobRun) -> Steps:
        """What the job's steps wrote, one output after the other: those that failed, or all where none did.

        The API v2 has no logs; v1.1 names for each step where its output is kept.
        https://circleci.com/docs/api/v1/index.html#single-job
        """
        slug = "/".join(segments(job.repository, "repository", least=3, most=3))
        path = f"/api/v1.1/project/{slug}/{number(job.job_number, 'job_number')}"
        reply = yield Get(path, accept="application/json")
        ended = meaning(reply)
        if ended is not None:
            return ended
        actions = list(_actions(decode_object(reply.body)))
        failed = [action for action in actions if action.failed]
        text_bytes = 0
        for action in (failed or actions)[:_MOST_OUTPUTS]:
            reply = yield Get(elsewhere=action.output_url, text=Messages)
            ended = meaning(reply)
            if isinstance(ended, TryLater):
                return ended
            text_bytes += reply.text_bytes
        if not text_bytes:
            return ended or NotThere("no step wrote anything")
        return Found(next((a.exit_code for a in reversed(failed) if a.exit_code is not None), None))

    def ask(self, call: Call) -> Acting | None:
        """See connectors/platforms/calls/circleci.py."""
        return acts.ask(call)

    def rights(self, repository: str, calls: Collection[str]) -> Asked:
        """See connectors/platforms/calls/circleci.py."""
        return acts.rights(repository, calls)

    def look(self, call: Call) -> Looking:
        """See connectors/platforms/calls/circleci.py."""
        return acts.look(call, self.OUTCOME)

    def recent(self, repository: str, since: datetime, instance: str) -> Talk[Recent]:
        """See connectors/platforms/calls/circleci_past.py."""
        return circleci_past.recent(repository, since, lambda kind, body: _READERS[kind](body, instance))


class _Action(NamedTuple):
    """One step as one container ran it."""

    output_url: str
    exit_code: int | None
    failed: bool


def _actions(job: Fields) -> Iterator[_Action]:
    """The actions of a job that wrote something, in the order of its steps."""
    for step in job.each("steps"):
        for action in step.each("actions"):
            code = action.integer("exit_code")
            word = CircleCI.OUTCOME.get(action.text("status") or "", Outcome.UNKNOWN)
            url = action.text("output_url", None)
            if url is not None:
                yield _Action(url, code, failed=bool(code) or word in FAILING)


class _Run:
    """What both events say of their workflow, and so what the events made of them share, word for word."""

    def __init__(self, body: Fields, instance: str) -> None:
        workflow, pipeline = body.required("workflow"), body.required("pipeline")
        vcs, parameters = pipeline.inner("vcs"), pipeline.inner("trigger_parameters")
        git, app = parameters.inner("git"), parameters.inner("gitlab") or parameters.inner("github_app")
        origin, target = vcs.text("origin_repository_url"), vcs.text("target_repository_url")
        self.repository = body.required("project").identity("slug")
        self.pipeline_id = pipeline.identity("id")
        self.created = workflow.time("created_at")
        self.url = workflow.url("url")
        self.metadata = Metadata(
            instance=instance,
            outcome=Outcome.RUNNING,
            commit_sha=vcs.maybe_identity("revision") or git.maybe_identity("checkout_sha"),
            branch=vcs.text("branch") or vcs.text("tag") or git.text("branch") or git.text("tag"),
            author=vcs.inner("commit").inner("author").text("name") or app.text("commit_author_name"),
            logs_url=self.url,
            url=self.url,
            workflow=workflow.text("name"),
            workflow_id=workflow.identity("id"),
            trigger=pipeline.inner("trigger").text("type"),
            is_fork=None if origin is None or target is None else origin != target,
            rerun_after="run",
        )

    def event(
        self, at: datetime, job_id: str | None, metadata: Metadata, failure: FailureContext | None = None
    ) -> Event:
        return tell(
            platform="circleci",
            at=at,
            repository=self.repository,
            pipeline_id=self.pipeline_id,
            job_id=job_id,
            metadata=metadata,
            failure=failure,
        )

    def story(
        self,
        at: datetime,
        job_id: str | None,
        started: datetime | None,
        metadata: Metadata,
    ) -> list[Event]:
        """The end, and before it the beginnings that CircleCI does not tell of: of the workflow, and of its job.

        The same beginning is told with every job of a workflow; it is the same event, with the same id.
        """
        failure = FailureContext(reason=metadata.vendor_status, duration_ms=metadata.duration_ms)
        events: list[Event] = []
        if metadata.outcome not in OPEN:
            if self.created is not None:
                events.append(self.event(self.created, None, self.metadata))
            if job_id is not None and started is not None:
                running = msgspec.structs.replace(
                    metadata, outcome=Outcome.RUNNING, vendor_status=None, duration_ms=None
                )
                events.append(self.event(started, job_id, running))
        return [*events, self.event(at, job_id, metadata, failure)]


def _workflow(body: Fields, instance: str) -> list[Event]:
    run, workflow = _Run(body, instance), body.required("workflow")
    return run.story(
        body.first_time("happened_at"),
        None,
        run.created,
        _ended(run.metadata, workflow.text("status"), milliseconds(run.created, workflow.time("stopped_at"))),
    )


def _ended(metadata: Metadata, word: str | None, duration_ms: int | None) -> Metadata:
    outcome = CircleCI.OUTCOME.get(word or "", Outcome.UNKNOWN)
    return msgspec.structs.replace(metadata, outcome=outcome, vendor_status=word, duration_ms=duration_ms)


def _job(body: Fields, instance: str) -> list[Event]:
    run, job = _Run(body, instance), body.required("job")
    number = job.integer("number")
    started = job.time("started_at")
    metadata = msgspec.structs.replace(
        run.metadata,
        job_name=job.text("name"),
        job_number=number,
        artifacts_url=_artifacts(run, number),
    )
    return run.story(
        body.first_time("happened_at"),
        job.identity("id"),
        started,
        _ended(metadata, job.text("status"), milliseconds(started, job.time("stopped_at"))),
    )


def _artifacts(run: _Run, number: int | None) -> str | None:
    # https://circleci.com/docs/api/v2/#operation/getJobArtifacts; a CircleCI server has its API where its pages are.
    try:
        page = urlsplit(run.url or "")
    except ValueError:
        return None
    if not page.netloc or number is None:
        return None
    host = "circleci.com" if page.netloc == "app.circleci.com" else page.netloc
    return f"{page.scheme}://{host}/api/v2/project/{run.repository}/{number}/artifacts"


_READERS: Final = {"workflow-completed": _workflow, "job-completed": _job}
