"""The webhooks that the settings name: how they stand, and what they could not deliver, asked for again.

A delivery is asked for again a few times at most, later each time, until one of its attempts was taken; that it is
asked for is written down before. What none of this brings is found by asking for runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

import structlog

from connectors import metrics
from connectors.platforms import PLATFORMS
from connectors.platforms.past import Hook, Undelivered, iso
from connectors.postgres_reconcile import (
    HookName,
    Redelivery,
    claim_redelivery,
    hook_read_until,
    note_deliveries,
    note_hook,
    redeliveries_due,
)
from flows.acting_apis import Hands, Way
from flows.log_passing import Archive
from flows.log_reading import Clocks
from models.records.calls import Ambiguous, Refused, Unavailable
from models.records.errors import Unavailable as Away

MOST_TRIES: Final = 5
KEPT: Final = timedelta(days=3)
"""For so long GitHub can send again:
https://docs.github.com/en/webhooks/testing-and-troubleshooting-webhooks/redelivering-webhooks"""

_FIRST_PAUSE: Final = timedelta(minutes=1)
_FACTOR: Final = 5  # 1 min, 5 min, 25 min, 2 h, 10 h
_OVERLAP: Final = timedelta(minutes=10)
_WELL, _FAILING, _DISABLED = 0, 1, 2

_log = structlog.get_logger()


class Hooks:
    """Watches webhooks, and asks for what they could not deliver."""

    def __init__(self, hands: Mapping[Way, Hands], memory: Archive, clocks: Clocks) -> None:
        self._hands = hands
        self._memory = memory
        self._clocks = clocks

    async def visit(self, name: HookName, *, listening: bool) -> None:
        """See how a webhook stands, and, while a receiver is `listening`, ask for what it could not deliver.

        Raises:
            Away: PostgreSQL is away.
        """
        hands, platform = self._hands[name.platform, name.instance], PLATFORMS[name.platform]
        stands = Hook(disabled=False, failing=False)
        asking = platform.hook(name.hook)
        if asking is not None:
            told = await hands.hold_hook(asking, name.hook)
            if not isinstance(told, Hook):
                _log.warning("nobody knows how a webhook stands", hook=name.hook, api=hands.name, why=told.why)
                return
            stands = told
            state = _DISABLED if stands.disabled else _FAILING if stands.failing else _WELL
            metrics.guard_hook_state(api=hands.name, hook=name.hook).set(state)
        read_until = await self._listed(name, hands)
        await self._memory.do(partial(note_hook, hook=name, stands=stands, read_until=read_until))
        if read_until is not None and listening:
            await self._redeliver(name, hands)

    async def _listed(self, name: HookName, hands: Hands) -> datetime | None:
        """Take note of what was delivered, or was not, since the last time; up to when that is known now."""
        now = datetime.fromtimestamp(self._clocks.now(), UTC)
        known = await self._memory.do(partial(hook_read_until, hook=name))
        since = max(known - _OVERLAP if known is not None else now - KEPT, now - KEPT)
        asking = PLATFORMS[name.platform].undelivered(name.hook, iso(since))
        if asking is None:
            return None
        told = await hands.hold_hook(asking, name.hook)
        if not isinstance(told, Undelivered):
            _log.warning("deliveries of a webhook cannot be listed", hook=name.hook, api=hands.name, why=told.why)
            return known
        note = partial(note_deliveries, hook=name, failed=told.failed, taken=told.taken, at=now)
        metrics.guard_redeliveries_total(api=hands.name, outcome="taken").inc(await self._memory.do(note))
        return now

    async def _redeliver(self, name: HookName, hands: Hands) -> None:
        now = datetime.fromtimestamp(self._clocks.now(), UTC)
        due = await self._memory.do(partial(redeliveries_due, hook=name, at=now, most_tries=MOST_TRIES))
        for one in due:
            if not await self._asked_again(name, hands, one, now):
                break

    async def _asked_again(self, name: HookName, hands: Hands, one: Redelivery, now: datetime) -> bool:
        """Ask for one delivery again; whether it makes sense to ask for another."""
        asking = PLATFORMS[name.platform].redeliver(name.hook, one.delivery_id)
        assert asking is not None
        tries, wait = one.tries + 1, _FIRST_PAUSE * _FACTOR**one.tries
        claimed = one._replace(tries=tries)
        if not await self._memory.do(partial(claim_redelivery, hook=name, one=one, tries=tries, next_at=now + wait)):
            asking.close()
            return True  # somebody else asks for it
        ended = await hands.hold_hook(asking, name.hook)
        if isinstance(ended, Unavailable):  # nothing was asked: it counts as no try
            again = now + max(timedelta(seconds=ended.retry_after or 0), _FIRST_PAUSE)
            change = partial(claim_redelivery, hook=name, one=claimed, tries=one.tries, next_at=again)
            await self._memory.do(change)
            return False
        if isinstance(ended, Refused):
            change = partial(claim_redelivery, hook=name, one=claimed, tries=MOST_TRIES, next_at=now + wait)
            await self._memory.do(change)
            tries = MOST_TRIES
        outcome: metrics.Redelivered = "refused" if isinstance(ended, Refused) else "asked"
        metrics.guard_redeliveries_total(api=hands.name, outcome=outcome).inc()
        if tries >= MOST_TRIES:
            metrics.guard_redeliveries_total(api=hands.name, outcome="gave_up").inc()
            _log.warning("a delivery is asked for no more", hook=name.hook, guid=one.guid, ended=outcome)
        return not isinstance(ended, Ambiguous)


async def visit_all(hooks: Hooks, names: list[HookName], *, listening: bool) -> None:
    """Visit each webhook, one after the other; one that fails keeps nobody from the rest."""
    for name in names:
        try:
            await hooks.visit(name, listening=listening)
        except Away as error:
            _log.warning("a webhook could not be visited", hook=name.hook, error=str(error))
