"""Secrets do not pass: each rule on its own lines, and what must hold for any text."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors import redaction
from connectors.redaction import MAIL, Redactor, Rule, load_rules, redacting_processor
from models.records.event import Event, EventType, FailureContext, Metadata, Outcome

RULES = load_rules()
KEY = b"a key of the tests, 32 bytes lng"
REDACTOR = Redactor(KEY)
SHA = "8f4d3c2b1a09f8e7d6c5b4a39281706f5e4d3c2b"


def _event(**changes: object) -> Event:
    meta: dict[str, object] = {"instance": "github.com", "outcome": Outcome.FAILED, "commit_sha": SHA}
    return Event(
        id="3f1c2a0e-6c1b-5f0e-9a52-8c3f4a1b7d21",
        timestamp=datetime(2026, 1, 1, tzinfo=UTC),
        platform="github",
        event_type=EventType.FAILED,
        repository="acme/site",
        pipeline_id="12345678901",
        job_id="67890",
        metadata=Metadata(**(meta | changes)),  # type: ignore[arg-type] # fields of the tests' choice
        failure_context=FailureContext(exit_code=1, error_patterns=["exit 1"], excerpt="step failed"),
    )


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_each_rule_takes_out_the_secret_of_its_line_and_leaves_the_rest(rule: Rule) -> None:
    mark = f"[REDACTED:{rule.id}]"
    clean = REDACTOR.redact(rule.example)
    if rule.id == MAIL:
        assert clean.startswith("mail:")
        assert "lovelace" not in clean
    else:
        assert clean == rule.example.replace(rule.secret, mark)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_each_rule_leaves_its_confuser(rule: Rule) -> None:
    assert REDACTOR.redact(rule.confuser) == rule.confuser


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
@pytest.mark.parametrize(
    "frame", ["{}", "a\\n{}\\n", "x\n{}\ny", 'say "{}"', "ünï {} cødé", "a\0{}\0b", "({})", "\x1b[31m{}\x1b[0m"]
)
def test_a_secret_is_found_wherever_it_stands(rule: Rule, frame: str) -> None:
    assert rule.secret not in REDACTOR.redact(frame.format(rule.example))


def test_there_are_at_least_forty_kinds_each_with_its_own_name() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES) >= 40


@pytest.mark.parametrize(
    "text",
    [
        SHA,
        "3f1c2a0e-6c1b-5f0e-9a52-8c3f4a1b7d21",
        "v2.14.0-rc.1+build.7",
        "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "https://github.com/acme/site/actions/runs/12345678901/job/67890?pr=7#step:4:12",
        "npm ERR! 404 Not Found - GET https://npm.example.org/@acme%2fui - left-pad@1.3.0",
        "fatal: Authentication failed for 'https://github.com/acme/site.git/'",
        "remote: Invalid username or token. Password authentication is not supported",
        "SyntaxError: Unexpected token: punctuation",
        "refs/heads/feature/token-refresh",
        "ssh-rsa and ssh-ed25519 host keys differ",
        "Error response from daemon: unauthorized: authentication required",
        "2026-01-02T03:04:05.678Z  12345678:abc [10.0.0.1:5432]",
        "password: ***  token=*** https://x:***@host/",
    ],
)
def test_what_ci_says_every_day_stays(text: str) -> None:
    assert REDACTOR.redact(text) == text


@pytest.mark.parametrize(
    "line",
    [
        'password="hunter two"',
        "password='hunter two'",
        '{"password": "hunter two"}',
        '"{\\"password\\": \\"hunter two\\"}"',
        "PGPASSWORD=hunter",
        "DB_PASSWORD2: hunter",
        "spring.datasource.password=hunter",
        "{'api_key' => 'hunter two'}",
        'API-KEY: "hunter-two"',
        "?token=hunter&x=1",
        "Server=db;User=x;Pwd=hunter;",
        "curl -u ci:hunter https://x",
        "--api-key hunter",
        "client_secret := hunter",
        '{"password": "a\\"hunter"}',
    ],
)
def test_assignments_in_all_their_forms(line: str) -> None:
    assert "hunter" not in REDACTOR.redact(line)


def test_a_mail_address_is_one_pseudonym_under_one_key() -> None:
    mine, other = REDACTOR.redact("Ada@Example.org"), Redactor(b"another key of the tests").redact("ada@example.org")
    assert mine == REDACTOR.redact("ada@example.org") != other
    assert REDACTOR.redact("by <ada@example.org>, ada%40example.org").startswith(f"by <{mine}>")


def test_a_key_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 16"):
        Redactor(b"short")


def test_a_forged_mark_hides_nothing() -> None:
    secret = next(rule for rule in RULES if rule.id == "github-token").secret
    assert secret not in REDACTOR.redact(f"[REDACTED:{secret}] [REDACTED:github-token:{secret}]")
    assert "hunter2" not in REDACTOR.redact("password=[REDACTED:github-token]hunter2")


def test_overlapping_secrets_leave_no_piece_behind() -> None:
    by_id = {rule.id: rule.secret for rule in RULES}
    text = f"token={by_id['github-token']}/{by_id['gitlab-token']}@{by_id['mail']}"
    clean = REDACTOR.redact(text)
    assert not any(secret in clean for secret in by_id.values())


@pytest.mark.parametrize("before", ["token: ", "secret: token: ", "api_key:  credential: a: "])
def test_a_key_that_stands_where_a_value_should_hides_none(before: str) -> None:
    secret = "x7Zk3v" + "Q9mN2p"
    assert secret not in REDACTOR.redact(f"{before}client_secret: {secret}")


_FRAGMENTS = st.sampled_from(
    [
        *("[REDACTED:", "github-token]", "mail:", "0123456789ab", "password=", '"', "\\", "'", "@", "://", ":", "***"),
        *("token: ", "Bearer ", "-----BEGIN ", "--", "\n", " ", "}", "sig=", "é", "\ud800", ".", "_", "\0"),
    ]
)
_LINES = st.sampled_from([text for rule in RULES for text in (rule.example, rule.confuser)])
_PIECES = st.one_of(_LINES, _FRAGMENTS, st.text(max_size=8))
_AROUND = st.lists(_FRAGMENTS, max_size=6).map("".join)


@settings(max_examples=400, deadline=None)
@given(st.lists(_PIECES, max_size=12).map("".join))
def test_redacting_twice_is_redacting_once(text: str) -> None:
    once = REDACTOR.redact(text)
    assert REDACTOR.redact(once) == once


@settings(max_examples=300, deadline=None)
@given(_AROUND, st.sampled_from(RULES), _AROUND)
def test_no_neighbourhood_lets_a_secret_pass_whole(before: str, rule: Rule, after: str) -> None:
    assert rule.secret not in REDACTOR.redact(f"{before} {rule.example} {after}")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), max_size=6), st.integers(0, 40), st.integers(1, 40))
def test_a_place_is_widened_by_the_marks_it_touches_and_lost_within_one(
    gaps: list[tuple[int, int]], start: int, size: int
) -> None:
    marks, at, end = [], 0, start + size
    for gap, length in gaps:
        marks.append((at + gap, at + gap + length))
        at += gap + length
    touched = [mark for mark in marks if mark[0] < end and start < mark[1]]
    within = any(first <= start and end <= last for first, last in touched)
    widened = min([start, *(first for first, _ in touched)]), max([end, *(last for _, last in touched)])
    assert redaction._Marks(marks).around(start, end) == (None if within else widened)


def test_a_text_that_is_nothing_but_secrets_is_redacted_in_time_that_grows_with_it() -> None:
    line = "password=" + "hunter2 by ada@example.org\n"
    clean = REDACTOR.redact(line * 20_000)  # half a megabyte; it took a minute while each place looked at each mark
    assert clean == REDACTOR.redact(line) * 20_000


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_survived(data: bytes) -> None:
    assert REDACTOR.redact_bytes(REDACTOR.redact_bytes(data)) == REDACTOR.redact_bytes(data)


def test_an_event_without_secrets_is_the_same_object() -> None:
    event = _event(branch="main", author="ada", url="https://github.com/acme/site/actions/runs/1")
    assert REDACTOR.redact_event(event) is event


def test_an_event_keeps_its_ids_and_loses_its_secrets_in_every_text() -> None:
    secret = next(rule for rule in RULES if rule.id == "github-token").secret
    texts = dict.fromkeys(
        [
            *("branch", "author", "logs_url", "artifacts_url", "url", "workflow", "job_name", "stage", "step"),
            *("runner", "trigger", "environment", "vendor_status", "workflow_id", "instance"),
        ],
        f"x {secret}",
    )
    event = _event(**texts, runner_labels=["linux", secret])
    assert event.failure_context is not None
    clean = REDACTOR.redact_event(event)
    assert secret not in repr(clean)
    assert (clean.id, clean.metadata.commit_sha, clean.job_id) == (event.id, SHA, event.job_id)
    assert clean.metadata.runner_labels == ["linux", "[REDACTED:github-token]"]


def test_every_text_of_a_failure_is_covered() -> None:
    secret = next(rule for rule in RULES if rule.id == "slack-token").secret
    event = _event()
    failing = FailureContext(error_patterns=[secret], reason=secret, excerpt=f"a\n{secret}\nb")
    clean = REDACTOR.redact_event(
        Event(**{name: getattr(event, name) for name in event.__struct_fields__[:-1]}, failure_context=failing)
    )
    assert secret not in repr(clean)


def test_values_under_the_name_of_a_secret_go_whole_and_other_values_by_their_text() -> None:
    found: Counter[str] = Counter()
    redactor = Redactor(KEY, found=lambda rule: found.update([rule]))
    clean = redactor.redact_value(
        {"db_password": "hunter two", "n": 1, "list": ["ada@example.org", None, True], "raw": b"\xffok", "at": 1.5}
    )
    assert clean["db_password"] == "[REDACTED:assigned-secret]"
    assert clean["list"][1:] == [None, True]
    assert clean["raw"].endswith("ok")
    assert found == {"assigned-secret": 1, "mail": 1}
    assert redactor.redact_value(clean) == clean


def test_the_structlog_processor_redacts_every_value() -> None:
    secret = next(rule for rule in RULES if rule.id == "gitlab-token").secret
    process = redacting_processor(REDACTOR)
    clean = process(None, "info", {"event": f"a {secret}", "token": "hunter", "exception": f"x\n{secret}", "n": 1})
    assert clean == {
        "event": "a [REDACTED:gitlab-token]",
        "token": "[REDACTED:assigned-secret]",
        "exception": "x\n[REDACTED:gitlab-token]",
        "n": 1,
    }
