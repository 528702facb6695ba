"""What we rely on in Bytewax 0.21.1. One that fails after an upgrade names what must be thought through again."""

from __future__ import annotations

import gc
import pickle
import sqlite3
import struct
import subprocess
import sys
import textwrap
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.errors import BytewaxRuntimeError
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, TestingSource, cluster_main, run_main

from connectors.postgres_sink import FLEET
from connectors.redis_source import KEYS, Lead
from flows.embedded import free_ports
from flows.heal import FLEET_KEY
from tests.helpers import wait_until

MASK = (1 << 64) - 1


def siphash13(data: bytes) -> int:
    """SipHash-1-3 with zero keys: what Rust's DefaultHasher makes of a str is that of its bytes and 0xff."""

    def rotated(x: int, by: int) -> int:
        return (x << by | x >> 64 - by) & MASK

    v = [0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573]

    def rounds(count: int) -> None:
        for _ in range(count):
            v[0] = v[0] + v[1] & MASK
            v[2] = v[2] + v[3] & MASK
            v[1], v[3] = rotated(v[1], 13) ^ v[0], rotated(v[3], 16) ^ v[2]
            v[0] = rotated(v[0], 32)
            v[0] = v[0] + v[3] & MASK
            v[2] = v[2] + v[1] & MASK
            v[3], v[1] = rotated(v[3], 21) ^ v[0], rotated(v[1], 17) ^ v[2]
            v[2] = rotated(v[2], 32)

    whole = len(data) - len(data) % 8
    words = [*struct.unpack(f"<{whole // 8}Q", data[:whole])]
    words.append((len(data) & 0xFF) << 56 | int.from_bytes(data[whole:], "little"))
    for word in words:
        v[3] ^= word
        rounds(1)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(3)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


class Part(StatefulSourcePartition[Any, int]):  # type: ignore[misc]  # bytewax is not typed
    """Calls `poll(self)` for each batch; its state is how often."""

    def __init__(self, name: str, polled: int, poll: Callable[[Part], list[Any]]) -> None:
        self.name = name
        self.polled = polled
        self.snapshots: list[int] = []
        self._poll = poll

    def next_batch(self) -> list[Any]:
        """What poll() gives; it raises StopIteration at the end."""
        self.polled += 1
        try:
            return self._poll(self)
        except StopIteration:
            self.polled -= 1
            raise

    def snapshot(self) -> int:
        """How often it was polled."""
        self.snapshots.append(self.polled)
        return self.polled


class Source(FixedPartitionedSource[Any, int]):  # type: ignore[misc]  # as above
    """Partitions by name."""

    def __init__(self, names: list[str], poll: Callable[[Part], list[Any]]) -> None:
        self.names = names
        self.poll = poll
        self.parts: dict[str, Part] = {}
        self.resumed: dict[str, int | None] = {}

    def list_parts(self) -> list[str]:
        """The names."""
        return self.names

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> Part:
        """Keep each partition to look at."""
        self.resumed[for_part] = resume_state
        self.parts[for_part] = Part(for_part, resume_state or 0, self.poll)
        return self.parts[for_part]


def times(count: int, item: Callable[[Part], Any] = lambda part: part.polled) -> Callable[[Part], list[Any]]:
    """A poll that gives one item, `count` times in a run."""
    given: dict[int, int] = defaultdict(int)

    def poll(part: Part) -> list[Any]:
        given[id(part)] += 1
        if given[id(part)] > count:
            raise StopIteration
        return [item(part)]

    return poll


class Kept(StatefulBatchLogic[Any, Any, Any]):  # type: ignore[misc]  # as above
    """Passes on what comes."""

    def on_batch(self, values: list[Any]) -> tuple[list[Any], bool]:
        """Pass on."""
        return values, StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[list[Any], bool]:
        """Say nothing, as our shard does."""
        return [], StatefulBatchLogic.RETAIN

    def snapshot(self) -> int:
        """Nothing."""
        return 0


@pytest.fixture
def store(tmp_path: Path) -> Path:
    init_db_dir(tmp_path, 2)
    return tmp_path


def recovery(store: Path) -> Any:
    return RecoveryConfig(str(store))


def stored(store: Path, part: str) -> int:
    """The newest state of a source partition in the recovery files, 0 where there is none."""
    newest = (-1, 0)
    for file in store.glob("*.sqlite3"):
        connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
        query = "SELECT snap_epoch, ser_change FROM snaps WHERE state_key = ? AND step_id = 'flow.in'"
        newest = max([newest, *((epoch, pickle.loads(state)) for epoch, state in connection.execute(query, (part,)))])
        connection.close()
    return newest[1]


class Slow(FixedPartitionedSink[Any, int]):  # type: ignore[misc]  # as above
    """A sink that takes a while, and notes what it was given."""

    def __init__(self) -> None:
        self.written: list[Any] = []

    def list_parts(self) -> list[str]:
        """Two."""
        return ["k0", "k1"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> StatefulSinkPartition[Any, int]:
        """A partition of it."""
        written = self.written

        class _Part(StatefulSinkPartition[Any, int]):  # type: ignore[misc]  # as above
            def write_batch(self, values: list[Any]) -> None:
                time.sleep(0.002)
                written.extend(values)

            def snapshot(self) -> int:
                return len(written)

        return _Part()


def test_the_first_poll_after_a_snapshot_finds_it_in_the_recovery_store_and_in_the_sink(store: Path) -> None:
    checked: list[tuple[int, int, bool]] = []
    sink = Slow()
    inner = times(30, lambda part: (part.name, (part.name, part.polled)))

    def poll(part: Part) -> list[Any]:
        if part.snapshots:
            taken = part.snapshots.pop()
            written = all((part.name, n) in sink.written for n in range(1, taken + 1))
            checked.append((taken, stored(store, part.name), written))
        time.sleep(0.01)
        return inner(part)

    flow = Dataflow("flow")
    op.output("out", flow_input(flow, Source(["a", "b"], poll)), sink)
    cluster_main(
        flow, [], 0, epoch_interval=timedelta(milliseconds=60), recovery_config=recovery(store), worker_count_per_proc=2
    )
    assert len(checked) >= 4
    assert all(found >= taken and written for taken, found, written in checked)


def flow_input(flow: Any, source: Any) -> Any:
    return op.input("in", flow, source)


def test_our_keys_are_salted_as_the_engine_hashes() -> None:
    assert [siphash13(key.encode() + b"\xff") % 12 for key in KEYS] == list(range(12))


def test_the_fleet_and_its_partition_of_the_sink_are_on_the_same_worker() -> None:
    assert siphash13(FLEET_KEY.encode() + b"\xff") % 12 == FLEET % 12


class Watched:
    """Counts how often one of its kind was pickled."""

    pickled = 0

    def __init__(self, shard: int) -> None:
        self.shard = shard

    def __reduce__(self) -> tuple[Any, ...]:
        Watched.pickled += 1
        return Watched, (self.shard,)


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 6, 12])
def test_a_shards_state_lives_on_the_worker_that_reads_it_and_nothing_is_pickled(workers: int) -> None:
    read: dict[int, int] = {}
    held: dict[int, int] = {}
    Watched.pickled = 0
    source = Source(
        [f"{shard:02d}" for shard in range(12)], times(3, lambda part: (KEYS[int(part.name)], Watched(int(part.name))))
    )
    flow = Dataflow("flow")
    stream = flow_input(flow, source)
    stream = op.inspect_debug("read", stream, lambda _s, item, _e, worker: read.update({item[1].shard: worker}))
    stream = op.stateful_batch("shard", stream, lambda _: Kept())
    stream = op.inspect_debug("held", stream, lambda _s, item, _e, worker: held.update({item[1].shard: worker}))
    op.output("out", stream, TestingSink([]))
    cluster_main(flow, [], 0, worker_count_per_proc=workers)
    assert read == {shard: shard % workers for shard in range(12)}
    assert held == read
    assert Watched.pickled == 0


def resumed(store: Path, names: list[str]) -> dict[str, int | None]:
    source = Source(names, times(5))
    flow = Dataflow("flow")
    op.output("out", flow_input(flow, source), TestingSink([]))
    run_main(flow, epoch_interval=timedelta(0), recovery_config=recovery(store))
    return source.resumed


def test_a_source_partition_may_be_added_and_starts_without_a_state(store: Path) -> None:
    assert resumed(store, ["a"]) == {"a": None}
    assert resumed(store, ["a", "b"]) == {"a": 5, "b": None}


def test_a_source_partition_must_never_be_removed(store: Path) -> None:
    resumed(store, ["a", "b"])
    with pytest.raises(BaseException, match="routing map"):  # a Rust panic is no Exception
        resumed(store, ["a"])
    gc.collect()


def test_the_end_of_the_input_is_no_event_for_a_logic_that_says_so(store: Path) -> None:
    said: list[Any] = []
    inputs = [("k", 1), ("k", 2), TestingSource.EOF(), ("k", 3)]
    for _ in range(2):
        flow = Dataflow("flow")
        stream = op.stateful_batch("shard", flow_input(flow, TestingSource(inputs)), lambda _: Kept())
        op.output("out", stream, TestingSink(said))
        run_main(flow, epoch_interval=timedelta(0), recovery_config=recovery(store))
    assert said == [("k", 1), ("k", 2), ("k", 3)]


def test_an_error_in_a_single_worker_ends_the_flow_and_keeps_its_cause() -> None:
    def poll(part: Part) -> list[Any]:
        raise LookupError("the cause")

    flow = Dataflow("flow")
    op.output("out", flow_input(flow, Source(["a"], poll)), TestingSink([]))
    with pytest.raises((BytewaxRuntimeError, LookupError)) as caught:
        run_main(flow)
    causes: list[BaseException] = [caught.value]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    assert any("the cause" in str(cause) for cause in causes)


CLUSTER = """
    import sys, time
    import bytewax.operators as op
    from bytewax.dataflow import Dataflow
    from bytewax.testing import TestingSink, cluster_main
    from tests.engine.test_bytewax import Source

    def poll(part):
        if part.polled == 20:
            print("running", flush=True)
        time.sleep(0.005)
        return [part.polled]

    flow = Dataflow("flow")
    op.output("out", op.input("in", flow, Source(["a", "b"], poll)), TestingSink([]))
    cluster_main(flow, sys.argv[2:], int(sys.argv[1]))
"""


def test_a_killed_process_ends_its_peers_within_seconds() -> None:
    addresses = [f"127.0.0.1:{free_ports()}" for _ in range(2)]
    cluster = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(CLUSTER), str(number), *addresses],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for number in range(2)
    ]
    try:
        for process in cluster:
            assert process.stdout is not None
            assert "running\n" in process.stdout
        cluster[0].kill()
        assert wait_until(lambda: cluster[1].poll() is not None, what="the end of the peer")
        assert cluster[1].wait() != 0
    finally:
        for process in cluster:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def polls_per_epoch(*, lead: bool) -> list[int]:
    """How many batches a fast source brings per epoch, beside one whose batches take eight times as long."""
    leads = {name: Lead(time.monotonic) for name in ("fast", "slow")}
    brought: dict[str, list[int]] = {"fast": [0], "slow": [0]}
    end = time.monotonic() + 3.0

    def poll(part: Part) -> list[Any]:
        if time.monotonic() > end:
            raise StopIteration
        if part.snapshots:
            part.snapshots.clear()
            brought[part.name].append(0)
        batches = leads[part.name].poll() if lead else 1
        time.sleep((0.005 if part.name == "fast" else 0.04) * batches)
        if lead:
            leads[part.name].brought(batches)
        brought[part.name][-1] += batches
        return [part.polled] * batches

    class Led(Part):
        def snapshot(self) -> int:
            leads[self.name].epoch_ended()
            return super().snapshot()

    class LedSource(Source):
        def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> Part:
            return Led(for_part, resume_state or 0, self.poll)

    flow = Dataflow("flow")
    op.output("out", flow_input(flow, LedSource(["fast", "slow"], poll)), TestingSink([]))
    cluster_main(flow, [], 0, epoch_interval=timedelta(milliseconds=100), worker_count_per_proc=2)
    return brought["fast"][-8:-1]


def test_a_fast_worker_beside_a_slow_one_sinks_to_one_poll_per_epoch_without_lead_compensation() -> None:
    assert sum(polls_per_epoch(lead=False)) <= 2 * 7


def test_lead_compensation_keeps_a_fast_worker_reading_beside_a_slow_one() -> None:
    assert sum(polls_per_epoch(lead=True)) >= 4 * 7
