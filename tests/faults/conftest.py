from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from connectors.postgres import migrate
from flows import supervise
from flows.embedded import EmbeddedPostgres, EmbeddedValkey
from tests.faults.harness import Ground


@pytest.fixture(autouse=True)
def _restart_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor's pauses stay short however often a test kills; that they grow is tested elsewhere."""
    monkeypatch.setattr(supervise, "_STEADY_SECONDS", 0.0)


@pytest.fixture
def ground(own_valkey: EmbeddedValkey, database: str, tmp_path: Path) -> Iterator[Ground]:
    """A Valkey of the test's own, and a database of its own on a PostgreSQL that stays up."""
    made = Ground(own_valkey.url, database, tmp_path)
    yield made
    made.client.close()


@pytest.fixture
def databases(postgres_server: EmbeddedPostgres, database: str) -> Iterator[list[str]]:
    """Three databases with our tables in them."""
    names = [f"test_{uuid4().hex}" for _ in range(2)]
    urls = [postgres_server.database_url(name) for name in names]
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        for name, url in zip(names, urls, strict=True):
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            migrate(url)
        yield [database, *urls]
        for name in names:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def own_ground(own_valkey: EmbeddedValkey, own_postgres: EmbeddedPostgres, tmp_path: Path) -> Iterator[Ground]:
    """Servers of the test's own, both to be killed at will."""
    migrate(own_postgres.url)
    made = Ground(own_valkey.url, own_postgres.url, tmp_path / uuid4().hex[:8])
    made.directory.mkdir()
    yield made
    made.client.close()
