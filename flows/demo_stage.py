"""What the demo stands on: servers of its own and the processes of the way, each with a log, all gone at the end.

The processes are those that an operator runs, with a settings file like an operator's. Only the world that posts to
them is made up, and it too is a process that knows nothing but an address and the secrets.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from connectors.postgres import migrate
from flows.embedded import EmbeddedPostgres, EmbeddedValkey, free_ports
from flows.supervise import dies_with_parent
from models.records.errors import ConfigError, Unavailable

HOST: Final = "127.0.0.1"

PATIENCE_SECONDS: Final = 20
"""How long a job may run before it is stuck. An hour is usual; nobody would see that within a minute."""

_STARTED_AGAIN: Final = frozenset({"logs", "archive", "healer"})
"""As whoever runs them in earnest would: a supervisor of the machine. The flow sees to its own workers."""
_GRACE_SECONDS: Final = 8.0
_TAIL_LINES: Final = 15
_SOURCES: Final = {
    "github": ("github", "github.com", "signature"),
    "gitlab": ("gitlab", "gitlab.example.com", "signing_token"),
    "jenkins": ("jenkins", "jenkins.example.com", "basic"),
    "circleci": ("circleci", "circleci.com", "signature"),
}
"""Platform, instance and kind of secret by the source's name."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the processes listen, all on the loopback."""

    receiver: int
    receiver_admin: int
    flow_metrics: int
    logs_metrics: int = 8100
    archive_metrics: int = 8200
    act_metrics: int = 8400
    act_api: int = 8300
    world: int = 8110  # where the world's platforms answer

    @classmethod
    def free(cls) -> Self:
        """Ports that nothing listens on now."""
        return cls(*(free_ports() for _ in fields(cls)))


class Files:
    """The demo's directory, which may be an earlier demo's: its secrets and data are then taken up again."""

    def __init__(self, directory: Path) -> None:
        """Make what is not there.

        Raises:
            ConfigError: the directory holds something else.
        """
        self.directory = directory
        self.settings = directory / "guard.toml"
        self.secrets = directory / "sources.json"
        self.key = directory / "redaction-key"
        self.apis = directory / "apis.json"
        self.earlier = sum(1 for _ in directory.glob("world-*.jsonl"))  # worlds that were posted from here before
        self.ledger = directory / f"world-{self.earlier}.jsonl"
        self.curl = directory / "delivery.curl"
        self.spool = directory / "spool"
        self.recovery = directory / "recovery"
        self.archive = directory / "archive"
        if directory.exists() and any(directory.iterdir()) and not self.secrets.exists():
            raise ConfigError(f"{directory}: not empty, and no earlier demo's")
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)  # run by root, PostgreSQL is somebody else; what is secret has modes of its own
        (directory / "logs").mkdir(exist_ok=True)
        if not self.secrets.exists():
            _private(self.key, secrets.token_hex(32))
            _private(self.secrets, json.dumps(_sources(), indent=2))
        if not self.apis.exists():
            _private(self.apis, json.dumps(_credentials(), indent=2))

    def log(self, name: str) -> Path:
        """Where the process of that name writes."""
        return self.directory / "logs" / f"{name}.log"

    def write_settings(self, *, redis: str, postgres: str, ports: Ports) -> None:
        """Write the settings file for these servers."""
        lines = [
            f"redis.url = {_quoted(redis)}",
            f"postgres.url = {_quoted(postgres)}",
            f"redaction.key = {_quoted(f'file:{self.key}')}",
            "",
            "[receiver]",
            f"port = {ports.receiver}",
            f"admin_port = {ports.receiver_admin}",
            f"spool_dir = {_quoted(self.spool)}",
            "",
            "[flow]",
            f"metrics_port = {ports.flow_metrics}",
            f"recovery_dir = {_quoted(self.recovery)}",
            "snapshot_seconds = 5",
            "",
            "[logs]",
            f"metrics_port = {ports.logs_metrics}",
            "",
            "[archive]",
            f"directory = {_quoted(self.archive)}",
            'flush = "5s"',
            f"metrics_port = {ports.archive_metrics}",
            "",
            "[act]",
            f"metrics_port = {ports.act_metrics}",
            f"api_port = {ports.act_api}",
            f"stop_file = {_quoted(self.directory / 'stop')}",
            f"audit_seals = {_quoted(self.directory / 'audit.seals')}",
            'lease = "10s"',
            'probe_every = "2s"  # all this is for a world that runs sixty times as fast as ours',
            'drain = "5s"',
            "",
            "[act.limits]",
            "repository_per_hour = 1000",
            "fleet_per_hour = 10000",
            "repository_minutes_per_hour = 1e6",
            "fleet_minutes_per_hour = 1e6",
            "least_reruns_per_hour = 10000",
            'cooldown = "1s"',
            "crowd_repositories = 3",
            'crowd = "20s"',
            "",
            "[rulebook.policy]",
            'mode = "act"',
            'actions = ["*rerun*", "cancel", "open_issue"]',
            "backoff_seconds = 1",
            "outage_backoff_seconds = 2",
            "",
            "[rulebook.detectors.StuckJob]",
            f'patience = "{PATIENCE_SECONDS}s"',
            f'patience_unknown = "{PATIENCE_SECONDS}s"',
            "factor = 0  # of what a job usually takes, which a minute does not tell",
        ]
        for name, source in json.loads(self.secrets.read_text("utf-8")).items():
            instance = _SOURCES[name][1]
            secret = f"{{ kind = {_quoted(source['kind'])}, value = {_quoted(source['secret'])} }}"
            lines += [
                "",
                f"[receiver.sources.{name}]",
                f"platform = {_quoted(source['platform'])}",
                f"instance = {_quoted(instance)}",
                f"secrets = [{secret}]",
            ]
        credentials = json.loads(self.apis.read_text("utf-8"))
        for name, (platform, instance, _) in _SOURCES.items():
            kind = "basic" if platform == "jenkins" else "token"
            lines += [
                "",
                f"[platforms.{name}]",
                f"platform = {_quoted(platform)}",
                f"instance = {_quoted(instance)}",
                f"url = {_quoted(f'http://{HOST}:{ports.world}/{platform}')}",
                f"read_credential = {{ kind = {_quoted(kind)}, value = {_quoted(credentials[platform])} }}",
                f"act_credential = {{ kind = {_quoted(kind)}, value = {_quoted(credentials[f'{platform}.act'])} }}",
                f"log_hosts = [{_quoted(HOST)}]",
            ]
        _private(self.settings, "\n".join([*lines, ""]))
        _private(self.curl, _delivery(json.loads(self.secrets.read_text("utf-8"))["jenkins"]["secret"]))


def _credentials() -> dict[str, str]:
    """What opens the platforms' APIs: for each what reads, and under NAME.act what acts."""
    names = [f"{platform}{what}" for platform, _, _ in _SOURCES.values() for what in ("", ".act")]
    return {name: ("guard:" if "jenkins" in name else "") + secrets.token_hex(20) for name in names}


def _sources() -> dict[str, dict[str, str]]:
    """Every source with a secret that nobody had before, as the world reads them."""

    def secret(kind: str) -> str:
        drawn = secrets.token_bytes(32)
        if kind == "signing_token":
            return f"whsec_{base64.b64encode(drawn).decode()}"
        return f"guard:{drawn.hex()}" if kind == "basic" else drawn.hex()

    return {
        name: {"platform": platform, "kind": kind, "secret": secret(kind)}
        for name, (platform, _, kind) in _SOURCES.items()
    }


def _delivery(secret: str) -> str:
    """A failed Jenkins build, for `curl -K`, with what proves it.

    https://plugins.jenkins.io/notification/
    """
    log = ["[Pipeline] sh", "cp: error writing 'target/app.bin': No space left on device", "Finished: FAILURE"]
    now_ms = time.time_ns() // 1_000_000
    build = {"number": now_ms % 10**6, "phase": "FINALIZED", "status": "FAILURE", "timestamp": now_ms, "duration": 4200}
    scm = {"branch": "origin/main", "commit": "5c1d7e0a" * 5}
    body = {"name": "nightly", "url": "job/acme/job/nightly/", "build": build | {"scm": scm, "log": "\n".join(log)}}
    options = {"user": secret, "header": "content-type: application/json", "data": json.dumps(body)}
    return "".join(f"{name} = {_quoted(value)}\n" for name, value in options.items())


def _private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, "utf-8")


def _quoted(value: object) -> str:
    """A TOML string; those of JSON are among them."""
    return json.dumps(str(value))


def _outages(speed: float, seconds: float) -> list[str]:
    """When a registry is away in the world: once soon, then now and then. Its times are the world's."""
    begins = (15.0 + n * 120.0 for n in range(60))
    return [f"--outage=registry_down:{at * speed:.0f}:{12 * speed:.0f}" for at in begins if at < seconds]


class Child:
    """One process of the demo, with its own children in a group that ends as a whole."""

    def __init__(self, name: str, command: list[str], log: Path) -> None:
        """Start it; on Linux it goes when the thread that did so goes."""
        self.name = name
        self.log = log
        self.command = command
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                env={**os.environ, "PYTHONSAFEPATH": "1"},  # modules are ours, wherever the demo was started
                preexec_fn=dies_with_parent(signal.SIGTERM),  # noqa: PLW1509 - one system call, looked up before the fork
            )

    @property
    def status(self) -> int | None:
        """Its exit status once it has ended."""
        return self._process.poll()

    def ask_to_stop(self) -> None:
        """Ask it to end; it need not have ended when this returns."""
        if self.status is None:
            self._process.terminate()

    def stop(self) -> None:
        """End it and what it started; by force after 8 s."""
        self.ask_to_stop()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_SECONDS)
        with suppress(ProcessLookupError, PermissionError):  # what macOS and Linux say when the whole group has ended
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Stage:
    """Servers and processes, from `with` to its end."""

    def __init__(self, files: Files) -> None:
        """Nothing is started yet."""
        self.files = files
        self.ports = Ports.free()
        self.valkey = EmbeddedValkey(files.directory / "valkey")
        self.postgres = EmbeddedPostgres(files.directory / "postgres")
        self._children: dict[str, Child] = {}
        self._starting: Future[None] | None = None  # another one of what was killed
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Start both servers side by side; PostgreSQL with its tables, and the receiver, which needs only Valkey.

        Raises:
            ConfigError, Unavailable: one of them cannot start.
        """
        with self._stack:
            self._stack.callback(self.valkey.stop)
            self._stack.callback(self.postgres.stop)
            # A server dies with the thread that started it, so this one lives as long as the server must.
            self._pool = self._stack.enter_context(ThreadPoolExecutor(1, "postgres"))
            migrated: Future[object] = self._pool.submit(lambda: migrate(self.postgres.start().url))
            self.valkey.start()
            self._stack.callback(self._stop_children)
            self.files.write_settings(redis=self.valkey.url, postgres=self.postgres.url, ports=self.ports)
            self._start("receiver", "flows.cli", "receive", "--settings", str(self.files.settings))
            migrated.result()
            self._start("flow", "flows.cli", "flow", "--settings", str(self.files.settings))
            self._start("logs", "flows.cli", "logs", "--settings", str(self.files.settings))
            self._start("archive", "flows.cli", "archive", "--settings", str(self.files.settings))
            self._start("healer", "flows.cli", "act", "--settings", str(self.files.settings))
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self, name: str, module: str, *arguments: str) -> None:
        self._children[name] = Child(name, [sys.executable, "-m", module, *arguments], self.files.log(name))

    def _stop_children(self) -> None:
        wait([self._starting] if self._starting else [])
        for child in self._children.values():
            child.ask_to_stop()
        for child in reversed(self._children.values()):
            child.stop()

    def start_world(self, *, seed: int, speed: float, rate: float, seconds: float) -> None:
        """Let pipelines run for so many seconds; where earlier ones ran, others than theirs, or all would be known."""
        options = {
            "url": self.webhooks,
            "secrets-json": self.files.secrets,
            "ledger": self.files.ledger,
            "logs-port": self.ports.world,
            "logs-json": self.files.apis,
            "seed": seed + self.files.earlier,
            "speed": speed,
            "rate": rate,
            "duration": seconds,
        }
        words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        self._start("world", "benchmarks.world", *words, *_outages(speed, seconds))

    @property
    def webhooks(self) -> str:
        """Where the sources post to, up to and without their names."""
        return f"http://{HOST}:{self.ports.receiver}/webhooks"

    @property
    def psql(self) -> str:
        """PostgreSQL's own client: the machine's, or the one that came with the server."""
        return shutil.which("psql") or str(self.postgres.programs / "psql")

    @property
    def world_over(self) -> bool:
        """Whether the world has ended as it should."""
        return "world" in self._children and self._children["world"].status == 0

    def stop_world(self) -> None:
        """No more deliveries."""
        self._children["world"].stop()

    def check(self) -> None:
        """Insist that all still run; of what loses nothing by being killed, start another one.

        Raises:
            Unavailable: one has ended; the message says which, and a note has what it wrote last.
        """
        for server in (self.valkey, self.postgres):
            if server.pid is None:
                raise _noted(Unavailable(f"{server.name} has ended"), tail(server.data_dir / "server.log"))
        for child in list(self._children.values()):
            if child.name in _STARTED_AGAIN and (child.status or 0) < 0:
                if self._starting is None or self._starting.done():
                    self._starting = self._pool.submit(self._start_again, child)
            elif child.status is not None and not (child.name == "world" and child.status == 0):
                ended = f"was killed by signal {-child.status}" if child.status < 0 else f"ended with {child.status}"
                raise _noted(Unavailable(f"the {child.name} {ended}"), tail(child.log))

    def _start_again(self, child: Child) -> None:
        """In a thread of its own: an interrupt in the midst of it must leave nobody behind."""
        child.stop()
        self._children[child.name] = Child(child.name, child.command, child.log)

    def too_late(self, message: str) -> Unavailable:
        """What is raised when all still run but do not do what they should; notes have what they wrote last."""
        return _noted(Unavailable(message), *(f"{c.name}:\n{tail(c.log)}" for c in self._children.values()))


def _noted(error: Unavailable, *notes: str) -> Unavailable:
    for note in notes:
        error.add_note(note)
    return error


def tail(log: Path) -> str:
    """The last lines of a log."""
    try:
        lines = log.read_text("utf-8", errors="replace").splitlines()
    except OSError as error:
        return f"(cannot be read: {error.strerror})"
    return "\n".join(lines[-_TAIL_LINES:]) or "(nothing)"
