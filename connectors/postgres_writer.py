"""Writes what the shards say, exactly once by construction, and never loses what it said was durable.

One thread and one connection for all shards of a process. All that is queued when a transaction ends goes into the
next one, so that a shard computes while PostgreSQL writes, and a slow PostgreSQL gets fewer and larger transactions.
Rows are final and have ids that follow from the input; progress is replaced only by a later position. So a transaction
may be sent again whenever it is not known to be committed, also when only the answer to its commit was lost.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg

from connectors.postgres import Connection, Progress, connect
from connectors.postgres_rows import STATEMENT, Written, offence, texts
from models.records.errors import Unavailable
from models.records.outputs import ShardOutput


class BadRow(ValueError):
    """A row that PostgreSQL cannot hold reached the writer: our bug, since such input is rejected before the sink."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may wait, and for how long.

    `queued_rows` bounds what is submitted and not yet durable; one output that is larger on its own is still taken.
    The pause before attempt n is random below `backoff_s` * 2**n and below `backoff_cap_s`, in seconds. After
    `give_up_after_s` seconds without success the writer ends; None: never.
    """

    queued_rows: int = 50_000
    transaction_rows: int = 10_000
    backoff_s: float = 0.05
    backoff_cap_s: float = 5.0
    give_up_after_s: float | None = None


class Writer:
    """The one writer of a process; see the module.

    `clock` gives Unix seconds, `monotonic` seconds that never go back. `on_commit` hears of each transaction: what was
    in it and when it was durable. `on_retry` hears why a transaction is sent again: connection, lock_timeout,
    statement_timeout, serialization, read_only or resources. Both are called in the writer's thread.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        on_commit: Callable[[Sequence[Written], float], None] | None = None,
        on_retry: Callable[[str], None] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._url = url
        self._clock = clock
        self._monotonic = monotonic
        self._on_commit = on_commit
        self._on_retry = on_retry
        self._limits = limits or Limits()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._queue: deque[Written] = deque()
        self._rows = 0  # submitted and not yet durable
        self._submitted = 0
        self._durable = 0
        self._error: BaseException | None = None
        self._connection: Connection | None = None
        self._thread = threading.Thread(target=self._run, name="postgres-writer", daemon=True)
        self._thread.start()

    def submit(self, shard: int, output: ShardOutput, progress: Progress | None) -> int:
        """Queue what a shard said and how far that brought it, if anywhere; return the ticket to wait for.

        Blocks while the queue is full: a slow PostgreSQL slows the reading, it loses nothing.

        Raises:
            Unavailable: PostgreSQL was away for longer than the limits allow.
            BadRow: an earlier output held a value that PostgreSQL cannot hold.
        """
        written = Written(shard, output, progress)
        with self._changed:
            while self._rows and self._rows + written.rows > self._limits.queued_rows and self._error is None:
                self._changed.wait()
            self._raise()
            self._queue.append(written)
            self._rows += written.rows
            self._submitted += 1
            self._changed.notify_all()
            return self._submitted

    def wait(self, ticket: int) -> None:
        """Return once what was submitted under `ticket`, and all before it, is durable.

        Raises:
            Unavailable, BadRow: as submit().
        """
        with self._changed:
            while self._durable < ticket:
                self._raise()
                self._changed.wait()

    def close(self) -> None:
        """End the thread. What was not waited for may or may not have been written, as after a crash."""
        self._closing.set()
        with self._changed:
            if self._error is None:
                self._error = RuntimeError("the writer is closed")
            self._changed.notify_all()
        self._thread.join(timeout=5)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while (group := self._next_group()) and self._commit(group):
                self._mark_durable(group)
        except Exception as error:  # noqa: BLE001 -- raised to whoever submits or waits next
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()
        finally:
            self._disconnect()

    def _next_group(self) -> list[Written]:
        """All that is queued, up to the limit of a transaction; empty only when the writer is closing."""
        with self._changed:
            while not self._queue and not self._closing.is_set():
                self._changed.wait()
            group: list[Written] = []
            rows = 0
            while self._queue and not self._closing.is_set():
                rows += self._queue[0].rows
                if group and rows > self._limits.transaction_rows:
                    break
                group.append(self._queue.popleft())
            return group

    def _mark_durable(self, group: Sequence[Written]) -> None:
        at = self._clock()
        with self._changed:
            self._durable += len(group)
            self._rows -= sum(written.rows for written in group)
            self._changed.notify_all()
        if self._on_commit is not None:
            self._on_commit(group, at)

    def _commit(self, group: Sequence[Written]) -> bool:
        """Send `group` until it is known to be committed; False if the writer was closed before."""
        failing_since: float | None = None
        attempt = 0
        parameters = _parameters(group)
        while not self._closing.is_set():
            try:
                self._send(parameters)
            except (psycopg.Error, Unavailable) as error:
                why = _passing(error)
                if why is None:
                    raise BadRow(offence(group) or f"PostgreSQL refuses a row: {error}") from error
                self._disconnect()
                if self._on_retry is not None:
                    self._on_retry(why)
                now = self._monotonic()
                failing_since = now if failing_since is None else failing_since
                self._give_up(now - failing_since, error)
                self._pause(attempt)
                attempt += 1
            else:
                return True
        return False

    def _send(self, parameters: Sequence[Sequence[str]]) -> None:
        if self._connection is None:
            self._connection = connect(self._url, application_name="guard writer")
        if len(parameters) == 1:
            self._connection.execute(STATEMENT, parameters[0], prepare=True)
            return
        with self._connection.transaction():
            for part in parameters:
                self._connection.execute(STATEMENT, part, prepare=True)

    def _give_up(self, failing_s: float, error: Exception) -> None:
        limit_s = self._limits.give_up_after_s
        if limit_s is not None and failing_s >= limit_s:
            raise Unavailable(f"nothing could be written to PostgreSQL for {failing_s:.0f} s: {error}") from error

    def _pause(self, attempt: int) -> None:
        ceiling_s = min(self._limits.backoff_cap_s, self._limits.backoff_s * 2 ** min(attempt, 20))
        self._closing.wait(random.uniform(0, ceiling_s))  # noqa: S311 -- jitter, not a secret

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _parameters(group: Sequence[Written]) -> list[list[str]]:
    try:
        return texts(group)
    except (UnicodeEncodeError, OverflowError) as error:
        raise BadRow(offence(group) or f"a row has no JSON: {error}") from error


# https://www.postgresql.org/docs/current/errcodes-appendix.html: what passes by itself, most precise first.
_PASSING = {
    "55P03": "lock_timeout",
    "57014": "statement_timeout",
    "40": "serialization",
    "25006": "read_only",
    "25P03": "connection",
    "08": "connection",
    "57P": "connection",
    "53": "resources",
    "58": "resources",
}


def _passing(error: Exception) -> str | None:
    """Why the same transaction may succeed when it is sent again; None if it will not."""
    code = getattr(error, "sqlstate", None)
    if code is None:
        return "connection" if isinstance(error, (Unavailable, psycopg.OperationalError)) else None
    return next((word for prefix, word in _PASSING.items() if code.startswith(prefix)), None)
