"""The receiver as a process, on a real Valkey that comes and goes."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from connectors.redis_streams import log_key
from flows.embedded import EmbeddedValkey, free_ports
from models.records.entry import Kind, decode
from models.records.event import SHARDS
from models.records.payload import from_json
from tests.connectors.test_webhook import SECRET, github_job, signed
from tests.helpers import wait_until

ROOT = Path(__file__).parents[2]
_RUN = "import os; from flows.receive import run; from flows.settings import Settings; run(Settings.load(os.environ))"
_SETTINGS = """
[redis]
url = "{redis}"
[redaction]
key = "a key of the tests, 32 bytes lng"
[receiver]
port = {port}
admin_port = {admin}
max_body_bytes = 1048576
{spool}
[receiver.sources.acme]
platform = "github"
instance = "github.com"
secrets = [{{ kind = "signature", value = "{secret}" }}]
"""


@dataclass
class Running:
    """A receiver that runs."""

    process: subprocess.Popen[bytes]
    port: int
    admin: int
    log: Path

    def post(self, body: bytes, *, source: str = "acme", secret: str = SECRET) -> tuple[int, dict[str, str]]:
        """Post a signed delivery; its status and answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        try:
            connection.request("POST", f"/webhooks/{source}", body, signed(body, secret))
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def get(self, path: str) -> tuple[int, str]:
        """Ask the operators' port."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=15)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def answers(self) -> bool:
        """Whether it is up."""
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.get("/healthz")[0] == 200
        except OSError:
            return False


@contextmanager
def receiver(redis_url: str, directory: Path, *, spool: bool = True) -> Iterator[Running]:
    """Start one on free ports, and stop it."""
    port, admin = free_ports(), free_ports()
    setting = f'spool_dir = "{directory}/spool"' if spool else ""
    settings = directory / "guard.toml"
    settings.write_text(_SETTINGS.format(redis=redis_url, port=port, admin=admin, spool=setting, secret=SECRET))
    log = directory / "receiver.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", _RUN],
            cwd=ROOT,
            env=os.environ | {"GUARD_SETTINGS": str(settings)},
            stdout=output,
            stderr=output,
        )
    running = Running(process, port, admin, log)
    try:
        wait_until(running.answers, within=30, what="the receiver")
        yield running
    finally:
        process.kill()
        process.wait()


def jobs(url: str) -> list[str | None]:
    """The jobs of the events on all shards; those of one shard in the order in which they stand."""
    found: list[str | None] = []
    with redis.Redis.from_url(url) as client:
        for shard in range(SHARDS):
            entries = [decode(*next(iter(fields.items()))) for _, fields in client.xrange(log_key(shard))]
            found += [from_json(entry.payload).job_id for entry in entries if entry.kind is Kind.EVENT]
    return found


def heartbeats(url: str) -> list[int]:
    """How many heartbeats stand on each shard."""
    with redis.Redis.from_url(url) as client:
        return [
            sum(b"heartbeat.json.1" in fields for _, fields in client.xrange(log_key(shard))) for shard in range(SHARDS)
        ]


def test_a_delivery_is_in_redis_when_it_is_answered_and_is_counted(redis_url: str, tmp_path: Path) -> None:
    with receiver(redis_url, tmp_path) as here:
        assert here.post(github_job(id=1)) == (202, {"status": "accepted"})
        assert jobs(redis_url) == ["1"]
        assert here.post(github_job(id=1)) == (200, {"status": "duplicate"})
        assert here.post(b"{") == (200, {"status": "rejected", "reason": "malformed_payload"})
        assert here.post(github_job(), secret="wrong") == here.post(github_job(), source="nobody")
        assert here.get("/readyz") == (200, '{"status":"ready","redis":true,"spooled":0}')
        metrics = here.get("/metrics")[1]
        for line in (
            'guard_webhook_requests_total{outcome="accepted",source="acme"} 1.0',
            'guard_webhook_requests_total{outcome="unauthorised",source="unknown"} 1.0',
            'guard_signature_secret_index{source="acme"} 0.0',
            "guard_ingest_seconds_count 5.0",
        ):
            assert line in metrics


def test_every_shard_has_heartbeats_while_nothing_comes(redis_url: str, tmp_path: Path) -> None:
    with receiver(redis_url, tmp_path):
        wait_until(lambda: min(heartbeats(redis_url)) >= 2, what="two heartbeats on every shard")


def test_a_large_body_is_413_over_a_real_connection_too(redis_url: str, tmp_path: Path) -> None:
    with receiver(redis_url, tmp_path) as here:
        with socket.create_connection(("127.0.0.1", here.port), timeout=15) as connection:
            head = (
                "POST /webhooks/acme HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 25000000"
            )
            connection.sendall(f"{head}\r\n\r\n".encode())
            with suppress(OSError):  # it answers before it has read all, and hangs up
                connection.sendall(b"x" * 25_000_000)
            assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
        assert here.post(github_job())[0] == 202


def test_garbage_instead_of_http_harms_nothing(redis_url: str, tmp_path: Path) -> None:
    with receiver(redis_url, tmp_path) as here:
        for garbage in (b"\0" * 1000, b"POST /webhooks/acme HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"a" * 100_000):
            with socket.create_connection(("127.0.0.1", here.port), timeout=15) as connection:
                connection.sendall(garbage + b"\r\n\r\n")
        assert here.post(github_job())[0] == 202


def test_two_receivers_never_share_a_spool(redis_url: str, tmp_path: Path) -> None:
    with receiver(redis_url, tmp_path) as here:
        other = subprocess.run(
            [sys.executable, "-c", _RUN],
            cwd=ROOT,
            env=os.environ | {"GUARD_SETTINGS": str(tmp_path / "guard.toml")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert other.returncode != 0
        assert "belongs to another running receiver" in other.stderr
        assert here.answers()


def test_a_port_that_is_taken_is_said_in_one_line(redis_url: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = tmp_path / "guard.toml"
        settings.write_text(_SETTINGS.format(redis=redis_url, port=port, admin=free_ports(), spool="", secret=SECRET))
        found = subprocess.run(
            [sys.executable, "-c", _RUN],
            cwd=ROOT,
            env=os.environ | {"GUARD_SETTINGS": str(settings)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert f"Unavailable: 127.0.0.1:{port} cannot be had: Address already in use" in found.stderr


@pytest.mark.fault
def test_redis_killed_means_spooled_and_redis_back_means_drained_in_order_before_newer_ones(
    own_valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    with receiver(own_valkey.url, tmp_path) as here:
        assert here.post(github_job(id=100))[1]["status"] == "accepted"
        own_valkey.kill()
        for number in range(101, 121):
            assert here.post(github_job(id=number)) == (202, {"status": "spooled"})
        assert here.get("/readyz")[0] == 200
        assert "guard_spool_entries 20.0" in here.get("/metrics")[1]
        own_valkey.start()
        sent = 121
        while here.post(github_job(id=sent))[1]["status"] == "spooled":
            sent += 1
        wait_until(lambda: "guard_spool_entries 0.0" in here.get("/metrics")[1], within=30, what="an empty spool")
        assert jobs(own_valkey.url) == [str(number) for number in range(100, sent + 1)]


@pytest.mark.fault
def test_without_a_spool_a_killed_redis_means_503(own_valkey: EmbeddedValkey, tmp_path: Path) -> None:
    with receiver(own_valkey.url, tmp_path, spool=False) as here:
        own_valkey.kill()
        assert here.post(github_job()) == (503, {"status": "unavailable"})
        assert here.get("/readyz")[0] == 503
        own_valkey.start()
        wait_until(lambda: here.post(github_job())[0] == 202, within=30, what="an accepted delivery")


@pytest.mark.fault
def test_a_receiver_killed_while_it_spools_loses_nothing_that_it_answered(
    own_valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    acknowledged: set[str] = set()
    with receiver(own_valkey.url, tmp_path) as here:
        own_valkey.kill()

        def client(first: int) -> None:
            with suppress(OSError, http.client.HTTPException):
                for number in range(first, 1 << 30, 4):
                    if here.post(github_job(id=number))[0] == 202:
                        acknowledged.add(str(number))

        clients = [threading.Thread(target=client, args=(1 + first,)) for first in range(4)]
        for thread in clients:
            thread.start()
        wait_until(lambda: len(acknowledged) > 50, within=60, what="fifty answers")
        here.process.send_signal(signal.SIGKILL)
        for thread in clients:
            thread.join()
    own_valkey.start()
    with receiver(own_valkey.url, tmp_path):
        wait_until(lambda: acknowledged <= set(jobs(own_valkey.url)), within=30, what="all that was answered")
    found = jobs(own_valkey.url)
    assert len(found) == len(set(found))


@pytest.mark.fault
def test_sigterm_lets_what_is_under_way_be_answered(own_valkey: EmbeddedValkey, tmp_path: Path) -> None:
    answers: list[int] = []
    with receiver(own_valkey.url, tmp_path) as here:
        assert own_valkey.pid is not None
        os.kill(own_valkey.pid, signal.SIGSTOP)
        try:
            posting = [
                threading.Thread(target=lambda n=n: answers.append(here.post(github_job(id=n))[0])) for n in range(1, 6)
            ]
            for thread in posting:
                thread.start()
            time.sleep(0.3)  # requests are on their way, and cannot be answered yet: nothing tells us that they are
            here.process.send_signal(signal.SIGTERM)
        finally:
            os.kill(own_valkey.pid, signal.SIGCONT)
        for thread in posting:
            thread.join()
        assert here.process.wait(20) == 0
        assert answers == [202] * 5
    with redis.Redis.from_url(own_valkey.url) as client:
        assert client.ping()
