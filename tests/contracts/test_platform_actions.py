"""Every platform asks for actions, and reads the answers, by the contract of connectors/platforms/acting.py."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.platforms import PLATFORMS
from connectors.platforms.acting import Send, Silence
from connectors.platforms.asking import Reply
from models.records.calls import (
    Ambiguous,
    Call,
    Cancel,
    Done,
    Refusal,
    Refused,
    Rerun,
    RerunFailed,
    RerunJob,
    RunState,
    Unavailable,
    from_json,
    to_json,
)
from models.records.event import Outcome
from tests.connectors.platforms.acts import (
    POSSIBLE,
    SHA,
    Answering,
    Held,
    all_well,
    at_the_effect,
    calls,
    hold,
    says,
    target,
)

CALLS = [(platform, name, call) for platform in sorted(PLATFORMS) for name, call in calls(platform).items()]
DOABLE = [one for one in CALLS if one[1] in POSSIBLE[one[0]]]

each_platform = pytest.mark.parametrize("platform", sorted(PLATFORMS))
each_call = pytest.mark.parametrize(("platform", "name", "call"), CALLS, ids=[f"{p}/{n}" for p, n, _ in CALLS])
each_doable = pytest.mark.parametrize(("platform", "name", "call"), DOABLE, ids=[f"{p}/{n}" for p, n, _ in DOABLE])


def _asked(platform: str, call: Call, answering: Answering) -> Held:
    talk = PLATFORMS[platform].ask(call)
    assert talk is not None
    return hold(talk, answering)


def _looked(platform: str, call: Call, answering: Answering) -> Held:
    return hold(PLATFORMS[platform].look(call), answering)


def test_every_platform_has_calls_in_this_suite() -> None:
    assert set(POSSIBLE) == set(PLATFORMS)


@each_call
def test_what_a_platform_can_do_is_known(platform: str, name: str, call: Call) -> None:
    assert (PLATFORMS[platform].ask(call) is not None) is (name in POSSIBLE[platform])


@each_doable
def test_a_call_that_goes_well_is_done(platform: str, name: str, call: Call) -> None:
    held = _asked(platform, call, all_well(platform))
    assert isinstance(held.ended, Done)
    assert held.changes
    assert call.repeatable or len(held.changes) == 1
    assert held.sent[-1].changes


@each_doable
def test_no_request_holds_a_credential_or_an_address(platform: str, name: str, call: Call) -> None:
    for step in _asked(platform, call, all_well(platform)).sent:
        parts = urlsplit(step.path)
        assert step.path.startswith("/")
        assert (parts.scheme, parts.netloc, parts.fragment) == ("", "", "")
        assert step.path.isascii()
        assert not set(step.path) & set(' \\"[]{}<>')
        assert not {"authorization", "cookie", "circle-token", "private-token"} & set(step.headers)
        assert all(header == header.lower() for header in step.headers)
        assert bool(step.body) is ("content-type" in step.headers)


@each_doable
def test_questions_change_nothing(platform: str, name: str, call: Call) -> None:
    for step in _asked(platform, call, all_well(platform)).sent:
        assert step.changes is (step.method != "GET")


# What an answer to what changes something means on every platform.
CONSEQUENCES: list[tuple[str, Reply | Silence, Any]] = [
    ("301", says(301, location="https://elsewhere.example/"), Refused(Refusal.MOVED, "HTTP 301")),
    ("304", says(304), Ambiguous("HTTP 304")),
    ("307", says(307, location="http://169.254.169.254/latest/"), Refused(Refusal.MOVED, "HTTP 307")),
    ("308", says(308, location="https://elsewhere.example/"), Refused(Refusal.MOVED, "HTTP 308")),
    ("302 to elsewhere", says(302, location="http://169.254.169.254/"), Refused(Refusal.MOVED, "HTTP 302")),
    ("400", says(400), Refused(Refusal.INVALID, "HTTP 400")),
    ("401", says(401), Refused(Refusal.LOGIN, "HTTP 401")),
    ("403", says(403), Refused(Refusal.PERMISSION, "HTTP 403")),
    ("403 and when", says(403, retry_after="60"), Unavailable("HTTP 403", 60.0)),
    ("405", says(405), Refused(Refusal.INVALID, "HTTP 405")),
    ("408", says(408), Unavailable("HTTP 408")),
    ("409", says(409), Refused(Refusal.STATE, "HTTP 409")),
    ("410", says(410), Refused(Refusal.NOT_FOUND, "HTTP 410")),
    ("418", says(418), Refused(Refusal.INVALID, "HTTP 418")),
    ("422", says(422, {"message": "No \x00 such\nthing"}), Refused(Refusal.INVALID, "HTTP 422: No ? such thing")),
    ("423", says(423), Refused(Refusal.STATE, "HTTP 423")),
    ("425", says(425), Unavailable("HTTP 425")),
    ("429", says(429), Unavailable("HTTP 429")),
    ("429 and when", says(429, retry_after="7"), Unavailable("HTTP 429", 7.0)),
    ("500", says(500, b"oops"), Ambiguous("HTTP 500")),
    ("502", says(502, b"<html>"), Ambiguous("HTTP 502")),
    ("503 and when", says(503, retry_after="30"), Ambiguous("HTTP 503", 30.0)),
    ("504", says(504), Ambiguous("HTTP 504")),
    ("599", says(599), Ambiguous("HTTP 599")),
    ("101", says(101), Ambiguous("HTTP 101")),
    ("silence before", Silence("no connection", sent=False), Unavailable("no connection")),
    ("silence after", Silence("no answer in time", sent=True), Ambiguous("no answer in time")),
]
each_consequence = pytest.mark.parametrize(
    ("answer", "result"), [row[1:] for row in CONSEQUENCES], ids=[row[0] for row in CONSEQUENCES]
)


@each_doable
@each_consequence
def test_every_answer_has_its_consequence(
    platform: str, name: str, call: Call, answer: Reply | Silence, result: Any
) -> None:
    held = _asked(platform, call, at_the_effect(platform, answer))
    assert held.ended == result
    assert len(held.changes) == 1  # nothing is tried again, whatever it was


@each_doable
def test_a_404_says_that_there_is_no_such_thing(platform: str, name: str, call: Call) -> None:
    held = _asked(platform, call, at_the_effect(platform, says(404, {"message": "Not Found"})))
    if platform == "github" and "caches" in name:
        assert isinstance(held.ended, Done)  # somebody else deleted it first
    elif platform == "jenkins" and "rerun" in name:
        assert len(held.changes) == 2  # not a Pipeline: it is tried in the way of other jobs
        assert held.ended == Refused(Refusal.NOT_FOUND, "HTTP 404: Not Found")
    else:
        assert held.ended == Refused(Refusal.NOT_FOUND, "HTTP 404: Not Found")


GARBAGE = [b"\xff\xfe", b"<html>Sign in</html>", b"[1]", b'"x"', b"[" * 5000, b'{"a": 1e999}', b'{"a":1,"a":2}']


@each_doable
@pytest.mark.parametrize("body", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_in_place_of_an_answer_is_ambiguous(platform: str, name: str, call: Call, body: bytes) -> None:
    if platform == "github" and "caches" in name:
        return  # an answer without a body: nothing of it is read
    assert isinstance(_asked(platform, call, at_the_effect(platform, says(200, body))).ended, Ambiguous)


@each_doable
@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (says(401), Refused),
        (says(404), Refused),
        (says(302, location="/login"), Refused),
        (says(429, retry_after="7"), Unavailable),
        (says(500), Unavailable),
        (says(200, b"<html>"), Unavailable),
        (Silence("no answer in time", sent=True), Unavailable),
    ],
    ids=lambda value: "silence" if isinstance(value, Silence) else getattr(value, "status", None),
)
def test_a_question_that_fails_leaves_nothing_done(
    platform: str, name: str, call: Call, answer: Reply | Silence, kind: type
) -> None:
    held = _asked(platform, call, lambda step: all_well(platform)(step) if step.changes else answer)
    if isinstance(held.asked[0], Send) and held.asked[0].changes:
        return  # it asks nothing before
    assert isinstance(held.ended, kind)
    assert not held.changes


# --- reading a run


@each_call
def test_a_run_is_read_without_changing_anything(platform: str, name: str, call: Call) -> None:
    held = _looked(platform, call, all_well(platform))
    assert isinstance(held.ended, RunState)
    assert not held.changes
    state = held.ended
    assert (state.outcome, state.successor, state.by) == (Outcome.FAILED, None, "ada")
    assert (state.commit_sha, state.head_sha, state.overtaken) == (SHA, SHA, False)
    assert state.attempt == call.attempt


@each_platform
@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (says(200, b"<html>"), Unavailable),
        (says(204), Refused | Unavailable | RunState),
        (says(301, location="https://elsewhere.example"), Refused(Refusal.MOVED, "HTTP 301")),
        (says(401), Refused(Refusal.LOGIN, "HTTP 401")),
        (says(403), Refused(Refusal.PERMISSION, "HTTP 403")),
        (says(404), Refused(Refusal.NOT_FOUND, "HTTP 404")),
        (says(429, retry_after="7"), Unavailable("HTTP 429", 7.0)),
        (says(500), Unavailable("HTTP 500")),
        (says(503, retry_after="9"), Unavailable("HTTP 503", 9.0)),
        (Silence("no connection", sent=False), Unavailable("no connection")),
        (Silence("no answer in time", sent=True), Unavailable("no answer in time")),
    ],
    ids=lambda value: "silence" if isinstance(value, Silence) else getattr(value, "status", None),
)
def test_a_run_that_cannot_be_read_is_never_ambiguous(platform: str, answer: Reply | Silence, result: Any) -> None:
    ended = _looked(platform, calls(platform)["rerun"], lambda _: answer).ended
    assert ended == result if isinstance(result, (Refused, Unavailable)) else isinstance(ended, result)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@each_platform
@settings(deadline=None)
@given(body=json_values, status=st.sampled_from([200, 201, 202, 302, 403, 404]))
def test_any_answer_ends_a_conversation(platform: str, body: Any, status: int) -> None:
    for call in calls(platform).values():
        talk = PLATFORMS[platform].ask(call)
        if talk is not None:
            ended = hold(talk, lambda _: says(status, body, location="x")).ended
            assert isinstance(ended, Done | Refused | Unavailable | Ambiguous)
        ended = hold(PLATFORMS[platform].look(call), lambda _: says(status, body)).ended
        assert isinstance(ended, RunState | Refused | Unavailable)


names = st.text(max_size=30) | st.sampled_from(
    ["", ".", "..", "a/..", "../../user", "a//b", "a b", "a?b=c", "a#b", "a%2e%2e", "a\\b", "a\r\nx: y", "é", "@host"]
)


@each_platform
@settings(deadline=None)
@given(
    kind=st.sampled_from([Rerun, RerunFailed, RerunJob, Cancel]),
    repository=names | st.lists(names, min_size=1, max_size=4).map("/".join),
    pipeline_id=names | st.just("7"),
    workflow_id=st.none() | names,
    job_id=st.none() | names | st.just("7"),
)
def test_no_name_leads_anywhere_but_to_its_own_run(platform: str, kind: Any, **given_names: Any) -> None:
    call = kind(**{**target(platform), **given_names})
    anything = says(200, {"id": 1, "items": [{"id": given_names["job_id"], "job_number": 1}]})
    for talk in (PLATFORMS[platform].ask(call), PLATFORMS[platform].look(call)):
        for step in hold(talk, lambda _: anything).sent if talk is not None else ():
            parts = urlsplit(step.path)
            assert step.path.isascii()
            assert step.path.isprintable()
            assert not set(step.path) & set(" \\#@")
            assert (parts.scheme, parts.netloc) == ("", "")
            assert not {"", ".", ".."} & {unquote(part) for part in parts.path.split("/")[1:]}


@each_call
def test_a_call_survives_its_json(platform: str, name: str, call: Call) -> None:
    assert from_json(to_json(call)) == call
