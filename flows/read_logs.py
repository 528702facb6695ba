"""`guard logs`: one log reader as a process, set up as the settings say.

Several may run at once. On one machine each has a number, which is added to its metrics port and is part of its name:
under that name it finds what it had in hand when it was last here.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from typing import Final

import structlog

from analytics.logs.analyse import Analysis
from analytics.logs.passing import PassingIndex, PassingIndexing
from analytics.signatures.catalogue import Catalogue
from connectors import metrics
from connectors.http import Api, Client, Limits
from connectors.platforms import PLATFORMS
from connectors.platforms.platform import Credential, Platform
from connectors.redaction import Redactor
from connectors.redis_requests import Requests
from flows import settings as configured
from flows.log_apis import readable
from flows.log_lanes import Lane
from flows.log_passing import Archive, PassingLogs
from flows.log_reader import Reader
from flows.log_reading import Clocks
from flows.rulebooks import configured as configured_rulebook
from flows.settings import Settings
from flows.signalled import until_signalled

_CLOCKS: Final = Clocks(time.time, time.monotonic)
_CONNECTIONS: Final = 2  # for each place: to the API, and to where it sends us on

_log = structlog.get_logger()


def run(settings: Settings, *, number: int = 0) -> None:
    """Read logs until SIGTERM or SIGINT.

    Raises:
        ConfigError: a setting is missing or cannot be used.
        Unavailable: the metrics port cannot be had.
    """
    until_signalled(partial(serve, settings, number=number))


async def serve(settings: Settings, stop: asyncio.Event, *, number: int = 0) -> None:
    """Read logs until `stop` is set.

    Raises:
        ConfigError, Unavailable: as `run` does.
    """
    settings.require("redaction.key")
    assert settings.redaction.key is not None
    apis = {(api.platform, api.instance): (name, api) for name, api in readable(settings)}
    metrics.expose("logs", version=version("pipeline-guard"))
    served = metrics.serve(settings.logs.metrics_host, settings.logs.metrics_port + number)
    name = f"{socket.gethostname()}:{settings.logs.metrics_port + number}"
    requests = Requests(settings.redis.url.get_secret_value(), name)
    archive = Archive(settings.postgres.url.get_secret_value(), clock=time.monotonic)
    passing = PassingLogs(requests, archive, Indexer, clocks=_CLOCKS)
    lanes: dict[tuple[str, str], Lane] = {way: _lane(*api, settings) for way, api in apis.items()}
    key = settings.redaction.key.get_secret_value().encode()
    redactor = Redactor(key, found=lambda rule: metrics.guard_redactions_total(rule=rule).inc())
    reader = Reader(
        requests,
        lanes,
        analyse=partial(_analysis, configured_rulebook(settings).catalogue, redactor),
        passing=passing,
        archive=archive,
        redactor=redactor,
        clocks=_CLOCKS,
        patience_seconds=settings.logs.patience.total_seconds(),
        most_bytes=settings.logs.max_bytes,
    )
    _log.info("reading logs", name=name, apis=sorted(lane.name for lane in lanes.values()))
    try:
        await reader.run(stop)
    finally:
        await passing.close()
        for lane in lanes.values():
            await lane.client.close()
        await requests.close()
        archive.close()
        served.close()
    _log.info("stopped")


class Indexer:
    """Makes the index of a passing log, as the bytes that are kept."""

    def __init__(self) -> None:
        self._indexing = PassingIndexing()
        self.feed = self._indexing.feed

    def finish(self) -> bytes:
        """The index of all that was fed."""
        return self._indexing.finish().to_bytes()


def _analysis(catalogue: Catalogue, redactor: Redactor, passing: bytes | None) -> Analysis:
    """What reads one log, beside the index of the last passing one."""
    index = PassingIndex.from_bytes(passing) if passing is not None else None
    return Analysis(find=catalogue.find, redact=redactor.redact, passing=index)


def _lane(name: str, api: configured.Api, settings: Settings) -> Lane:
    platform, logs = PLATFORMS[api.platform], settings.logs
    limits = Limits(
        total_seconds=logs.longest_read.total_seconds(),
        most_bytes=logs.max_bytes,
        connections=_CONNECTIONS * api.concurrency,
    )
    return Lane(name, platform, Client(_api(api, platform), limits), places=api.concurrency, clock=time.monotonic)


def _api(api: configured.Api, platform: Platform) -> Api:
    headers: Mapping[str, str] = platform.api_headers
    if api.read_credential is not None:
        credential = Credential(api.read_credential.kind, api.read_credential.value.get_secret_value())
        headers = {**headers, **platform.login(credential)}
    return Api(
        url=api.url or platform.api or "",
        headers=headers,
        hosts=platform.log_hosts if api.log_hosts is None else tuple(api.log_hosts),
        private=api.private,
        ca_file=api.ca_file,
    )
