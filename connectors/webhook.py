"""The receiver: a platform's delivery in, durable entries out, and only then a 2xx.

    POST /webhooks/{source}            POST /webhooks/{source}/{secret}      where the secret is part of the address

Before a delivery is proven to come from its source it gets 401, 405, 408, 413, 415 or 431, and an unknown source is
answered as a bad signature is. Once proven it gets a 2xx whatever it holds: GitHub never sends again, and GitLab
disables a hook that meets errors. What cannot be normalised becomes a reject on its shard, redacted. Only a delivery
that neither Redis nor the spool took is answered 503.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from connectors.deliveries import Normaliser
from connectors.platforms import PLATFORMS
from connectors.platforms.platform import Platform, Request, Secret
from connectors.spool import Durable, Landed
from models.records.errors import BadSignature, ConfigError, Unavailable

MIB: Final = 1 << 20
DEFAULT_BODY_BYTES: Final = 5 * MIB
MOST_BODY_BYTES: Final = 25 * MIB  # https://docs.github.com/en/webhooks/webhook-events-and-payloads#payload-cap
MOST_HEADER_BYTES: Final = 16 << 10
READ_SECONDS: Final = 5.0
RETRY_AFTER_SECONDS: Final = 5
UNKNOWN: Final = "unknown"  # the source in metrics where none of that name is configured
_LARGE_BODY: Final = 256 << 10  # from here on a body is normalised on a thread, so that others are answered meanwhile

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """Who may post to /webhooks/{name}, and how that is proven; `secrets` are newest first.

    Raises:
        ConfigError: no secret although `allow_unsigned` is not set, one of a kind that the platform does not know, or
            a limit above what any platform sends.
    """

    name: str
    platform: Platform
    instance: str
    secrets: tuple[Secret, ...] = field(default=(), repr=False)
    max_body_bytes: int = DEFAULT_BODY_BYTES
    allow_unsigned: bool = False

    def __post_init__(self) -> None:
        key = f"receiver.sources.{self.name}"
        if not self.secrets and not self.allow_unsigned:
            raise ConfigError(
                f"{key}: it has no secrets, so anyone could post to it; allow_unsigned = true allows that"
            )
        for secret in self.secrets:
            if secret.kind not in self.platform.secret_kinds:
                known = ", ".join(sorted(self.platform.secret_kinds))
                raise ConfigError(f"{key}.secrets: {self.platform.name} proves itself by {known}, not by {secret.kind}")
        if not 0 < self.max_body_bytes <= MOST_BODY_BYTES:
            raise ConfigError(f"{key}.max_body_bytes: {self.max_body_bytes} is not within 1 to {MOST_BODY_BYTES}")


class Meter(Protocol):
    """What counts the deliveries."""

    def answered(self, source: str, outcome: str, seconds: float) -> None:
        """A delivery of `source` was answered after `seconds`; `outcome` is one of connectors.metrics.Answer."""

    def proved(self, source: str, index: int) -> None:
        """The secret number `index`, 0 being the newest, proved a delivery of `source`."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """The clocks and the randomness that the receiver is lent."""

    now: Callable[[], float]  # Unix seconds
    stopwatch: Callable[[], float]  # seconds, only ever forward
    entropy: Callable[[int], bytes]


class _Answer(NamedTuple):
    status: int
    outcome: str
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


def _answer(status: int, outcome: str, *headers: tuple[bytes, bytes], **more: str) -> _Answer:
    return _Answer(status, outcome, msgspec.json.encode({"status": outcome, **more}), headers)


_CLOSE: Final = (b"connection", b"close")  # what is left of the request will not be read
_METHOD: Final = _answer(405, "method", (b"allow", b"POST"))
_HEADERS: Final = _answer(431, "headers", _CLOSE)
_MEDIA_TYPE: Final = _answer(415, "media_type", _CLOSE)
_TOO_LARGE: Final = _answer(413, "too_large", _CLOSE)
_TIMEOUT: Final = _answer(408, "timeout", _CLOSE)
_UNAUTHORISED: Final = _answer(401, "unauthorised")
_UNAVAILABLE: Final = _answer(503, "unavailable", (b"retry-after", b"%d" % RETRY_AFTER_SECONDS))
_ACCEPTED: Final = _answer(202, "accepted")
_DUPLICATE: Final = _answer(200, "duplicate")
_SPOOLED: Final = _answer(202, "spooled")


class _Refusal(Exception):
    def __init__(self, answer: _Answer) -> None:
        self.answer = answer


class _Gone(Exception):
    pass


class _Receiver:
    """The ASGI application behind both addresses."""

    def __init__(
        self, sources: Mapping[str, Source], normaliser: Normaliser, durable: Durable, meter: Meter, clocks: Clocks
    ) -> None:
        self._sources = sources
        self._normaliser = normaliser
        self._durable = durable
        self._meter = meter
        self._clocks = clocks
        self._content_types = frozenset[str]().union(*(platform.content_types for platform in PLATFORMS.values()))
        self._decoys = _decoys(clocks.entropy)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = self._clocks.stopwatch()
        source = self._sources.get(scope["path_params"]["source"])
        try:
            answer = await self._handle(source, scope, receive)
        except _Refusal as refusal:
            answer = refusal.answer
        except _Gone:
            return
        self._meter.answered(source.name if source else UNKNOWN, answer.outcome, self._clocks.stopwatch() - started)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer.body))]
        await send({"type": "http.response.start", "status": answer.status, "headers": [*headers, *answer.headers]})
        await send({"type": "http.response.body", "body": answer.body})

    async def _handle(self, source: Source | None, scope: Scope, receive: Receive) -> _Answer:
        headers, content_type = self._envelope(scope)
        limit = source.max_body_bytes if source else DEFAULT_BODY_BYTES
        body = await _body(receive, headers, limit)
        path_secret = scope["path_params"].get("secret")
        request = Request(headers, body, self._clocks.now(), path_secret)
        proven = self._proven(source, request)
        if content_type not in proven.platform.content_types:
            raise _Refusal(_MEDIA_TYPE)
        return await self._take(proven, request)

    def _envelope(self, scope: Scope) -> tuple[dict[str, str], str]:
        """Headers and content type of a request that may be read on."""
        if scope["method"] != "POST":
            raise _Refusal(_METHOD)
        raw: list[tuple[bytes, bytes]] = scope["headers"]
        if sum(len(name) + len(value) + 4 for name, value in raw) > MOST_HEADER_BYTES:
            raise _Refusal(_HEADERS)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw}
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type not in self._content_types or headers.get("content-encoding", "identity") != "identity":
            raise _Refusal(_MEDIA_TYPE)
        return headers, content_type

    def _proven(self, source: Source | None, request: Request) -> Source:
        """The source, once `request` is proven to come from it. For an unknown one the same work is done in vain."""
        if source is None:
            for platform, secrets in self._decoys:
                try:
                    platform.verify(request, secrets)
                except BadSignature:
                    continue
            raise _Refusal(_UNAUTHORISED)
        if not source.secrets:
            return source
        try:
            index = source.platform.verify(request, source.secrets)
        except BadSignature:
            raise _Refusal(_UNAUTHORISED) from None
        self._meter.proved(source.name, index)
        return source

    async def _take(self, source: Source, request: Request) -> _Answer:
        """Make what `request` says durable."""
        work = (source.name, source.platform, source.instance, request)
        if len(request.body) < _LARGE_BODY:
            said = self._normaliser.normalise(*work)
        else:
            said = await asyncio.to_thread(self._normaliser.normalise, *work)
        if said.ignored is not None:
            return _answer(200, "ignored", reason=said.ignored)
        try:
            landed = [await self._durable.take(delivery) for delivery in said.deliveries]
        except Unavailable as error:
            _LOG.error("a delivery of %s was answered 503: %s", source.name, error)
            return _UNAVAILABLE
        if said.rejected is not None:
            return _answer(200, "rejected", reason=said.rejected)
        if Landed.SPOOLED in landed:
            return _SPOOLED
        return _ACCEPTED if Landed.APPENDED in landed else _DUPLICATE


def _decoys(entropy: Callable[[int], bytes]) -> tuple[tuple[Platform, tuple[Secret, ...]], ...]:
    """Secrets that nobody has, of every kind of every platform."""

    def decoy(kind: str) -> str:
        value = base64.b64encode(entropy(32)).decode()
        return {"signing_token": f"whsec_{value}", "basic": f"nobody:{value}"}.get(kind, value)

    return tuple(
        (platform, tuple(Secret(kind, decoy(kind)) for kind in sorted(platform.secret_kinds)))  # type: ignore[arg-type] # kinds are Secret's own words
        for platform in PLATFORMS.values()
    )


async def _body(receive: Receive, headers: Mapping[str, str], limit: int) -> bytes:
    """The raw body, read once."""
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limit:
        raise _Refusal(_TOO_LARGE)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(READ_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _Gone
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > limit:
                    raise _Refusal(_TOO_LARGE)
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
    except TimeoutError:
        raise _Refusal(_TIMEOUT) from None


def create_app(
    sources: Iterable[Source], *, normaliser: Normaliser, durable: Durable, meter: Meter, clocks: Clocks
) -> Starlette:
    """The application that platforms post to. It starts no task of its own: `durable.drain` and the heartbeats are
    run beside it.

    Raises:
        ConfigError: two sources of one name.
    """
    by_name: dict[str, Source] = {}
    for source in sources:
        if by_name.setdefault(source.name, source) is not source:
            raise ConfigError(f"receiver.sources.{source.name}: there are two of that name")
        if not source.secrets:
            _LOG.warning("source %s is not signed: whoever reaches this port can post to it", source.name)
    receiver = _Receiver(by_name, normaliser, durable, meter, clocks)
    return Starlette(
        routes=[
            Route("/webhooks/{source}", receiver, methods=None),
            Route("/webhooks/{source}/{secret}", receiver, methods=None),
        ]
    )


def create_admin_app(
    *,
    durable: Durable,
    reachable: Callable[[], Awaitable[bool]],
    render: Callable[[], bytes],
    content_type: str,
    leaving: Callable[[], bool] = lambda: False,
) -> Starlette:
    """The application for operators, on a port of its own: /healthz, /readyz and /metrics.

    Ready means that a delivery could be made durable now, Redis being `reachable` or the spool having room, and that
    the receiver is not `leaving`.
    """

    async def healthz(_request: HttpRequest) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(_request: HttpRequest) -> Response:
        redis = await reachable()
        spool = durable.spool
        ready = (redis or (spool is not None and spool.has_room)) and not leaving()
        state = {"status": "ready" if ready else "unready", "redis": redis, "spooled": spool.depth if spool else 0}
        return JSONResponse(state, status_code=200 if ready else 503)

    async def metrics(_request: HttpRequest) -> Response:
        return Response(render(), media_type=content_type)

    return Starlette(routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)])
