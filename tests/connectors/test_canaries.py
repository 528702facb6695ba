"""Planted secrets are found nowhere: not in Redis, not in the spool, not in our log."""

from __future__ import annotations

import asyncio
import copy
import io
import json
import logging
import os
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import structlog

from connectors.deliveries import Normaliser
from connectors.platforms import PLATFORMS
from connectors.redaction import MAIL, Redactor, Rule, load_rules, redacting_processor
from connectors.redis_append import Appender
from connectors.spool import Durable, Spool
from connectors.webhook import Clocks, Source, create_app
from flows import logs
from flows.settings import Logging
from tests.connectors.platforms.cases import CASES, INSTANCE, RECEIVED_AT
from tests.connectors.streams import Streams
from tests.connectors.test_webhook import Counts, Site

REDACTOR = Redactor(b"a key of the tests, 32 bytes lng")
_ALPHABETS = ("0123456789", "abcdef", "ghijklmnopqrstuvwxyz", "ABCDEF", "GHIJKLMNOPQRSTUVWXYZ")
_KEPT = 4  # characters at the end, that are changed from canary to canary


def _canary(rule: Rule, rng: random.Random) -> tuple[str, str]:
    """A secret of the rule's kind and a line that holds it."""
    head, tail = rule.secret[:-_KEPT], rule.secret[-_KEPT:]
    if rule.id != MAIL:
        tail = "".join(next((rng.choice(a) for a in _ALPHABETS if c in a), c) for c in tail)
    return head + tail, rule.example.replace(rule.secret, head + tail)


def _canaries(rng: random.Random) -> list[tuple[str, str]]:
    rules = [rule for rule in load_rules() if "\n" not in rule.secret]
    rules += [rule for rule in load_rules() if "\n" in rule.secret]
    return [_canary(rules[number % len(rules)], rng) for number in range(200)]


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from [(*path, key)] if isinstance(item, str) else _leaves(item, (*path, key))


def _planted(body: Any, path: tuple[Any, ...], line: str) -> bytes:
    body = copy.deepcopy(body)
    at = body
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = f"{at[path[-1]]} {line}"
    return json.dumps(body).encode()


def _site(durable: Durable) -> Site:
    app = create_app(
        [Source(name, platform, INSTANCE, allow_unsigned=True) for name, platform in PLATFORMS.items()],
        normaliser=Normaliser(REDACTOR, os.urandom),
        durable=durable,
        meter=Counts(),
        clocks=Clocks(lambda: RECEIVED_AT, lambda: 0.0, os.urandom),
    )
    return Site(app, Streams(), durable.spool, durable, Counts())


async def _post_everywhere(site: Site, canaries: list[tuple[str, str]]) -> Counter[tuple[str, str]]:
    """Plant canaries, in turn, in every text of every recorded payload."""
    said: Counter[tuple[str, str]] = Counter()
    turn = 0
    for case in CASES:
        headers = {name.lower(): value for name, value in case.headers.items()} | {"content-type": "application/json"}
        for path in _leaves(case.body):
            body = _planted(case.body, path, canaries[turn % len(canaries)][1])
            answer = await site.post(body, source=case.platform, headers=headers)
            said[case.platform, answer.says["status"]] += 1
            turn += 1
    return said


def _everything(url: str) -> bytes:
    with redis.Redis.from_url(url) as client:
        keys = sorted(client.scan_iter(count=1000))
        streams = [client.xrange(key) for key in keys if client.type(key) == b"stream"]
    return repr(streams).encode() + b" ".join(keys)


def _assert_found_nowhere(text: bytes, canaries: list[tuple[str, str]]) -> None:
    for secret, _ in canaries:
        forms = {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], secret[: len(secret) // 2 + 8]}
        assert not [form for form in forms if len(form) >= 8 and form.encode() in text], secret


def test_there_are_200_canaries_of_at_least_40_kinds_and_each_would_be_seen(rng: random.Random) -> None:
    canaries = _canaries(rng)
    assert len(canaries) == 200
    assert len({secret[:-_KEPT] for secret, _ in canaries}) >= 40
    with pytest.raises(AssertionError):
        _assert_found_nowhere(canaries[7][1].encode(), canaries)


def test_canaries_in_every_field_of_every_platform_reach_neither_redis_nor_the_spool_nor_the_log(
    redis_url: str, tmp_path: Path, rng: random.Random
) -> None:
    canaries = _canaries(rng)
    log = io.StringIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    logs.configure(Logging(level="debug", format="json"), redact=redacting_processor(REDACTOR), stream=log)

    async def work() -> Counter[tuple[str, str]]:
        appender = Appender(redis_url)
        said = await _post_everywhere(_site(Durable(appender, None)), canaries)
        await appender.close()
        spool = await Spool.open(tmp_path, most_bytes=64 << 20)
        away = Streams()
        away.away = True
        said += await _post_everywhere(_site(Durable(away, spool)), canaries)
        await spool.close()
        return said

    try:
        said = asyncio.run(work())
        for _, line in canaries:
            logging.getLogger("theirs").warning("a step said %s", line)
            structlog.get_logger("ours").error("a step failed", output=line, error=ValueError(line))
    finally:
        root.handlers[:], root.level = before[0], before[1]
        structlog.reset_defaults()

    spooled = b"".join(path.read_bytes() for path in sorted(tmp_path.glob("*.spool")))
    for platform in PLATFORMS:
        assert said[platform, "accepted"] > 20, said
        assert said[platform, "rejected"] > 5, said
    assert said["github", "spooled"] > 20
    for text in (_everything(redis_url), spooled, log.getvalue().encode()):
        assert text.count(b"[REDACTED:") > 200
        _assert_found_nowhere(text, canaries)
    assert re.search(rb"mail:[0-9a-f]{12}", spooled)
