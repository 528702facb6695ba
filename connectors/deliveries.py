"""What a proven delivery becomes: redacted entries and log requests, by shard; or the reason why there are none.

Nothing leaves here that has not been redacted. Whatever a platform file stumbles over becomes a reject: its body,
redacted and capped, stands in the dead letters, and can be replayed once the normaliser is right.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple
from urllib.parse import unquote_plus

import msgspec
import re2

from connectors.delivery import Delivery
from connectors.platforms.asking import JobRun
from connectors.platforms.platform import Platform, Request
from connectors.redaction import Redactor
from models.records.entry import Encoding, Entry, Kind, traceparent
from models.records.errors import MalformedPayload
from models.records.event import Event, EventType, Outcome, PlatformName, shard_of, uuid5_text
from models.records.payload import to_json

REJECT_BODY_BYTES: Final = 256 << 10
_MARGIN_BYTES: Final = 8 << 10  # read beyond the cap and cut off, so that no half of a secret stands at the cut
_FORM: Final = "application/x-www-form-urlencoded"
_SAMPLED: Final = b"\x01"
_KEPT_HEADERS: Final = (
    *("content-type", "user-agent", "x-github-event", "x-github-delivery", "x-github-hook-id"),
    *("x-gitlab-event", "x-gitlab-instance", "x-gitlab-event-uuid", "x-gitlab-webhook-uuid", "idempotency-key"),
    *("webhook-id", "webhook-timestamp", "circleci-event-type", "ce-id", "ce-source", "ce-specversion", "ce-type"),
)
_ESCAPES: Final = re2.compile(r"\\(?:\\|/|u00[2-7][0-9a-fA-F])")

_LOG: Final = logging.getLogger(__name__)
_ENCODER: Final = msgspec.json.Encoder()


class LogRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """The log of one failed job is wanted."""

    event_id: str
    platform: PlatformName
    instance: str
    repository: str
    pipeline_id: str
    job_id: str | None  # null where run and job are one
    attempt: int
    traceparent: str | None
    workflow_id: str | None = None
    job_number: int | None = None
    job_name: str | None = None
    job_key: str | None = None  # of the job, run after run; null where it has no name

    @property
    def run(self) -> JobRun:
        """What the platform's API is asked about."""
        return JobRun(self.repository, self.pipeline_id, self.job_id, self.attempt, self.job_number, self.job_name)


class Reject(msgspec.Struct, frozen=True):
    """An authentic delivery that could not be normalised: the payload of its entry."""

    source: str
    platform: str
    reason: str
    detail: str
    headers: dict[str, str]
    body: str  # at most 256 KiB of what came, its escapes resolved


class Said(NamedTuple):
    """What a delivery says. `rejected` and `ignored` give the reason; deliveries are to be made durable in order."""

    deliveries: Sequence[Delivery] = ()
    rejected: str | None = None
    ignored: str | None = None


class Normaliser:
    """Turns proven deliveries into entries. `entropy` gives random bytes for their traces."""

    def __init__(self, redactor: Redactor, entropy: Callable[[int], bytes]) -> None:
        self._redactor = redactor
        self._entropy = entropy

    def normalise(self, source: str, platform: Platform, instance: str, request: Request) -> Said:
        """What `request`, a delivery of `source`, says."""
        try:
            normalised = platform.events(request, instance)
            if normalised.ignored is not None:
                return Said(ignored=normalised.ignored)
            return Said(self.entries(normalised.events, request.received_at))
        except MalformedPayload as error:
            reason, detail = error.reason, error.detail
        except UnicodeEncodeError as error:
            reason, detail = MalformedPayload.reason, f"text that is not Unicode: {error.reason}"
        except Exception as error:  # noqa: BLE001 - a bug of ours must not cost the delivery, nor the hook
            _LOG.exception("the normaliser of %s failed on a delivery of %s", platform.name, source)
            reason, detail = "normaliser_failed", type(error).__name__
        return Said((self._reject(source, platform, instance, request, reason=reason, detail=detail),), rejected=reason)

    def entries(self, events: Sequence[Event], received_at: float) -> list[Delivery]:
        """What `events` become that came at `received_at`, Unix seconds, however they came."""
        received_ms, trace = int(received_at * 1000), self._trace()
        items: dict[int, list[tuple[Entry, str | None]]] = {}
        logs: dict[int, list[bytes]] = {}
        passed: dict[int, list[tuple[str, bytes]]] = {}
        for told in events:
            event = self._redactor.redact_event(told)
            shard = shard_of(event.metadata.instance, event.repository)
            entry = Entry(Kind.EVENT, Encoding.JSON, received_ms, to_json(event), trace)
            items.setdefault(shard, []).append((entry, event.id))
            if event.event_type is EventType.FAILED and _is_of_job(event):
                logs.setdefault(shard, []).append(_ENCODER.encode(_log_request(event, trace)))
            elif event.metadata.outcome is Outcome.PASSED and (key := _job_key(event)) is not None:
                passed.setdefault(shard, []).append((key, _ENCODER.encode(_run_of(event))))
        return [
            Delivery(shard, tuple(entries), tuple(logs.get(shard, ())), tuple(passed.get(shard, ())))
            for shard, entries in items.items()
        ]

    def _reject(
        self, source: str, platform: Platform, instance: str, request: Request, *, reason: str, detail: str
    ) -> Delivery:
        redact = self._redactor.redact
        payload = Reject(
            source=source,
            platform=platform.name,
            reason=reason,
            detail=redact(detail),
            headers={name: redact(value) for name in _KEPT_HEADERS if (value := request.headers.get(name)) is not None},
            body=self._body(request.body, request.headers),
        )
        mark = uuid5_text("reject", source, hashlib.sha256(request.body).hexdigest())
        entry = Entry(
            Kind.REJECT, Encoding.JSON, int(request.received_at * 1000), _ENCODER.encode(payload), self._trace()
        )
        return Delivery(shard_of(instance, source), ((entry, mark),), ())

    def _body(self, body: bytes, headers: Mapping[str, str]) -> str:
        """`body` as redacted text. Escapes are resolved first: a secret may hide behind them."""
        text = body[: REJECT_BODY_BYTES + _MARGIN_BYTES].decode("utf-8", "replace")
        if headers.get("content-type", "").startswith(_FORM):
            text = unquote_plus(text)
        clean = self._redactor.redact(_ESCAPES.sub(_unescaped, text) if "\\" in text else text)
        if len(body) > REJECT_BODY_BYTES + _MARGIN_BYTES:
            clean = clean[:-_MARGIN_BYTES]
        return clean.encode("utf-8", "replace")[:REJECT_BODY_BYTES].decode("utf-8", "ignore")

    def _trace(self) -> bytes:
        """A trace that begins here: trace id, parent id, flags."""
        return self._entropy(24) + _SAMPLED


def _unescaped(found: re2._Match) -> str:
    """What a JSON escape of a printable ASCII character stands for, except where that would end its string."""
    escape: str = found.group()
    if escape[1] == "u":
        meant = bytes.fromhex(escape[4:]).decode("ascii")
        return meant if meant.isprintable() and meant not in '"\\' else escape
    return "/" if escape[1] == "/" else escape


def _is_of_job(event: Event) -> bool:
    """Whether it is about a job: of run-level events, those have a job's name where run and job are one."""
    return event.job_id is not None or event.metadata.job_name is not None


def _run_of(event: Event) -> JobRun:
    metadata = event.metadata
    return JobRun(
        event.repository, event.pipeline_id, event.job_id, metadata.attempt, metadata.job_number, metadata.job_name
    )


def _log_request(event: Event, trace: bytes) -> LogRequest:
    metadata = event.metadata
    return LogRequest(
        event_id=event.id,
        platform=event.platform,
        instance=metadata.instance,
        repository=event.repository,
        pipeline_id=event.pipeline_id,
        job_id=event.job_id,
        attempt=metadata.attempt,
        traceparent=traceparent(trace),
        workflow_id=metadata.workflow_id,
        job_number=metadata.job_number,
        job_name=metadata.job_name,
        job_key=_job_key(event),
    )


def _job_key(event: Event) -> str | None:
    """What names the job in whatever run of its workflow; nothing where it has no name."""
    metadata = event.metadata
    if metadata.job_name is None:
        return None
    return uuid5_text("job", metadata.instance, event.repository, metadata.workflow or "", metadata.job_name)
