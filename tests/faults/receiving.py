"""Receivers to kill, senders that post to them as platforms do, and what those were promised."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import httpx2

from benchmarks.world.deliveries import Delivery
from connectors.redaction import Redactor
from flows.embedded import free_ports
from models.records.entry import encode
from models.records.event import SHARDS
from tests.contracts import oracle
from tests.faults.harness import KEY, SOURCES, Ground, metric, normalise, spawn
from tests.helpers import wait_until

NO_ANSWER: Final = 0
_COMMAND: Final = (sys.executable, "-c", "import sys; from flows.cli import main; sys.exit(main(['receive']))")


class Receiver:
    """A receiver process on two ports and a spool of its own."""

    def __init__(self, ground: Ground, name: str, *, spool: bool = True) -> None:
        self._ground = ground
        self.port, self.admin = free_ports(), free_ports()
        self.spool = ground.directory / f"spool-{name}"
        self._log = ground.directory / f"{name}.log"
        self._settings = ground.directory / f"{name}.toml"
        lines = [f'spool_dir = "{self.spool}"'] if spool else []
        lines = ["[receiver]", f"port = {self.port}", f"admin_port = {self.admin}", *lines]
        for source, known in SOURCES.items():
            secret = f'secrets = [{{ kind = "{known.kind}", value = "{known.secret}" }}]'
            lines += [
                f"[receiver.sources.{source}]",
                f'platform = "{known.platform}"',
                f'instance = "{source}"',
                secret,
            ]
        self._settings.write_text("\n".join(lines))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where sources post to, without their name."""
        return f"http://127.0.0.1:{self.port}/webhooks"

    def __enter__(self) -> Self:
        environment = self._ground.environment() | {"GUARD_SETTINGS": str(self._settings)}
        with self._log.open("ab") as log:
            self._process = spawn(_COMMAND, environment, log)
        wait_until(self.ready, within=30, what="a receiver")
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def ready(self) -> bool:
        """Whether it says that it could take a delivery now."""
        assert self._process is not None
        assert self._process.poll() is None, self.words()[-3000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it by a signal; its exit status."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            return self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    def metric(self, name: str, label: str = "") -> float:
        """A metric of the receiver, summed up."""
        return metric(self.admin, name, label)

    def words(self) -> str:
        """What it wrote."""
        return self._log.read_text(errors="replace")


class Answered(NamedTuple):
    """What became of one delivery; times are monotonic seconds."""

    delivery: Delivery
    posted: float
    answered: float
    status: int
    error: str


class Senders:
    """Posts deliveries while the block runs, over connections that are made anew each time, as platforms make them.

    Those that say that they are ready are posted to in turn, as a balancer does. A refused connection was never taken,
    and the next receiver is tried; nothing else is repeated.
    """

    def __init__(
        self,
        deliveries: Sequence[Delivery],
        receivers: Sequence[Receiver],
        ledger: Path,
        *,
        seconds: float,
        at_once: int = 8,
    ) -> None:
        self._deliveries = deliveries
        self._receivers = receivers
        self._ready = list(receivers)
        self._ledger = ledger
        self._seconds = seconds
        self._at_once = at_once
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="senders")
        self.answers: list[Answered] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._hurry.set()
        self._thread.join()
        assert len(self.answers) == len(self._deliveries), "the senders failed"

    @property
    def statuses(self) -> Counter[int]:
        """How many were answered how."""
        return Counter(answer.status for answer in self.answers)

    async def _run(self) -> None:
        began = time.monotonic()
        free = asyncio.Semaphore(self._at_once)
        limits = httpx2.Limits(max_connections=self._at_once + 1, max_keepalive_connections=0)
        with self._ledger.open("a", encoding="utf-8") as ledger:
            async with (
                httpx2.AsyncClient(timeout=10, limits=limits, trust_env=False) as client,
                asyncio.TaskGroup() as tasks,
            ):
                watching = asyncio.create_task(self._watch(client))
                for number, delivery in enumerate(self._deliveries):
                    due = began + self._seconds * number / len(self._deliveries)
                    if not self._hurry.is_set():
                        await asyncio.sleep(max(due - time.monotonic(), 0))
                    await free.acquire()
                    task = tasks.create_task(self._send(client, delivery, number, ledger))
                    task.add_done_callback(lambda _: free.release())
                watching.cancel()

    async def _watch(self, client: httpx2.AsyncClient) -> None:
        """Ask each receiver again and again whether it is ready."""
        while True:
            ready = []
            for receiver in self._receivers:
                with suppress(httpx2.HTTPError):
                    answer = await client.get(f"http://127.0.0.1:{receiver.admin}/readyz")
                    ready += [receiver] if answer.status_code == 200 else []
            self._ready = ready
            await asyncio.sleep(0.1)

    async def _send(self, client: httpx2.AsyncClient, delivery: Delivery, number: int, ledger: Any) -> None:
        posted = time.monotonic()
        status, error = NO_ANSWER, ""
        candidates = self._ready or self._receivers
        for attempt in range(len(candidates)):
            receiver = candidates[(number + attempt) % len(candidates)]
            try:
                answer = await client.post(
                    receiver.url + delivery.path, content=delivery.body, headers=dict(delivery.headers)
                )
                status = answer.status_code
                break
            except httpx2.ConnectError as refused:
                error = repr(refused)
            except httpx2.HTTPError as failure:
                error = repr(failure)
                break
        answered = Answered(delivery, posted, time.monotonic(), status, error)
        self.answers.append(answered)
        ledger.write(json.dumps([delivery.source, delivery.id, delivery.copy, status, error, posted]) + "\n")
        ledger.flush()


def promised(answers: Sequence[Answered]) -> dict[str, set[str]]:
    """What each delivery that was answered 2xx must have left behind, by the receiver's own normaliser."""
    redactor = Redactor(KEY.encode())
    wanted: dict[str, set[str]] = {}
    for answer in answers:
        if 200 <= answer.status < 300:
            said = normalise(answer.delivery, redactor)
            name = f"{answer.delivery.source} {answer.delivery.id} {answer.delivery.copy}"
            wanted[name] = {
                token for there in said.deliveries for entry, _ in there.items for token in oracle.tokens(encode(entry))
            }
    return wanted


def out_of_order(log: oracle.Log, answers: Sequence[Answered]) -> list[str]:
    """Entries that stand before one that had been answered 2xx before they were even posted."""
    redactor = Redactor(KEY.encode())
    posted: dict[str, float] = {}
    answered: dict[str, float] = {}
    for answer in answers:
        for there in normalise(answer.delivery, redactor).deliveries:
            for entry, _ in there.items:
                for token in oracle.tokens(encode(entry)):
                    posted[token] = min(posted.get(token, answer.posted), answer.posted)
                    if 200 <= answer.status < 300:
                        answered[token] = min(answered.get(token, answer.answered), answer.answered)
    wrong = []
    for shard in range(SHARDS):
        latest = 0.0
        for stands in log[shard]:
            for token in oracle.tokens(stands.fields):
                if answered.get(token, latest) < latest:
                    wrong.append(f"shard {shard}, entry {stands.position}: {token} came after what was posted later")
                latest = max(latest, posted.get(token, 0.0))
    return wrong
