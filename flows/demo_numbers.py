"""What is known of the demo at a moment: asked of PostgreSQL and of each process's /metrics, as an operator would."""

from __future__ import annotations

import http.client
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from connectors.postgres import Connection, read_progress, unavailable
from connectors.postgres_live import Live, live
from flows.demo_stage import HOST, Ports
from models.records.errors import Unavailable
from models.records.event import SHARDS

RATE_SECONDS: Final = 60
_MOST_LANDED: Final = 40
_TIMEOUT_SECONDS: Final = 2.0

Samples = Mapping[str, Iterable[tuple[Mapping[str, str], float]]]
"""Labels and value of each sample, by the sample's name."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """Everything that the view shows. Seconds count from the first delivery."""

    seconds: float = 0.0
    of_seconds: float | None = None  # when it ends; None: not by itself
    deliveries: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # by source and what was answered
    events: int = 0
    rates: tuple[float, ...] = ()  # events in each second, the newest last
    duplicates: int = 0
    rows: Live = field(default_factory=Live)
    truth: Mapping[str, int] = field(default_factory=dict)  # what the world says of healing: benchmarks/world/truth.py

    def delivered(self, *answers: str) -> int:
        """How many deliveries got one of these answers, or any."""
        return sum(n for by in self.deliveries.values() for answer, n in by.items() if not answers or answer in answers)

    @property
    def rate(self) -> float:
        """Events per second, over the last five."""
        last = self.rates[-5:]
        return sum(last) / len(last) if last else 0.0

    @property
    def decisions(self) -> int:
        """How many decisions there are, later revisions counted as well."""
        return sum(count for _, _, count in self.rows.decisions)


class Watch:
    """Looks, and remembers what a rate needs."""

    def __init__(self, connection: Connection, ports: Ports, *, since: float) -> None:
        """`since`: Unix seconds; what was written before is an earlier demo's."""
        self._connection = connection
        self._ports = ports
        self._since = datetime.fromtimestamp(since, UTC)
        self._began: float | None = None
        self._rates = _Rates()
        self._told: Mapping[str, int] = {}

    @property
    def seconds(self) -> float:
        """Since the first delivery was seen."""
        return time.monotonic() - self._began if self._began is not None else 0.0

    def ready(self) -> bool:
        """Whether the receiver takes deliveries and every shard has told PostgreSQL that it goes on."""
        try:
            if _get(self._ports.receiver_admin, "/readyz")[0] != http.HTTPStatus.OK:
                return False
        except OSError:
            return False
        return self.caught_up(self._since.timestamp())

    def caught_up(self, at: float) -> bool:
        """Whether every shard has judged, and PostgreSQL has, what was received until then (Unix seconds)."""
        with unavailable():
            progress = read_progress(self._connection)
        return len(progress) == SHARDS and min(p.stream_ms for p in progress.values()) >= at * 1000

    def look(self, of_seconds: float | None) -> Numbers:
        """The numbers now.

        Raises:
            Unavailable: one of those asked is away.
        """
        receiver = _scrape(self._ports.receiver_admin)
        flow = _scrape(self._ports.flow_metrics)
        deliveries: dict[str, Counter[str]] = {}
        for labels, value in receiver.get("guard_webhook_requests_total", ()):
            deliveries.setdefault(labels["source"], Counter())[labels["outcome"]] += round(value)
        if self._began is None and deliveries:
            self._began = time.monotonic()
        events = round(_sum(flow, "guard_events_total"))
        self._rates.note(time.monotonic(), events)
        with unavailable():
            rows = live(self._connection, self._since, most_landed=_MOST_LANDED)
        return Numbers(
            seconds=self.seconds,
            of_seconds=of_seconds,
            deliveries=deliveries,
            events=events,
            rates=self._rates.by_second(),
            duplicates=round(_sum(receiver, "guard_duplicates_total") + _sum(flow, "guard_duplicates_total")),
            rows=rows,
            truth=self._truth(),
        )

    def _truth(self) -> Mapping[str, int]:
        """What the world says; what it said last, where it is over."""
        try:
            status, text = _get(self._ports.world, "/world/truth")
        except OSError:
            return self._told
        if status == http.HTTPStatus.OK:
            self._told = msgspec.json.decode(text, type=dict[str, int])
        return self._told


class _Rates:
    """A counter's growth, second by second."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[float, int]] = deque(maxlen=RATE_SECONDS + 1)

    def note(self, at: float, total: int) -> None:
        if not self._seconds or at - self._seconds[-1][0] >= 1:
            self._seconds.append((at, total))

    def by_second(self) -> tuple[float, ...]:
        seen = list(self._seconds)
        return tuple(max(after - before, 0) / (to - begin) for (begin, before), (to, after) in pairwise(seen))


def _get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(HOST, port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def _scrape(port: int) -> Samples:
    try:
        _, text = _get(port, "/metrics")
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"{HOST}:{port}/metrics: {error}") from error
    found: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def _sum(samples: Samples, name: str) -> float:
    return sum(value for _, value in samples.get(name, ()))
