"""Log readers on a real Valkey and PostgreSQL, against platforms in every state that a platform can be in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from benchmarks.world.web import Answer
from connectors.breaker import Rules, State
from connectors.http import Limits
from connectors.passing_logs import find_index
from connectors.platforms.asking import JobRun
from connectors.postgres import connect
from connectors.redis_requests import GROUP, LEASE_MS, Requests
from connectors.redis_streams import passing_key, requests_key
from flows import log_reader
from flows.embedded import EmbeddedValkey
from models.records.evidence import EXCERPT_BYTES, Reading
from tests.flows.reading import QUICK, TEXT, Here, Platform, append, reading, request, run


@pytest.fixture(autouse=True)
def _no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses before another try stay short; that they grow is tested where they are worked out."""
    monkeypatch.setattr(log_reader, "_FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(log_reader, "_LEAST_PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(log_reader, "_TEND_SECONDS", 0.1)
    monkeypatch.setattr(log_reader, "_GRACE_SECONDS", 0.2)


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * 65536


def test_the_log_of_a_failed_job_becomes_evidence_on_its_shard(redis_url: str, database: str) -> None:
    async def work() -> None:
        async with reading(redis_url, database, "lab") as here:
            here.ask("lab", "1", traceparent=f"00-{'ab' * 16}-{'cd' * 8}-01")
            (told,) = await here.told("1")
            assert (told.event_id, told.instance, told.repository) == ("event-1", "lab", "acme/shop")
            assert (told.reading, told.why, told.log_bytes, told.cut) == (Reading.READ, None, len(TEXT), False)
            assert [(line.number, line.text) for line in told.lines] == [(1, "one"), (2, "two"), (3, "three")]
            assert here.waiting == 0

    run(work)


def test_requests_of_all_shards_are_served_even_those_from_before_there_was_a_reader(
    redis_url: str, database: str
) -> None:
    async def work() -> None:
        async with reading(redis_url, database, "lab") as here:
            for shard in range(12):
                here.ask("lab", f"{shard}1", f"{shard}2", shard=shard)
            assert len(await here.told(*(f"{shard}{n}" for shard in range(12) for n in (1, 2)))) == 24

    run(work)


@pytest.mark.parametrize(
    ("answer", "reading_", "why", "asked"),
    [
        (Answer(401), Reading.NOT_READ, "HTTP 401", 1),
        (Answer(403), Reading.NOT_READ, "HTTP 403", 1),
        (Answer(404), Reading.NO_LOG, "HTTP 404", 1),
        (Answer(410), Reading.NO_LOG, "HTTP 410", 1),
        (Answer(200, b""), Reading.NO_LOG, "an empty log", 1),
        (Answer(429, b"", {"retry-after": "3600"}), Reading.NOT_READ, "HTTP 429", 1),
        (Answer(429), Reading.NOT_READ, "HTTP 429", 3),
        (Answer(500), Reading.NOT_READ, "HTTP 500", 3),
        (Answer(body=None), Reading.NOT_READ, "no HTTP: Server disconnected without sending a response.", 3),
        (Answer(200, b"late", after=9), Reading.NOT_READ, "no answer in time", 3),
        (Answer(200, b"x", {"content-encoding": "br"}), Reading.NOT_READ, "an answer packed in a way", 1),
        (
            Answer(302, b"", {"location": "http://169.254.169.254/latest/meta-data/"}),
            *(Reading.NOT_READ, "sent on to 169.254.169.254, which is not among the allowed hosts", 1),
        ),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Answer) else None,
)
def test_whatever_a_platform_answers_becomes_evidence_that_says_why(
    redis_url: str, database: str, answer: Answer, reading_: Reading, why: str, asked: int
) -> None:
    async def work() -> None:
        async with reading(redis_url, database, "lab", patience=5.0) as here:
            here.platforms["lab"].answers["1"] = answer
            here.ask("lab", "1", "2")
            told, other = await here.told("1", "2")
            assert told.reading is reading_
            assert (told.why or "").startswith(why)
            assert told.lines == ()
            assert here.platforms["lab"].asked.count("1") == asked
            assert other.reading is Reading.READ

    run(work)


def test_an_endless_log_is_read_up_to_the_limit_and_says_that_it_was_cut(redis_url: str, database: str) -> None:
    async def work() -> None:
        async with reading(redis_url, database, "lab") as here:
            here.platforms["lab"].answers["1"] = Answer(200, endless())
            here.ask("lab", "1")
            (told,) = await here.told("1")
            assert (told.reading, told.cut, told.log_bytes) == (Reading.READ, True, QUICK.most_bytes)

    run(work)


def test_what_can_be_had_a_moment_later_is_had(redis_url: str, database: str) -> None:
    async def work() -> None:
        async with reading(redis_url, database, "lab") as here:
            lab = here.platforms["lab"]
            lab.first["1"] = [Answer(503, b"", {"retry-after": "0"}), Answer(500)]
            here.ask("lab", "1")
            (told,) = await here.told("1")
            assert told.reading is Reading.READ
            assert lab.asked == ["1"] * 3

    run(work)


@pytest.mark.parametrize(
    ("platform", "instance"), [("gitlab", "elsewhere"), ("github", "lab"), ("jenkins", "lab"), ("circleci", "lab")]
)
def test_whom_we_have_no_credential_for_is_not_asked_and_that_is_said_at_once(
    redis_url: str, database: str, platform: str, instance: str
) -> None:
    async def work() -> None:
        async with reading(redis_url, database, "lab") as here:
            here.ask(instance, "1", platform=platform)
            (told,) = await here.told("1")
            assert (told.reading, told.why) == (Reading.NOT_READ, "no credential")
            assert here.platforms["lab"].asked == []

    run(work)


def test_ids_that_no_address_can_be_made_of_are_not_asked_about(redis_url: str, database: str) -> None:
    async def work() -> None:
        async with reading(redis_url, database, "lab") as here:
            here.ask("lab", "../../admin")
            (told,) = await here.told("../../admin")
            assert (told.reading, told.why) == (Reading.NOT_READ, "job_id: a whole number was expected")
            assert here.platforms["lab"].asked == []

    run(work)


# --- one platform holds up no other

TROUBLES = {
    "hanging": Answer(200, b"late", after=60),
    "failing": Answer(500),
    "hanging up": Answer(body=None),
    "endless": Answer(200, endless()),
    "limited": Answer(429, b"", {"retry-after": "3600"}),
    "denying": Answer(401),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_platform_in_trouble_holds_up_no_other(redis_url: str, database: str, trouble: str) -> None:
    """More requests for the one in trouble than it has places stand before each one for the other."""

    async def work() -> None:
        patient = Limits(connect_seconds=5.0, read_seconds=60.0, total_seconds=60.0, most_bytes=1 << 40)
        async with reading(redis_url, database, "lab", "other", places=2, patience=60.0, limits=patient) as here:
            here.platforms["lab"].usual = TROUBLES[trouble]
            for n in range(10):
                here.ask("lab", *(f"1{n}{m}" for m in range(5)))
                here.ask("other", f"2{n}")
            told = await here.told(*(f"2{n}" for n in range(10)))
            assert {one.reading for one in told} == {Reading.READ}
            if trouble in ("hanging", "endless"):
                assert here.waiting == 50

    run(work)


def test_a_platform_that_fails_is_asked_no_more_and_tried_again_until_it_is_well(redis_url: str, database: str) -> None:
    async def work() -> None:
        rules = Rules(least_calls=4, first_pause_seconds=0.2, longest_pause_seconds=0.2)
        async with reading(redis_url, database, "lab", places=2, patience=30.0, rules=rules) as here:
            lab = here.platforms["lab"]
            lab.usual = Answer(500)
            here.ask("lab", *(f"{n}" for n in range(100, 140)))
            assert lab.lane is not None
            breaker = lab.lane.breaker
            await here.until(lambda: breaker.state(asyncio.get_running_loop().time()) is not State.CLOSED)
            assert len(lab.asked) < 10
            lab.usual = Answer(200, TEXT)
            told = await here.told(*(f"{n}" for n in range(100, 140)))
            assert sum(one.reading is Reading.READ for one in told) >= 38
            assert breaker.state(asyncio.get_running_loop().time()) is State.CLOSED

    run(work)


def test_patience_ends_and_then_it_is_said_what_was_in_the_way(redis_url: str, database: str) -> None:
    async def work() -> None:
        rules = Rules(least_calls=4, first_pause_seconds=30.0)
        async with reading(redis_url, database, "lab", patience=1.0, rules=rules) as here:
            here.platforms["lab"].usual = Answer(500)
            here.ask("lab", *(f"{n}" for n in range(10, 40)))
            told = await here.told(*(f"{n}" for n in range(10, 40)))
            assert {one.reading for one in told} == {Reading.NOT_READ}
            said = {one.why for one in told}
            assert said == {"HTTP 500", "it failed too often of late and is asked no more for now"}
            assert len(here.platforms["lab"].asked) < 20

    run(work)


def test_too_many_that_wait_for_one_platform_are_given_up_at_once(
    redis_url: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_reader, "_MOST_IN_LANE", 4)

    async def work() -> None:
        patient = Limits(read_seconds=60.0)
        async with reading(redis_url, database, "lab", places=1, patience=60.0, limits=patient) as here:
            here.platforms["lab"].usual = TROUBLES["hanging"]
            here.ask("lab", *(f"{n}" for n in range(10, 20)))
            await here.until(lambda: len(here.evidence()) == 6)
            assert {one.why for one in here.evidence().values()} == {"too many logs wait for the platform"}

    run(work)


# --- nothing is lost, nothing is told twice


def test_a_request_that_comes_twice_is_told_of_once(redis_url: str, database: str) -> None:
    async def work() -> None:
        async with reading(redis_url, database, "lab") as here:
            here.ask("lab", "1", "1")
            await here.told("1")
            await here.until(lambda: here.waiting == 0)
            assert list(here.evidence()) == ["1"]

    run(work)


def test_a_reader_told_to_stop_gives_back_what_it_has_not_read(redis_url: str, database: str) -> None:
    async def work() -> None:
        async with reading(redis_url, database, "lab", limits=Limits(read_seconds=60.0)) as here:
            here.platforms["lab"].answers["1"] = Answer(200, b"late", after=60)
            here.ask("lab", "1", "2")
            await here.told("2")
            known: dict[str, Platform] = here.platforms
            async with reading(redis_url, database, reader="other", known=known) as other:
                del here.platforms["lab"].answers["1"]
                here.reader._serving[next(iter(here.reader._serving))]  # it is in hand
                await _stopped(here)
                (told,) = await other.told("1", within=LEASE_MS / 1000 - 5)
                assert told.reading is Reading.READ

    run(work)


async def _stopped(here: Here) -> None:
    """End the reader as a signal does, without leaving its platforms."""
    await here.reader._leave([])


def test_redis_killed_in_between_neither_loses_nor_doubles(own_valkey: EmbeddedValkey, database: str) -> None:
    async def work() -> None:
        async with reading(own_valkey.url, database, "lab", patience=60.0) as here:
            here.platforms["lab"].usual = Answer(200, TEXT, after=0.2)
            here.ask("lab", *(f"{n}" for n in range(10, 30)))
            await here.until(lambda: here.platforms["lab"].asked)
            own_valkey.kill()
            await asyncio.sleep(0.3)  # answers come, and cannot be told: nothing shows that from outside
            await asyncio.to_thread(own_valkey.start)
            told = await here.told(*(f"{n}" for n in range(10, 30)), within=40)
            assert {one.reading for one in told} == {Reading.READ}
            await here.until(lambda: here.waiting == 0)

    run(work)


# --- what is our own fault


def letters(database: str) -> list[tuple[Any, ...]]:
    with connect(database) as connection:
        return connection.execute("SELECT reason, detail, payload, shard, entry_id FROM guard.dead_letters").fetchall()


def test_a_log_that_our_code_stumbles_over_is_a_dead_letter_and_the_decision_need_not_wait(
    redis_url: str, database: str
) -> None:
    async def work() -> None:
        async with reading(redis_url, database, "lab") as here:
            here.platforms["lab"].answers["1"] = Answer(200, b"fine\nbug\n")
            here.ask("lab", "1", "2")
            told, other = await here.told("1", "2")
            assert (told.reading, told.why) == (Reading.NOT_READ, "ZeroDivisionError")
            assert other.reading is Reading.READ
            assert here.waiting == 0

    run(work)
    ((reason, detail, payload, shard, entry_id),) = letters(database)
    assert (reason, detail, shard) == ("reader_failed", "ZeroDivisionError", 3)
    assert b'"event_id":"event-1"' in bytes(payload)
    assert "-" in entry_id


@pytest.mark.parametrize("payload", [b"", b"garbage", b"[]", b'{"event_id": "x"}', b'{"platform": "cron"}', b"\xff"])
def test_what_is_no_request_is_a_dead_letter_and_nothing_more(redis_url: str, database: str, payload: bytes) -> None:
    async def work() -> None:
        async with reading(redis_url, database, "lab") as here:
            here.append(payload)
            await here.until(lambda: here.waiting == 0 and letters(database))
            assert here.evidence() == {}

    run(work)
    assert [(row[0], bytes(row[2])) for row in letters(database)] == [("malformed_log_request", payload)]


def test_a_request_that_readers_died_of_is_buried_and_those_beside_it_are_not(redis_url: str, database: str) -> None:
    async def work() -> None:
        dead = Requests(redis_url, "dead")
        await dead.prepare()
        with redis.Redis.from_url(redis_url, protocol=2) as client:
            append(client, *(msgspec.json.encode(request("lab", job)) for job in ("1", "2")))
            for held, begun in zip(await dead.take(most=2, wait_ms=1), (5, 2), strict=True):
                ids: list[Any] = [held.entry_id]
                client.xclaim(requests_key(3), GROUP, "dead", 0, ids, idle=60_000, retrycount=begun, justid=True)
        await dead.close()
        async with reading(redis_url, database, "lab") as here:
            told, beside = await here.told("1", "2")
            assert (told.reading, told.why) == (Reading.NOT_READ, "5 readers died reading it")
            assert beside.reading is Reading.READ

    run(work)
    assert [row[0] for row in letters(database)] == ["readers_died"]


def test_while_postgresql_is_away_what_should_be_buried_stays_pending(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_reader, "_REDIS_PAUSE_SECONDS", 0.1)

    async def work() -> None:
        async with reading(redis_url, f"postgresql://postgres@/nothing?host={tmp_path}", "lab") as here:
            here.platforms["lab"].answers["1"] = Answer(200, b"bug\n")
            here.ask("lab", "1", "2")
            await here.told("2")
            await here.until(lambda: "1" in here.platforms["lab"].asked)
            assert here.waiting == 1
            assert set(here.evidence()) == {"2"}

    run(work)


# --- what leaves is clean, and no longer than it may be


def test_no_secret_of_a_log_leaves_the_reader_nor_does_one_of_a_dead_letter(redis_url: str, database: str) -> None:
    token = "gh" + "p_R2D2c3POb8x1kQ9ZtY7uWvEaLmNsPdFgHjKl"

    async def work() -> None:
        async with reading(redis_url, database, "lab") as here:
            here.platforms["lab"].answers |= {
                "1": Answer(200, f"fetch https://x:{token}@host\nby ada@example.org\n".encode()),
                "2": Answer(200, b"bug\n"),
            }
            here.ask("lab", "1")
            here.ask("lab", "2", pipeline_id=token)
            (told, _) = await here.told("1", "2")
            shown = "\n".join(line.text for line in told.lines)
            assert token not in shown
            assert "ada@" not in shown
            assert "[REDACTED:" in shown

    run(work)
    assert token.encode() not in bytes(letters(database)[0][2])


def test_an_excerpt_is_never_too_long(redis_url: str, database: str) -> None:
    async def work() -> None:
        async with reading(redis_url, database, "lab") as here:
            here.platforms["lab"].answers["1"] = Answer(200, b"".join(b"line %d\n" % n for n in range(5000)))
            here.ask("lab", "1")
            (told,) = await here.told("1")
            assert sum(len(line.text.encode()) + 1 for line in told.lines) <= EXCERPT_BYTES
            assert told.lines[-1].text == "line 4999"

    run(work)


# --- the last passing log


PASSED = JobRun("acme/shop", "9", "900")
OLD = b"one\ntwo\n"


def _new(evidence: Any) -> list[str]:
    return [line.text for line in evidence.lines if line.new]


def test_a_failed_log_is_held_against_the_last_one_that_passed(redis_url: str, database: str) -> None:
    async def work() -> None:
        async with reading(redis_url, database, "lab") as here:
            lab = here.platforms["lab"]
            lab.answers["900"] = Answer(200, OLD)
            here.append(passed=[("3f" * 16, PASSED)])
            here.ask("lab", "1", "2", job_key="3f" * 16)
            told = await here.told("1", "2")
            assert [(one.compared, _new(one)) for one in told] == [(True, ["three"])] * 2
            here.ask("lab", "3", job_key="3f" * 16)
            await here.told("3")
            assert lab.asked.count("900") == 1
            here.client.delete(passing_key(3, "3f" * 16))
            lab.answers["900"] = Answer(404)
            here.ask("lab", "4", job_key="3f" * 16)
            (later,) = await here.told("4")
            assert (later.compared, lab.asked.count("900")) == (True, 1)

    run(work)
    with connect(database) as connection:
        kept = find_index(connection, "3f" * 16)
    assert kept is not None
    assert kept.lines == OLD


@pytest.mark.parametrize(
    "answer", [Answer(404), Answer(500), Answer(200, b""), Answer(200, endless()), Answer(200, OLD, after=60)]
)
def test_without_a_passing_log_a_failure_is_told_all_the_same(
    redis_url: str, database: str, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_reader, "_INDEX_SECONDS", 0.3)

    async def work() -> None:
        async with reading(redis_url, database, "lab") as here:
            lab = here.platforms["lab"]
            lab.answers["900"] = answer
            here.append(passed=[("3f" * 16, PASSED)])
            here.ask("lab", "1", job_key="3f" * 16)
            (told,) = await here.told("1")
            assert (told.reading, told.compared, _new(told)) == (Reading.READ, False, ["one", "two", "three"])

    run(work)


def test_a_platform_that_has_its_hands_full_is_not_asked_for_passing_logs(redis_url: str, database: str) -> None:
    async def work() -> None:
        async with reading(redis_url, database, "lab", places=1) as here:
            lab = here.platforms["lab"]
            lab.answers["900"] = Answer(200, OLD)
            here.append(passed=[("3f" * 16, PASSED)])
            here.ask("lab", "1", job_key="3f" * 16)
            (told,) = await here.told("1")
            assert (told.compared, "900" in lab.asked) == (False, False)

    run(work)


def test_the_request_of_the_tests_is_one_as_receivers_make_them() -> None:
    assert request("lab", "1").run == JobRun("acme/shop", "1", "1")
