"""The operator API: who is let in, what each role may, and what is answered to whatever else comes."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pytest
from starlette.applications import Starlette

from connectors.operator_api import (
    FAILURE_SECONDS,
    MOST_BODY_BYTES,
    MOST_FAILURES,
    Always,
    Powers,
    Reply,
    create_operator_app,
    person,
)
from models.records.errors import Unavailable

ROLES = ("viewer", "approver", "operator")
TOKENS = {role: f"token of the {role}" for role in ROLES}
CASE = uuid4()
NEEDS = {
    ("POST", "/v1/pause"): "operator",
    ("POST", "/v1/resume"): "operator",
    ("GET", "/v1/proposals"): "viewer",
    ("POST", f"/v1/proposals/{CASE}/approve"): "approver",
    ("POST", f"/v1/proposals/{CASE}/reject"): "approver",
    ("POST", f"/v1/proposals/{CASE}/always"): "approver",
}


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    says: Any


class Site:
    """The API without a network, and what it was asked to do."""

    def __init__(self) -> None:
        self.done: list[tuple[Any, ...]] = []
        self.now = 1000.0
        self.away = False
        people = [person(role, role, TOKENS[role]) for role in ROLES]
        self.app: Starlette = create_operator_app(
            people,
            Powers(self._pause, self._resume, self._proposals, self._approve, self._reject, self._always),
            stopwatch=lambda: self.now,
        )

    def _did(self, *what: Any) -> Reply:
        if self.away:
            raise Unavailable("PostgreSQL: secret details")
        self.done.append(what)
        return Reply(200, {"status": "done"})

    async def _pause(self, by: str, why: str) -> Reply:
        return self._did("pause", by, why)

    async def _resume(self, by: str, why: str) -> Reply:
        return self._did("resume", by, why)

    async def _proposals(self) -> Reply:
        return self._did("proposals")

    async def _approve(self, by: str, about: UUID, why: str) -> Reply:
        return self._did("approve", by, about, why)

    async def _reject(self, by: str, about: UUID, why: str) -> Reply:
        return self._did("reject", by, about, why)

    async def _always(self, by: str, about: UUID, said: Always) -> Reply:
        return self._did("always", by, about, said)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        address: str = "10.0.0.1",
        content_type: str | None = "application/json",
        hangs: bool = False,
    ) -> Answer:
        """Ask it something."""
        given = {"authorization": f"Bearer {token}"} if token is not None else {}
        given |= {"content-type": content_type} if content_type else {}
        raw = [(name.encode(), value.encode()) for name, value in (given | dict(headers or {})).items()]
        scope: dict[str, Any] = {"type": "http", "method": method, "path": path, "headers": raw, "http_version": "1.1"}
        scope |= {"query_string": b"", "root_path": "", "scheme": "http", "client": (address, 1)}
        messages = [{"type": "http.request", "body": body, "more_body": hangs}]
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(self.app(scope, receive, send))
        start, end = sent
        names = {name.decode(): value.decode() for name, value in start["headers"]}
        return Answer(start["status"], names, json.loads(end["body"]))


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("what", NEEDS, ids=lambda what: what[1].rpartition("/")[2])
def test_each_may_do_what_the_role_allows_and_the_name_is_that_of_the_token(
    site: Site, role: str, what: tuple[str, str]
) -> None:
    answer = site.ask(*what, b'{"why": "because"}' if what[0] == "POST" else b"", token=TOKENS[role])
    if ROLES.index(role) < ROLES.index(NEEDS[what]):
        assert (answer.status, answer.says) == (403, {"status": "forbidden", "needs": NEEDS[what]})
        assert site.done == []
    else:
        assert answer.status == 200
        assert site.done[0][:2] == ((what[1].rpartition("/")[2], role) if what[0] == "POST" else ("proposals",))


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Basic {TOKENS['operator']}",
        TOKENS["operator"],
        f"Bearer {TOKENS['operator']}x",
        f"Bearer {TOKENS['operator'].upper()}",
        "Bearer \u00e9",
    ],
)
@pytest.mark.parametrize("what", [*NEEDS, ("GET", "/"), ("DELETE", "/v1/pause"), ("GET", "/healthz")])
def test_who_shows_no_token_learns_nothing(site: Site, authorization: str | None, what: tuple[str, str]) -> None:
    headers = {"authorization": authorization} if authorization is not None else {}
    answer = site.ask(*what, b"x" * 9999, headers=headers)
    assert (answer.status, answer.says) == (401, {"status": "unauthorised"})
    assert answer.headers["www-authenticate"] == "Bearer"
    assert site.done == []


def test_the_kind_of_a_token_has_no_case(site: Site) -> None:
    headers = {"authorization": f"bearer  {TOKENS['viewer']} "}
    assert site.ask("GET", "/v1/proposals", headers=headers).status == 200


def test_without_people_nobody_is_let_in(site: Site) -> None:
    site.app = create_operator_app([], Powers(*[site._pause] * 6), stopwatch=lambda: 0.0)  # type: ignore[arg-type]
    assert site.ask("GET", "/v1/proposals", token="").status == 401


def test_no_token_is_kept_as_it_is() -> None:
    ann = person("ann", "viewer", "a token of ann")
    assert "token of ann" not in repr(ann) + str(ann.digest)


def test_what_is_said_is_passed_on(site: Site) -> None:
    said = b'{"why": "as ever", "lasts": "30d", "everywhere": true}'
    assert site.ask("POST", f"/v1/proposals/{CASE}/always", said, token=TOKENS["approver"]).status == 200
    assert site.ask("POST", f"/v1/proposals/{CASE}/approve", token=TOKENS["approver"]).status == 200
    assert site.ask("POST", "/v1/resume", token=TOKENS["operator"], content_type=None).status == 200
    assert site.done == [
        ("always", "approver", CASE, Always("as ever", "30d", everywhere=True)),
        ("approve", "approver", CASE, ""),
        ("resume", "operator", "no reason was given"),
    ]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "no reason was given"),
        (b"{", "a reason was given that could not be read"),
        (b"x" * (MOST_BODY_BYTES + 1), "a reason was given that could not be read"),
        (b'{"why": "\\u0000"}', "a reason was given that could not be read"),
        (b'{"why": "it deletes things"}', "it deletes things"),
    ],
)
def test_pause_stops_whatever_the_body_is(site: Site, body: bytes, why: str) -> None:
    assert site.ask("POST", "/v1/pause", body, token=TOKENS["operator"]).status == 200
    assert site.done == [("pause", "operator", why)]


@pytest.mark.parametrize(
    ("body", "content_type", "status", "said"),
    [
        (b'{"why": "x"}', "text/plain", 415, "media_type"),
        (b'{"why": "x"}', None, 415, "media_type"),
        (b" " * (MOST_BODY_BYTES + 1), "application/json", 413, "too_large"),
        (b"{", "application/json", 422, "malformed"),
        (b"[]", "application/json", 422, "malformed"),
        (b"[" * 4000, "application/json", 422, "malformed"),
        (b"\xff", "application/json", 422, "malformed"),
        (b"", "application/json", 422, "malformed"),
        (b'{"why": " "}', "application/json", 422, "malformed"),
        (b'{"why": 1}', "application/json", 422, "malformed"),
        (b'{"why": "x", "more": 1}', "application/json", 422, "malformed"),
        (b'{"why": "a\\nb"}', "application/json", 422, "malformed"),
        (b'{"why": "\\u0000"}', "application/json", 422, "malformed"),
        (b'{"why": "\\ud800"}', "application/json", 422, "malformed"),
        (b'{"why": "\\u001b[31m"}', "application/json", 422, "malformed"),
        (json.dumps({"why": "x" * 501}).encode(), "application/json", 422, "malformed"),
    ],
)
def test_what_makes_no_sense_is_refused(
    site: Site, body: bytes, content_type: str | None, status: int, said: str
) -> None:
    path = f"/v1/proposals/{CASE}/reject"
    answer = site.ask("POST", path, body, token=TOKENS["operator"], content_type=content_type)
    assert (answer.status, answer.says["status"], site.done) == (status, said, [])


def test_a_body_that_never_ends_is_not_waited_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.operator_api.READ_SECONDS", 0.01)
    path = f"/v1/proposals/{CASE}/reject"
    assert site.ask("POST", path, b"{", token=TOKENS["operator"], hangs=True).status == 408
    assert site.ask("POST", "/v1/pause", b"{", token=TOKENS["operator"], hangs=True).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/proposals/nothing/approve", 404),
        ("POST", "/v1/proposals/1/approve", 404),
        ("GET", "/v1/pause", 405),
        ("DELETE", "/v1/proposals", 405),
    ],
)
def test_what_is_not_there_is_told_to_those_who_are_known(site: Site, method: str, path: str, status: int) -> None:
    answer = site.ask(method, path, token=TOKENS["viewer"])
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"


def test_what_is_away_is_told_without_its_details(site: Site) -> None:
    site.away = True
    answer = site.ask("GET", "/v1/proposals", token=TOKENS["viewer"])
    assert (answer.status, answer.says) == (503, {"status": "unavailable"})


def test_who_fails_often_is_sent_away_and_a_right_token_is_heard_all_the_same(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    statuses = [site.ask("POST", "/v1/pause", token=f"guess {n}").status for n in range(MOST_FAILURES + 5)]
    assert statuses == [401] * MOST_FAILURES + [429] * 5
    assert len(caplog.records) == MOST_FAILURES
    assert not any("guess" in record.getMessage() for record in caplog.records)
    assert site.ask("POST", "/v1/pause", token="guess", address="10.0.0.2").status == 401
    assert site.ask("POST", "/v1/pause", token=TOKENS["operator"]).status == 200
    assert 0 < int(site.ask("POST", "/v1/pause", token="guess").headers["retry-after"]) <= FAILURE_SECONDS
    site.now += FAILURE_SECONDS
    assert site.ask("POST", "/v1/pause", token="guess").status == 401


def test_failures_of_many_addresses_are_not_remembered_without_bound(site: Site) -> None:
    for number in range(1100):
        site.ask("GET", "/", address=f"10.1.{number // 256}.{number % 256}")
    (door,) = [layer for layer in _layers(site.app) if hasattr(layer, "_failures")]
    assert len(door._failures) <= 1024


def _layers(app: Any) -> list[Any]:
    layers = []
    layer = app.middleware_stack
    while layer is not None:
        layers.append(layer)
        layer = getattr(layer, "app", None) or getattr(layer, "_app", None)
    return layers
