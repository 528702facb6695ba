"""A recorded delivery becomes JSON lines, or says why not, without any server."""

from __future__ import annotations

import json

from flows.normalise import Answer, normalise
from models.records.payload import from_json
from tests.connectors.platforms.cases import BY_NAME, INSTANCE, RECEIVED_AT, normalised


def _answer(platform: str, name: str) -> Answer:
    case = BY_NAME[platform, name]
    body = json.dumps(case.body).encode()
    return normalise(case.platform, INSTANCE, case.headers, body, received_at=RECEIVED_AT)  # type: ignore[arg-type] # a name of PLATFORMS


def test_a_delivery_becomes_its_events_one_a_line() -> None:
    answer = _answer("circleci", "job.failed")
    assert [from_json(line) for line in answer.lines] == normalised(BY_NAME["circleci", "job.failed"]).events
    assert all(b"\n" not in line for line in answer.lines)
    assert (answer.reason, answer.rejected) == (None, False)


def test_headers_are_found_in_any_case() -> None:
    case = BY_NAME["github", "workflow_run.passed"]
    body = json.dumps(case.body).encode()
    shouted = {name.upper(): value for name, value in case.headers.items()}
    assert normalise("github", INSTANCE, shouted, body) == normalise("github", INSTANCE, case.headers, body)


def test_an_ignored_delivery_says_why() -> None:
    answer = _answer("github", "ping")
    assert answer == Answer(reason="ignored: a ping: GitHub says that the webhook is set up")


def test_a_malformed_delivery_says_what_is_wrong() -> None:
    answer = _answer("gitlab", "custom_template")
    assert answer.rejected
    assert answer.reason == "rejected: object_kind: missing; a custom webhook template cannot be read"
    assert not answer.lines
