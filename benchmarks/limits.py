"""What a reader of the log cannot beat: XREAD alone, and XREAD with one columnar decode. Nothing is checked or kept.

    python -m benchmarks.limits xread --redis unix:///tmp/valkey.sock --entries 100000

Both are as bare as they can be: one socket, hiredis, one XREAD over all shards a round trip, one decode a reply with
one thread. They share no code with the reader and the decoder of the flow, only the schema of what is decoded.
"""

from __future__ import annotations

import argparse
import json
import resource
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import hiredis
import ptars
import pyarrow as pa
import pyarrow.json as pa_json

from connectors.redis_streams import log_key
from models.records import event_pb2
from models.records.columns import JSON_SCHEMA
from models.records.entry import HEADER_BYTES, Encoding, Kind, field_of
from models.records.event import SHARDS

_SCHEMA: Final = pa_json.ParseOptions(explicit_schema=JSON_SCHEMA, unexpected_field_behavior="ignore")
_COUNT: Final = {"json": 1000, "pb": 1000, "pbs": 8}  # entries of a shard in one reply


class Reader:
    """Replies as hiredis gives them."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._parser = hiredis.Reader()

    def ask(self, *words: bytes) -> Any:  # noqa: ANN401 - whatever the server says
        """Send one command and wait for its reply."""
        self._socket.sendall(hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub has a tuple of one
        while (reply := self._parser.gets()) is False:
            self._parser.feed(self._socket.recv(1 << 20))
        if isinstance(reply, Exception):
            raise reply
        return reply


def replies(path: str, count: int) -> Iterator[list[list[bytes]]]:
    """The log from its beginning to its end: for each reply, the fields of its entries."""
    reader = Reader(path)
    cursors = {log_key(shard).encode(): b"0-0" for shard in range(SHARDS)}
    while streams := reader.ask(b"XREAD", b"COUNT", str(count).encode(), b"STREAMS", *cursors, *cursors.values()):
        for key, entries in streams:
            cursors[key] = entries[-1][0]
        yield [fields for _, entries in streams for _, fields in entries]


def decoder(encoding: Encoding) -> Callable[[list[bytes]], int]:
    """What turns payloads into columns and says how many rows there are."""
    pool = ptars.HandlerPool([event_pb2.DESCRIPTOR])
    match encoding:
        case Encoding.JSON:
            return _read_json
        case Encoding.PROTOBUF:
            one = pool.get_for_message(event_pb2.Event.DESCRIPTOR)
            return lambda payloads: int(one.list_to_record_batch(payloads).num_rows)
        case Encoding.PACKED:
            many = pool.get_for_message(event_pb2.EventBatch.DESCRIPTOR)
            return lambda payloads: len(many.list_to_record_batch(payloads).column(0).flatten())


def _read_json(payloads: list[bytes]) -> int:
    joined = b"\n".join(payloads)
    options = pa_json.ReadOptions(use_threads=False, block_size=len(joined) + 1)
    return int(pa_json.read_json(pa.BufferReader(joined), read_options=options, parse_options=_SCHEMA).num_rows)


def measure(path: str, encoding: Encoding, *, decode: bool) -> dict[str, Any]:
    """Read the whole log once."""
    wanted = field_of(Kind.EVENT, encoding)
    rows = decoder(encoding) if decode else None
    entries = events = 0
    began, cpu = time.perf_counter(), time.process_time()
    for reply in replies(path, _COUNT[encoding]):
        entries += len(reply)
        if rows is not None:
            events += rows([value[HEADER_BYTES:] for name, value in reply if name == wanted])
    return {
        "seconds": round(time.perf_counter() - began, 3),
        "own_cpu": round(time.process_time() - cpu, 3),
        "entries": entries,
        "events": events,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["xread", "xread_decode"])
    parser.add_argument("--socket", required=True)
    parser.add_argument("--encoding", type=Encoding, default=Encoding.JSON)
    args = parser.parse_args()
    pa.set_cpu_count(1)
    print(json.dumps(measure(args.socket, args.encoding, decode=args.what == "xread_decode")))


if __name__ == "__main__":
    main()
