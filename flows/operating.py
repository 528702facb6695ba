"""What the healer's HTTP API does when it is asked: the kill switch of this healer, and answers to proposals.

`guard act` serves it beside its metrics, on act.api_host and act.api_port. Every answer opens a connection of its own,
so that what a person says never waits for what the healer does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar
from uuid import UUID

from starlette.applications import Starlette

from connectors import postgres_proposals
from connectors.operator_api import Always, Powers, Reply, create_operator_app, person
from connectors.postgres import Connection, connect
from connectors.postgres_proposals import Answered, Outcome
from flows.servers import answering
from flows.settings import Settings
from flows.stopping import Switch, Told
from models.records.duration import duration

T = TypeVar("T")

_VIA: Final = {"via": "the API"}
_STATUS: Final = {Outcome.DONE: 200, Outcome.NOT_FOUND: 404, Outcome.NEVER_ALWAYS: 422}  # 409 for all else


def operator_app(settings: Settings, switch: Switch) -> Starlette:
    """The API of the healer whose switch that is."""
    people = [
        person(name, somebody.role, somebody.token.get_secret_value()) for name, somebody in settings.act.people.items()
    ]
    return create_operator_app(
        people, powers(settings.postgres.url.get_secret_value(), switch), stopwatch=time.monotonic
    )


def powers(url: str, switch: Switch) -> Powers:
    """What can be asked for: of that switch, and of the proposals in the database at `url`."""

    async def pause(by: str, why: str) -> Reply:
        return _told("paused", await switch.pause(by, why))

    async def resume(by: str, why: str) -> Reply:
        told = await switch.resume(by, why)
        return _told("still_paused", told, 503) if told.missed else _told("resumed", told)

    async def proposals() -> Reply:
        found = await asyncio.to_thread(_asked, url, postgres_proposals.proposals)
        return Reply(200, {"status": "done", "proposals": found})

    async def approve(by: str, about: UUID, why: str) -> Reply:
        return _answered(await _approve(url, about, by, why))

    async def reject(by: str, about: UUID, why: str) -> Reply:
        return _answered(
            await asyncio.to_thread(
                _asked, url, lambda connection: postgres_proposals.reject(connection, about, by, why, _VIA)
            )
        )

    async def always(by: str, about: UUID, said: Always) -> Reply:
        try:
            lasts = duration(said.lasts) if said.lasts is not None else None
        except ValueError as error:
            return Reply(422, {"status": "malformed", "detail": f"lasts: {error}"})
        return _answered(await _approve(url, about, by, said.why, postgres_proposals.Always(lasts, said.everywhere)))

    return Powers(pause, resume, proposals, approve, reject, always)


async def _approve(
    url: str, about: UUID, by: str, why: str, always: postgres_proposals.Always | None = None
) -> Answered:
    return await asyncio.to_thread(
        _asked, url, lambda connection: postgres_proposals.approve(connection, about, by, why, _VIA, always)
    )


def _asked(url: str, ask: Callable[[Connection], T]) -> T:
    with answering(), connect(url, application_name="guard operator API") as connection:
        return ask(connection)


def _answered(answered: Answered) -> Reply:
    body: dict[str, Any] = {"status": answered.outcome, "detail": answered.said}
    if answered.by:
        body["by"] = answered.by
    return Reply(_STATUS.get(answered.outcome, 409), body)


def _told(status: str, told: Told, code: int = 200) -> Reply:
    missed = dict(told.missed)
    return Reply(code, {"status": status, "reached": told.reached, "missed": missed})
