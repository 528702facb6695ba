"""The recovery directory: made once, private, and bound to the rows in PostgreSQL that belong to it.

Bytewax keeps its snapshots there as pickles in SQLite, so that who can write to it can run code: it is 0700 and ours.
The directory and PostgreSQL both hold its id. A directory that is new, while PostgreSQL knows of another, means that
the state is lost: starting over would say everything again from the start of the streams, with state that does not
fit. That is refused, unless the operator says from where to go on.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final, TextIO
from uuid import uuid4

from bytewax.recovery import init_db_dir

from connectors.postgres import Connection, Progress
from models.records.errors import ConfigError, Unavailable

PARTITIONS: Final = 4
_IDENTITY: Final = "guard-store.json"
_LOCK: Final = "guard-store.lock"
_JOURNALS: Final = "journals"


@dataclass(frozen=True, slots=True)
class Start:
    """Where a shard begins that has no snapshot: the stream time it had come to, and the rulebook in force there.

    Without a rulebook the shipped one is in force, as it is where a stream begins.
    """

    entry_id: str = "0-0"
    position: int = 0
    stream_ms: int = 0
    rulebook: str = ""


@dataclass(frozen=True, slots=True)
class Store:
    """A recovery directory that is in place. `starts` holds for shards without a snapshot."""

    directory: Path
    store_id: str
    starts: Mapping[int, Start]

    @property
    def journals(self) -> Path:
        """Where the journals of shards are that snapshots name."""
        return self.directory / _JOURNALS

    def start(self, shard: int) -> Start:
        """Where `shard` begins if it has no snapshot."""
        return self.starts.get(shard, Start())


def open_store(
    directory: Path, connection: Connection, progress: Mapping[int, Progress], *, process: int, anew: bool
) -> Store:
    """The recovery store in `directory`, made if it is not there, and held by this process until it ends.

    `process` is the number of this one in its cluster: each holds the directory once, and so one cluster does.
    `anew` goes on from `progress` where the store that PostgreSQL knows of is lost (--from-progress).

    Raises:
        ConfigError: the directory is open to others, or it is not the one that belongs to what is in PostgreSQL.
        Unavailable: another flow runs on it.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.stat()
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise ConfigError(f"flow.recovery_dir: {directory} must belong to this user and be open to nobody else (0700)")
    _hold(directory, process)
    with (directory / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the processes of a cluster start at once, and one of them makes the store
        return _opened(directory, connection, progress, anew=anew)


_HELD: Final[list[TextIO]] = []
"""Locks of this process; closing one would let go of it."""


def _hold(directory: Path, process: int) -> None:
    held = (directory / f"{_LOCK}.{process}").open("w")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held.close()
        raise Unavailable(f"flow.recovery_dir: {directory} is in use by another flow (its process {process})") from None
    _HELD.append(held)


def _opened(directory: Path, connection: Connection, progress: Mapping[int, Progress], *, anew: bool) -> Store:
    store = _read(directory)
    row = connection.execute("SELECT store_id::text FROM guard.recovery_store").fetchone()
    noted = None if row is None else row[0]
    if store is not None and noted in {None, store.store_id}:
        _note(connection, store.store_id)
        return store
    if noted is not None and not anew:
        found = "holds nothing" if store is None else f"holds the store {store.store_id}"
        raise ConfigError(
            f"flow.recovery_dir: {directory} {found}, but what is in PostgreSQL goes with the store {noted}. Give back "
            "the directory, or go on from what PostgreSQL has with --from-progress: histories and open minutes are lost"
        )
    starts = {shard: Start(*p) for shard, p in progress.items()} if anew else {}
    store = Store(directory, str(uuid4()), starts)
    _make(store)
    _note(connection, store.store_id)
    return store


def _read(directory: Path) -> Store | None:
    identity = directory / _IDENTITY
    if not identity.exists():
        return None
    said = json.loads(identity.read_text())
    return Store(directory, said["store_id"], {int(shard): Start(*at) for shard, at in said["starts"].items()})


def _make(store: Store) -> None:
    """Make the store; the identity is written last, so that a half-made one is made again."""
    for left in (*store.directory.glob("part-*.sqlite3*"), *store.journals.glob("*")):
        left.unlink()
    init_db_dir(store.directory, PARTITIONS)
    starts = {shard: astuple(at) for shard, at in store.starts.items()}
    identity = store.directory / _IDENTITY
    beside = identity.with_suffix(".tmp")
    with beside.open("w") as file:
        json.dump({"store_id": store.store_id, "starts": starts}, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(identity)


def _note(connection: Connection, store_id: str) -> None:
    connection.execute(
        "INSERT INTO guard.recovery_store (store_id) VALUES (%s) "
        "ON CONFLICT (one) DO UPDATE SET store_id = excluded.store_id, noted_at = clock_timestamp() "
        "WHERE guard.recovery_store.store_id <> excluded.store_id",
        [store_id],
    )
