"""The embedded servers keep what they have answered for, and never outlive their parent."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import psycopg
import pytest
import redis

from flows.embedded import EmbeddedPostgres, EmbeddedValkey, free_ports
from models.records.errors import ConfigError
from tests.helpers import wait_until


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.fault
def test_valkey_keeps_every_answered_write_through_a_kill(own_valkey: EmbeddedValkey) -> None:
    url, first = own_valkey.url, own_valkey.pid
    with redis.Redis.from_url(url) as client:
        client.set("kept", "yes")
        own_valkey.kill()
        own_valkey.start()
        assert client.get("kept") == b"yes"
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert own_valkey.url == url
    assert own_valkey.pid != first


@pytest.mark.fault
def test_postgres_keeps_every_commit_through_a_kill(own_postgres: EmbeddedPostgres) -> None:
    with psycopg.connect(own_postgres.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
        connection.commit()
        own_postgres.kill()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT n FROM kept")
    own_postgres.start()
    with psycopg.connect(own_postgres.url) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (1,)


def test_servers_listen_on_loopback_where_a_port_is_named(servers_dir: Path) -> None:
    port = free_ports()
    with EmbeddedValkey(servers_dir / "loopback", port=port) as server, redis.Redis.from_url(server.url) as client:
        assert server.url == f"redis://127.0.0.1:{port}"
        assert client.ping()


def test_a_directory_too_long_for_a_socket_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too long for a Unix socket"):
        EmbeddedValkey(tmp_path / ("x" * 120))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child of its parent's death")
def test_servers_go_down_with_a_killed_parent(servers_dir: Path) -> None:
    program = f"""
        import sys, time
        from pathlib import Path
        from flows.embedded import EmbeddedPostgres, EmbeddedValkey
        base = Path({str(servers_dir)!r})
        with EmbeddedValkey(base / "orphan-v") as one, EmbeddedPostgres(base / "orphan-p", durable=False) as other:
            print(one.pid, other.pid, flush=True)
            time.sleep(60)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert parent.stdout is not None
    with parent.stdout:
        children = [int(word) for word in parent.stdout.readline().split()]
    parent.kill()
    parent.wait()
    assert len(children) == 2
    wait_until(lambda: not any(map(_alive, children)), what="the end of the orphans")


def test_each_test_gets_its_own_database_with_our_tables(database: str, empty_database: str) -> None:
    count = "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    with psycopg.connect(database) as ours, psycopg.connect(empty_database) as empty:
        assert (ours.execute(count).fetchone() or (0,))[0] > 0
        assert empty.execute(count).fetchone() == (0,)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ports are kept from others on Linux")
def test_free_ports_are_ours_and_nobody_elses() -> None:
    first = free_ports(3)
    for port in range(first, first + 3):
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        socket.create_server(("127.0.0.1", port)).close()
    assert not {free_ports() for _ in range(20)} & {first, first + 1, first + 2}
