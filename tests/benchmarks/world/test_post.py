from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.world.__main__ import main
from tests.benchmarks.world.conftest import SOURCES


class _Receiver(ThreadingHTTPServer):
    """Answers 202, to each third delivery 503, and keeps what came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.Lock()
        self.came: list[tuple[str, bytes, int]] = []
        self.connections: set[Any] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/webhooks"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        with self.server.lock:
            status = 503 if len(self.server.came) % 3 == 2 else 202
            self.server.came.append((self.path, body, status))
            self.server.connections.add(self.client_address)
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        pass


@pytest.fixture
def receiver() -> Iterator[_Receiver]:
    with _Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    path = tmp_path / "sources.json"
    path.write_bytes(msgspec.json.encode(SOURCES))
    return path


def _rows(ledger: Path, record: str) -> list[dict[str, Any]]:
    return [row for row in map(json.loads, ledger.read_text("utf-8").splitlines()) if row["record"] == record]


def test_the_ledger_has_every_delivery_with_its_answer_and_the_truth_of_every_job(
    receiver: _Receiver, secrets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = tmp_path / "ledger.jsonl"
    main(
        [
            *("--url", receiver.url, "--secrets-json", str(secrets), "--ledger", str(ledger)),
            *("--duration", "2", "--speed", "600", "--rate", "20", "--disorder", "0.1"),
        ]
    )
    delivered = _rows(ledger, "delivery")
    came = sorted((hashlib.sha256(body).hexdigest(), status) for _, body, status in receiver.came)
    assert sorted((row["sha256"], row["status"]) for row in delivered) == came
    assert len(delivered) > 50
    assert len(receiver.connections) <= 32
    assert all(row["posted"] >= row["due"] - 0.005 for row in delivered)
    assert _rows(ledger, "truth")
    summary = json.loads(capsys.readouterr().out)
    assert summary["deliveries"] == len(delivered)
    assert set(summary["statuses"]) == {"202", "503"}


def test_a_receiver_that_is_not_there_is_written_down(secrets: Path, tmp_path: Path) -> None:
    with _Receiver() as gone:
        url = gone.url
    ledger = tmp_path / "ledger.jsonl"
    main(
        [
            *("--url", url, "--secrets-json", str(secrets), "--ledger", str(ledger)),
            *("--duration", "1", "--speed", "600", "--rate", "20"),
        ]
    )
    delivered = _rows(ledger, "delivery")
    assert delivered
    assert {(row["status"], row["error"]) for row in delivered} == {(0, "ConnectError")}


def test_the_process_takes_its_secrets_from_standard_input_and_ends_at_a_signal(receiver: _Receiver) -> None:
    command = [sys.executable, "-m", "benchmarks.world", "--url", receiver.url, "--secrets-json", "-"]
    child = subprocess.Popen(
        [*command, "--duration", "60", "--rate", "50"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(msgspec.json.encode(SOURCES))
    child.stdin.close()
    deadline = time.monotonic() + 30
    while not receiver.came and child.poll() is None and time.monotonic() < deadline:
        threading.Event().wait(0.05)
    child.send_signal(signal.SIGTERM)
    summary = json.loads(child.stdout.read())
    child.stdout.close()
    assert child.wait(10) == 0
    assert 0 < summary["deliveries"] == len(receiver.came)
