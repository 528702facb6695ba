"""The healer's HTTP API for people: stop and go, and answers to what is proposed.

    POST /v1/pause      {"why": text}                   operator; it stops whatever the body is
    POST /v1/resume     {"why": text}                   operator
    GET  /v1/proposals                                  viewer
    POST /v1/proposals/{id}/approve  {"why": text}      approver; id is that of a case, or of one decision about it
    POST /v1/proposals/{id}/reject   {"why": text}      approver; here why must be given
    POST /v1/proposals/{id}/always   {"why": text, "lasts": "30d", "everywhere": false}                 approver

Whoever asks shows a token, `Authorization: Bearer ...`, before anything else is looked at: without one that is known
every address and method is answered 401 with one body. Tokens are compared as digests, all of them, in constant time. A
role may do what the lesser ones may; what it may not is 403 with the role that is needed.

Who fails ten times in a minute is answered 429 from there on, and not logged. A token that is right is heard even then:
a kill switch that strangers can lock would be none, and 16 characters or more are not guessed over a network.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from models.records.errors import GuardError

MOST_BODY_BYTES: Final = 4 << 10
MOST_WORDS: Final = 500  # characters of a reason
READ_SECONDS: Final = 5.0
MOST_FAILURES: Final = 10
FAILURE_SECONDS: Final = 60.0
_MOST_ADDRESSES: Final = 1024

_LOG: Final = logging.getLogger(__name__)
_NO_REASON: Final = "no reason was given"
B = TypeVar("B", "Why", "Yes", "Always")


class Role(IntEnum):
    """What somebody may do; each may do what those before may, too."""

    VIEWER = 1
    APPROVER = 2
    OPERATOR = 3


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a token, of which only the digest is kept."""

    name: str
    role: Role
    digest: bytes = field(repr=False)


def person(name: str, role: str, token: str) -> Person:
    """Somebody as the settings have them."""
    return Person(name, Role[role.upper()], _digest(token))


class Reply(NamedTuple):
    """What is answered: a status, and a body that becomes JSON."""

    status: int
    body: Mapping[str, Any]


class Why(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A reason that must be given."""

    why: str


class Yes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A reason that may be given."""

    why: str = ""


class Always(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Yes for good: for how long, and whether in every repository."""

    why: str = ""
    lasts: str | None = None
    everywhere: bool = False


@dataclass(frozen=True, slots=True)
class Powers:
    """What can be asked for; the first argument is the name of who asks."""

    pause: Callable[[str, str], Awaitable[Reply]]
    resume: Callable[[str, str], Awaitable[Reply]]
    proposals: Callable[[], Awaitable[Reply]]
    approve: Callable[[str, UUID, str], Awaitable[Reply]]
    reject: Callable[[str, UUID, str], Awaitable[Reply]]
    always: Callable[[str, UUID, Always], Awaitable[Reply]]


def create_operator_app(people: Iterable[Person], powers: Powers, *, stopwatch: Callable[[], float]) -> Starlette:
    """The application. `stopwatch` is in seconds and only ever goes forward."""

    async def pause(request: Request, by: str) -> Reply:
        try:
            why = (await _said(request, Yes)).why
        except _Refusal:
            why = "a reason was given that could not be read"
        return await powers.pause(by, why or _NO_REASON)

    async def resume(request: Request, by: str) -> Reply:
        return await powers.resume(by, (await _said(request, Yes)).why or _NO_REASON)

    async def proposals(_request: Request, _by: str) -> Reply:
        return await powers.proposals()

    async def approve(request: Request, by: str) -> Reply:
        return await powers.approve(by, request.path_params["id"], (await _said(request, Yes)).why)

    async def reject(request: Request, by: str) -> Reply:
        return await powers.reject(by, request.path_params["id"], (await _said(request, Why)).why)

    async def always(request: Request, by: str) -> Reply:
        return await powers.always(by, request.path_params["id"], await _said(request, Always))

    return Starlette(
        routes=[
            Route("/v1/pause", _allowed(Role.OPERATOR, pause), methods=["POST"]),
            Route("/v1/resume", _allowed(Role.OPERATOR, resume), methods=["POST"]),
            Route("/v1/proposals", _allowed(Role.VIEWER, proposals), methods=["GET"]),
            Route("/v1/proposals/{id:uuid}/approve", _allowed(Role.APPROVER, approve), methods=["POST"]),
            Route("/v1/proposals/{id:uuid}/reject", _allowed(Role.APPROVER, reject), methods=["POST"]),
            Route("/v1/proposals/{id:uuid}/always", _allowed(Role.APPROVER, always), methods=["POST"]),
        ],
        middleware=[Middleware(_Door, people=tuple(people), stopwatch=stopwatch)],
        exception_handlers={_Refusal: _refused, HTTPException: _no_such_thing},
    )


class _Refusal(Exception):
    def __init__(self, reply: Reply) -> None:
        self.reply = reply


def _refuse(status: int, said: str, **more: str | int) -> _Refusal:
    return _Refusal(Reply(status, {"status": said, **more}))


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, _Refusal)
    return _response(error.reply)


async def _no_such_thing(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {404: "not_found", 405: "method"}.get(error.status_code, "refused")
    return _response(Reply(error.status_code, {"status": said}), **dict(error.headers or {}))


def _response(reply: Reply, **headers: str) -> Response:
    body = msgspec.json.encode(reply.body)
    headers |= {"cache-control": "no-store"}
    return Response(body, reply.status, headers=headers, media_type="application/json")


# --- who asks


class _Door:
    """Lets in whoever shows a token that is known, and says who it is."""

    def __init__(self, app: ASGIApp, *, people: tuple[Person, ...], stopwatch: Callable[[], float]) -> None:
        self._app = app
        self._people = people
        self._stopwatch = stopwatch
        self._failures: dict[str, tuple[float, int]] = {}  # by address: since when, and how many

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        found = self._who(scope) if scope["type"] == "http" else None
        if scope["type"] == "http" and found is None:
            await self._failed(scope)(scope, receive, send)
            return
        await self._app({**scope, "person": found}, receive, send)

    def _who(self, scope: Scope) -> Person | None:
        shown = [value for name, value in scope["headers"] if name == b"authorization"]
        kind, _, token = shown[0].partition(b" ") if len(shown) == 1 else (b"", b"", b"")
        digest = hashlib.sha256(token.strip()).digest()
        known = [person for person in self._people if hmac.compare_digest(person.digest, digest)]
        return known[0] if known and kind.lower() == b"bearer" else None

    def _failed(self, scope: Scope) -> Response:
        address = str((scope.get("client") or ("unknown",))[0])
        now = self._stopwatch()
        since, count = self._failures.get(address, (now, 0))
        if now - since >= FAILURE_SECONDS:
            since, count = now, 0
        if len(self._failures) >= _MOST_ADDRESSES and address not in self._failures:
            self._failures.clear()
        self._failures[address] = (since, count + 1)
        if count >= MOST_FAILURES:
            wait = max(1, round(since + FAILURE_SECONDS - now))
            return _response(Reply(429, {"status": "too_many"}), **{"retry-after": str(wait)})
        _LOG.warning("a request to the operator API without a token that is known, from %s", address)
        return _response(Reply(401, {"status": "unauthorised"}), **{"www-authenticate": "Bearer"})


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _allowed(role: Role, ask: Callable[[Request, str], Awaitable[Reply]]) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint that does what `ask` does for those who have that role, or a greater one."""

    async def answer(request: Request) -> Response:
        asking: Person = request.scope["person"]
        if asking.role < role:
            raise _refuse(403, "forbidden", needs=role.name.lower())
        try:
            return _response(await ask(request, asking.name))
        except GuardError as error:
            _LOG.error("%s could not be done for %s: %s", request.url.path, asking.name, error)
            raise _refuse(503, "unavailable") from None

    return answer


# --- what is asked


async def _said(request: Request, kind: type[B]) -> B:
    """What the body says; none is the same as {}."""
    body = await _body(request)
    if body and request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise _refuse(415, "media_type")
    try:
        said = msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refuse(422, "malformed", detail=str(error)) from None
    why: str = getattr(said, "why", "")
    if len(why) > MOST_WORDS or not why.isprintable() or (kind is Why and not why.strip()):
        raise _refuse(
            422, "malformed", detail=f"why: expected a reason, on one line of at most {MOST_WORDS} characters"
        )
    return said


async def _body(request: Request) -> bytes:
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size > MOST_BODY_BYTES:
                    raise _refuse(413, "too_large")
                chunks.append(chunk)
    except TimeoutError:
        raise _refuse(408, "timeout") from None
    except ClientDisconnect:
        raise _refuse(400, "gone") from None
    return b"".join(chunks)
