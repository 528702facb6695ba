"""A process that appends events at a constant rate, whatever becomes of them: an open model, it never waits.

    python -m benchmarks.sender --socket /tmp/valkey.sock --rate 1000 --seconds 20

An event's timestamp and received_at are the moment at which it was due, so that a server that holds the sender up is
not excused. Replies are counted by a second thread. Prints one JSON line when all appends are answered.
"""

from __future__ import annotations

import argparse
import json
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import hiredis

from benchmarks.workload import Workload, cached
from connectors.redis_streams import log_key
from models.records.entry import HEADER_BYTES, Encoding, Entry, Kind, encode

_TICK_SECONDS: Final = 0.001
_MARK: Final = b'"timestamp":"'


class Answers(threading.Thread):
    """Reads what the server answers, and counts it."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(daemon=True)
        self._connection = connection
        self._parser = hiredis.Reader()
        self.count = 0
        self.error: str | None = None

    def run(self) -> None:
        """Read until the connection is closed."""
        while data := self._connection.recv(1 << 16):
            self._parser.feed(data)
            while (reply := self._parser.gets()) is not False:
                self.count += 1
                if isinstance(reply, hiredis.HiredisError):
                    self.error = str(reply)


def at_its_time(payload: bytes, due_ms: int) -> bytes:
    """`payload`, the JSON of an event, with the time at which it is due."""
    start = payload.index(_MARK) + len(_MARK)
    stamp = datetime.fromtimestamp(due_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return payload[:start] + stamp.encode() + payload[payload.index(b'"', start) :]


def send(path: str, planned: Iterator[tuple[int, bytes]], *, rate: float, count: int) -> dict[str, float | str | None]:
    """Append `count` of `planned`, (shard, payload), one every 1/`rate` seconds; how late the sender itself was."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    answers = Answers(connection)
    answers.start()
    sent, latest = 0, 0.0
    began = time.time()
    while sent < count:
        now = time.time()
        due = min(count, int((now - began) * rate) + 1)
        commands = []
        for number in range(sent, due):
            shard, payload = next(planned)
            due_ms = int((began + number / rate) * 1000)
            name, value = encode(Entry(Kind.EVENT, Encoding.JSON, due_ms, at_its_time(payload, due_ms)))
            commands.append(hiredis.pack_command((b"XADD", log_key(shard).encode(), b"*", name, value)))  # type: ignore[arg-type]  # its stub has a tuple of one
        if commands:
            latest = max(latest, now - (began + sent / rate))
            connection.sendall(b"".join(commands))
            sent = due
        time.sleep(_TICK_SECONDS)
    while answers.count < count and answers.error is None:
        time.sleep(_TICK_SECONDS)
    took = time.time() - began
    connection.close()
    return {"sent": sent, "seconds": took, "latest_ms": round(latest * 1000, 2), "error": answers.error}


def main() -> None:
    """Send, and print one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--socket", required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--repositories", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    count = round(args.rate * args.seconds)
    workload = Workload(count, seed=args.seed, repositories=args.repositories, rate=args.rate)
    planned = ((entry.shard, entry.value[HEADER_BYTES:]) for entry in cached(workload, Encoding.JSON))
    print(json.dumps(send(args.socket, planned, rate=args.rate, count=count)))


if __name__ == "__main__":
    main()
