"""Every platform keeps the contract of connectors/platforms/platform.py; one suite over all of them."""

from __future__ import annotations

import copy
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Any, get_args
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.platforms import PLATFORMS
from connectors.platforms.asking import Denied, Ending, Found, Get, JobRun, NotThere, Pause, Reply, Step, TryLater
from connectors.platforms.platform import Credential, Request, Secret
from models.records.columns import decode
from models.records.entry import Encoding, Entry, Kind, encode
from models.records.errors import BadSignature, MalformedPayload
from models.records.event import FAILING, OPEN, Event, EventType, PlatformName
from models.records.payload import from_json, to_json
from models.records.raw import RawEntry
from tests.connectors.platforms.cases import (
    CASES,
    INSTANCE,
    PROOFS,
    RECEIVED_AT,
    Case,
    Proof,
    delivery,
    normalised,
    told,
)
from tests.connectors.platforms.logs import AT, JOBS, TEXT, all_well, reply, talk

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.platform}/{case.name}")
each_proof = pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: f"{proof.platform}/{proof.kind}")
each_platform = pytest.mark.parametrize("platform", sorted(PLATFORMS))

JUNK: list[Any] = [
    None,
    True,
    7,
    -1,
    2**40,
    1.5,
    "",
    "x",
    "\x00",
    "\ud800",
    "é" * 600,
    [],
    [None],
    [{}],
    {},
    {"id": []},
]


def _columns_of(events: list[Event]) -> Any:
    entries = []
    for position, event in enumerate(events, 1):
        field, value = encode(Entry(Kind.EVENT, Encoding.JSON, 0, to_json(event)))
        entries.append(RawEntry(position, 0, position, (field, value)))
    return decode(entries)


def test_the_platforms_are_those_of_the_event_schema() -> None:
    assert set(PLATFORMS) == set(get_args(PlatformName))
    assert all(name == platform.name for name, platform in PLATFORMS.items())


@each_platform
def test_a_platform_has_deliveries_and_proofs_in_this_suite(platform: str) -> None:
    assert {case.platform for case in CASES} >= {platform}
    assert {proof.kind for proof in PROOFS if proof.platform == platform} == PLATFORMS[platform].secret_kinds
    assert "application/json" in PLATFORMS[platform].content_types


@each_case
def test_a_delivery_becomes_what_its_golden_says(case: Case) -> None:
    if os.environ.get("GUARD_BLESS"):
        case.golden.write_text(json.dumps(told(case), indent=1, ensure_ascii=False) + "\n")
    assert told(case) == json.loads(case.golden.read_text())


def test_no_golden_stands_without_its_delivery() -> None:
    goldens = {path for case in CASES for path in case.golden.parent.glob("*.golden.json")}
    assert goldens <= {case.golden for case in CASES}


@each_case
def test_a_redelivery_gives_the_same_event_ids(case: Case) -> None:
    again = replace(case.request(), received_at=RECEIVED_AT + 3600)
    again = replace(again, headers={**again.headers, "x-github-delivery": "other", "idempotency-key": "other"})
    try:
        first, second = normalised(case), PLATFORMS[case.platform].events(again, INSTANCE)
    except MalformedPayload:
        return
    assert [event.id for event in first.events] == [event.id for event in second.events]
    assert len({event.id for event in first.events}) == len(first.events)


@each_case
def test_another_instance_gives_other_ids(case: Case) -> None:
    try:
        here, there = normalised(case), PLATFORMS[case.platform].events(case.request(), "there")
    except MalformedPayload:
        return
    assert not {event.id for event in here.events} & {event.id for event in there.events}


@each_case
def test_events_keep_the_event_schema(case: Case) -> None:
    try:
        result = normalised(case)
    except MalformedPayload:
        return
    assert bool(result.events) is (result.ignored is None)
    for event in result.events:
        assert event.platform == case.platform
        assert event.metadata.instance == INSTANCE
        assert uuid.UUID(event.id).version == 5
        assert event.timestamp.tzinfo is UTC
        assert from_json(to_json(event)) == event
        outcome = event.metadata.outcome
        assert (event.event_type is EventType.FAILED) is (outcome in FAILING)
        assert outcome not in OPEN or event.event_type is EventType.STARTED
        assert (event.failure_context is not None) is (outcome in FAILING)
    columns = _columns_of(list(result.events))
    assert columns.events.num_rows == len(result.events)
    assert not columns.marks


def test_a_mail_address_passes_only_where_there_is_no_name() -> None:
    with_address = [case.name for case in CASES if "@example.org" in json.dumps(told(case))]
    assert with_address == ["job.passed_without_a_name"]


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from _paths(inner, (*path, key))


def _at(body: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        body = body[key]
    return body


def _survives(case: Case, body: Any) -> list[Event]:
    """The events of a spoiled delivery; anything but events, a reason or MalformedPayload fails the test."""
    try:
        result = normalised(case, body)
    except MalformedPayload:
        return []
    assert bool(result.events) is (result.ignored is None)
    return list(result.events)


@each_case
def test_each_field_removed_in_turn_is_survived(case: Case) -> None:
    events: list[Event] = []
    for path in _paths(case.body):
        body = copy.deepcopy(case.body)
        del _at(body, path[:-1])[path[-1]]
        events += _survives(case, body)
    assert not _columns_of(events).marks


@each_case
def test_each_field_of_a_wrong_kind_is_survived(case: Case) -> None:
    events: list[Event] = []
    text = json.dumps(case.body)
    for path in _paths(case.body):
        for junk in JUNK:
            body = json.loads(text)
            _at(body, path[:-1])[path[-1]] = junk
            events += _survives(case, body)
    assert not _columns_of(events).marks


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@each_platform
@settings(deadline=None)  # how long an example takes is the machine's affair
@given(
    json_values, st.sampled_from(["workflow_run", "workflow_job", "check_run", "check_suite", "org.jenkinsci.job.x"])
)
def test_any_json_is_events_a_reason_or_malformed(platform: str, body: Any, kind: str) -> None:
    wrapped = {
        kind: body,
        "build": body,
        "workflow": body,
        "job": body,
        "object_kind": "build",
        "type": "job-completed",
    }
    for value in (body, wrapped):
        _survives(Case(platform, "any", {"X-GitHub-Event": kind, "ce-type": kind}, value, Path()), value)


@each_platform
@settings(deadline=None)  # how long an example takes is the machine's affair
@given(st.binary(max_size=200), st.sampled_from(["application/json", "application/x-www-form-urlencoded"]))
def test_any_bytes_are_events_a_reason_or_malformed(platform: str, body: bytes, content_type: str) -> None:
    request = Request({"x-github-event": "workflow_run", "content-type": content_type}, body, RECEIVED_AT)
    with pytest.raises(MalformedPayload):
        PLATFORMS[platform].events(request, INSTANCE)


@each_platform
@pytest.mark.parametrize(
    "body",
    [b'{"a": 1, "a": 2}', b'{"a": 9007199254740993}', b'{"a": NaN}', b'{"a": 1e999}', b"[" * 100_000, b"[1]", b""],
    ids=["duplicate key", "beyond 2^53", "NaN", "too large", "too deep", "no object", "nothing"],
)
def test_json_that_readers_would_take_differently_is_malformed(platform: str, body: bytes) -> None:
    request = Request({"x-github-event": "workflow_run"}, body, RECEIVED_AT)
    with pytest.raises(MalformedPayload):
        PLATFORMS[platform].events(request, INSTANCE)


def _unsigned(proof: Proof) -> Request:
    return delivery({"Content-Type": "application/json"}, {"platform": proof.platform, "text": "é"})


def _verify(proof: Proof, request: Request, secrets: list[Secret] | None = None) -> int:
    return PLATFORMS[proof.platform].verify(request, proof.secrets() if secrets is None else secrets)


@each_proof
def test_each_of_two_active_secrets_proves_and_is_named(proof: Proof) -> None:
    for index, value in enumerate(proof.values):
        assert _verify(proof, proof.sign(_unsigned(proof), value)) == index
    stranger = Secret("path" if proof.kind != "path" else "basic", "other")
    assert _verify(proof, proof.sign(_unsigned(proof), proof.values[0]), [stranger, *proof.secrets()]) == 1


@each_proof
def test_a_missing_proof_is_refused(proof: Proof) -> None:
    with pytest.raises(BadSignature):
        _verify(proof, _unsigned(proof))


@each_proof
def test_a_proof_without_a_secret_is_refused(proof: Proof) -> None:
    with pytest.raises(BadSignature):
        _verify(proof, proof.sign(_unsigned(proof), proof.values[0]), [])


@each_proof
def test_an_empty_secret_proves_nothing(proof: Proof) -> None:
    empty = "whsec_" if proof.kind == "signing_token" else ""
    for value in (empty, ""):
        with pytest.raises(BadSignature):
            _verify(proof, proof.sign(_unsigned(proof), empty), [Secret(proof.kind, value)])


@each_proof
def test_a_secret_of_another_kind_proves_nothing(proof: Proof) -> None:
    other: Any = "basic" if proof.kind != "basic" else "path"
    with pytest.raises(BadSignature):
        _verify(proof, proof.sign(_unsigned(proof), proof.values[0]), [Secret(other, proof.values[0])])


@each_proof
def test_a_proof_by_a_secret_that_is_not_configured_is_refused(proof: Proof) -> None:
    wrong = proof.sign(_unsigned(proof), proof.values[0])
    with pytest.raises(BadSignature):
        _verify(proof, wrong, proof.secrets()[1:])


@each_proof
def test_a_spoiled_proof_is_refused(proof: Proof) -> None:
    right = proof.sign(_unsigned(proof), proof.values[0])
    value = right.path_secret if proof.header is None else right.headers[proof.header]
    assert value is not None
    for spoiled in (value[:-1], value + "0", value.upper(), value[1:], "", "é" * len(value), "\udce9", value[:8]):
        if proof.header is None:
            request = replace(right, path_secret=spoiled)
        else:
            request = replace(right, headers={**right.headers, proof.header: spoiled})
        with pytest.raises(BadSignature):
            _verify(proof, request)


@each_proof
def test_a_signature_covers_the_raw_body(proof: Proof) -> None:
    right = proof.sign(_unsigned(proof), proof.values[0])
    altered = replace(right, body=right.body + b" ")
    if not proof.covers_body:
        assert _verify(proof, altered) == 0
        return
    with pytest.raises(BadSignature):
        _verify(proof, altered)


# --- logs


@each_platform
def test_a_platform_says_where_its_api_is_and_what_opens_it(platform: str) -> None:
    file = PLATFORMS[platform]
    assert file.api is None or (urlsplit(file.api).scheme == "https" and not file.api.endswith("/"))
    assert file.logins
    assert all(host == urlsplit(f"//{host}").hostname for host in file.log_hosts)
    for kind in file.logins:
        credential = Credential(kind, "user:canary" if kind == "basic" else "canary")
        headers = file.login(credential)
        assert headers
        assert all(name == name.lower() for name in {**headers, **file.api_headers})
        assert "canary" not in repr(credential)


@each_platform
def test_a_log_that_is_there_is_found_by_ids_alone(platform: str) -> None:
    said = talk(platform, all_well)
    assert isinstance(said.ending, Found)
    assert said.text == TEXT
    assert said.paths[0].startswith("/")
    assert all(step.elsewhere == "" or step.path == "" for step in said.asked if isinstance(step, Get))


@each_platform
def test_a_log_without_a_word_is_not_there(platform: str) -> None:
    def nothing(step: Step) -> Reply:
        if isinstance(step, Get) and step.text is not None:
            return reply(200, b"[]" if step.elsewhere else b"", x_text_size="0")
        return all_well(step)

    assert isinstance(talk(platform, nothing).ending, NotThere)


@each_platform
@pytest.mark.parametrize(
    ("answer", "ending"),
    [
        (reply(401), Denied("HTTP 401", login=True)),
        (reply(403), Denied("HTTP 403")),
        (reply(302), Denied("HTTP 302")),
        (reply(418), Denied("HTTP 418")),
        (reply(404), NotThere("HTTP 404")),
        (reply(410), NotThere("HTTP 410")),
        (reply(429, retry_after="7"), TryLater("HTTP 429", 7.0)),
        (reply(403, retry_after="60"), TryLater("HTTP 403", 60.0)),
        (reply(429, retry_after="Wed, 01 Apr 2026 10:41:00 GMT"), TryLater("HTTP 429", 60.0)),
        (reply(429), TryLater("HTTP 429")),
        (reply(408), TryLater("HTTP 408")),
        *((reply(status), TryLater(f"HTTP {status}")) for status in (500, 502, 503, 504, 599)),
    ],
    ids=lambda value: f"{value.status}" if isinstance(value, Reply) else type(value).__name__,
)
def test_every_status_ends_a_conversation_in_the_same_way(platform: str, answer: Reply, ending: Ending) -> None:
    said = talk(platform, lambda _: answer)
    assert said.ending == ending
    assert len(said.asked) <= 2


names = st.text(max_size=30) | st.sampled_from(
    [
        "",
        ".",
        "..",
        "a/..",
        "../../user",
        "a//b",
        "a b",
        "a?b=c",
        "a#b",
        "a%2e%2e",
        "a\\b",
        "a\r\nx: y",
        "é",
        "@host",
        ":80",
    ]
)


@each_platform
@settings(deadline=None)
@given(
    repository=names | st.lists(names, min_size=1, max_size=4).map("/".join),
    pipeline_id=names | st.just("7"),
    job_id=st.none() | names | st.just("7"),
    attempt=st.integers(1, 99),
    job_number=st.none() | st.integers(-(10**20), 10**20),
    job_name=st.none() | names,
)
def test_no_name_leads_anywhere_but_to_its_own_log(platform: str, **given_names: Any) -> None:
    job = JobRun(**given_names)
    usual = {path.count("/") - JOBS[platform].repository.count("/") for path in talk(platform, all_well).paths if path}
    try:
        said = talk(platform, all_well, job)
    except MalformedPayload:
        return
    for path in filter(None, said.paths):
        parts = urlsplit(path)
        assert path.isascii()
        assert path.isprintable()
        assert not set(path) & set(" \\#@")
        assert (parts.scheme, parts.netloc) == ("", "")
        assert parts.query in ("", "start=0")
        steps = parts.path.split("/")[1:]
        assert not {"", ".", ".."} & {unquote(step) for step in steps}
        if platform in ("github", "circleci"):
            assert path.count("/") - job.repository.count("/") in usual


replies = st.builds(
    Reply,
    status=st.sampled_from([200, 200, 200, 204, 302, 401, 403, 404, 410, 429, 500]),
    headers=st.dictionaries(
        st.sampled_from(["retry-after", "x-text-size", "x-more-data", "x-ratelimit-remaining", "x-ratelimit-reset"]),
        st.text(max_size=25) | st.sampled_from(["true", "0", "1", "99999999999999999999", "-1", "Wed, 99 Foo"]),
    ),
    at=st.just(AT),
    redirected=st.booleans(),
    body=st.binary(max_size=40)
    | json_values.map(lambda value: json.dumps(value).encode())
    | json_values.map(lambda value: json.dumps({"steps": [{"actions": [value, {"output_url": "x"}]}]}).encode()),
)


@each_platform
@settings(deadline=None)
@given(st.lists(replies, min_size=1, max_size=8))
def test_whatever_is_answered_a_conversation_ends(platform: str, answers: list[Reply]) -> None:
    left = iter(answers * 20)
    try:
        said = talk(platform, lambda step: next(left) if isinstance(step, Get) else Reply(0, {}))
    except MalformedPayload:
        return
    assert isinstance(said.ending, Found | NotThere | Denied | TryLater)
    if isinstance(said.ending, TryLater) and said.ending.retry_after is not None:
        assert 0 <= said.ending.retry_after <= 24 * 3600
    assert sum(step.seconds for step in said.asked if isinstance(step, Pause)) < 10
