"""The receiver process: platforms post to one port, operators look at another; a spool keeps what Redis cannot take.

Granian serves both ports on one event loop with everything else. On two cores it answered 3,570 to 3,790 signed
deliveries a second where uvicorn with h11 answered 2,750 to 3,520, at a p99 of 15 ms against 28 to 44. It shares a port
(SO_REUSEPORT): a second receiver on it is not refused, only one on the same spool is.
"""

from __future__ import annotations

import asyncio
import os
import time
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from typing import Final, cast

import structlog

from connectors import metrics
from connectors.deliveries import Normaliser
from connectors.platforms import PLATFORMS
from connectors.platforms.platform import Secret
from connectors.redaction import Redactor
from connectors.redis_append import Appender, heartbeat
from connectors.spool import Durable, Spool
from connectors.webhook import Clocks, Source, create_admin_app, create_app
from flows.serving import all_until, server
from flows.settings import Settings
from flows.signalled import until_signalled
from models.records.errors import Unavailable

HEARTBEAT_SECONDS: Final = 1.0

_log = structlog.get_logger()


class _Metrics:
    """What the receiver tells Prometheus."""

    def answered(self, source: str, outcome: str, seconds: float) -> None:
        metrics.guard_webhook_requests_total(source=source, outcome=cast("metrics.Answer", outcome)).inc()
        metrics.guard_ingest_seconds().observe(seconds)
        if outcome == "duplicate":
            metrics.guard_duplicates_total(where="receive").inc()

    def proved(self, source: str, index: int) -> None:
        metrics.guard_signature_secret_index(source=source).set(index)


def sources(settings: Settings) -> list[Source]:
    """The sources as the settings describe them.

    Raises:
        ConfigError: one that cannot be proven as it is set up.
    """
    return [
        Source(
            name=name,
            platform=PLATFORMS[source.platform],
            instance=source.instance,
            secrets=tuple(Secret(secret.kind, secret.value.get_secret_value()) for secret in source.secrets),
            max_body_bytes=source.max_body_bytes or settings.receiver.max_body_bytes,
            allow_unsigned=source.allow_unsigned,
        )
        for name, source in settings.receiver.sources.items()
    ]


def run(settings: Settings) -> None:
    """Receive until SIGTERM or SIGINT; requests that are under way then are still answered.

    Raises:
        ConfigError: a setting is missing or cannot be used.
        Unavailable: a port cannot be had.
    """
    until_signalled(partial(serve, settings))


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Receive until `stop` is set.

    Raises:
        ConfigError, Unavailable: as `run` does.
    """
    settings.require("redaction.key")
    assert settings.redaction.key is not None
    receiver = settings.receiver
    key = settings.redaction.key.get_secret_value().encode()
    redactor = Redactor(key, found=lambda rule: metrics.guard_redactions_total(rule=rule).inc())
    known = sources(settings)
    metrics.expose("receiver", version=version("pipeline-guard"))
    spool = await _spool(settings)
    appender = Appender(
        settings.redis.url.get_secret_value(), ttl_ms=settings.redis.duplicate_window // timedelta(milliseconds=1)
    )
    durable = Durable(appender, spool)
    public = create_app(
        known,
        normaliser=Normaliser(redactor, os.urandom),
        durable=durable,
        meter=_Metrics(),
        clocks=Clocks(time.time, time.perf_counter, os.urandom),
    )
    admin = create_admin_app(
        durable=durable,
        reachable=lambda: _answers(appender),
        leaving=stop.is_set,
        render=metrics.render,
        content_type=metrics.CONTENT_TYPE,
    )
    servers = [server(public, receiver.host, receiver.port), server(admin, receiver.admin_host, receiver.admin_port)]
    _log.info("receiving", host=receiver.host, port=receiver.port, sources=[source.name for source in known])
    try:
        work = [lambda: _heartbeats(appender, spool), *([durable.drain] if spool else [])]
        await all_until(stop, servers, work)
    finally:
        await appender.close()
        if spool is not None:
            await spool.close()
    _log.info("stopped")


async def _spool(settings: Settings) -> Spool | None:
    directory = settings.receiver.spool_dir
    if directory is None:
        _log.warning("receiver.spool_dir is not set: while Redis is away, deliveries are answered 503")
        return None
    spool = await Spool.open(directory, most_bytes=settings.receiver.spool_max_bytes)
    metrics.guard_spool_entries().set_function(lambda: spool.depth)
    metrics.guard_spool_bytes().set_function(lambda: spool.size_bytes)
    if spool.depth or spool.torn_bytes:
        _log.warning("the spool holds what an earlier receiver left", entries=spool.depth, torn_bytes=spool.torn_bytes)
    return spool


async def _answers(appender: Appender) -> bool:
    try:
        await appender.ping()
    except Unavailable:
        return False
    return True


async def _heartbeats(appender: Appender, spool: Spool | None) -> None:
    """A heartbeat into every shard each second. None while something waits in the spool: what is older than the
    heartbeat would then come after it.
    """
    away = False
    while True:
        if spool is None or spool.depth == 0:
            try:
                await heartbeat(appender, time.time_ns() // 1_000_000)
                away = False
            except Unavailable as error:
                if not away:
                    _log.warning("Redis is away", error=str(error))
                away = True
        await asyncio.sleep(HEARTBEAT_SECONDS)
