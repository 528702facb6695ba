"""The servers and the redactor that the settings name, for commands that end; what goes wrong is one plain line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Final

import psycopg
import redis

from connectors.postgres import Connection, connect, migrations, schema_version
from connectors.postgres import unavailable as postgres_unavailable
from connectors.redaction import Redactor
from connectors.redis_wire import unavailable as redis_unavailable
from flows.settings import Settings
from models.records.errors import ConfigError, Refused

_TIMEOUT_SECONDS: Final = 5.0


def now_ms() -> int:
    """The wall clock, Unix milliseconds."""
    return time.time_ns() // 1_000_000


def ago(past: timedelta) -> datetime:
    """So long before now."""
    return datetime.now(UTC) - past


def require_schema(url: str) -> None:
    """Insist on a database that has every migration of this release.

    Raises:
        ConfigError: it has not; the message names `guard migrate`.
        Unavailable, Refused: as `answering` does.
    """
    with answering():
        version, wanted = schema_version(url), migrations()[-1].version
    if version < wanted:
        found = f"has schema version {version}" if version else "has no tables of ours"
        raise ConfigError(f"the database {found}, and this release needs version {wanted}: run `guard migrate`")


@contextmanager
def answering() -> Iterator[None]:
    """Whatever PostgreSQL says against what is asked of it within, as one of our errors.

    Raises:
        Unavailable: the server is away, or went away meanwhile.
        Refused: it answers, and says no.
    """
    try:
        with postgres_unavailable():
            yield
    except psycopg.Error as error:
        raise Refused(f"PostgreSQL: {str(error).strip()}") from error


@contextmanager
def database(settings: Settings) -> Iterator[Connection]:
    """A connection to PostgreSQL with the schema of this release.

    Raises:
        ConfigError: the schema is not there.
        Unavailable, Refused: as `answering` does.
    """
    url = settings.postgres.url.get_secret_value()
    require_schema(url)
    with answering(), connect(url, application_name="guard cli") as connection:
        yield connection


@contextmanager
def streams(settings: Settings) -> Iterator[redis.Redis]:
    """A client of Redis.

    Raises:
        Unavailable: it is away, or went away meanwhile, or does not let us.
    """
    with redis_unavailable():
        client = redis.Redis.from_url(
            settings.redis.url.get_secret_value(),
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
        )
        with client:
            yield client


def redactor(settings: Settings) -> Redactor:
    """What hides secrets, with the key that the settings name.

    Raises:
        ConfigError: redaction.key is not set.
    """
    settings.require("redaction.key")
    assert settings.redaction.key is not None
    return Redactor(settings.redaction.key.get_secret_value().encode())
