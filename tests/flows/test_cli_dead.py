"""guard dead: what could not be used is listed, shown, and put back once it can be used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_plus

import msgspec
import pytest
import redis

from connectors import redis_streams
from connectors.deliveries import Reject
from models.records import entry as wire
from models.records.columns import decode
from models.records.entry import Encoding, Entry, Kind
from models.records.event import SHARDS, Event, Outcome, shard_of
from models.records.outputs import DeadLetter, ShardOutput
from models.records.payload import from_json, to_bytes, to_packed
from models.records.raw import RawEntry
from tests.connectors.outputs import NOW_MS, letter, progress
from tests.connectors.platforms.cases import BY_NAME, delivery
from tests.events import make_event
from tests.flows.conftest import Guard, Said, write

EVENT = make_event(Outcome.FAILED, NOW_MS, exit_code=1)
SHARD = shard_of(EVENT.metadata.instance, EVENT.repository)
SOURCE = """[{"kind": "signature", "value": "old horse"}]"""


@pytest.fixture
def put(servers: None, database: str) -> Callable[..., None]:
    """Puts dead letters where the flow would."""

    def put(*letters: DeadLetter) -> None:
        write(
            database, [(each.shard, ShardOutput([], [], [], [], [each]), progress(each.position)) for each in letters]
        )

    return put


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> None:
    """The source that rejects came from."""
    monkeypatch.setenv("GUARD_RECEIVER__SOURCES__acme__PLATFORM", "github")
    monkeypatch.setenv("GUARD_RECEIVER__SOURCES__acme__INSTANCE", "github.com/acme")
    monkeypatch.setenv("GUARD_RECEIVER__SOURCES__acme__SECRETS", SOURCE)


def undecodable(number: int, payload: bytes, **changes: Any) -> DeadLetter:
    return letter(number, shard=SHARD, payload=payload, reason="malformed_payload", **changes)


def rejected(number: int, name: str, platform: str = "github", body: str | None = None) -> DeadLetter:
    """A delivery of that name as the receiver would have rejected it."""
    case = BY_NAME[platform, name]
    text = unquote_plus(delivery(case.headers, case.body).body.decode()) if body is None else body
    headers = {key.lower(): value for key, value in case.headers.items()}
    reject = Reject("acme", platform, "malformed_payload", "run.id: missing", headers, text)
    payload = msgspec.json.encode(reject)
    return letter(number, payload=payload, reason="malformed_payload", detail="run.id: missing", source="acme")


def on_streams(redis_url: str) -> list[tuple[int, Entry]]:
    """What stands on all shards."""
    with redis.Redis.from_url(redis_url) as client:
        return [
            (shard, wire.decode(*next(iter(fields.items()))))
            for shard in range(SHARDS)
            for _, fields in client.xrange(redis_streams.log_key(shard))
        ]


def still_open(guard: Guard) -> list[str]:
    return [each["dead_letter_id"] for each in guard("dead", "list", "--json").json()]


def test_the_dead_are_listed_newest_first(guard: Guard, put: Callable[..., None]) -> None:
    put(letter(1))
    put(letter(2, reason="unknown_schema", detail="field b'x' names no kind\x1b[2J"))
    told = guard("dead", "list", "--json").json()
    assert [each["reason"] for each in told] == ["unknown_schema", "bad_checksum"]
    assert "payload" not in told[0]
    text = guard("dead", "list").out
    assert letter(1).dead_letter_id in text
    assert "\x1b" not in text
    assert len(guard("dead", "list", "--limit", "1", "--json").json()) == 1


def test_a_letter_is_shown_whole(guard: Guard, put: Callable[..., None]) -> None:
    put(letter(1, payload=b"first\nsecond\x1b[2J\xff"))
    text = guard("dead", "show", letter(1).dead_letter_id).out
    assert text.endswith("first\nsecond\\x1b[2J\\xff\n")
    told = guard("dead", "show", letter(1).dead_letter_id, "--json").json()
    assert told["payload"] == "Zmlyc3QKc2Vjb25kG1sySv8="
    assert told["reason"] == "bad_checksum"


def test_a_letter_that_is_not_there_is_said(guard: Guard, servers: None) -> None:
    said = guard("dead", "show", letter(1).dead_letter_id)
    assert (said.status, said.err) == (1, f"guard: there is no dead letter {letter(1).dead_letter_id}\n")
    said = guard("dead", "replay", letter(1).dead_letter_id)
    assert (said.status, said.lines) == (3, [f"{letter(1).dead_letter_id}  there is no such dead letter"])


def _row(event: Event) -> bytes:
    """What the decoder leaves of one bad event of a pack."""
    bad = msgspec.structs.replace(event, repository="x" * 600)
    field, value = wire.encode(Entry(Kind.EVENT, Encoding.PACKED, 1, to_packed([bad, event])))
    (mark,) = decode([RawEntry(1, 1, 0, (field, value))]).marks
    return mark.payload.replace(b"x" * 600, event.repository.encode())


@pytest.mark.parametrize(
    ("payload", "encoding"),
    [
        (to_bytes(EVENT, Encoding.JSON), Encoding.JSON),
        (to_bytes(EVENT, Encoding.PROTOBUF), Encoding.PROTOBUF),
        (to_packed([EVENT, EVENT]), Encoding.PACKED),
        (b"=".join(wire.encode(Entry(Kind.EVENT, Encoding.PROTOBUF, 1, to_bytes(EVENT, Encoding.PROTOBUF)))), "pb"),
        (_row(EVENT), Encoding.JSON),
    ],
    ids=["json", "protobuf", "packed", "field and value", "row of a pack"],
)
def test_an_entry_that_can_now_be_decoded_is_appended_again(
    guard: Guard, put: Callable[..., None], redis_url: str, payload: bytes, encoding: str
) -> None:
    put(undecodable(1, payload))
    said = guard("dead", "replay", letter(1).dead_letter_id)
    assert (said.status, said.lines) == (0, [f"{letter(1).dead_letter_id}  replayed: 1 of 1 entries were new"])
    ((shard, entry),) = on_streams(redis_url)
    assert (shard, entry.kind, entry.encoding) == (SHARD, Kind.EVENT, encoding)
    batch = decode([RawEntry(1, 1, 0, wire.encode(entry))])
    assert batch.events.column("id").to_pylist() == [EVENT.id] * batch.events.num_rows
    assert batch.events.column("failure_exit_code").to_pylist() == [1] * batch.events.num_rows
    assert entry.received_ms > 1_700_000_000_000
    assert still_open(guard) == []


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"{}", "required field"),
        (b"\xff\xfe", "it still cannot be decoded: "),
        (b"event.json.1=" + b"\0" * 40 + b"{}", "the checksum does not match the bytes"),
        (b"event.json.99=", "names no kind, encoding and version that is read here"),
        (b"=".join(wire.encode(Entry(Kind.CONTROL, Encoding.JSON, 1, b"{}"))), "of the kind control, not an event"),
        (b'{"id": "[REDACTED:github-token]"}', "; parts of it were redacted"),
    ],
)
def test_an_entry_that_cannot_be_decoded_is_left_with_the_reason(
    guard: Guard, put: Callable[..., None], redis_url: str, payload: bytes, why: str
) -> None:
    put(undecodable(1, payload))
    said = guard("dead", "replay", "--all")
    assert said.status == 3
    assert said.lines[0].startswith(f"{letter(1).dead_letter_id}  left: ")
    assert why in said.lines[0]
    assert on_streams(redis_url) == []
    assert still_open(guard) == [letter(1).dead_letter_id]


def test_nothing_is_replayed_twice_unless_asked_for(guard: Guard, put: Callable[..., None], redis_url: str) -> None:
    put(undecodable(1, to_bytes(EVENT, Encoding.JSON)))
    replay: Callable[..., Said] = lambda *more: guard("dead", "replay", letter(1).dead_letter_id, *more)  # noqa: E731 - short
    assert replay().status == 0
    again = replay()
    assert "was replayed at 20" in again.out
    assert again.status == 0
    assert len(on_streams(redis_url)) == 1
    assert "replayed: 1 of 1" in replay("--again").out
    assert len(on_streams(redis_url)) == 2


def test_replay_all_goes_on_past_what_it_must_leave(guard: Guard, put: Callable[..., None], redis_url: str) -> None:
    put(undecodable(1, b"{}"), undecodable(2, to_bytes(EVENT, Encoding.JSON)))
    said = guard("dead", "replay", "--all")
    assert (said.status, len(said.lines)) == (3, 2)
    assert len(on_streams(redis_url)) == 1
    assert still_open(guard) == [letter(1).dead_letter_id]


def test_a_reason_chooses_what_is_replayed(guard: Guard, put: Callable[..., None]) -> None:
    put(undecodable(1, to_bytes(EVENT, Encoding.JSON)), letter(2))
    said = guard("dead", "replay", "--reason", "malformed_payload")
    assert (said.status, len(said.lines)) == (0, 1)
    assert still_open(guard) == [letter(2).dead_letter_id]


@pytest.mark.parametrize("name", ["workflow_job.failed", "workflow_job.failed_form"])
def test_a_reject_is_normalised_again_and_its_events_are_appended(
    guard: Guard, put: Callable[..., None], source: None, redis_url: str, name: str
) -> None:
    put(rejected(1, name))
    said = guard("dead", "replay", "--all")
    assert (said.status, said.err) == (0, "")
    ((shard, entry),) = on_streams(redis_url)
    event = from_json(entry.payload)
    assert event.metadata.instance == "github.com/acme"
    assert shard == shard_of("github.com/acme", event.repository)
    assert still_open(guard) == []


def test_a_replayed_reject_asks_for_the_log_of_its_failed_job_once(
    guard: Guard, put: Callable[..., None], source: None, redis_url: str
) -> None:
    put(rejected(1, "workflow_job.failed"))
    guard("dead", "replay", "--all")
    said = guard("dead", "replay", letter(1).dead_letter_id, "--again")
    assert "replayed: 0 of 1 entries were new" in said.out
    ((shard, _),) = on_streams(redis_url)
    with redis.Redis.from_url(redis_url) as client:
        assert client.xlen(redis_streams.requests_key(shard)) == 1


def test_a_reject_that_is_now_ignored_is_settled(
    guard: Guard, put: Callable[..., None], source: None, redis_url: str
) -> None:
    put(rejected(1, "ping"))
    said = guard("dead", "replay", "--all")
    assert "nothing to replay, it is now knowingly ignored: a ping" in said.out
    assert (said.status, on_streams(redis_url), still_open(guard)) == (0, [], [])


def test_a_reject_that_is_still_rejected_is_left(
    guard: Guard, put: Callable[..., None], source: None, redis_url: str
) -> None:
    put(rejected(1, "workflow_job.failed", body='{"workflow_job": 1}'))
    said = guard("dead", "replay", "--all")
    assert said.status == 3
    assert "left: it is still rejected: " in said.out
    assert (on_streams(redis_url), len(still_open(guard))) == ([], 1)


def test_a_reject_of_a_source_that_is_gone_is_left(guard: Guard, put: Callable[..., None]) -> None:
    put(rejected(1, "workflow_job.failed"))
    assert "left: the settings have no source 'acme'" in guard("dead", "replay", "--all").out


def test_a_reject_that_cannot_be_read_is_left(guard: Guard, put: Callable[..., None], source: None) -> None:
    put(letter(1, payload=b"{}", source="acme"))
    assert "left: it is not a reject as we write them" in guard("dead", "replay", "--all").out


def test_a_letter_stays_open_when_redis_is_away(
    guard: Guard, put: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    put(undecodable(1, to_bytes(EVENT, Encoding.JSON)))
    monkeypatch.setenv("GUARD_REDIS__URL", f"unix://{tmp_path}/nobody.sock")
    said = guard("dead", "replay", "--all")
    assert said.status == 1
    assert said.err.startswith("guard: Redis: ")
    assert still_open(guard) == [letter(1).dead_letter_id]
