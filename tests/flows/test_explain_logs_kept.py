"""guard explain on ids: what the log of a failure said, as it was read once, beside what was decided."""

from __future__ import annotations

import json
from typing import Any

import pytest

from analytics import rulebook as rulebooks
from analytics.logs.mask import mask
from analytics.rulebook import Rulebook
from analytics.signatures.catalogue import read
from connectors.postgres import Progress, connect, put_rulebook
from models.records.event import Event, Outcome
from models.records.evidence import Reading
from models.records.outputs import ShardOutput
from tests.analytics.log import T0, Log, fresh, play, resolver
from tests.connectors.outputs import diagnosis, failure, progress
from tests.events import make_event
from tests.flows.conftest import Guard, write

OWN = read(
    "own.toml",
    """
[refused]
category = "network"
transient = true
priority = 95
cause = "Nobody listens there."
fix = "Start it."
owner = "platform"
text = ["refused by (?P<host>[a-z.]+)"]
matches = ["refused by a.example"]
confusers = ["refused"]

[out_of_quota]
category = "policy"
hard_stop = true
cause = "The quota is used up."
fix = "Buy more."
text = ["allotment is spent"]
matches = ["the allotment is spent"]
confusers = ["spent"]
""",
)
RULEBOOK = rulebooks.compose(signatures=OWN)
REFUSED, QUOTA, UNKNOWN = "refused by registry.example", "the allotment is spent", "flux capacitor 17 is not charged"


def judged(database: str, *, job_id: str | None = None, rulebook: Rulebook = RULEBOOK, **shown: Any) -> Event:
    """One failed job whose log showed that; what the shard says of it stands in PostgreSQL, its rulebook too."""
    log = Log()
    given = {} if job_id is None else {"job_id": job_id}
    failed = log.event(make_event(Outcome.FAILED, T0, **given))
    log.evidence(failed, T0 + 1000, **shown)
    said, _ = play(log.entries, fresh(rulebook), resolve=resolver(rulebook))
    with connect(database) as connection:
        put_rulebook(connection, rulebook.digest, rulebook.body, created_by="somebody")
    write(database, [(3, said, Progress("1-1", 2, T0, rulebook.digest))])
    return failed


def log_of(guard: Guard, about: str) -> dict[str, Any]:
    """What is told of the log of the one failure behind an id."""
    (row,) = guard("explain", "--json", about).json()["failures"]
    known: dict[str, Any] = row["log"]
    return known


def test_the_line_that_the_log_showed_is_told_with_what_else_matched(
    guard: Guard, servers: None, database: str
) -> None:
    lines = [(4711, "before"), (4712, REFUSED), (9000, QUOTA), (9001, "after")]
    failed = judged(database, lines=lines, exit_code=7, log_lines=9001)
    log = log_of(guard, failed.id)
    assert (log["reading"], log["diagnosis"], log["signature"], log["line"]) == (
        "read",
        "matched",
        "out_of_quota",
        9000,
    )
    assert (log["hard_stop"], log["fix"], log["exit_code"], log["log_lines"]) == (True, "Buy more.", 7, 9001)
    assert [(line["number"], line["text"]) for line in log["excerpt"]] == lines
    assert [(it["signature"], it["line"], it["why"]) for it in log["others"]] == [
        ("refused", 4712, "a hard stop outranks it")
    ]
    assert 0 < log["confidence"] < 1
    text = guard("explain", failed.id).out
    for part in (
        f"log of failure {failed.id}",
        "line 9000: the allotment is spent",
        "never: a hard stop",
        "Buy more.",
        "4711",
    ):
        assert part in text
    assert f"> 9000 {QUOTA}" in text


def test_what_the_passing_log_has_too_is_told(guard: Guard, servers: None, database: str) -> None:
    failed = judged(database, lines=[(1, REFUSED, False), (2, "x", True)], compared=True)
    log = log_of(guard, failed.id)
    assert (log["signature"], log["seen_passing"], log["line"], log["confidence"]) == (None, True, 1, None)
    assert [(it["signature"], it["why"]) for it in log["others"]] == [
        ("refused", "the last passing log has its line too")
    ]


@pytest.mark.parametrize(
    ("reading", "why", "said"),
    [(Reading.NO_LOG, "HTTP 410", "no log: HTTP 410"), (Reading.NOT_READ, None, "not read: ")],
)
def test_a_log_that_was_not_read_says_why(
    guard: Guard, servers: None, database: str, reading: Reading, why: str | None, said: str
) -> None:
    failed = judged(database, reading=reading, why=why, log_lines=0)
    log = log_of(guard, failed.id)
    assert (log["reading"], log["diagnosis"], log["why"], log["excerpt"]) == (reading, reading, why, [])
    assert said in guard("explain", failed.id).out


def test_a_failure_of_whose_log_nothing_came_has_none(guard: Guard, servers: None, database: str) -> None:
    write(database, [(1, ShardOutput([failure(1)], [], [], [], []), progress(1))])
    assert log_of(guard, failure(1).failure_id) is None
    assert "log of failure" not in guard("explain", failure(1).failure_id).out


def test_an_unknown_failure_shows_its_nearest_cluster(guard: Guard, servers: None, database: str) -> None:
    near = [
        diagnosis(
            n, diagnosis="no_pattern", signature=None, template=mask("flux capacitor 4 is not warm"), received_ms=now()
        )
        for n in (1, 2, 3)
    ]
    write(database, [(1, ShardOutput([failure(n) for n in (1, 2, 3)], [], [], [], [], near), progress(1))])
    failed = judged(database, lines=[(3, UNKNOWN)], template=mask(UNKNOWN))
    nearest = log_of(guard, failed.id)["nearest"]
    assert nearest["count"] == 3
    assert nearest["alike"] > 0.5
    assert "nearest cluster  flux capacitor" in guard("explain", failed.id).out


def test_a_log_in_a_file_is_compared_with_what_was_unknown_where_told_to(
    guard: Guard, servers: None, database: str, tmp_path: Any
) -> None:
    rows = [diagnosis(1, diagnosis="no_pattern", signature=None, template=mask("error: flux 9"), received_ms=now())]
    write(database, [(1, ShardOutput([failure(1)], [], [], [], [], rows), progress(1))])
    path = tmp_path / "x.log"
    path.write_text("error: flux 17\n")
    assert json.loads(guard("explain", "--json", path).out)["nearest"] is None
    nearest = json.loads(guard("explain", "--json", "--connect", path).out)["nearest"]
    assert (nearest["template"], nearest["alike"], nearest["count"]) == (mask("error: flux 1"), 1, 1)


def now() -> int:
    """A moment that is recent whenever the test runs."""
    from flows.servers import now_ms

    return now_ms() - 60_000


def test_where_the_rulebook_is_gone_what_was_stored_is_told(guard: Guard, servers: None, database: str) -> None:
    write(database, [(1, ShardOutput([failure(1)], [], [], [], [], [diagnosis(1)]), progress(1))])
    log = log_of(guard, failure(1).failure_id)
    assert (log["signature"], log["line"], log["fix"], log["confidence"]) == ("connection-reset", 4711, None, None)
    assert log["captures"] == {"host": "registry.example"}
    assert "> 4711 read: " in guard("explain", failure(1).failure_id).out


@pytest.mark.parametrize(
    ("job_id", "arguments"),
    [
        ("67890", ["67890"]),
        ("67890", ["--job", "67890"]),
        ("build-7", ["--job", "build-7"]),
        ("1f2e3d4c-0008-4000-8000-000000000001", ["1f2e3d4c-0008-4000-8000-000000000001"]),
    ],
)
def test_a_job_is_found_by_the_id_that_its_platform_gave_it(
    guard: Guard, servers: None, database: str, job_id: str, arguments: list[str]
) -> None:
    failed = judged(database, job_id=job_id, lines=[(1, REFUSED)])
    told = guard("explain", "--json", *arguments).json()
    assert [row["failure_id"] for row in told["failures"]] == [failed.id]
    assert told["failures"][0]["log"]["signature"] == "refused"


@pytest.mark.parametrize("arguments", [["67890"], ["--job", "build-7"]])
def test_a_job_of_which_nothing_is_known_is_said(guard: Guard, servers: None, arguments: list[str]) -> None:
    said = guard("explain", *arguments)
    assert (said.status, said.out, len(said.complaints)) == (1, "", 1)
    assert f"nothing is known of {arguments[-1]};" in said.err


def test_status_counts_failures_as_they_are_understood_now(guard: Guard, servers: None, database: str) -> None:
    judged(database, lines=[(1, REFUSED)])
    assert {each["name"]: each["count"] for each in guard("status", "--json").json()["failures"]} == {"refused": 1}
