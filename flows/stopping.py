"""The kill switch: how it is thrown, taken back, and asked.

It is a file on the healer's machine, a row in PostgreSQL, and the healer itself (its HTTP API). Any of them stops; only
when all say go is anything done. Throwing it writes each that can be reached, and one is enough. Taking it back needs
PostgreSQL, where the ledger stands anyway, and then the file: nobody goes on whose row says stop, and no go is without
its row in the audit.

A stop that reached only a file, or only a healer, is written down in PostgreSQL as soon as a healer there can ask it,
so that those on other machines stop too. Each stop has an id, and is written down once: never again after a go.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Never
from uuid import UUID, uuid4

import msgspec
import psycopg
import structlog

from connectors.postgres import AsyncConnection, Connection, connect, connect_async
from connectors.postgres_stops import CHANNEL, Said, newest, newest_async, note_down, say_go, say_stop
from connectors.stop_file import Note, StopFile
from flows.servers import answering
from flows.tables import one_line
from models.records.errors import GuardError

Where = Literal["file", "database", "process"]

ASK_SECONDS: Final = 0.5
"""So often the row is asked for where no notification comes; half of what may pass between a stop and its effect."""

_log = structlog.get_logger()


class Stopped(msgspec.Struct, frozen=True):
    """Who said stop, why and since when, and where it stands; `at` is None where nobody knows."""

    by: str
    why: str
    at: datetime | None
    where: Where


class Told(NamedTuple):
    """Which places took a word, and which did not, with the reason."""

    reached: tuple[str, ...]
    missed: tuple[tuple[str, str], ...]


_NOT_ASKED: Final = Stopped("guard", "PostgreSQL has not been asked yet", None, "database")


def shell_user() -> str:
    """Who runs this process, as the machine names them; behind sudo, who called it."""
    if os.getuid() == 0 and (caller := os.environ.get("SUDO_USER")):
        return caller
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def new_note(by: str, why: str) -> Note:
    """A stop, said now."""
    return Note(uuid4(), datetime.now(UTC), by, why)


def stop(path: Path | None, url: str, note: Note, *, how: str) -> Told:
    """Stop all healers: by the file at `path`, and by a row in the database at `url`."""
    tries: list[tuple[str, Callable[[], object]]] = []
    if path is not None:
        tries.append((f"the file {path}", lambda: StopFile(path).write(note)))
    tries.append(("the database", lambda: _stop_there(url, note, how)))
    return _told(tries)


def go(path: Path | None, url: str, *, by: str, why: str, how: str, notes: Sequence[Note] = ()) -> Told:
    """Let all healers go on: the row first, then the file at `path`. Where the first fails the second is left alone.

    What the file said, and `notes`, is written down before, so that nobody does so afterwards.
    """
    file = StopFile(path) if path is not None else None
    there = file.note() if file else None
    said = [*notes, *([there] if there else [])]
    told = _told([("the database", lambda: _go_there(url, said, by=by, why=why, how=how))])
    if file is None or (told.missed and there is None):
        return told
    if told.missed:
        return told._replace(missed=(*told.missed, (f"the file {path}", "left where it is")))
    removed = _told([(f"the file {path}", file.remove)])
    return Told(told.reached + removed.reached, removed.missed)


def _told(tries: Sequence[tuple[str, Callable[[], object]]]) -> Told:
    reached, missed = [], []
    for name, attempt in tries:
        try:
            attempt()
        except GuardError as error:
            missed.append((name, one_line(str(error))))
        else:
            reached.append(name)
    return Told(tuple(reached), tuple(missed))


def _stop_there(url: str, note: Note, how: str) -> None:
    with answering(), connect(url, application_name="guard stop") as connection:
        say_stop(connection, note, via(how))


def _go_there(url: str, notes: Sequence[Note], *, by: str, why: str, how: str) -> None:
    with answering(), connect(url, application_name="guard go") as connection, connection.transaction():
        for note in notes:
            say_stop(connection, note, via("found by guard go"))
        say_go(connection, by=by, why=why, via=via(how))


def via(how: str) -> Mapping[str, Any]:
    """How something was said, for the audit."""
    return {"via": how, "user": shell_user(), "host": socket.gethostname()}


def _by_file(note: Note) -> Stopped:
    return Stopped(note.by, note.why, note.stopped_at, "file")


def _by_row(newest: Said | None) -> Stopped | None:
    return Stopped(newest.by, newest.why, newest.at, "database") if newest and newest.stopped else None


def stands(path: Path | None, connection: Connection | None) -> list[Stopped]:
    """What stops healers now, as far as it can be seen from here."""
    note = StopFile(path).note() if path is not None else None
    row = _by_row(newest(connection)) if connection is not None else None
    return [*([_by_file(note)] if note else []), *([row] if row else [])]


class Switch:
    """What a healer asks before it takes a case, and again just before each request that changes something.

    Asking costs microseconds: the file is looked at each time, the row is what `watch` last heard. While PostgreSQL is
    away that holds; before it was asked for the first time the answer is stop.
    """

    def __init__(self, path: Path | None, url: str, *, healer: str) -> None:
        self._file = StopFile(path) if path is not None else None
        self._path = path
        self._url = url
        self._healer = healer
        self._row: Stopped | None = _NOT_ASKED
        self._said: Note | None = None  # to this process, and not written down yet
        self._written: set[UUID] = set()
        self._away = False

    def stopped(self) -> Stopped | None:
        """Who stopped us; None where nobody did."""
        if (said := self._said) is not None:
            return Stopped(said.by, said.why, said.stopped_at, "process")
        if self._file is not None and (note := self._file.note()) is not None:
            return _by_file(note)
        return self._row

    async def pause(self, by: str, why: str) -> Told:
        """Stop this healer at once, then all others as far as they can be reached."""
        note = new_note(by, why)
        self._said = note
        told = await asyncio.to_thread(stop, self._path, self._url, note, how="the API")
        return told._replace(reached=("this healer", *told.reached))

    async def resume(self, by: str, why: str) -> Told:
        """Let all healers go on; where a place could not be told, nothing is."""
        said = self._said
        notes = [said] if said else []
        told = await asyncio.to_thread(go, self._path, self._url, by=by, why=why, how="the API", notes=notes)
        if told.missed:
            return told
        if self._said is said:  # nobody said stop meanwhile
            self._said = None
        return told

    async def watch(self, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> Never:
        """Keep what the database says at hand, for as long as the healer lives."""
        while True:
            try:
                async with await connect_async(self._url, application_name="guard switch") as connection:
                    await connection.execute(f"LISTEN {CHANNEL}".encode())
                    while True:
                        await self._look(connection)
                        self._note_away(None)
                        async for _ in connection.notifies(timeout=ASK_SECONDS, stop_after=1):
                            pass
            except (GuardError, psycopg.Error) as error:
                self._note_away(error)
            await sleep(ASK_SECONDS)

    async def _look(self, connection: AsyncConnection) -> None:
        """Write down what only we were told, or only the file, and read the newest word."""
        said = self._said
        for note, where in ((said, "said to a healer"), (self._file.note() if self._file else None, "found in a file")):
            if note is not None and note.note_id not in self._written:
                await note_down(connection, note, {**via(where), "noticed_by": self._healer})
                self._written.add(note.note_id)
        self._row = _by_row(await newest_async(connection))
        if said is not None and self._said is said:
            self._said = None  # the row says it now

    def _note_away(self, error: Exception | None) -> None:
        if error is not None and not self._away:
            _log.warning("the kill switch in PostgreSQL cannot be asked; the file still works", error=str(error))
        self._away = error is not None
