"""PostgreSQL: how we connect, how the schema comes about, and what is read back of it: progress and rulebooks.

postgres_writer.py writes the rows of the shards, postgres_queries.py reads them for people.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib.resources import files
from typing import Any, NamedTuple, TypeAlias

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from models.records.errors import ConfigError, Unavailable

Connection: TypeAlias = psycopg.Connection[TupleRow]
AsyncConnection: TypeAlias = psycopg.AsyncConnection[TupleRow]

# https://www.postgresql.org/docs/current/libpq-connect.html: a peer that vanished is noticed within about 15 seconds.
_DEFAULTS = {
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "5",
    "keepalives_count": "2",
    "tcp_user_timeout": "15000",
}
_SESSION = "-c statement_timeout=30s -c lock_timeout=5s -c idle_in_transaction_session_timeout=60s -c TimeZone=UTC"
_DURABLE = "-c synchronous_commit=on"
_MIGRATION_LOCK = 0x67756172  # "guar"
_PRUNED = (
    "failures",
    "diagnoses",
    "findings",
    "decisions",
    "aggregates",
    "job_hours",
    "dead_letters",
    "passing_logs",
    "detector_faults",
    "incidents",
    "act_outcomes",
    "reconciled",
    "hooks",
    "redeliveries",
    "quarantines",
    "acts",
    "healing",
    "budgets",
    "holds",
)
_WRITTEN = {"acts": "intended_at", "healing": "changed_at", "budgets": "changed_at", "holds": "began_at"}
"""The column that says how old a row is, where that is not `written_at`."""

_MIGRATIONS_TABLE = b"""
CREATE TABLE IF NOT EXISTS guard.schema_migrations (
    version     integer PRIMARY KEY,
    name        text NOT NULL,
    checksum    text NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE guard.schema_migrations IS 'The files of connectors/sql that were applied, by number.'
"""


class Progress(NamedTuple):
    """How far a shard has come: the last entry whose rows are all in PostgreSQL."""

    entry_id: str
    position: int
    stream_ms: int
    rulebook: str


class Migration(NamedTuple):
    """One file of connectors/sql."""

    version: int
    name: str
    sql: bytes

    @property
    def checksum(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.sql).hexdigest()


def connect(url: str, *, application_name: str = "guard", autocommit: bool = True) -> Connection:
    """Connect with time-outs, in UTC; what `url` says outranks our defaults, except that commits are durable.

    Raises:
        Unavailable: no server answers there, or it does not let us in.
        ConfigError: `url` is not a PostgreSQL URL.
    """
    where = _parameters(url, application_name)
    with unavailable():
        return psycopg.connect(where, autocommit=autocommit)


async def connect_async(url: str, *, application_name: str) -> AsyncConnection:
    """The same for a process that waits for many things at once.

    Raises:
        Unavailable, ConfigError: as connect().
    """
    where = _parameters(url, application_name)
    with unavailable():
        return await psycopg.AsyncConnection.connect(where, autocommit=True)


def _parameters(url: str, application_name: str) -> str:
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError as error:
        said = str(error).partition('"')[0].rstrip(": ")  # what libpq quotes may be the password
        raise ConfigError(f"not a PostgreSQL URL: {said}") from None
    options = f"{_SESSION} {given.pop('options', None) or ''} {_DURABLE}"
    parameters: dict[str, Any] = {**_DEFAULTS, "application_name": application_name, **given, "options": options}
    return make_conninfo(**parameters)


@contextmanager
def unavailable() -> Iterator[None]:
    """Say Unavailable for what psycopg calls an operational error: the server's trouble, not ours."""
    try:
        yield
    except psycopg.OperationalError as error:
        raise Unavailable(f"PostgreSQL: {str(error).strip()}") from error


def migrations() -> list[Migration]:
    """The files of connectors/sql, in order."""
    found = (entry for entry in files("connectors").joinpath("sql").iterdir() if entry.name.endswith(".sql"))
    return sorted(Migration(int(entry.name[:4]), entry.name, entry.read_bytes()) for entry in found)


def migrate(url: str) -> list[str]:
    """Apply what is not applied yet, each file in a transaction, and return the files' names.

    Processes that start together take turns. A newer schema than this release's is left as it is.

    Raises:
        ConfigError: a file was changed after it had been applied.
        Unavailable: the server is away, or a lock was not had in time; nothing of the file at hand was applied.
    """
    done = []
    with unavailable(), connect(url, application_name="guard migrate") as connection:
        connection.execute("SET statement_timeout = 0; SET lock_timeout = '60s'")
        connection.execute("SELECT pg_advisory_lock(%s)", [_MIGRATION_LOCK])
        connection.execute("SET lock_timeout = '5s'")
        applied = _applied(connection)
        if not applied:
            connection.execute("CREATE SCHEMA IF NOT EXISTS guard")
            connection.execute(_MIGRATIONS_TABLE)
        for migration in migrations():
            if migration.version in applied:
                _check_unchanged(migration, applied[migration.version])
                continue
            with connection.transaction():
                connection.execute(migration.sql)
                connection.execute(
                    "INSERT INTO guard.schema_migrations (version, name, checksum) VALUES (%s, %s, %s)",
                    [migration.version, migration.name, migration.checksum],
                )
            done.append(migration.name)
    return done


def _applied(connection: Connection) -> dict[int, str]:
    row = connection.execute("SELECT to_regclass('guard.schema_migrations')").fetchone()
    if row is None or row[0] is None:
        return {}
    return dict(connection.execute("SELECT version, checksum FROM guard.schema_migrations").fetchall())


def _check_unchanged(migration: Migration, checksum: str) -> None:
    if checksum != migration.checksum:
        raise ConfigError(
            f"connectors/sql/{migration.name} was changed after it had been applied; add a new file instead"
        )


def schema_version(url: str) -> int:
    """The number of the last migration applied there; 0 if there is none.

    Raises:
        Unavailable: the server is away.
    """
    with unavailable(), connect(url) as connection:
        return max(_applied(connection), default=0)


def read_progress(connection: Connection) -> dict[int, Progress]:
    """How far each shard has come, by its number; a shard that wrote nothing yet is absent."""
    rows = connection.execute(
        "SELECT shard, entry_id, position, (extract(epoch FROM stream_at) * 1000)::bigint, rulebook FROM guard.progress"
    )
    return {shard: Progress(*rest) for shard, *rest in rows}


def put_rulebook(connection: Connection, digest: str, body: Mapping[str, Any], *, created_by: str) -> bool:
    """Keep a rulebook under its digest; False if it was there already. What is there is never replaced.

    Numbers come back as JSON numbers, but not always as the same type (1e22 comes back as an integer): digest a
    rulebook before it goes in, not after it comes out.
    """
    cursor = connection.execute(
        "INSERT INTO guard.rulebooks (digest, body, created_by) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
        [digest, Jsonb(dict(body)), created_by],
    )
    return cursor.rowcount == 1


def get_rulebook(connection: Connection, digest: str) -> dict[str, Any] | None:
    """The rulebook of that digest, if it was ever kept."""
    row = connection.execute("SELECT body FROM guard.rulebooks WHERE digest = %s", [digest]).fetchone()
    return None if row is None else row[0]


def latest_rulebook(connection: Connection) -> tuple[str, dict[str, Any]] | None:
    """Digest and body of the rulebook kept last. Which one is in force is said by progress, shard by shard."""
    row = connection.execute(
        "SELECT digest, body FROM guard.rulebooks ORDER BY created_at DESC, digest LIMIT 1"
    ).fetchone()
    return None if row is None else (row[0], row[1])


def prune(
    url: str,
    older_than: datetime,
    *,
    tables: Sequence[str] = _PRUNED,
    batch: int = 5000,
    pause: Callable[[], None] = lambda: None,
) -> dict[str, int]:
    """Delete the rows of `tables` that were written before `older_than`; return how many, by table.

    Each batch is a transaction of its own and `pause` is called between two, so that the writer is never held up for
    long. Rulebooks and progress stay: they are few.

    Raises:
        Unavailable: the server is away; what was deleted so far stays deleted.
    """
    deleted = dict.fromkeys(tables, 0)
    with unavailable(), connect(url, application_name="guard prune") as connection:
        for table in tables:
            query = _PRUNE.format(table, _WRITTEN.get(table, "written_at")).encode()
            while count := connection.execute(query, [older_than, batch]).rowcount:
                deleted[table] += count
                pause()
    return deleted


_PRUNE = """
DELETE FROM guard.{0}
WHERE ctid = ANY (ARRAY(SELECT ctid FROM guard.{0} WHERE {1} < %s LIMIT %s))
"""
