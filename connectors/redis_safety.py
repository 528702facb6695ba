"""What in a Redis server's configuration would lose what it has acknowledged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import redis

from connectors.redis_wire import unavailable

_ASKED: Final = ("appendonly", "appendfsync", "maxmemory", "maxmemory-policy")
_OLDEST: Final = (7, 0)  # the first release with XSETID and XGROUP SETID that take a count, and XINFO GROUPS with lag


class Server(NamedTuple):
    """A Redis or Valkey: what it calls itself, its version, and its configuration; None where it does not tell."""

    name: str
    version: str
    config: Mapping[str, str] | None


def look(client: redis.Redis) -> Server:
    """Ask the server what it is. Hosted ones often refuse to show their configuration.

    Raises:
        Unavailable: it does not answer.
    """
    with unavailable():
        info: dict[str, Any] = client.info("server")
        try:
            told: dict[Any, Any] = client.config_get(*_ASKED)
        except redis.ResponseError:
            config = None
        else:
            config = {_text(key): _text(value) for key, value in told.items()}
    if "valkey_version" in info:
        return Server("Valkey", str(info["valkey_version"]), config)
    return Server("Redis", str(info["redis_version"]), config)


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def unsafe(server: Server) -> list[str]:
    """What is wrong with `server`, a sentence each, with what comes of it."""
    problems = []
    numbers = tuple(int(part) for part in server.version.split(".")[:2] if part.isdecimal())
    if server.name == "Redis" and numbers < _OLDEST:
        problems.append(f"Redis {server.version}: streams need 7.0 or later, or Valkey")
    if server.config is None:
        return [*problems, "it does not show its configuration; make sure of appendonly yes and appendfsync always"]
    config = server.config
    if config.get("appendonly") != "yes":
        problems.append("appendonly is not yes: a restart loses what was acknowledged")
    elif config.get("appendfsync") != "always":
        problems.append(
            f"appendfsync is {config.get('appendfsync')}: a crash loses what was acknowledged since the last fsync; "
            "set it to always"
        )
    policy = config.get("maxmemory-policy", "noeviction")
    if policy != "noeviction":
        problems.append(
            f"maxmemory-policy is {policy}: a full server drops duplicate marks or whole shards; set it to noeviction"
        )
    return problems
