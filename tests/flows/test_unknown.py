"""guard unknown and guard signatures: what the rules lack, and what they are worth."""

from __future__ import annotations

import json
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from psycopg.types.json import Jsonb

from analytics.logs.mask import mask
from analytics.logs.passing import PassingIndexing
from analytics.signatures.catalogue import read
from connectors.diagnoses import SignatureHits, UnknownLine
from connectors.passing_logs import Index, keep_index
from connectors.postgres import connect
from flows import unknown
from flows.servers import now_ms
from flows.signature_hits import standings
from models.records.outputs import DiagnosisRow, ShardOutput
from tests.connectors.outputs import diagnosis, failure, progress
from tests.flows.conftest import Guard, write

FLUX = "error: flux capacitor {} is not charged by the reactor"
ROD = "error: control rod {} is stuck in its channel again"
DAY_MS = 86_400_000


def unknown_row(number: int, line: str, **given: Any) -> DiagnosisRow:
    """A failure that no signature explains, of whose log `line` stands for it."""
    text = line.format(number)
    lines = json.dumps([[7, "make: entering", True], [8, text, True]])
    known = {"diagnosis": "no_pattern", "signature": None, "category": None, "received_ms": now_ms() - 60_000}
    return diagnosis(number, **{**known, "template": mask(text), "lines": lines, "discarded": None, **given})


def stored(database: str, rows: list[DiagnosisRow], **given: Any) -> None:
    """Put them there with a failure for each, in a repository for each three."""
    numbers = {
        row.failure_id: number for number in range(100) for row in rows if row.failure_id == failure(number).failure_id
    }
    failures = [
        failure(
            numbers[row.failure_id],
            repository=f"org/{numbers[row.failure_id] // 3}",
            **{"received_ms": row.received_ms, **given},
        )
        for row in rows
    ]
    write(database, [(1, ShardOutput(failures, [], [], [], [], rows), progress(1))])


@pytest.fixture
def unexplained(database: str) -> None:
    """Five failures of one kind, two of another, one explained by a signature though it has the first one's line."""
    rows = [unknown_row(n, FLUX) for n in range(5)] + [unknown_row(n, ROD) for n in (5, 6)]
    stored(database, [*rows, unknown_row(7, FLUX, diagnosis="matched", signature="reactor", template=None)])


def passed(database: str, *lines: str) -> None:
    """Keep the index of a passing log."""
    indexing = PassingIndexing()
    indexing.feed("".join(f"{line}\n" for line in lines).encode())
    with connect(database) as connection:
        index = Index(indexing.finish().to_bytes(), datetime.now(UTC))
        keep_index(connection, str(UUID(int=len(lines))), {}, index)


# --- guard unknown


def test_the_largest_clusters_come_with_drafts_and_what_those_would_hit(
    guard: Guard, servers: None, database: str, unexplained: None
) -> None:
    passed(database, "make: entering", "all is well", ROD.format(99))
    told = guard("unknown", "--json").json()
    assert (told["unknown_failures"], told["failed_logs"], told["passing_logs"]) == (7, 8, 1)
    flux, rod = told["clusters"]
    assert (flux["count"], flux["repositories"], flux["failed_hits"]) == (5, ["org/0", "org/1"], 6)
    assert (flux["explained_hits"], flux["passing_hits"]) == (1, 0)
    assert (rod["count"], rod["repositories"], rod["passing_hits"]) == (2, ["org/1", "org/2"], 1)


def test_the_answer_is_a_file_of_signatures(
    guard: Guard, servers: None, database: str, unexplained: None, tmp_path: Path
) -> None:
    passed(database, ROD.format(99))
    said = guard("unknown")
    assert (said.status, said.err) == (0, "")
    assert "NOT FIT, it hits logs that passed" in said.out
    drafts = read("drafts", said.out)
    assert [signature.name for signature in drafts] == list(tomllib.loads(said.out))
    assert len(drafts) == 2
    own, log = tmp_path / "own.toml", tmp_path / "new.log"
    own.write_text(said.out)
    log.write_text(f"{FLUX.format(4711)}\n")
    assert guard("explain", "--json", "--signatures", own, log).json()["signature"] == drafts[0].name


def test_only_so_many_and_only_of_so_many_days(guard: Guard, servers: None, database: str, unexplained: None) -> None:
    assert len(guard("unknown", "--most", "1", "--json").json()["clusters"]) == 1
    with connect(database) as connection:
        connection.execute("UPDATE guard.diagnoses SET received_at = received_at - interval '2 days'")
    assert guard("unknown", "--days", "1", "--json").json()["unknown_failures"] == 0
    assert guard("unknown", "--days", "3", "--json").json()["unknown_failures"] == 7


def test_with_nothing_unknown_there_is_nothing_to_draft(guard: Guard, servers: None) -> None:
    said = guard("unknown")
    assert (said.status, said.err) == (0, "")
    assert all(line.startswith("#") for line in said.lines)


def test_lines_with_too_little_in_common_have_no_draft(guard: Guard, servers: None, database: str) -> None:
    stored(database, [unknown_row(1, "{}", template="<*>")])
    (cluster,) = guard("unknown", "--json").json()["clusters"]
    assert (cluster["draft"], cluster["failed_hits"]) == (None, 0)
    assert "no draft" in guard("unknown").out


def test_foreign_text_breaks_neither_the_terminal_nor_the_file(guard: Guard, servers: None, database: str) -> None:
    evil = "error: '''\x1b[31m\u202e\" \\ \u2028 \x07 [x]\n[y] # capacitor of the flux"
    stored(database, [unknown_row(1, evil, template=evil)])
    said = guard("unknown")
    assert not {"\x1b", "\x07", "\u202e", "\u2028"} & set(said.out)
    tomllib.loads(said.out)


def test_an_index_of_another_version_is_passed_over(
    guard: Guard, servers: None, database: str, unexplained: None
) -> None:
    with connect(database) as connection:
        connection.execute(
            "INSERT INTO guard.passing_logs VALUES (%s, %s, %s, now())", [UUID(int=9), Jsonb({}), b"of another kind"]
        )
    assert guard("unknown", "--json").json()["passing_logs"] == 0


@pytest.mark.parametrize("words", [41, 80])
def test_a_long_line_is_told_with_its_repositories(guard: Guard, servers: None, database: str, words: int) -> None:
    line = "error: " + "w " * (words - 1)
    stored(database, [unknown_row(1, line.strip(), template=line.strip())])
    assert guard("unknown", "--json").json()["clusters"][0]["repositories"] == ["org/0"]


# --- guard signatures


def hits(guard: Guard) -> dict[str, dict[str, Any]]:
    """What is told of each signature that was ever hit."""
    told = guard("signatures", "--json").json()
    return {row["signature"]: row for row in told if row["hits"] or row["passing_hits"] or row["last_hit"]}


def test_hits_are_counted_as_failures_are_understood_now(guard: Guard, servers: None, database: str) -> None:
    log = [unknown_row(n, FLUX, diagnosis="matched", signature="dns_failure", category="network") for n in (1, 4)]
    stored(database, log, signature="crash", category="test")
    webhook = [failure(n, signature="crash", category="test", received_ms=now_ms()) for n in (10, 11)]
    write(database, [(1, ShardOutput(webhook, [], [], [], []), progress(2))])
    said = hits(guard)
    assert {name: (it["hits"], it["hits_by_log"], it["repositories"]) for name, it in said.items()} == {
        "dns_failure": (2, 2, 2),
        "crash": (2, 0, 1),
    }
    assert said["dns_failure"]["category"] == "network"
    text = guard("signatures").lines
    assert any(line.startswith("dns_failure ") for line in text)


def test_a_line_that_the_passing_log_has_too_counts_against_its_signature(
    guard: Guard, servers: None, database: str
) -> None:
    stored(database, [unknown_row(n, FLUX, seen_passing=True, discarded="dns_failure") for n in (1, 2)], signature=None)
    said = hits(guard)["dns_failure"]
    assert (said["hits"], said["passing_hits"], said["flags"]) == (0, 2, ["hits passing logs"])


def test_hits_older_than_30_days_are_remembered_and_not_counted(guard: Guard, servers: None, database: str) -> None:
    at = now_ms() - 31 * DAY_MS
    stored(database, [unknown_row(1, FLUX, diagnosis="matched", signature="dns_failure", received_ms=at)])
    assert hits(guard)["dns_failure"]["hits"] == 0
    with connect(database) as connection:
        connection.execute("UPDATE guard.failures SET written_at = received_at")
    said = hits(guard)["dns_failure"]
    assert said["last_hit"] is not None
    assert said["flags"] == ["no hit for 30 days"]


def test_every_signature_of_the_rulebook_is_listed(guard: Guard, servers: None) -> None:
    told = guard("signatures", "--json").json()
    assert {row["signature"] for row in told} == set(guard("rulebook", "show", "--json").json()["signatures"])
    assert all(row["flags"] == [] for row in told), "nothing is known yet"


NOW = datetime(2026, 1, 31, tzinfo=UTC)
(ONE,) = read("one", '[one]\ncategory = "test"\ncause = "c"\nfix = "f"\ntext = ["x"]\nmatches = []\nconfusers = []')


@pytest.mark.parametrize(
    ("days", "found", "flags"),
    [
        (30, [], ["no hit for 30 days"]),
        (29.9, [], []),
        (None, [], []),
        (40, [SignatureHits("one", "test", 1, 1, 0, 1, NOW)], []),
        (40, [SignatureHits("one", "test", 1, 1, 2, 1, NOW)], ["hits passing logs"]),
        (40, [SignatureHits("one", None, 0, 0, 2, 0, None)], ["no hit for 30 days", "hits passing logs"]),
    ],
)
def test_flags(days: float | None, found: list[SignatureHits], flags: list[str]) -> None:
    oldest = None if days is None else NOW - timedelta(days=days)
    (standing,) = standings([ONE], found, oldest=oldest, at=NOW)
    assert (standing.category, standing.flags) == ("test", flags)


def test_a_signature_that_is_no_longer_in_the_rulebook_keeps_its_hits() -> None:
    gone = SignatureHits("gone", "build", 3, 3, 0, 1, NOW)
    standing, _ = standings([ONE], [gone], oldest=NOW, at=NOW)
    assert (standing.signature, standing.category, standing.flags) == ("gone", "build", ["not in the rulebook"])


def test_clusters_are_found_anew_from_their_templates_whatever_order_they_come_in() -> None:
    lines = [UnknownLine(mask(FLUX.format(1)), 3, ["a"]), UnknownLine(mask(ROD.format(1)), 5, ["b"])]
    told = [[(c.template, c.count) for c in unknown.mined(some).clusters()] for some in (lines, lines[::-1])]
    assert told[0] == told[1] == [(mask(ROD.format(1)), 5), (mask(FLUX.format(1)), 3)]
