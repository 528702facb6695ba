"""Telling people: one channel is enough, none is told of, and nobody is told again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from apprise import NotifyBase
from structlog.testing import capture_logs

from flows.notifying import Channels, channels_of
from flows.settings import Settings
from models.records.calls import Ambiguous, Done, Notify, Refusal, Refused, Result, Unavailable
from models.records.errors import ConfigError

SECRET = "xoxb" + "-token-of-a-channel"
CALL = Notify(
    platform="github", instance="github.com", repository="a/b", pipeline_id="1", title="t", body="b", subject="s"
)


class Channel(NotifyBase):  # type: ignore[no-untyped-call]  # apprise's own types are partial
    """A channel that does what it is told to."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.told: list[dict[str, Any]] = []
        self._answer = answer

    async def async_notify(self, **given: Any) -> bool:
        """Note what is told, and answer."""
        self.told.append(given)
        answered = self._answer()
        return bool(await answered if asyncio.iscoroutine(answered) else answered)


def _fails() -> bool:
    raise OSError(f"https://chat.example/{SECRET} refused")


def _channels(*answers: Callable[[], Any], now: Callable[[], float] = lambda: 0.0, most: int = 2) -> Channels:
    return Channels([Channel(answer) for answer in answers], timeout_seconds=0.05, most_per_hour=most, now=now)


def _told(channels: Channels, *calls: Notify) -> list[Result]:
    async def tell() -> list[Result]:
        return [await channels.notify(call) for call in calls]

    return asyncio.run(tell())


def _never() -> Any:
    return asyncio.Event().wait()


def test_it_is_told_if_one_channel_takes_it() -> None:
    (result,) = _told(_channels(lambda: False, lambda: True, _fails), CALL)
    assert result == Done(reference="1 of 3 channels")


def test_what_no_channel_takes_may_be_told_again_as_often_as_it_takes() -> None:
    channels = _channels(lambda: False, _fails)
    assert _told(channels, *[CALL] * 5) == [Unavailable("no channel took it")] * 5


def test_a_channel_that_says_nothing_may_have_told() -> None:
    assert _told(_channels(_never, lambda: False), CALL) == [Ambiguous("no channel answered in time")]


def test_of_one_subject_people_are_told_a_few_times_an_hour() -> None:
    clock = [0.0]
    channels = _channels(lambda: True, now=lambda: clock[0])
    other = Notify(platform="github", instance="i", repository="a/b", pipeline_id="1", title="t", body="b", subject="o")
    *told, third = _told(channels, CALL, CALL, CALL)
    assert all(isinstance(result, Done) for result in told)
    assert isinstance(third, Refused)
    assert third.refusal is Refusal.LIMIT
    assert isinstance(_told(channels, other)[0], Done)
    clock[0] = 3600.0
    assert isinstance(_told(channels, CALL)[0], Done)


def test_foreign_words_are_sent_as_plain_text_and_bounded() -> None:
    channels = _channels(lambda: True)
    long = Notify(platform="github", instance="i", repository="a/b", pipeline_id="1", title="t" * 999, body="b" * 9999)
    _told(channels, long)
    (given,) = channels._services[0].told  # type: ignore[attr-defined]  # ours
    assert given["body_format"] == "text"
    assert (len(given["title"]), len(given["body"])) == (200, 4000)


def test_no_log_and_no_result_holds_an_address() -> None:
    with capture_logs() as logs:
        results = _told(_channels(_fails, _never), CALL)
    assert logs
    assert SECRET not in f"{logs}{results}"


def _settings(*urls: str) -> Settings:
    return Settings.load({}, given={"notify": {"urls": list(urls)}})


def test_nobody_is_told_where_no_channel_is_named() -> None:
    (result,) = _told(channels_of(_settings()), CALL)
    assert isinstance(result, Refused)
    assert result.refusal is Refusal.IMPOSSIBLE


def test_what_is_no_channel_is_named_by_its_place_alone() -> None:
    with pytest.raises(ConfigError, match=r"notify\.urls\[1\]: no address of a channel") as raised:
        channels_of(_settings("json://localhost", f"nonsense://{SECRET}"))
    assert SECRET not in str(raised.value)
    assert SECRET not in str(_settings(f"json://localhost/{SECRET}"))


def test_redirects_are_not_followed() -> None:
    (service,) = channels_of(_settings("json://localhost"))._services
    assert service.asset.http_redirects is False
