"""What a log shows changes how a failure is understood, and what is decided about its run attempt."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from analytics import rulebook as rulebooks
from analytics.signatures.catalogue import read
from models.records.entry import Encoding, Entry, Kind
from models.records.event import Event, Outcome
from models.records.evidence import Reading
from models.records.outputs import ShardOutput
from models.scorers.rerun_passes import RerunPasses
from tests.analytics.log import MINUTE, T0, Log, fresh, one_by_one, play, resolver
from tests.events import make_event

SIGNATURES = read(
    "own.toml",
    """
[reset_by_peer]
category = "network"
cause = "The other side closed the connection."
fix = "Run it again."
transient = true
text = ["reset by peer from (?P<host>[a-z.]+)"]
matches = ["read: reset by peer from registry.example"]
confusers = ["peers"]

[wont_compile]
category = "build"
cause = "The code does not compile."
fix = "Mend it."
hard_stop = true
text = ["error: expected ';'"]
matches = ["a.c:3: error: expected ';'"]
confusers = ["error"]

[killed]
category = "resources"
cause = "It was killed."
fix = "Give it more memory."
priority = 99
transient = true
facts = ["[a-z]+ exit_code 137"]
matches = ["github exit_code 137"]
confusers = ["github exit_code 1"]
""",
)
WEIGHTS = {"signature=reset_by_peer": 3.0, "signature=killed": 3.0}
RULEBOOK = rulebooks.compose(
    policy={"await_log_seconds": 10},
    signatures=SIGNATURES,
    scorer=RerunPasses(intercept=0.0, weights=WEIGHTS).to_artefact(),
)
RESOLVE = resolver(RULEBOOK)
JOB: dict[str, Any] = {"rerun_after": "job"}  # the platform takes a rerun at once
RESET = [(7, "read: reset by peer from registry.example")]


def _play(log: Log, **given: Any) -> ShardOutput:
    return play(log.entries, fresh(RULEBOOK, RESOLVE), resolve=RESOLVE, **given)[0]


def _decided(said: ShardOutput) -> list[tuple[int, str, str]]:
    return [(row.revision, row.verdict, row.reason) for row in said.decisions]


def _failed(log: Log, **given: Any) -> Event:
    return log.say(Outcome.FAILED, T0, **{**JOB, **given})


def test_a_failure_waits_for_its_log_and_is_decided_on_by_it() -> None:
    log = Log()
    failed = _failed(log)
    log.evidence(failed, T0 + 2000, lines=RESET, log_lines=9, exit_code=1, template="read: reset by peer from <*>")
    said = _play(log)
    assert _decided(said) == [(0, "wait", "awaiting_log"), (1, "act", "transient_cause")]
    (row,) = said.diagnoses
    assert (row.failure_id, row.case_id) == (failed.id, said.failures[0].case_id)
    assert (row.reading, row.diagnosis, row.signature, row.category) == ("read", "matched", "reset_by_peer", "network")
    assert (row.line, row.matched, row.seen_passing) == (7, RESET[0][1], False)
    assert msgspec.json.decode(row.captures) == {"host": "registry.example"}
    assert msgspec.json.decode(row.lines) == [[7, RESET[0][1], True]]
    assert row.score == said.decisions[1].score == pytest.approx(0.952574)
    assert (row.received_ms, row.at_ms) == (T0 + 2000, T0 + 2000)
    assert row.template == "read: reset by peer from <*>"


def test_a_hard_stop_in_the_log_forbids_what_the_webhook_would_have_allowed() -> None:
    log = Log()
    failed = _failed(log, exit_code=137)
    log.evidence(failed, T0 + 1, lines=[(3, "a.c:3: error: expected ';'"), *RESET])
    assert _decided(_play(log)) == [(0, "wait", "awaiting_log"), (1, "skip", "hard_stop")]


def test_after_ten_seconds_of_stream_time_it_is_decided_without_the_log_and_once_more_when_it_comes() -> None:
    log = Log()
    failed = _failed(log)
    log.heartbeats(T0 + 1000, T0 + 10_000, 1000)
    log.heartbeats(T0 + 11_000, T0 + 60_000, 1000)
    log.evidence(failed, T0 + 61_000, lines=RESET)
    said = _play(log)
    assert _decided(said) == [
        (0, "wait", "awaiting_log"),
        (1, "skip", "unknown_cause"),
        (2, "act", "transient_cause"),
    ]
    assert said.decisions[1].at_ms == T0 + 10_000
    assert len(said.diagnoses) == 1


@pytest.mark.parametrize(
    ("reading", "diagnosis"), [(Reading.NO_LOG, "no_log"), (Reading.NOT_READ, "not_read"), (Reading.READ, "no_pattern")]
)
def test_a_log_that_shows_nothing_says_which_nothing_it_is(reading: Reading, diagnosis: str) -> None:
    log = Log()
    failed = _failed(log)
    log.evidence(failed, T0 + 1, reading=reading, why="HTTP 404")
    said = _play(log)
    assert [(row.diagnosis, row.why, row.signature) for row in said.diagnoses] == [(diagnosis, "HTTP 404", None)]
    assert _decided(said)[-1] == (1, "skip", "unknown_cause")


def test_what_the_webhook_said_stands_where_the_log_cannot_be_read() -> None:
    log = Log()
    failed = _failed(log, exit_code=137)
    log.evidence(failed, T0 + 1, reading=Reading.NOT_READ, why="HTTP 403")
    said = _play(log)
    assert [(row.diagnosis, row.signature) for row in said.diagnoses] == [("matched", "killed")]
    assert _decided(said)[-1] == (1, "act", "transient_cause")


def test_an_exit_code_that_only_the_log_shows_is_a_fact() -> None:
    log = Log()
    log.evidence(_failed(log), T0 + 1, exit_code=137)
    assert [(row.signature, row.line) for row in _play(log).diagnoses] == [("killed", None)]


def test_a_line_that_the_passing_log_has_too_explains_nothing() -> None:
    log = Log()
    failed = _failed(log)
    log.evidence(failed, T0 + 1, compared=True, lines=[(7, RESET[0][1], False), (9, "other", True)])
    said = _play(log)
    assert [(row.diagnosis, row.signature, row.line, row.seen_passing, row.discarded) for row in said.diagnoses] == [
        ("no_pattern", None, 7, True, "reset_by_peer")
    ]
    assert _decided(said)[-1] == (1, "skip", "unknown_cause")


def test_of_two_lines_the_one_counts_that_the_passing_log_lacks() -> None:
    log = Log()
    failed = _failed(log)
    log.evidence(
        failed, T0 + 1, compared=True, lines=[(3, "a.c:3: error: expected ';'", False), (7, RESET[0][1], True)]
    )
    assert [(row.signature, row.line) for row in _play(log).diagnoses] == [("reset_by_peer", 7)]


def test_where_run_and_job_are_one_its_log_is_waited_for_too() -> None:
    log = Log()
    failed = _failed(log, platform="jenkins", job_id=None, job_name="build")
    log.evidence(failed, T0 + 1, lines=RESET)
    said = _play(log)
    assert [row.signature for row in said.diagnoses] == ["reset_by_peer"]
    assert [reason for _, _, reason in _decided(said)] == ["awaiting_log", "transient_cause"]


@pytest.mark.parametrize(("days", "signature"), [(-1, None), (0, "reset_by_peer")])
def test_a_signature_counts_on_the_days_for_which_it_is_valid(days: int, signature: str | None) -> None:
    until = datetime.fromtimestamp(T0 / 1000, UTC).date() + timedelta(days=days)
    short_lived = msgspec.structs.replace(SIGNATURES[0], valid_until=until)
    rulebook = rulebooks.compose(policy={"await_log_seconds": 10}, signatures=(short_lived,))
    log = Log()
    log.evidence(_failed(log), T0 + 1, lines=[(7, "zq reset by peer from registry.example")])
    said, _ = play(log.entries, fresh(rulebook, resolver(rulebook)), resolve=resolver(rulebook))
    assert [row.signature for row in said.diagnoses] == [signature]


def test_a_second_reading_changes_nothing() -> None:
    log = Log()
    failed = _failed(log)
    log.evidence(failed, T0 + 1, lines=RESET)
    once = _play(log)
    log.evidence(failed, T0 + 2, reading=Reading.NOT_READ, why="HTTP 500")
    assert _play(log) == once._replace(stats=_play(log).stats)


def test_evidence_of_a_case_that_is_gone_is_kept_and_decides_nothing() -> None:
    log = Log()
    event = make_event(Outcome.FAILED, T0, **JOB)
    log.evidence(event, T0 + 90 * MINUTE, lines=RESET)
    said = _play(log)
    assert [(row.failure_id, row.signature, row.score) for row in said.diagnoses] == [(event.id, "reset_by_peer", None)]
    assert said.decisions == []


def test_a_run_without_a_job_has_no_log_to_wait_for() -> None:
    log = Log()
    log.say(Outcome.FAILED, T0, job_id=None, job_name=None)
    assert _decided(_play(log)) == [(0, "skip", "unknown_cause")]


def test_each_job_of_a_run_is_waited_for() -> None:
    log = Log()
    first = _failed(log, job_id="1")
    second = _failed(log, job_id="2")
    log.evidence(first, T0 + 1, lines=RESET)
    log.evidence(second, T0 + 2, lines=RESET)
    assert [reason for _, _, reason in _decided(_play(log))] == ["awaiting_log"] * 2 + ["transient_cause"]


def test_entries_one_by_one_and_restored_between_say_the_same() -> None:
    log = Log()
    failed = _failed(log)
    log.heartbeats(T0 + 1000, T0 + 30_000, 1000)
    log.evidence(failed, T0 + 31_000, lines=RESET, exit_code=1)
    apart = _play(log, sizes=one_by_one(), restores=lambda: True)
    assert apart._replace(stats=None) == _play(log)._replace(stats=None)  # type: ignore[arg-type]  # what is counted differs


EVIDENCE: dict[str, Any] = {
    "event_id": "5f0c2a0e-6c1b-5f0e-9a52-8c3f4a1b7d21",
    "instance": "i",
    "repository": "r",
    "pipeline_id": "1",
    "job_id": "1",
    "attempt": 1,
    "reading": "read",
}


def test_the_least_that_evidence_must_say() -> None:
    log = Log()
    log.put(Entry(Kind.EVIDENCE, Encoding.JSON, T0, msgspec.json.encode(EVIDENCE)))
    assert len(_play(log).diagnoses) == 1


@pytest.mark.parametrize(
    "payload",
    [
        b"{}",
        b"nonsense",
        *(
            msgspec.json.encode(EVIDENCE | wrong)
            for wrong in (
                {"event_id": "no uuid"},
                {"log_lines": -1},
                {"log_bytes": 2**60},
                {"exit_code": 2**60},
                {"lines": [[1, "a\0b", True]]},
                {"lines": [[-1, "a", True]]},
                {"reading": "guessed"},
            )
        ),
    ],
)
def test_evidence_that_cannot_be_stored_is_a_dead_letter(payload: bytes) -> None:
    log = Log()
    log.put(Entry(Kind.EVIDENCE, Encoding.JSON, T0, payload))
    said = _play(log)
    assert [letter.reason for letter in said.dead_letters] == ["malformed_payload"]
    assert said.diagnoses == []
