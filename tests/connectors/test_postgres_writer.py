"""The writer: groups, back-pressure, what it survives and what it refuses to survive."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from connectors import postgres_rows
from connectors.postgres import connect, read_progress
from connectors.postgres_rows import Written
from connectors.postgres_writer import BadRow, Limits, Writer
from models.records.errors import Unavailable
from models.records.outputs import ShardOutput
from tests.connectors.outputs import decision, failure, failures, finding, letter, output, progress

EMPTY = ShardOutput([], [], [], [], [])
QUICK = Limits(backoff_s=0.001, backoff_cap_s=0.01)


class Watched:
    """A writer and what it told."""

    def __init__(self, database: str, limits: Limits = QUICK) -> None:
        self.groups: list[Sequence[Written]] = []
        self.times: list[float] = []
        self.retries: list[str] = []
        self.writer = Writer(
            database,
            clock=lambda: 1_795_000_000.5,
            monotonic=time.monotonic,
            on_commit=self._committed,
            on_retry=self.retries.append,
            limits=limits,
        )

    def _committed(self, group: Sequence[Written], at: float) -> None:
        self.groups.append(group)
        self.times.append(at)


@pytest.fixture
def watched(database: str) -> Iterator[Watched]:
    watched = Watched(database)
    yield watched
    watched.writer.close()


def count(database: str, table: str) -> int:
    with connect(database) as connection:
        row = connection.execute(f"SELECT count(*) FROM guard.{table}".encode()).fetchone()
        assert row is not None
        return int(row[0])


def until(condition: Callable[[], object], *, within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.005)


def test_what_waits_while_a_transaction_runs_goes_into_the_next_one(database: str, watched: Watched) -> None:
    writer = watched.writer
    with connect(database, autocommit=False) as other:
        other.execute("LOCK TABLE guard.failures")
        tickets = [writer.submit(0, failures(0), progress(0))]
        until(lambda: not writer._queue)
        tickets += [writer.submit(n % 3, failures(n), progress(n)) for n in range(1, 10)]
        assert count(database, "progress") == 0
    writer.wait(tickets[-1])
    until(lambda: len(watched.groups) == 2)
    assert [len(group) for group in watched.groups] == [1, 9]
    assert watched.times == [1_795_000_000.5] * 2
    assert watched.groups[1][-1].output == failures(9)
    assert count(database, "failures") == 10
    with connect(database) as connection:
        assert {shard: reached.position for shard, reached in read_progress(connection).items()} == {0: 9, 1: 7, 2: 8}


def test_progress_is_replaced_only_by_a_later_position(database: str, watched: Watched) -> None:
    for position in (5, 9, 7):
        watched.writer.wait(watched.writer.submit(3, EMPTY, progress(position)))
    with connect(database) as connection:
        assert read_progress(connection) == {3: progress(9)}


def test_a_transaction_is_bounded_and_an_output_is_never_split(database: str) -> None:
    watched = Watched(database, Limits(transaction_rows=10))
    with connect(database, autocommit=False) as other:
        other.execute("LOCK TABLE guard.failures")
        watched.writer.submit(0, EMPTY, progress(1))
        until(lambda: not watched.writer._queue)
        for position in range(2, 6):
            ticket = watched.writer.submit(0, failures(*range(4)), progress(position))
        ticket = watched.writer.submit(0, failures(*range(50)), progress(6))
    watched.writer.wait(ticket)
    until(lambda: sum(map(len, watched.groups)) == 6)
    watched.writer.close()
    assert [len(group) for group in watched.groups] == [1, 2, 2, 1]


def test_a_full_queue_blocks_until_there_is_room(database: str) -> None:
    watched = Watched(database, Limits(queued_rows=10, backoff_s=0.001))
    submitted: list[int] = []

    def submit() -> None:
        for position in range(5):
            said = failures(position, 10 + position, 20 + position)
            submitted.append(watched.writer.submit(0, said, progress(position)))

    with connect(database, autocommit=False) as other:
        other.execute("LOCK TABLE guard.failures")
        thread = threading.Thread(target=submit)
        thread.start()
        until(lambda: len(submitted) == 2)
        thread.join(timeout=0.2)
        assert (len(submitted), thread.is_alive()) == (2, True)
    thread.join(timeout=20)
    watched.writer.wait(submitted[-1])
    watched.writer.close()
    assert count(database, "failures") == 15


def test_an_output_larger_than_the_queue_is_still_taken(database: str) -> None:
    watched = Watched(database, Limits(queued_rows=10))
    watched.writer.wait(watched.writer.submit(0, failures(*range(100)), progress(1)))
    watched.writer.close()
    assert count(database, "failures") == 100


def test_a_text_that_grew_too_long_is_sent_in_parts_of_one_transaction(
    database: str, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_rows, "TEXT_BYTES", 4_000)
    said = ShardOutput([failure(n) for n in range(40)], [finding(1)], [], [], [letter(n) for n in range(20)])
    parts = postgres_rows.texts([Written(0, said, progress(1))])
    assert len(parts) == 8
    assert [part[-1] != "[]" for part in parts] == [False] * (len(parts) - 1) + [True]
    watched.writer.wait(watched.writer.submit(0, said, progress(1)))
    assert (count(database, "failures"), count(database, "findings"), count(database, "dead_letters")) == (40, 1, 20)


def test_a_lock_that_is_not_had_in_time_is_asked_for_again(database: str) -> None:
    watched = Watched(make_conninfo(database, options="-c lock_timeout=20ms"))
    with connect(database, autocommit=False) as other:
        other.execute("LOCK TABLE guard.progress")
        ticket = watched.writer.submit(0, failures(1), progress(1))
        until(lambda: "lock_timeout" in watched.retries)
    watched.writer.wait(ticket)
    watched.writer.close()
    assert set(watched.retries) == {"lock_timeout"}
    assert count(database, "failures") == 1


def test_a_connection_that_is_cut_again_and_again_loses_and_doubles_nothing(database: str, watched: Watched) -> None:
    cut = threading.Event()

    def terminate() -> None:
        with connect(database) as other:
            while not cut.wait(0.02):
                other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND application_name = 'guard writer'"
                )

    thread = threading.Thread(target=terminate)
    thread.start()
    ticket, position = 0, 0
    while len(watched.retries) < 5:
        position += 1
        ticket = watched.writer.submit(0, failures(*range(position, position + 20)), progress(position))
        watched.writer.wait(ticket)
    cut.set()
    thread.join()
    assert set(watched.retries) == {"connection"}
    assert count(database, "failures") == position + 19
    with connect(database) as connection:
        assert read_progress(connection) == {0: progress(position)}


def test_a_database_that_turns_read_only_is_waited_for(database: str, watched: Watched) -> None:
    name = conninfo_to_dict(database)["dbname"]
    with connect(database) as connection:
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
    ticket = watched.writer.submit(0, failures(1), progress(1))
    until(lambda: "read_only" in watched.retries)
    with connect(database) as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only".encode())
    watched.writer.wait(ticket)
    assert count(database, "failures") == 1


def test_a_server_that_stays_away_is_unavailable_after_the_time_given() -> None:
    seconds = iter(range(100))
    writer = Writer(
        "postgresql://nobody@127.0.0.1:1/none",
        clock=lambda: 0.0,
        monotonic=lambda: float(next(seconds)),
        limits=Limits(backoff_s=0.001, give_up_after_s=3),
    )
    ticket = writer.submit(0, EMPTY, progress(1))
    with pytest.raises(Unavailable, match="for 3 s"):
        writer.wait(ticket)
    with pytest.raises(Unavailable):
        writer.submit(0, EMPTY, progress(2))
    writer.close()


def test_a_row_that_cannot_be_held_is_named_and_nothing_of_its_group_is_written(database: str) -> None:
    cases = [
        (failures(1, excerpt="a\0b"), "guard.failures.excerpt", "holds NUL"),
        (failures(1, branch="\ud800"), "guard.failures.branch", "is not Unicode"),
        (failures(1, exit_code=1 << 63), "guard.failures.exit_code", "is out of range"),
        (failures(1, duration_ms=1 << 70), "guard.failures.duration_ms", "is out of range"),
        (failures(1, occurred_ms=1 << 60), "guard.failures.occurred_at", "is out of range"),
        (failures(1, case_id="none"), "guard.failures.case_id", "is not a UUID"),
        (failures(1, repository=None), "guard.failures.repository", "is null"),
        (EMPTY._replace(findings=[finding(1, events=["x"])]), "guard.findings.events", "is not a UUID"),
        (EMPTY._replace(decisions=[decision(1, calls="[")]), "guard.decisions.calls", "is not JSON"),
        (EMPTY._replace(decisions=[decision(1, calls='"\\u0000"')]), "guard.decisions.calls", "holds NUL"),
        (EMPTY._replace(dead_letters=[letter(1, shard=40_000)]), "guard.dead_letters.shard", "is out of range"),
    ]
    for said, place, fault in cases:
        watched = Watched(database)
        ticket = watched.writer.submit(0, said._replace(aggregates=output(1).aggregates), progress(1))
        with pytest.raises(BadRow, match=f"^{re.escape(place)} of .*: {fault}$"):
            watched.writer.wait(ticket)
        with pytest.raises(BadRow):
            watched.writer.submit(0, EMPTY, progress(2))
        watched.writer.close()
        assert watched.retries == []
    assert (count(database, "aggregates"), count(database, "progress")) == (0, 0)


def test_a_schema_that_was_not_migrated_is_not_waited_for(empty_database: str) -> None:
    watched = Watched(empty_database)
    with pytest.raises(BadRow, match="does not exist"):
        watched.writer.wait(watched.writer.submit(0, EMPTY, progress(1)))
    watched.writer.close()


def test_what_a_callback_raises_reaches_whoever_comes_next(database: str) -> None:
    def refuse(group: Sequence[Written], at: float) -> None:
        raise KeyError("metric")

    writer = Writer(database, clock=lambda: 0.0, monotonic=time.monotonic, on_commit=refuse)
    writer.wait(writer.submit(0, EMPTY, progress(1)))
    until(lambda: not writer._thread.is_alive())
    with pytest.raises(KeyError):
        writer.submit(0, EMPTY, progress(2))


def test_closing_ends_a_writer_that_nobody_answers() -> None:
    watched = Watched("postgresql://nobody@127.0.0.1:1/none", Limits(backoff_s=60, backoff_cap_s=60))
    ticket = watched.writer.submit(0, EMPTY, progress(1))
    until(lambda: watched.retries)
    watched.writer.close()
    assert not watched.writer._thread.is_alive()
    with pytest.raises(RuntimeError, match="closed"):
        watched.writer.wait(ticket)
