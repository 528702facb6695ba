"""guard on real servers: migrate, check, status, the rulebooks that are kept, explain, and the receiver."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE, Popen
from urllib.request import urlopen
from uuid import uuid4

import pytest
import redis

from analytics.rulebook import compose
from analytics.shard import Shard
from connectors import redis_streams
from connectors.postgres import Progress, connect, put_rulebook
from flows.embedded import free_ports
from models.records import entry as wire
from models.records.columns import decode
from models.records.entry import Entry, Kind
from models.records.event import SHARDS, Event, Outcome, shard_of
from models.records.outputs import Reason, ShardOutput
from models.records.payload import to_json
from tests.connectors.outputs import NOW_MS, decision, failure, letter, output, progress
from tests.events import make_event, raw_event
from tests.flows.conftest import KEY, Guard, Said, write
from tests.helpers import wait_until

ROOT = Path(__file__).parents[2]


def entries(redis_url: str, shard: int) -> list[Entry]:
    """What stands on a shard."""
    with redis.Redis.from_url(redis_url) as client:
        found = client.xrange(redis_streams.log_key(shard))
    return [wire.decode(*next(iter(fields.items()))) for _, fields in found]


# --- migrate and check


def test_migrate_says_what_it_applied_and_then_that_nothing_is_left(
    guard: Guard, monkeypatch: pytest.MonkeyPatch, empty_database: str
) -> None:
    monkeypatch.setenv("GUARD_POSTGRES__URL", empty_database)
    assert guard("migrate").lines[0] == "applied 0001_tables.sql"
    assert guard("migrate").lines == ["the schema is up to date"]


@pytest.mark.parametrize("command", [["flow"], ["dead", "list"], ["rulebook", "activate"]])
def test_without_our_tables_the_way_to_them_is_named(
    guard: Guard, servers: None, monkeypatch: pytest.MonkeyPatch, empty_database: str, command: list[str]
) -> None:
    monkeypatch.setenv("GUARD_POSTGRES__URL", empty_database)
    said = guard(*command)
    assert said.status == 2
    assert said.err.startswith("guard: the database has no tables of ours, and this release needs version ")
    assert said.err.endswith(": run `guard migrate`\n")


def test_an_older_schema_is_not_good_enough(guard: Guard, servers: None, database: str) -> None:
    with connect(database) as connection:
        connection.execute("DELETE FROM guard.schema_migrations WHERE version > 1")
    assert "has schema version 1, and this release needs" in guard("status").err


def test_prune_keeps_each_table_as_long_as_its_retention(
    guard: Guard, servers: None, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(database, [(1, output(1), progress(1))])
    with connect(database) as connection:
        for table in ("failures", "decisions"):
            connection.execute(f"UPDATE guard.{table} SET written_at = now() - interval '10 days'".encode())
    monkeypatch.setenv("GUARD_RETENTION__FAILURES", "9")
    monkeypatch.setenv("GUARD_RETENTION__DECISIONS", "11")
    lines = guard("migrate", "--prune").lines
    assert "deleted 1 rows of failures older than 9 days" in lines
    assert "deleted 0 rows of decisions older than 11 days" in lines


@pytest.fixture
def powerless(database: str) -> Iterator[str]:
    """The address of `database` for somebody who may do nothing there."""
    name = f"nobody_{uuid4().hex[:8]}"
    with connect(database) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN".encode())
        yield database.replace("postgres@", f"{name}@")
        connection.execute(f"DROP ROLE {name}".encode())


@pytest.mark.parametrize("command", [["migrate"], ["status"], ["dead", "list"], ["check", "--connect"]])
def test_a_database_that_says_no_is_one_line_and_status_1(
    guard: Guard, servers: None, monkeypatch: pytest.MonkeyPatch, powerless: str, command: list[str]
) -> None:
    monkeypatch.setenv("GUARD_POSTGRES__URL", powerless)
    said = guard(*command)
    assert said.status == 1
    assert "PostgreSQL: permission denied for schema guard" in said.out + said.err
    assert len(said.complaints) == (0 if command[0] == "check" else 1)


def test_check_accepts_servers_that_keep_what_they_acknowledge(guard: Guard, servers: None) -> None:
    said = guard("check", "--connect")
    assert said.status == 0
    assert said.lines[-2].startswith("ok  redis: Valkey ")
    assert said.lines[-1].startswith("ok  postgresql: schema version ")
    assert KEY not in said.out


# --- status


def test_status_shows_what_waits_and_how_far_each_shard_is(
    guard: Guard, servers: None, database: str, redis_url: str
) -> None:
    with redis.Redis.from_url(redis_url) as client:
        for shard in (3, 3, 5):
            redis_streams.append_entry(client, shard, Entry(Kind.EVENT, wire.Encoding.JSON, 1, b"{}"))
    unexplained = ShardOutput([failure(2, signature=None)], [], [], [], [letter(7)])
    write(database, [(1, output(1), progress(41)), (2, unexplained, progress(2))])
    said = guard("status", "--json")
    assert (said.status, said.err) == (0, "")
    told = said.json()
    assert [told["shards"][shard]["depth"] for shard in (1, 3, 5)] == [0, 2, 1]
    assert told["shards"][1]["position"] == 41
    assert told["shards"][1]["rulebook"] == "d" * 64
    assert "position" not in told["shards"][0]
    assert told["decisions"] == [{"verdict": "wait", "reason": "run_in_progress", "count": 1}]
    assert {each["name"]: each["count"] for each in told["failures"]} == {"connection-reset": 1, None: 1}
    assert told["dead_letters_open"] == 2
    text = guard("status").out
    assert all(part in text for part in ("run_in_progress", "connection-reset", "no signature", "d" * 12))


def test_status_counts_only_the_last_hour(guard: Guard, servers: None, database: str) -> None:
    write(database, [(1, output(1), progress(1))])
    with connect(database) as connection:
        connection.execute("UPDATE guard.decisions SET written_at = now() - interval '61 minutes'")
    told = guard("status", "--json").json()
    assert told["decisions"] == []
    assert len(told["failures"]) == 1


def test_status_shows_the_rest_when_redis_is_away(
    guard: Guard, servers: None, database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(database, [(1, output(1), progress(41))])
    monkeypatch.setenv("GUARD_REDIS__URL", f"unix://{tmp_path}/nobody.sock")
    said = guard("status", "--json")
    assert (said.status, len(said.complaints)) == (1, 1)
    assert said.err.startswith("guard: Redis: ")
    assert said.json()["shards"][1] == {**said.json()["shards"][1], "position": 41}
    assert "depth" not in said.json()["shards"][1]


def test_status_shows_the_rest_when_postgresql_is_away(
    guard: Guard, servers: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GUARD_POSTGRES__URL", f"postgresql://postgres@/nothing?host={tmp_path}")
    said = guard("status")
    assert (said.status, len(said.complaints)) == (1, 1)
    assert said.err.startswith("guard: PostgreSQL: ")
    assert sum(line.startswith(f"{shard:02d} ") for line in said.lines for shard in range(SHARDS)) == SHARDS


# --- rulebooks


def test_a_rulebook_is_put_in_force_by_one_control_entry_in_each_shard(
    guard: Guard, servers: None, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUARD_MODE", "suggest")
    digest = guard("rulebook", "show", "--json").json()["digest"]
    assert guard("rulebook", "activate").lines == [f"{digest}: put in force in 12 of 12 shards"]
    for shard in range(SHARDS):
        (entry,) = entries(redis_url, shard)
        assert (entry.kind, entry.payload) == (Kind.CONTROL, f'{{"rulebook":"{digest}"}}'.encode())
    assert guard("rulebook", "show", digest[:6], "--json").json()["digest"] == digest


def test_what_every_shard_follows_already_is_not_put_in_force_again(
    guard: Guard, servers: None, database: str, redis_url: str
) -> None:
    digest = guard("rulebook", "show", "--json").json()["digest"]
    empty = ShardOutput([], [], [], [], [])
    write(database, [(shard, empty, Progress("1-1", 1, NOW_MS, digest)) for shard in range(SHARDS)])
    assert guard("rulebook", "activate").lines == [f"{digest}: in force already"]
    assert not any(entries(redis_url, shard) for shard in range(SHARDS))


def test_a_bad_signature_file_leaves_the_rulebook_in_force(
    guard: Guard, servers: None, redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    guard("rulebook", "activate")
    before = [entries(redis_url, shard) for shard in range(SHARDS)]
    own = tmp_path / "own.toml"
    own.write_text("[a]\ncategory = 'test'\ncause = 'c'\nfix = 'f'\ntext = ['(']\nmatches = ['(']\nconfusers = ['x']\n")
    monkeypatch.setenv("GUARD_RULEBOOK__SIGNATURE_FILES", json.dumps([str(own)]))
    said = guard("rulebook", "activate")
    assert said.status != 0
    assert f"{own}: a: pattern '('" in said.err
    assert [entries(redis_url, shard) for shard in range(SHARDS)] == before


def test_a_kept_rulebook_is_found_by_the_beginning_of_its_digest(guard: Guard, servers: None, database: str) -> None:
    kept = compose(policy={"least_score": 0.75})
    with connect(database) as connection:
        put_rulebook(connection, kept.digest, kept.body, created_by="somebody")
    assert guard("rulebook", "diff", kept.digest[:10]).lines == ["$.policy.least_score: 0.75 -> 0.5"]
    assert guard("rulebook", "diff", "shipped", kept.digest).lines == ["$.policy.least_score: 0.5 -> 0.75"]
    assert guard("rulebook", "activate", kept.digest[:10]).status == 0


def test_a_digest_that_names_no_rulebook_or_several_is_said(guard: Guard, servers: None, database: str) -> None:
    with connect(database) as connection:
        for number in (1, 2):
            kept = compose(policy={"most_attempts": number})
            put_rulebook(connection, kept.digest, kept.body, created_by="somebody")
    nothing, several = guard("rulebook", "show", "zz"), guard("rulebook", "show", "")
    assert nothing.err == "guard: no rulebook in PostgreSQL with a digest that begins with 'zz'\n"
    assert several.err == "guard: 2 rulebooks in PostgreSQL with a digest that begins with ''\n"
    assert {nothing.status, several.status} == {2}


# --- explain


def explain_events(database: str, *events: Event) -> ShardOutput:
    """What the shard says of `events`, put into PostgreSQL."""
    rules = compose()
    shard = shard_of(events[0].metadata.instance, events[0].repository)
    judge = Shard(shard, rules, lambda _: rules)
    last_ms = int(events[-1].timestamp.timestamp() * 1000)
    said = judge.process(decode([raw_event(number, event, last_ms + number) for number, event in enumerate(events, 1)]))
    write(database, [(shard, said, Progress("1-1", len(events), last_ms, rules.digest))])
    return said


def lost_runner(at_ms: int = NOW_MS) -> Event:
    return make_event(
        Outcome.FAILED, at_ms, platform="gitlab", instance="gitlab.example", reason="runner_system_failure"
    )


def test_a_decision_is_explained_by_what_failed_and_what_proves_it(guard: Guard, servers: None, database: str) -> None:
    event = lost_runner()
    said = explain_events(database, event)
    (decided,) = said.decisions
    told = guard("explain", decided.decision_id, "--json").json()
    (failed,) = told["failures"]
    signature = compose().body["signatures"][failed["signature"]]
    assert failed["failure_id"] == event.id
    assert failed["facts"] == ["gitlab outcome failed", "gitlab reason runner_system_failure"]
    assert failed["matched"] == "gitlab reason runner_system_failure"
    assert (failed["cause"], failed["fix"]) == (signature["cause"], signature["fix"])
    assert [row["decision_id"] for row in told["decisions"]] == [decided.decision_id]
    assert told["decisions"][0]["in_words"]


@pytest.mark.parametrize("of", ["decision_id", "case_id", "failure_id"])
def test_the_text_says_the_same_whatever_id_was_asked_for(guard: Guard, servers: None, database: str, of: str) -> None:
    event = lost_runner()
    said = explain_events(database, event)
    ids = {"decision_id": said.decisions[0].decision_id, "case_id": said.decisions[0].case_id, "failure_id": event.id}
    answer = guard("explain", ids[of])
    assert (answer.status, answer.err) == (0, "")
    for part in (
        said.decisions[0].verdict,
        "gitlab reason runner_system_failure",
        "moved by",
        "fix",
        "stood at",
        "entry 1",
    ):
        assert part in answer.out


def test_every_revision_of_a_decision_is_shown(guard: Guard, servers: None, database: str) -> None:
    said = ShardOutput(
        [failure(1)], [], [decision(1), decision(1, 2, verdict="skip", reason="run_passed", explanation="{}")], [], []
    )
    write(database, [(1, said, progress(1))])
    told = guard("explain", decision(1).case_id, "--json").json()
    assert [(row["revision"], row["reason"]) for row in told["decisions"]] == [
        (1, "run_in_progress"),
        (2, "run_passed"),
    ]
    text = guard("explain", decision(1).case_id).out
    assert "the run passed all the same" in text
    assert "the platform takes no rerun before" in text


def test_findings_about_the_same_job_stand_beside_the_failure(guard: Guard, servers: None, database: str) -> None:
    write(database, [(1, output(1), progress(1))])
    told = guard("explain", failure(1).failure_id)
    assert "repeated_failure" in told.out
    assert "failed 3 times" in told.out


def test_a_failure_of_a_rulebook_that_is_gone_is_shown_without_its_fix(
    guard: Guard, servers: None, database: str
) -> None:
    write(database, [(1, output(1), progress(1))])
    (failed,) = guard("explain", failure(1).failure_id, "--json").json()["failures"]
    assert (failed["signature"], failed["fix"], failed["matched"]) == ("connection-reset", None, None)


def test_foreign_text_does_not_reach_the_terminal_as_it_is(guard: Guard, servers: None, database: str) -> None:
    said = ShardOutput([failure(1, job_name="\x1b[31mred\x07", step="a\nb")], [], [], [], [])
    write(database, [(1, said, progress(1))])
    out = guard("explain", failure(1).failure_id).out
    assert "\\x1b[31mred\\x07" in out
    assert "\x1b" not in out


def test_an_unknown_id_is_said(guard: Guard, servers: None) -> None:
    said = guard("explain", failure(99).failure_id)
    assert (said.status, said.out, len(said.complaints)) == (1, "", 1)


def test_every_reason_has_words() -> None:
    from flows.explain import WORDS, in_words

    assert set(WORDS) == set(Reason)
    assert in_words("a reason of a later release") is None


# --- the receiver


@pytest.fixture
def receiver(redis_url: str, tmp_path: Path) -> Iterator[tuple[Popen[bytes], int]]:
    """The command receive as a process of its own, and the port of its health."""
    port, admin = free_ports(), free_ports()
    path = tmp_path / "guard.toml"
    path.write_text(
        f'[redis]\nurl = "{redis_url}"\n[redaction]\nkey = "{KEY}"\n[receiver]\nport = {port}\nadmin_port = {admin}\n'
        f'spool_dir = "{tmp_path}/spool"\n[receiver.sources.acme]\nplatform = "github"\ninstance = "github.com/acme"\n'
        'secrets = [{ kind = "signature", value = "old horse" }]\n'
    )
    command = [sys.executable, "-c", "import sys; from flows.cli import main; sys.exit(main())", "receive"]
    with Popen([*command, "--settings", str(path)], cwd=ROOT, stderr=PIPE) as process:
        try:
            yield process, admin
        finally:
            process.kill()


def test_receive_gets_ready_and_ends_when_told_to(receiver: tuple[Popen[bytes], int]) -> None:
    process, admin = receiver

    def ready() -> bool:
        assert process.poll() is None, process.stderr and process.stderr.read()
        try:
            with urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=2) as answer:
                return int(answer.status) == 200
        except OSError:
            return False

    wait_until(ready, within=30, what="the receiver's readiness")
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


# --- the flow


@pytest.fixture
def flow(servers: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Popen[bytes]]]:
    """Starts the command flow as a process of its own, with its workers; ends them all."""
    monkeypatch.setenv("GUARD_FLOW__METRICS_PORT", str(free_ports()))
    running: list[Popen[bytes]] = []

    def start(*arguments: str) -> Popen[bytes]:
        command = [sys.executable, "-c", "import sys; from flows.cli import main; sys.exit(main())", "flow"]
        running.append(Popen([*command, *arguments], cwd=ROOT, stderr=PIPE))
        return running[-1]

    yield start
    for process in running:
        process.terminate()
        process.communicate(timeout=30)


def test_what_is_published_is_judged_by_the_flow_and_can_be_explained(
    guard: Guard, flow: Callable[..., Popen[bytes]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GUARD_FLOW__RECOVERY_DIR", str(tmp_path / "recovery"))
    event = lost_runner()
    lines = tmp_path / "events.jsonl"
    lines.write_bytes(to_json(event))
    assert guard("publish", lines, "--now").status == 0
    process = flow()

    def explained() -> Said | None:
        assert process.poll() is None
        said = guard("explain", event.id)
        return said if said.status == 0 else None

    said = wait_until(explained, within=60, what="the explanation of what was published")
    assert said is not None
    assert "reason       run_in_progress: " in said.out
    process.terminate()
    assert process.wait(30) == 0


def test_a_flow_without_a_recovery_store_says_so_and_does_not_try_again(
    guard: Guard, flow: Callable[..., Popen[bytes]]
) -> None:
    process = flow()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert b"flow.recovery_dir" in err
    assert b"Traceback" not in err
