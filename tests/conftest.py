"""Real servers for tests: one Valkey and one PostgreSQL per test process, a fresh database for each test.

Tests that kill a server take `own_valkey` or `own_postgres`, which nobody else uses.
"""

from __future__ import annotations

import logging
import random
import shutil
import sys
import tempfile
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import hypothesis
import psycopg
import pytest
import redis
import structlog
from psycopg import sql

from flows.embedded import EmbeddedPostgres, EmbeddedValkey

hypothesis.settings.register_profile("suite", deadline=None)  # how long an example takes says how busy the machine is
hypothesis.settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """Undo what a test that runs a command in this process sets up for the whole of it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    hooks = sys.excepthook, threading.excepthook
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook, threading.excepthook = hooks
    structlog.reset_defaults()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A seed of this test's own, from the session's; shown when the test fails."""
    number = request.config.getoption("randomly_seed", default=0)
    own = zlib.crc32(f"{number}{request.node.nodeid}".encode())
    print(f"seed {own} (of -p randomly_seed={number})")  # noqa: T201 - pytest shows it beside a failure
    return own


@pytest.fixture
def rng(seed: int) -> random.Random:
    """Seeded randomness."""
    return random.Random(seed)


@pytest.fixture(scope="session")
def servers_dir() -> Iterator[Path]:
    """A directory short enough for Unix sockets, which PostgreSQL's own user may enter."""
    path = Path(tempfile.mkdtemp(prefix="guard-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def valkey_server(servers_dir: Path) -> Iterator[EmbeddedValkey]:
    """A Valkey that this test process shares; never kill it."""
    with EmbeddedValkey(servers_dir / "valkey") as server:
        yield server


@pytest.fixture(scope="session", params=["valkey", "redis"])
def any_redis_server(
    request: pytest.FixtureRequest, servers_dir: Path, valkey_server: EmbeddedValkey
) -> Iterator[EmbeddedValkey]:
    """The shared Valkey, then the machine's own redis-server where it has one."""
    if request.param == "valkey":
        yield valkey_server
        return
    with EmbeddedValkey(servers_dir / "redis", binary=_redis_binary()) as server:
        yield server


def _redis_binary() -> Path:
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("no redis-server on the PATH")
    return Path(found)


@pytest.fixture
def redis_url(valkey_server: EmbeddedValkey) -> str:
    """An empty Valkey."""
    return _flushed(valkey_server)


@pytest.fixture
def any_redis_url(any_redis_server: EmbeddedValkey) -> str:
    """An empty Valkey, then an empty Redis where there is one."""
    return _flushed(any_redis_server)


def _flushed(server: EmbeddedValkey) -> str:
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
        client.script_flush()
    return server.url


@pytest.fixture
def own_valkey(servers_dir: Path) -> Iterator[EmbeddedValkey]:
    """A Valkey of this test's own, to be killed at will."""
    with EmbeddedValkey(servers_dir / uuid4().hex[:8]) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server(servers_dir: Path) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL that this test process shares; never kill it."""
    with EmbeddedPostgres(servers_dir / "postgres", durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def _migrated(postgres_server: EmbeddedPostgres) -> str:
    """The name of a database with every migration applied."""
    from connectors.postgres import migrate

    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE guard_template")
    migrate(postgres_server.database_url("guard_template"))
    return "guard_template"


@pytest.fixture
def empty_database(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """The url of a database with nothing in it, dropped after the test."""
    yield from _database(postgres_server, "template1")


@pytest.fixture
def database(postgres_server: EmbeddedPostgres, _migrated: str) -> Iterator[str]:
    """The url of a database with our tables in it, all empty, dropped after the test."""
    yield from _database(postgres_server, _migrated)


def _database(server: EmbeddedPostgres, template: str) -> Iterator[str]:
    name = f"test_{uuid4().hex}"
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*map(sql.Identifier, (name, template))))
        yield server.database_url(name)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def own_postgres(servers_dir: Path) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL of this test's own that fsyncs, to be killed at will; it has no tables of ours."""
    with EmbeddedPostgres(servers_dir / uuid4().hex[:8]) as server:
        yield server
