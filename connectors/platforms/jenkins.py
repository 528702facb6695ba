"""Jenkins, which has no webhook of its own: the Notification, CloudEvents and Outbound WebHook plugins."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import ClassVar, Final
from urllib.parse import unquote

from connectors.platforms.acting import Acting, Looking, Talk
from connectors.platforms.asking import (
    Denied,
    Found,
    Get,
    JobRun,
    NotThere,
    Pause,
    Plain,
    Steps,
    meaning,
    number,
    segments,
)
from connectors.platforms.calls import jenkins as acts
from connectors.platforms.calls import jenkins_past
from connectors.platforms.past import Recent
from connectors.platforms.platform import Credential, Normalised, Platform, Request, Secret
from connectors.platforms.proving import has, header, hex_hmac, prove
from connectors.platforms.reading import MAX_NAME_BYTES, Fields, decode_object, head, tail
from connectors.platforms.rights import Asked
from connectors.platforms.telling import MAX_EXCERPT_BYTES, tell
from models.records.calls import Call
from models.records.errors import BadSignature, MalformedPayload
from models.records.event import OPEN, FailureContext, Metadata, Outcome

_QUEUE: Final = "an entry of the queue: the build says itself when it begins"
_NODE: Final = "a node came or went: it names no build"
_JOB: Final = "a job was created or configured: nothing was built"
_MOST_PIECES: Final = 5
_PIECE_SECONDS: Final = 0.5


class Jenkins(Platform):
    """Jenkins, whatever its plugin sends. Run and job are one: a build has a job name, and no job id."""

    name = "jenkins"
    secret_kinds = frozenset({"signature", "basic", "path"})

    api = None
    logins = frozenset({"basic"})  # user:api-token
    anonymous_logs = True  # where Jenkins lets anyone read

    # https://github.com/jenkinsci/jenkins/blob/master/core/src/main/java/hudson/model/Result.java: how a build ended.
    # FAILED and the words after it are the Pipeline REST API's; the readme of the CloudEvents plugin has FAILED too.
    OUTCOME: ClassVar[dict[str, Outcome]] = {
        "SUCCESS": Outcome.PASSED,
        "UNSTABLE": Outcome.UNSTABLE,
        "FAILURE": Outcome.FAILED,
        "NOT_BUILT": Outcome.SKIPPED,
        "ABORTED": Outcome.CANCELLED,
        "FAILED": Outcome.FAILED,
        "IN_PROGRESS": Outcome.RUNNING,
        "PAUSED_PENDING_INPUT": Outcome.BLOCKED,
        "NOT_EXECUTED": Outcome.SKIPPED,
    }

    # https://github.com/jenkinsci/notification-plugin: where a build stands; None: how it ended says more. The phase is
    # NONE where a Pipeline calls notifyEndpoints, which only a running build can.
    PHASE: ClassVar[dict[str, Outcome | None]] = {
        "QUEUED": Outcome.QUEUED,
        "STARTED": Outcome.RUNNING,
        "NONE": Outcome.RUNNING,
        "COMPLETED": None,
        "FINALIZED": None,
    }

    # https://github.com/jenkinsci/outbound-webhook-plugin: `event`.
    OUTBOUND: ClassVar[dict[str, Outcome]] = {
        "start": Outcome.RUNNING,
        "success": Outcome.PASSED,
        "failure": Outcome.FAILED,
        "unstable": Outcome.UNSTABLE,
    }

    # https://github.com/jenkinsci/cloudevents-plugin: `ce-type` of what is no build.
    IGNORED: ClassVar[dict[str, str]] = {
        "org.jenkinsci.queue.entered_waiting": _QUEUE,
        "org.jenkinsci.queue.left": _QUEUE,
        "org.jenkinsci.node.online": _NODE,
        "org.jenkinsci.node.offline": _NODE,
        "org.jenkinsci.job.created": _JOB,
        "org.jenkinsci.job.updated": _JOB,
    }

    def verify(self, request: Request, secrets: Sequence[Secret]) -> int:
        """By our own X-Guard-Signature-256, by basic authentication or by a secret in the path, the strongest there is.

        No plugin signs; a Jenkinsfile's httpRequest step can. https://plugins.jenkins.io/http_request/
        The plugins send basic authentication, or a secret path, from the address that they are given.
        """
        signature, login = header(request, "x-guard-signature-256"), header(request, "authorization")
        if signature is not None and has(secrets, "signature"):
            return prove(secrets, "signature", [signature], hex_hmac(request.body, b"sha256="))
        if login is not None and has(secrets, "basic"):
            return prove(secrets, "basic", [_credentials(login)], lambda key: key)
        if request.path_secret is None:
            raise BadSignature("no proof of a kind that the source is configured with")
        return prove(secrets, "path", [request.path_secret.encode("utf-8", "surrogatepass")], lambda key: key)

    def events(self, request: Request, instance: str) -> Normalised:
        """Which plugin speaks is told from the body, for only one of them names itself in a header."""
        body = decode_object(request.body)
        kind = request.headers.get("ce-type") or _cloud_event(body)
        if kind in self.IGNORED:
            return Normalised(ignored=self.IGNORED[kind])
        if "build" in body:
            return _build(body, instance)
        if "buildUrl" in body or "projectName" in body:
            return _outbound(body, instance, datetime.fromtimestamp(request.received_at, UTC))
        if kind is not None and not kind.startswith("org.jenkinsci.job."):
            return Normalised(ignored=f"event {head(kind, 64)} says nothing of a build")
        raise body.malformed("build", "an object")

    def login(self, credential: Credential) -> Mapping[str, str]:
        """https://www.jenkins.io/doc/book/system-administration/authenticating-scripted-clients/."""
        return {"authorization": f"Basic {base64.b64encode(credential.value.encode()).decode()}"}

    def log(self, job: JobRun) -> Steps:
        """The console from its beginning, piece by piece while the build still writes.

        https://www.jenkins.io/doc/book/using/remote-access-api/ and, for what follows a piece,
        https://github.com/jenkinsci/stapler/blob/master/core/src/main/java/org/kohsuke/stapler/framework/io/LargeText.java
        A build that failed writes on for a while (post steps); what matters has been written by then.
        """
        names = segments(job.repository, "repository")
        build = "".join(f"/job/{name}" for name in names) + f"/{number(job.pipeline_id, 'pipeline_id')}"
        start, text_bytes = 0, 0
        for _ in range(_MOST_PIECES):
            reply = yield Get(f"{build}/logText/progressiveText?start={start}", text=Plain)
            ended = meaning(reply)
            if ended is not None:
                return ended
            size = reply.headers.get("x-text-size", "")
            if not (size.isascii() and size.isdigit()):
                return Denied("no X-Text-Size: not a log of Jenkins")
            text_bytes += reply.text_bytes
            if reply.headers.get("x-more-data") != "true" or int(size) < start:
                break
            start = int(size)
            yield Pause(_PIECE_SECONDS)
        return Found() if text_bytes else NotThere("an empty log")

    def ask(self, call: Call) -> Acting | None:
        """See connectors/platforms/calls/jenkins.py."""
        return acts.ask(call)

    def rights(self, repository: str, calls: Collection[str]) -> Asked:
        """See connectors/platforms/calls/jenkins.py."""
        return acts.rights(repository, calls)

    def look(self, call: Call) -> Looking:
        """See connectors/platforms/calls/jenkins.py."""
        return acts.look(call, self.OUTCOME)

    def recent(self, repository: str, since: datetime, instance: str) -> Talk[Recent]:
        """See connectors/platforms/calls/jenkins_past.py."""
        return jenkins_past.recent(repository, since, lambda _, body: _build(body, instance).events)


def _credentials(login: bytes) -> bytes:
    # https://www.rfc-editor.org/rfc/rfc7617
    scheme, _, value = login.partition(b" ")
    if scheme.lower() != b"basic":
        raise BadSignature("Authorization is not Basic")
    try:
        return base64.b64decode(value.strip(), validate=True)
    except binascii.Error:
        raise BadSignature("Authorization is not base64") from None


def _cloud_event(body: Fields) -> str | None:
    """What kind of CloudEvent a body without `ce-type` is, if it is one of those that say nothing of a build."""
    if "jenkinsQueueId" in body:
        return "org.jenkinsci.queue.left"
    if "nodeName" in body:
        return "org.jenkinsci.node.online"
    if "configFile" in body:
        return "org.jenkinsci.job.updated"
    return None


def _job_path(*urls: str | None) -> str | None:
    """The job's path through its folders, from the first address that has one: job/Folder/job/Name/ is Folder/Name."""
    for url in urls:
        parts = [part for part in (url or "").split("/") if part]
        names: list[str] = []
        index = 0
        while index < len(parts) - 1:
            if parts[index] == "job":
                names.append(unquote(parts[index + 1]))
                index += 1
            index += 1
        if names:
            return "/".join(names)
    return None


def _repository(body: Fields, *urls: str | None) -> str:
    path = _job_path(*urls)
    if path is None:
        raise body.malformed("url", "the address of a job")
    return Fields({"url": path}).identity("url")


def _state(build: Fields) -> tuple[str | None, Outcome, bool]:
    """The deciding word, what it means, and whether it is an end. COMPLETED and FINALIZED of one build say the same."""
    phase, status = build.text("phase"), build.text("status")
    if phase is None:
        raise build.malformed("phase", "text")
    if phase not in Jenkins.PHASE:
        return phase, Outcome.UNKNOWN, status is not None
    outcome = Jenkins.PHASE[phase]
    if outcome is not None:
        return phase, outcome, False
    return status, Jenkins.OUTCOME.get(status or "", Outcome.UNKNOWN), True


def _build(body: Fields, instance: str) -> Normalised:
    # https://github.com/jenkinsci/notification-plugin#json-format and
    # https://github.com/jenkinsci/cloudevents-plugin: the same facts, with underscores or in camel case.
    build = body.required("build")
    word, outcome, ended = _state(build)
    full_url = build.url("full_url") or build.url("fullUrl")
    page = full_url.rstrip("/") if full_url else None
    scm = build.inner("scm") or build.inner("scmState")
    branch = scm.text("branch")
    duration = None if outcome in OPEN else build.duration_ms("duration", unit_ms=1)
    failure = FailureContext(
        duration_ms=duration,
        reason=word,
        excerpt=tail((build.text("log", None) or "").rstrip(), MAX_EXCERPT_BYTES) or None,
        tests_failed=build.inner("test_summary").count("failed"),
    )
    metadata = Metadata(
        instance=instance,
        outcome=outcome,
        commit_sha=scm.maybe_identity("commit"),
        branch=branch.removeprefix("origin/") if branch else None,
        author=next(iter(scm.texts("culprits")), None) or _user(body),
        logs_url=f"{page}/consoleText" if page else None,
        artifacts_url=f"{page}/artifact/" if page and build.inner("artifacts") else None,
        url=full_url,
        workflow=body.text("display_name") or body.text("displayName") or body.text("name"),
        job_name=body.text("name"),
        vendor_status=word,
        rerun_after="job",
        duration_ms=duration,
    )
    event = tell(
        platform="jenkins",
        at=build.first_time("timestamp"),
        repository=_repository(body, body.url("url"), full_url, build.url("url")),
        pipeline_id=build.identity("number"),
        job_id=None,
        metadata=metadata,
        failure=failure,
        ended=ended,
    )
    return Normalised(events=[event])


def _user(body: Fields) -> str | None:
    """Who set the build off (CloudEvents); SYSTEM is nobody."""
    user = body.text("userName") or body.text("userId")
    return None if user == "SYSTEM" else user


def _outbound(body: Fields, instance: str, received: datetime) -> Normalised:
    # https://github.com/jenkinsci/outbound-webhook-plugin: no time in it, so the time of its coming is taken; and no
    # number but in the build's name, which may have been changed, and its address.
    url, name = body.url("buildUrl"), body.text("projectName")
    word = body.text("event")
    if word is None:
        raise body.malformed("event", "text")
    number = (url or "").rstrip("/").rpartition("/")[2]
    if not (number.isascii() and number.isdigit() and len(number) < MAX_NAME_BYTES):
        raise MalformedPayload("buildUrl: the address of a build was expected, ending in its number")
    page = (url or "").rstrip("/")
    outcome = Jenkins.OUTBOUND.get(word, Outcome.UNKNOWN)
    metadata = Metadata(
        instance=instance,
        outcome=outcome,
        logs_url=f"{page}/consoleText",
        url=url,
        workflow=name,
        job_name=name,
        vendor_status=word,
        rerun_after="job",
    )
    event = tell(
        platform="jenkins",
        at=received,
        repository=_repository(body, url),
        pipeline_id=number,
        job_id=None,
        metadata=metadata,
        failure=FailureContext(reason=word),
    )
    return Normalised(events=[event])
