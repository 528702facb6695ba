"""Telling people, on the channels that the settings name: chat, mail, phones, and what else Apprise knows.

What is told holds foreign words: it is sent as plain text, and nothing in it is fetched or followed. A channel's
address is a secret that is in no log, row or error: channels are known by their places in the settings. Redirects are
not followed, so that a channel is where the settings say.

https://appriseit.com/
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from apprise import Apprise, AppriseAsset, NotifyBase, NotifyFormat

from flows.settings import Settings
from models.records.calls import Ambiguous, Done, Notify, Refusal, Refused, Result, Unavailable
from models.records.errors import ConfigError

_HOUR_SECONDS: Final = 3600.0
_MOST_SUBJECTS: Final = 10_000
_MOST_BODY: Final = 4000
_MOST_TITLE: Final = 200
_APP: Final = "Pipeline Guard"

_log = structlog.get_logger()


class Channels:
    """Where people are told. Of one subject they are told a few times an hour, counted in this process."""

    def __init__(
        self,
        services: Sequence[NotifyBase],
        *,
        timeout_seconds: float,
        most_per_hour: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._services = services
        self._timeout_seconds = timeout_seconds
        self._most_per_hour = most_per_hour
        self._now = now
        self._told: OrderedDict[str, deque[float]] = OrderedDict()

    async def notify(self, call: Notify) -> Result:
        """Tell people, wherever it can be told; it is told if one channel takes it."""
        if not self._services:
            return Refused(Refusal.IMPOSSIBLE, "nobody is to be notified: notify.urls is empty")
        if not self._may_be_told(call.target):
            return Refused(Refusal.LIMIT, f"told {self._most_per_hour} times within the hour")
        answers = await asyncio.gather(*(self._send(place, call) for place in range(len(self._services))))
        if True in answers:
            return Done(reference=f"{answers.count(True)} of {len(answers)} channels")
        if None in answers:
            return Ambiguous("no channel answered in time")
        self._told[call.target].pop()
        return Unavailable("no channel took it")

    async def _send(self, place: int, call: Notify) -> bool | None:
        """Whether a channel took it; None: it did not say so in time."""
        sending = self._services[place].async_notify(
            title=call.title[:_MOST_TITLE], body=call.body[:_MOST_BODY], body_format=NotifyFormat.TEXT
        )
        try:
            taken = bool(await asyncio.wait_for(sending, self._timeout_seconds))
        except TimeoutError:
            _log.warning("a channel does not answer", channel=place)
            return None
        except Exception as error:  # noqa: BLE001 - a plug-in's, whose words may hold its address
            _log.warning("a channel failed", channel=place, error=type(error).__name__)
            return False
        if not taken:
            _log.warning("a channel did not take it", channel=place)
        return taken

    def _may_be_told(self, subject: str) -> bool:
        now = self._now()
        told = self._told.setdefault(subject, deque())
        self._told.move_to_end(subject)
        if len(self._told) > _MOST_SUBJECTS:
            self._told.popitem(last=False)
        while told and told[0] <= now - _HOUR_SECONDS:
            told.popleft()
        if len(told) >= self._most_per_hour:
            return False
        told.append(now)
        return True


def channels_of(settings: Settings) -> Channels:
    """The channels that the settings name.

    Raises:
        ConfigError: one of them is no address that Apprise knows; its place is named.
    """
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # it may say addresses
    asset = AppriseAsset(app_id=_APP, app_desc=_APP, app_url="", http_redirects=False, secure_logging=True)
    services = []
    for place, url in enumerate(settings.notify.urls):
        service = Apprise.instantiate(url.get_secret_value(), asset=asset)
        if service is None:
            raise ConfigError(f"notify.urls[{place}]: no address of a channel; see https://appriseit.com/services/")
        services.append(service)
    notify = settings.notify
    return Channels(
        services, timeout_seconds=notify.timeout.total_seconds(), most_per_hour=notify.most_per_subject_an_hour
    )
