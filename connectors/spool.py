"""Deliveries that wait on the local disk while Redis is away.

What stands here is older than what comes next: while anything waits, new deliveries go behind it, so no shard ever
sees a newer one before an older one that was already answered. `Durable` keeps that rule, `Spool` the promise that
what it took is on the disk, connectors/spool_files.py the bytes.

A delivery is removed only after the appender acknowledged it. A crash in between appends it again; its duplicate marks
make that harmless.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Final, Protocol, Self, TypeVar

import msgspec

from connectors.delivery import Delivery
from connectors.spool_files import RECORD_OVERHEAD, SpoolFiles
from models.records import entry as wire
from models.records.errors import Unavailable

T = TypeVar("T")

_WINDOW_RECORDS: Final = 256
_FIRST_PAUSE: Final = 0.1  # seconds before an append is tried again, doubled each time
_LONGEST_PAUSE: Final = 5.0

Append = Callable[[Delivery], Awaitable[int]]


class Appender(Protocol):
    """Whatever puts deliveries onto the streams."""

    async def append(self, delivery: Delivery) -> int:
        """Make `delivery` durable; the number of its entries that were not there already.

        Raises:
            Unavailable: it is not known to be there.
        """


class Landed(StrEnum):
    """Where a delivery is now, durably."""

    APPENDED = "appended"
    DUPLICATE = "duplicate"
    SPOOLED = "spooled"


class _Record(msgspec.Struct, array_like=True, frozen=True):
    shard: int
    items: list[tuple[bytes, bytes, str | None]]  # field and value as they will stand in the stream, duplicate mark
    log_requests: list[bytes]
    passed: list[tuple[str, bytes]] = []  # since 0.2: records written before have none


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_Record)


def _to_bytes(delivery: Delivery) -> bytes:
    items = [(*wire.encode(entry), mark) for entry, mark in delivery.items]
    return _ENCODER.encode(_Record(delivery.shard, items, list(delivery.log_requests), list(delivery.passed)))


def _from_bytes(record: bytes) -> Delivery:
    read = _DECODER.decode(record)
    items = tuple((wire.decode(field, value), mark) for field, value, mark in read.items)
    return Delivery(read.shard, items, tuple(read.log_requests), tuple(read.passed))


class Spool:
    """A bounded, durable queue of deliveries in one directory, of one process. All file work is on one thread."""

    def __init__(self, files: SpoolFiles, worker: ThreadPoolExecutor, *, most_bytes: int) -> None:
        self._files = files
        self._worker = worker
        self._most_bytes = most_bytes
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._pending = 0  # put, and not known to be on the disk
        self._pending_bytes = 0
        self._committing: asyncio.Task[None] | None = None
        self._acknowledged: set[int] = set()  # of the window that is being drained
        self._durable = asyncio.Event()
        if files.records:
            self._durable.set()

    @classmethod
    async def open(cls, directory: Path, *, most_bytes: int) -> Self:
        """The spool in `directory`, made if need be, with all that an earlier process left in it.

        Raises:
            ConfigError: another process owns it, or it cannot be read or written.
        """
        worker = ThreadPoolExecutor(1, thread_name_prefix="spool")
        try:
            files = await asyncio.get_running_loop().run_in_executor(worker, SpoolFiles, directory)
        except BaseException:
            worker.shutdown(wait=False)
            raise
        return cls(files, worker, most_bytes=most_bytes)

    @property
    def depth(self) -> int:
        """Deliveries that wait, those not yet on the disk among them."""
        return self._files.records + self._pending

    @property
    def size_bytes(self) -> int:
        """What the spool takes on the disk, what is just being written included."""
        return self._files.size_bytes + self._pending_bytes

    @property
    def has_room(self) -> bool:
        """Whether a delivery of 64 KiB would still be taken."""
        return self.size_bytes + (1 << 16) <= self._most_bytes

    @property
    def torn_bytes(self) -> int:
        """Bytes of half-written records cut off at the start; nobody was told that they were safe."""
        return self._files.torn_bytes

    @property
    def damaged(self) -> int:
        """Records passed over because the disk gave back other bytes than were written: losses."""
        return self._files.damaged

    async def put(self, delivery: Delivery) -> None:
        """Take `delivery`; it is on the disk when this returns. Those that come together share one fsync.

        Raises:
            Unavailable: the spool is full, or its disk does not take it.
        """
        record = _to_bytes(delivery)
        size = len(record) + RECORD_OVERHEAD
        if self.size_bytes + size > self._most_bytes:
            raise Unavailable(f"the spool holds {self.size_bytes} of at most {self._most_bytes} bytes")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((record, future))
        self._pending_bytes += size
        self._pending += 1
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit())
        await future

    async def drain_some(self, append: Append) -> int:
        """Hand the oldest deliveries to `append`, each shard's in order, and forget those acknowledged; how many.

        Raises:
            Unavailable: of `append`; what it acknowledged meanwhile is not handed to it again.
        """
        records = await self._run(partial(self._files.read, _WINDOW_RECORDS))
        shards: dict[int, list[tuple[int, Delivery]]] = {}
        for number, record in enumerate(records):
            if number not in self._acknowledged:
                delivery = _from_bytes(record)
                shards.setdefault(delivery.shard, []).append((number, delivery))
        answers = await asyncio.gather(
            *(self._drain_shard(queue, append) for queue in shards.values()), return_exceptions=True
        )
        for answer in answers:
            if answer is not None:
                raise answer
        await self._run(partial(self._files.forget, len(records)))
        self._acknowledged.clear()
        return len(records)

    async def drain(self, append: Append) -> None:
        """Drain for ever, pausing longer and longer while `append` fails."""
        pause = _FIRST_PAUSE
        while True:
            await self._durable.wait()
            self._durable.clear()
            try:
                while self._files.records:
                    await self.drain_some(append)
                    pause = _FIRST_PAUSE
            except Unavailable:
                self._durable.set()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    async def close(self) -> None:
        """Finish what is being written and let go of the directory. Nothing may be put or drained any more."""
        if self._committing is not None:
            await self._committing
        await self._run(self._files.close)
        self._worker.shutdown()

    async def _drain_shard(self, queue: list[tuple[int, Delivery]], append: Append) -> None:
        for number, delivery in queue:
            await append(delivery)
            self._acknowledged.add(number)

    async def _commit(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            records = [record for record, _ in batch]
            failed: Unavailable | None = None
            try:
                await self._run(partial(self._files.write, records))
            except OSError as error:
                failed = Unavailable(f"the spool cannot be written: {error}")
            self._pending -= len(batch)
            self._pending_bytes -= sum(len(record) + RECORD_OVERHEAD for record in records)
            for _, future in batch:
                if future.cancelled():
                    continue
                if failed is None:
                    future.set_result(None)
                else:
                    future.set_exception(failed)
            self._durable.set()
        self._committing = None

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)


class Durable:
    """Makes deliveries durable: on the streams, or in the spool behind what waits there already.

    An append that takes longer than `patience` seconds counts as failed: senders give up after ten.
    """

    def __init__(self, appender: Appender, spool: Spool | None, *, patience: float = 4.0) -> None:
        self._appender = appender
        self._spool = spool
        self._patience = patience

    @property
    def spool(self) -> Spool | None:
        """Where deliveries wait, if they may."""
        return self._spool

    async def take(self, delivery: Delivery) -> Landed:
        """Make `delivery` durable.

        Raises:
            Unavailable: neither the streams nor the spool took it.
        """
        if self._spool is None or self._spool.depth == 0:
            try:
                return Landed.APPENDED if await self.append(delivery) else Landed.DUPLICATE
            except Unavailable:
                if self._spool is None:
                    raise
        await self._spool.put(delivery)
        return Landed.SPOOLED

    async def append(self, delivery: Delivery) -> int:
        """Append to the streams, past the spool.

        Raises:
            Unavailable: it failed or took too long.
        """
        try:
            async with asyncio.timeout(self._patience):
                return await self._appender.append(delivery)
        except TimeoutError:
            raise Unavailable(f"no answer from Redis within {self._patience:g} s") from None

    async def drain(self) -> None:
        """Bring what waits in the spool onto the streams, for ever."""
        if self._spool is not None:
            await self._spool.drain(self.append)
