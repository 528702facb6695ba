"""The audit in PostgreSQL: what people and healers do is added to it, sealed, and held against its seals.

Numbers are given out before rows can be seen, so a row may appear after others that have higher ones. What is sealed
must not change by that: every writer holds a lock, shared, from before its number is given out until its transaction
ends (guard.enter_audit, migration 0013). Whoever seals has it alone for a moment, asks for the highest number, and lets
go. All rows up to there can then be seen, and what is missing among them was given up and never comes. Writers
are held up for that moment only, and not at all where the lock cannot be had within a quarter of a second.

The file is what is believed, the table is what is at hand: each machine's file gets every seal of the table, in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Final, LiteralString, NamedTuple

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from connectors.audit_chain import AuditRow, Fault, Seal, compare, line_of, read_line, seal_rows
from connectors.audit_file import SealFile, adding, read_lines
from connectors.postgres import AsyncConnection, Connection, unavailable
from models.records.errors import MalformedPayload, Refused

Row = dict[str, Any]

RECORD: Final = "INSERT INTO guard.audit (actor, what, subject, detail) VALUES (%s, %s, %s, %s)"
"""Actor, what, subject, and the detail as jsonb; in the transaction that does what it tells."""

MOST_ROWS: Final = 5000
"""Of one seal: so many are in memory at once."""

_HORIZON: Final = """
BEGIN ISOLATION LEVEL READ COMMITTED;
SET LOCAL lock_timeout = '250ms';
SELECT pg_advisory_xact_lock(1735745906, 13); -- guard.enter_audit has it shared
SELECT coalesce(max(audit_id), 0) FROM guard.audit;
COMMIT
"""
_SEALING: Final = "SELECT pg_advisory_xact_lock(1735745906, 14)"
_COMMITTED: Final = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"  # what is seen is as of each statement
_LINES: Final = "SELECT line FROM guard.audit_seals ORDER BY seal_id"
_ROWS: Final = """
SELECT audit_id, extract(epoch FROM at)::text, actor, what, subject, detail::text FROM guard.audit ORDER BY audit_id
"""
_NEW_ROWS: Final = """
SELECT audit_id, extract(epoch FROM at)::text, actor, what, subject, detail::text FROM guard.audit
WHERE audit_id > %s AND audit_id <= %s ORDER BY audit_id
"""
_SEAL: Final = """
INSERT INTO guard.audit_seals (seal_id, sealed_at, through, rows, digest, line) VALUES (%s, %s, %s, %s, %s, %s)
"""

_BEFORE_ALL: Final = -(1 << 63)
_OFF: Final = """
SELECT must.on_table, must.name
FROM (VALUES ('guard.audit', 'append_only'), ('guard.audit', 'enter_audit'), ('guard.audit_seals', 'append_only'))
    AS must (on_table, name)
WHERE NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = on_table::regclass AND tgname = name AND tgenabled = 'A')
"""


class Sealed(NamedTuple):
    """What sealing came to: new seals and the rows in them, and lines added to the file."""

    seals: int
    rows: int
    lines: int


class Verified(NamedTuple):
    """What verifying came to. `unsealed` rows came since the last seal, and nothing holds them yet."""

    seals: int
    rows: int
    unsealed: int
    faults: tuple[Fault, ...]  # the first row that is not as it was sealed, the first seal, triggers switched off


# --- adding


def record(connection: Connection, actor: str, what: str, subject: str, detail: Mapping[str, Any]) -> None:
    """Add a row, in the transaction at hand if there is one."""
    connection.execute(RECORD, [actor, what, subject, Jsonb(dict(detail))])


async def record_async(
    connection: AsyncConnection, actor: str, what: str, subject: str, detail: Mapping[str, Any]
) -> None:
    """The same, over a connection that is waited for."""
    await connection.execute(RECORD, [actor, what, subject, Jsonb(dict(detail))])


def rows_since(connection: Connection, since: datetime, *, actor: str | None = None) -> list[Row]:
    """The rows since then, of one actor or of all, oldest first."""
    query = (
        "SELECT audit_id, at, actor, what, subject, detail FROM guard.audit"
        " WHERE at >= %s AND (%s::text IS NULL OR actor = %s) ORDER BY audit_id"
    )
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, [since, actor, actor]).fetchall()


# --- sealing


def seal(connection: Connection, file: Path | None, now: datetime) -> Sealed:
    """Seal what is not sealed yet, and add to `file` all seals that it lacks. Where nothing is new nothing is done.

    The connection commits by itself and has no transaction open.
    The table is written first: a crash between the two leaves a file that lacks a seal, which it gets the next time.

    Raises:
        Refused: the last seal in `file` is not in the table: one of them was changed. Or the server says no.
        Unavailable: the server is away or a lock was not had in time, or the file cannot be written.
    """
    try:
        if file is None:
            return _seal(connection, None, now)
        with adding(file) as held:
            return _seal(connection, held, now)
    except psycopg.Error as error:
        raise Refused(f"PostgreSQL: {str(error).strip()}") from error


def _seal(connection: Connection, held: SealFile | None, now: datetime) -> Sealed:
    with unavailable():
        reached = _reached(connection, held) if held else 0
        through = _horizon(connection)
        with connection.transaction():
            connection.execute(_COMMITTED)
            connection.execute(_SEALING)
            made = list(_made(connection, through, now))
        if held is None:
            return Sealed(len(made), sum(each.rows for each in made), 0)
        lines = connection.execute(
            "SELECT line FROM guard.audit_seals WHERE seal_id > %s ORDER BY seal_id", [reached]
        ).fetchall()
    if lines:
        held.add([line for (line,) in lines])
    return Sealed(len(made), sum(each.rows for each in made), len(lines))


def _reached(connection: Connection, held: SealFile) -> int:
    """The number of the last seal in the file, which must be in the table too."""
    if held.last is None:
        return 0
    number = _readable(held.last, "the last line of the file of seals").number
    row = connection.execute("SELECT line FROM guard.audit_seals WHERE seal_id = %s", [number]).fetchone()
    if row != (held.last,):
        raise Refused("the last seal in the file is not in guard.audit_seals; `guard audit verify` tells what changed")
    return number


def _horizon(connection: Connection) -> int:
    """The highest number among rows of which no lower one is still to come.

    All of it is one message to the server, so that no writer waits for the network, or for a sealer that was cut off.
    """
    try:
        cursor = connection.execute(_HORIZON, prepare=False)
        for _begin_set_lock in range(3):
            cursor.nextset()
        row = cursor.fetchone()
    except psycopg.Error:
        connection.rollback()
        raise
    return row[0] if row else 0


def _made(connection: Connection, through: int, now: datetime) -> Iterator[Seal]:
    """New seals, each written, up to the row `through`."""
    row = connection.execute("SELECT seal_id, line FROM guard.audit_seals ORDER BY seal_id DESC LIMIT 1").fetchone()
    last = _readable(row[1], "the last row of guard.audit_seals") if row else None
    if row and last and row[0] != last.number:
        raise Refused("the last row of guard.audit_seals was changed; `guard audit verify` tells what else")
    after = last.through if last else _BEFORE_ALL
    with _streamed(connection, "new_rows", _NEW_ROWS, [after, through]) as found:
        while rows := found.fetchmany(MOST_ROWS):
            last = seal_rows(last, [AuditRow(*row) for row in rows], now.isoformat(timespec="milliseconds"))
            connection.execute(_SEAL, [last.number, now, last.through, last.rows, last.digest, line_of(last)])
            yield last


def _readable(line: str, what: str) -> Seal:
    try:
        return read_line(line)
    except MalformedPayload as error:
        raise Refused(f"{what}: {error}") from None


# --- verifying


def verify(connection: Connection, file: Path | None) -> Verified:
    """Hold every row against its seal: that in `file`, and where it has none yet, that in the table.

    The connection commits by itself and has no transaction open.

    Raises:
        Unavailable: the server is away, or the file cannot be read.
    """
    with unavailable(), connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        with _streamed(connection, "lines", _LINES) as lines, _streamed(connection, "rows", _ROWS) as rows:
            judge = _Judge(AuditRow(*row) for row in rows)
            judge.judge((line for (line,) in lines), file)
        through = judge.last.through if judge.last else _BEFORE_ALL
        left = connection.execute("SELECT count(*) FROM guard.audit WHERE audit_id > %s", [through]).fetchone()
        off = [Fault("trigger", None, f"{table} is not guarded: {name} is off") for table, name in _off(connection)]
    return Verified(judge.seals, judge.rows, left[0] if left else 0, (*judge.faults, *off))


def _off(connection: Connection) -> list[tuple[str, str]]:
    """The triggers that must be there, and always on, and are not."""
    return connection.execute(_OFF).fetchall()


class _Judge:
    """Goes through rows and seals side by side."""

    def __init__(self, rows: Iterable[AuditRow]) -> None:
        self._rows = iter(rows)
        self._ahead = next(self._rows, None)
        self.seals = 0
        self.rows = 0
        self.last: Seal | None = None
        self.faults: list[Fault] = []

    def judge(self, in_table: Iterator[str], file: Path | None) -> None:
        """Find the first row, and the first seal, that is not as it was; after such a row no further one is sought."""
        in_file = read_lines(file) if file else iter(())
        first = next(in_file, None)
        if file and first is None:
            in_table = self._none_in_file(in_table, file)
        both = zip_longest(chain([first] if first is not None else [], in_file), in_table)
        for number, (filed, tabled) in enumerate(both, 1):
            if filed is not None and filed != tabled:
                self._seal_differs(number, file, removed=tabled is None)
            line = filed if filed is not None else tabled
            assert line is not None
            if not self._holds(number, line):
                return

    def _none_in_file(self, in_table: Iterator[str], file: Path) -> Iterator[str]:
        first = next(in_table, None)
        if first is None:
            return iter(())
        self.faults.append(Fault("seal", None, f"{file} holds no seal, and the table has some: the file was removed"))
        return chain([first], in_table)

    def _seal_differs(self, number: int, file: Path | None, *, removed: bool) -> None:
        if not any(fault.what == "seal" for fault in self.faults):
            said = "is not in the table" if removed else "is another one in the table"
            self.faults.append(Fault("seal", None, f"seal {number} of {file} {said}"))

    def _holds(self, number: int, line: str) -> bool:
        try:
            seal = read_line(line)
        except MalformedPayload as error:
            self.faults.append(Fault("seal", None, f"seal {number} cannot be read: {error}"))
            return False
        rows = list(self._up_to(seal.through))
        fault = compare(seal, self.last, rows)
        if fault:
            self.faults.insert(0, fault)
            return False
        self.last = seal
        self.seals += 1
        self.rows += len(rows)
        return True

    def _up_to(self, audit_id: int) -> Iterator[AuditRow]:
        while (row := self._ahead) is not None and row.audit_id <= audit_id:
            self._ahead = next(self._rows, None)
            yield row


@contextmanager
def _streamed(
    connection: Connection, name: str, query: LiteralString, given: Sequence[object] = ()
) -> Iterator[psycopg.ServerCursor[Any]]:
    with connection.cursor(name=f"audit_{name}") as cursor:
        cursor.itersize = 2000
        yield cursor.execute(query, given)
