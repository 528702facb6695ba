"""`guard act`: one healer as a process, set up as the settings say. Several may run at once, on one machine or many.

It acts on what the policy's mode lets it act on, and on nothing where no platform has an act_credential.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec
import structlog

from analytics.policy.rules import Policy
from connectors import metrics, postgres_audit, postgres_quarantines
from connectors.delivery import Delivery
from connectors.postgres import connect
from connectors.postgres_ledger import Case, Ledger
from connectors.postgres_proposals import ALWAYS_BY
from connectors.redis_append import Appender
from flows import credentials_check
from flows.act_limits import limits_of, rules_of
from flows.acting_apis import actable
from flows.books import Books
from flows.carrying import Carrier
from flows.claiming import Claimer
from flows.healer import Healer
from flows.notifying import channels_of
from flows.operating import operator_app
from flows.rulebooks import configured as configured_rulebook
from flows.serving import all_until, server
from flows.settings import Settings
from flows.signalled import until_signalled
from flows.stopping import Switch
from models.records.acted import Acted
from models.records.calls import Done, Quarantine, Result
from models.records.entry import Encoding, Entry, Kind
from models.records.errors import GuardError
from models.records.event import shard_of

_SEAL_SECONDS: Final = 60.0

_log = structlog.get_logger()


def run(settings: Settings, *, number: int = 0) -> None:
    """Heal until SIGTERM or SIGINT.

    Raises:
        ConfigError: a setting is missing or cannot be used.
        Unavailable: the metrics port cannot be had.
    """
    until_signalled(partial(serve, settings, number=number))


async def serve(settings: Settings, stop: asyncio.Event, *, number: int = 0) -> None:
    """Heal until `stop` is set.

    Raises:
        ConfigError, Unavailable: as `run` does.
    """
    hands, channels, act = actable(settings), channels_of(settings), settings.act
    metrics.expose("act", version=version("pipeline-guard"))
    served = metrics.serve(act.metrics_host, act.metrics_port + number)
    name = f"{socket.gethostname()}:{act.metrics_port + number}"
    url = settings.postgres.url.get_secret_value()
    books = Books(url, name=name, lease_seconds=act.lease.total_seconds())
    appender = Appender(settings.redis.url.get_secret_value())
    switch = Switch(act.stop_file, url, healer=name)

    def stopped() -> bool:
        return switch.stopped() is not None

    healer = Healer(
        books,
        name=name,
        url=url,
        claimer=partial(_claimer, settings, name, configured_rulebook(settings).policy),
        carrier=Carrier(
            books,
            hands,
            notify=channels.notify,
            set_aside=partial(_set_aside, books, name),
            stopped=stopped,
            draw=random.random,
        ),
        rules=rules_of(settings),
        stopped=stopped,
        tell=partial(_tell, appender),
        concurrency=act.concurrency,
    )
    api = server(operator_app(settings, switch), act.api_host, act.api_port + number)
    _log.info("healing", name=name, apis=sorted(one.name for one in hands.values()))
    checking = asyncio.create_task(credentials_check.warn(settings, hands))
    try:
        sealing = partial(_seal, url, act.audit_seals)
        await all_until(stop, [api], [switch.watch, sealing], finishing=lambda: healer.run(stop))
    finally:
        checking.cancel()
        await asyncio.gather(checking, return_exceptions=True)
        for one in hands.values():
            await one.close()
        await books.close()
        await appender.close()
        served.close()
    _log.info("stopped")


async def _seal(url: str, file: Path | None) -> None:
    """Seal the audit, again and again."""
    while True:
        await asyncio.sleep(_SEAL_SECONDS)
        try:
            await asyncio.to_thread(_sealed, url, file)
        except GuardError as error:
            _log.error("the audit cannot be sealed", why=str(error))


def _sealed(url: str, file: Path | None) -> None:
    with connect(url, application_name="guard audit") as connection:
        postgres_audit.seal(connection, file, datetime.now(UTC))


def _claimer(settings: Settings, name: str, policy: Policy, ledger: Ledger) -> Claimer:
    return Claimer(
        ledger,
        healer=name,
        limits=limits_of(settings),
        policy=policy,
        approver=partial(_said_always, ledger),
        lease_seconds=settings.act.lease.total_seconds(),
        proposal_seconds=settings.act.proposals_expire.total_seconds(),
        probe_seconds=settings.act.probe_every.total_seconds(),
    )


async def _tell(appender: Appender, acted: Acted) -> None:
    """Make an outcome durable on its shard, once: it is marked with its act, and with what came of that.

    Raises:
        Unavailable: it is not known to be there.
    """
    entry = Entry(Kind.OUTCOME, Encoding.JSON, time.time_ns() // 1_000_000, msgspec.json.encode(acted))
    shard = shard_of(acted.instance, acted.repository)
    await appender.append(Delivery(shard, ((entry, f"act {acted.act_id} {acted.result}"),)))


async def _set_aside(books: Books, name: str, case: Case, call: Quarantine) -> Result:
    """Write down that a job is in quarantine."""
    by = case.approved_by or f"healer {name}"
    await books.insist(
        lambda ledger: postgres_quarantines.begin(
            ledger.connection, call, decision_id=case.decision_id, case_id=case.case_id, begun_by=by
        )
    )
    return Done()


async def _said_always(ledger: Ledger, case: Case) -> str | None:
    fork = any(job.get("is_fork") for job in case.jobs)
    asked = {"signature": case.signature, "repository": case.repository, "fork": fork}
    row = await (await ledger.connection.execute(ALWAYS_BY, asked)).fetchone()
    return f"always: {row[0]}" if row else None
