"""The kill switch: any place stops, all must say go, and each word has its row in the audit, once."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from connectors.postgres import connect, connect_async, migrate
from connectors.postgres_stops import newest, say_go, say_stop
from connectors.stop_file import StopFile
from flows import stopping
from flows.embedded import EmbeddedPostgres
from flows.stopping import Stopped, Switch, Told, new_note
from tests.flows.conftest import Guard
from tests.flows.switched import comes, watched

NOWHERE = "postgresql://nobody@127.0.0.1:1/none"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "stop"


def audit(url: str) -> list[tuple[str, str, str]]:
    """Actor, what, and how it was said, by audit_id."""
    with connect(url) as connection:
        return connection.execute("SELECT actor, what, detail ->> 'via' FROM guard.audit ORDER BY audit_id").fetchall()


def is_stopped(url: str) -> bool:
    with connect(url) as connection:
        said = newest(connection)
        return said is not None and said.stopped


def who(switch: Switch) -> Stopped:
    stopped = switch.stopped()
    assert stopped is not None
    return stopped


# --- the words


def test_stop_reaches_file_and_database_and_go_takes_both_back(path: Path, database: str) -> None:
    note = new_note("ann", "it deletes things")
    assert stopping.stop(path, database, note, how="test") == Told((f"the file {path}", "the database"), ())
    assert StopFile(path).note() == note
    assert is_stopped(database)
    told = stopping.go(path, database, by="ben", why="mended", how="test")
    assert told == Told(("the database", f"the file {path}"), ())
    assert not path.exists()
    assert not is_stopped(database)
    assert audit(database) == [("ann", "stop", "test"), ("ben", "go", "test")]


def test_each_place_is_enough_to_stop(path: Path, database: str) -> None:
    told = stopping.stop(path, NOWHERE, new_note("ann", "x"), how="test")
    assert (told.reached, [name for name, _ in told.missed]) == ((f"the file {path}",), ["the database"])
    told = stopping.stop(path / "below", database, new_note("ann", "x"), how="test")
    assert (told.reached, [name for name, _ in told.missed]) == (("the database",), [f"the file {path / 'below'}"])
    assert stopping.stop(None, database, new_note("ann", "x"), how="test") == Told(("the database",), ())
    assert stopping.stop(None, NOWHERE, new_note("ann", "x"), how="test").reached == ()


def test_go_without_the_database_takes_nothing_back(path: Path) -> None:
    stopping.stop(path, NOWHERE, new_note("ann", "x"), how="test")
    told = stopping.go(path, NOWHERE, by="ann", why="x", how="test")
    assert (told.reached, [name for name, _ in told.missed]) == ((), ["the database", f"the file {path}"])
    assert path.exists()


def test_go_that_cannot_remove_the_file_does_not_say_it_did(path: Path, database: str) -> None:
    path.mkdir()
    told = stopping.go(path, database, by="ann", why="x", how="test")
    assert [name for name, _ in told.missed] == [f"the file {path}"]
    assert Switch(path, database, healer="one").stopped() is not None


def test_what_only_the_file_said_has_its_row_before_the_go(path: Path, database: str) -> None:
    stopping.stop(path, NOWHERE, new_note("ann", "x"), how="test")
    stopping.go(path, database, by="ben", why="x", how="test")
    assert [line[:2] for line in audit(database)] == [("ann", "stop"), ("ben", "go")]
    assert not is_stopped(database)


# --- the switch


def test_before_the_database_was_asked_the_answer_is_stop(path: Path) -> None:
    assert who(Switch(path, NOWHERE, healer="one")).where == "database"


def test_a_row_a_file_and_a_touched_file_stop_within_a_second(path: Path, database: str) -> None:
    me = path.parent.owner()

    async def run() -> None:
        async with watched(path, database) as switch:
            await comes(lambda: switch.stopped() is None)
            with connect(database) as connection:
                say_stop(connection, new_note("ann", "row"), {"via": "test"})
                assert await comes(lambda: switch.stopped() is not None) < 1
                assert who(switch).why == "row"
                say_go(connection, by="ann", why="x", via={})
                assert await comes(lambda: switch.stopped() is None) < 1
            await asyncio.to_thread(path.touch)
            assert (who(switch).by, who(switch).where) == (me, "file")

    asyncio.run(run())


def test_without_notifications_the_row_is_asked_for(path: Path, database: str) -> None:
    async def run() -> None:
        async with watched(path, database) as switch:
            await comes(lambda: switch.stopped() is None)
            with connect(database) as connection:
                connection.execute("ALTER TABLE guard.stops DISABLE TRIGGER tell_stops")
                say_stop(connection, new_note("ann", "row"), {"via": "test"})
                assert await comes(lambda: switch.stopped() is not None) < 1

    asyncio.run(run())


def test_a_stop_on_one_machine_stops_healers_on_others_and_is_written_down_once(tmp_path: Path, database: str) -> None:
    """A file that nobody but a healer could tell the database of; a go; and the file is not remembered."""

    async def run() -> None:
        here, there = tmp_path / "here", tmp_path / "there"
        async with watched(here, database, "one") as one, watched(there, database, "two") as two:
            await comes(lambda: (one.stopped(), two.stopped()) == (None, None))
            here.write_text("help")
            assert one.stopped() is not None
            assert await comes(lambda: two.stopped() is not None) < 2
            told = await asyncio.to_thread(stopping.go, here, database, by="ben", why="x", how="test")
            assert told.missed == ()
            assert await comes(lambda: (one.stopped(), two.stopped()) == (None, None)) < 2
            async with await connect_async(database, application_name="test") as connection:
                await one._look(connection)
                await two._look(connection)
            assert (one.stopped(), two.stopped()) == (None, None)
        assert audit(database) == [(here.parent.owner(), "stop", "found in a file"), ("ben", "go", "test")]

    asyncio.run(run())


def test_pause_and_resume_of_the_api(path: Path, database: str) -> None:
    async def run() -> None:
        async with watched(path, database, "one") as one, watched(None, database, "two") as two:
            await comes(lambda: (one.stopped(), two.stopped()) == (None, None))
            pausing = asyncio.create_task(one.pause("ann", "enough"))
            await asyncio.sleep(0)
            assert one.stopped() is not None  # at once
            assert (await pausing).reached == ("this healer", f"the file {path}", "the database")
            await comes(lambda: two.stopped() is not None)
            assert (await one.resume("ann", "again")).missed == ()
            await comes(lambda: (one.stopped(), two.stopped()) == (None, None))
        assert audit(database) == [("ann", "stop", "the API"), ("ann", "go", "the API")]

    asyncio.run(run())


@pytest.mark.fault
def test_a_stop_while_postgresql_is_away_holds_and_is_written_down_when_it_is_back(
    path: Path, own_postgres: EmbeddedPostgres
) -> None:
    """Two healers, one told by its API and without a file; and what is told to neither stops both in the end."""

    async def run() -> None:
        url = own_postgres.url
        migrate(url)
        async with watched(path, url, "one") as one, watched(None, url, "two") as two:
            await comes(lambda: (one.stopped(), two.stopped()) == (None, None))
            await asyncio.to_thread(own_postgres.kill)
            assert (one.stopped(), two.stopped()) == (None, None)  # what was known last holds
            told = await asyncio.to_thread(stopping.stop, path, url, new_note("ann", "now"), how="guard stop")
            assert told.reached == (f"the file {path}",)
            assert one.stopped() is not None
            told = await two.pause("ben", "me too")
            assert told.reached == ("this healer",)
            assert two.stopped() is not None
            assert (await two.resume("ben", "no")).missed
            assert two.stopped() is not None
            await asyncio.to_thread(own_postgres.restart)
            await comes(lambda: sorted(audit_or_none(url)) == [("ann", "stop"), ("ben", "stop")])
            await comes(lambda: who(two).where == "database")
            told = await asyncio.to_thread(stopping.go, path, url, by="ann", why="x", how="guard go")
            assert told.missed == ()
            await comes(lambda: (one.stopped(), two.stopped()) == (None, None))

    asyncio.run(run())


def audit_or_none(url: str) -> list[tuple[str, str]]:
    with suppress(psycopg.Error):
        return [(actor, what) for actor, what, _ in audit(url)]
    return []


# --- the commands


def test_guard_stop_and_guard_go(
    guard: Guard, servers: None, path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUARD_ACT__STOP_FILE", str(path))
    said = guard("stop", "--why", "a reason", "--by", "ann")
    assert (said.status, said.lines, said.err) == (0, [f"stopped: the file {path}", "stopped: the database"], "")
    stopped = guard("status", "--json").json()["stopped"]
    assert [(each["by"], each["why"], each["where"]) for each in stopped] == [
        ("ann", "a reason", "file"),
        ("ann", "a reason", "database"),
    ]
    assert "healers are stopped" in guard("status").out
    said = guard("go", "--why", "over")
    assert (said.status, said.lines[-1].startswith("healers go on"), said.err) == (0, True, "")
    assert guard("status", "--json").json()["stopped"] == []
    assert audit(database) == [("ann", "stop", "guard stop"), (stopping.shell_user(), "go", "guard go")]


def test_guard_stop_without_the_database(guard: Guard, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARD_ACT__STOP_FILE", str(path))
    said = guard("stop", "--why", "x")
    assert (said.status, said.lines) == (0, [f"stopped: the file {path}"])
    assert said.complaints[0].startswith("guard: not stopped: the database: PostgreSQL: ")
    note = StopFile(path).note()
    assert note is not None
    assert (note.by, note.why) == (stopping.shell_user(), "x")
    said = guard("go", "--why", "x")
    assert (said.status, said.lines) == (1, [])
    assert [line.partition(": P")[0] for line in said.complaints] == [
        "guard: not taken back: the database",
        f"guard: not taken back: the file {path}: left where it is",
        "guard: not all of it could be taken back: healers stay stopped",
    ]
    assert path.exists()


def test_guard_stop_that_reaches_nothing_says_so(guard: Guard) -> None:
    said = guard("stop", "--why", "x")
    assert said.status == 1
    assert "nothing was reached" in said.complaints[-1]


def test_guard_stop_in_a_database_without_our_tables_is_not_said_to_have_stopped(
    guard: Guard, empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUARD_POSTGRES__URL", empty_database)
    assert guard("stop", "--why", "x").status == 1


@pytest.mark.parametrize("command", ["stop", "go"])
@pytest.mark.parametrize("arguments", [[], ["--why", " "]])
def test_nobody_stops_without_a_reason(guard: Guard, command: str, arguments: list[str]) -> None:
    assert guard(command, *arguments).status == 2
