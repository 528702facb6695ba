"""What in a Redis server's configuration would lose what it has acknowledged."""

from __future__ import annotations

import pytest
import redis

from connectors.redis_safety import Server, look, unsafe
from models.records.errors import Unavailable

SAFE = {"appendonly": "yes", "appendfsync": "always", "maxmemory": "0", "maxmemory-policy": "noeviction"}


def test_a_server_that_keeps_what_it_acknowledges_is_safe(any_redis_url: str) -> None:
    with redis.Redis.from_url(any_redis_url) as client:
        server = look(client)
    assert server.name in {"Valkey", "Redis"}
    assert unsafe(server) == []


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"appendonly": "no"}, "appendonly is not yes"),
        ({"appendfsync": "everysec"}, "appendfsync is everysec"),
        ({"maxmemory-policy": "allkeys-lru"}, "maxmemory-policy is allkeys-lru"),
    ],
)
def test_what_would_lose_acknowledged_entries_is_named(changed: dict[str, str], named: str) -> None:
    (problem,) = unsafe(Server("Valkey", "9.1.2", SAFE | changed))
    assert problem.startswith(named)


@pytest.mark.parametrize(("version", "old"), [("6.2.14", True), ("7.0.15", False), ("7.4", False), ("8.2.1", False)])
def test_a_redis_before_7_is_too_old(version: str, old: bool) -> None:
    assert bool(unsafe(Server("Redis", version, SAFE))) is old


def test_a_server_that_hides_its_configuration_is_not_called_safe() -> None:
    (problem,) = unsafe(Server("Redis", "7.2.4", None))
    assert "does not show its configuration" in problem


def test_a_server_may_refuse_to_show_its_configuration(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.acl_setuser("hosted", enabled=True, nopass=True, commands=["+info", "+client"], keys=["*"])
        try:
            with redis.Redis.from_url(redis_url, username="hosted", password="any") as hosted:
                assert look(hosted).config is None
        finally:
            client.acl_deluser("hosted")


def test_a_server_that_is_away_is_unavailable(tmp_path: object) -> None:
    with redis.Redis.from_url(f"unix://{tmp_path}/nobody.sock") as client, pytest.raises(Unavailable):
        look(client)
