"""Shards on Redis Streams: what their keys are called, how entries come in, how much waits.

All keys of a shard share its hash tag, so that one script may touch them in a cluster too. Redis 7.0 and Valkey 9 both
do; both must run with appendfsync always, or what was acknowledged may be lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any, Final, NamedTuple

import redis

from connectors.delivery import Delivery
from connectors.redis_wire import Command, pipelined, unavailable
from models.records.entry import Encoding, Entry, Kind, encode, field_of
from models.records.event import SHARDS

GROUP: Final = "flow"
"""The consumer group whose cursor shows how far the flow has durably come. Nothing is delivered through it."""

READER_GROUPS: Final = "reader:"
"""Groups so named, like the flow's, hold back trimming: nothing is trimmed that one of them has not read."""

ARCHIVE_GROUP: Final = f"{READER_GROUPS}archive"

MARK_TTL_MS: Final = 72 * 3600 * 1000
"""How long a duplicate mark holds. GitHub redelivers deliveries of the past three days:
https://docs.github.com/en/webhooks/testing-and-troubleshooting-webhooks/redelivering-webhooks"""

LOG_REQUEST_FIELD: Final = b"request"
MOST_LOG_REQUESTS: Final = 10_000
"""So many requests for logs wait in a shard, about; older ones go where nobody reads them: the bus must not fill up."""

PASSED_TTL_MS: Final = 7 * 24 * 3600 * 1000
"""How long the newest run of a job that passed is remembered."""


def log_key(shard: int) -> str:
    """The stream that is the shard."""
    return f"guard:{{{shard:02d}}}:log"


def requests_key(shard: int) -> str:
    """The stream of requests to read the logs of failed jobs."""
    return f"guard:{{{shard:02d}}}:logs"


def mark_key(shard: int, mark: str) -> str:
    """The key that is there while `mark` counts as seen."""
    return f"guard:{{{shard:02d}}}:seen:{mark}"


def passed_key(shard: int, job_key: str) -> str:
    """The key that holds the newest run of a job that passed."""
    return f"guard:{{{shard:02d}}}:passed:{job_key}"


def passing_key(shard: int, job_key: str) -> str:
    """The key that holds the index of a log of a job that passed."""
    return f"guard:{{{shard:02d}}}:passing:{job_key}"


APPEND: Final = f"""
local appended, key, at = 0, 2, 5
for _ = 1, tonumber(ARGV[2]) do
  local new = true
  if ARGV[at] == '1' then
    key = key + 1
    new = redis.call('SET', KEYS[key], '1', 'NX', 'PX', ARGV[1])
  end
  if new then
    redis.call('XADD', KEYS[1], '*', ARGV[at + 1], ARGV[at + 2])
    appended = appended + 1
  end
  at = at + 3
end
if appended > 0 then
  for _ = 1, tonumber(ARGV[3]) do
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', {MOST_LOG_REQUESTS}, '*', '{LOG_REQUEST_FIELD.decode()}', ARGV[at])
    at = at + 1
  end
  for i = at, #ARGV do
    key = key + 1
    redis.call('SET', KEYS[key], ARGV[i], 'PX', ARGV[4])
  end
end
return appended
"""
"""Append a delivery; the number of its entries that were new."""


def append_arguments(delivery: Delivery, ttl_ms: int = MARK_TTL_MS) -> list[bytes | str | int]:
    """The keys and arguments of APPEND, preceded by the number of keys."""
    keys: list[bytes | str | int] = [log_key(delivery.shard), requests_key(delivery.shard)]
    arguments: list[bytes | str | int] = [ttl_ms, len(delivery.items), len(delivery.log_requests), PASSED_TTL_MS]
    for entry, mark in delivery.items:
        if mark is not None:
            keys.append(mark_key(delivery.shard, mark))
        arguments += [0 if mark is None else 1, *encode(entry)]
    keys += (passed_key(delivery.shard, job_key) for job_key, _ in delivery.passed)
    return [len(keys), *keys, *arguments, *delivery.log_requests, *(run for _, run in delivery.passed)]


def append_entry(client: redis.Redis, shard: int, entry: Entry) -> str:
    """Append one entry, without a mark; the id that it was given.

    Raises:
        Unavailable: it is not known to be there.
    """
    with unavailable():
        entry_id: Any = client.xadd(log_key(shard), dict([encode(entry)]))
    return entry_id.decode() if isinstance(entry_id, bytes) else str(entry_id)


def publish(
    client: redis.Redis, deliveries: Iterable[Delivery], *, batch: int = 1000, ttl_ms: int = MARK_TTL_MS
) -> int:
    """Append `deliveries` in order, `batch` in each round trip; the number of entries that were new.

    Raises:
        Unavailable: the current batch is not known to be there; those before it are.
    """
    appended = 0
    left = iter(deliveries)
    with unavailable():
        script = str(client.script_load(APPEND))
        connection = client.connection_pool.get_connection()
        try:
            while some := list(islice(left, batch)):
                commands = [command for delivery in some for command in _commands(delivery, script, ttl_ms)]
                for reply in pipelined(connection, commands):
                    if isinstance(reply, redis.ResponseError):
                        raise reply
                    appended += reply if isinstance(reply, int) else 1
        finally:
            client.connection_pool.release(connection)
    return appended


def _commands(delivery: Delivery, script: str, ttl_ms: int) -> list[Command]:
    if delivery.log_requests or delivery.passed or any(mark is not None for _, mark in delivery.items):
        return [("EVALSHA", script, *append_arguments(delivery, ttl_ms))]
    return [("XADD", log_key(delivery.shard), "*", *encode(entry)) for entry, _ in delivery.items]


class ShardBacklog(NamedTuple):
    """What the flow has not durably read of a shard. A packed entry counts as one, a heartbeat as none."""

    shard: int
    depth: int
    oldest_age_ms: int


BACKLOG_SAMPLE: Final = 2000
"""Up to so many unread entries the depth is exact; what lies beyond is taken to be like them."""

_BACKLOG: Final = """
if redis.call('EXISTS', KEYS[1]) == 0 then return {0, 0, '', 0} end
local after, lag = '0-0', -1
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
for _, group in ipairs(groups) do
  local named = {}
  for i = 1, #group, 2 do named[group[i]] = group[i + 1] end
  if named['name'] == ARGV[1] then
    after = named['last-delivered-id']
    if named['lag'] then lag = named['lag'] end
  end
end
local seen = redis.call('XRANGE', KEYS[1], '(' .. after, '+', 'COUNT', ARGV[2])
local events, oldest = 0, ''
for _, entry in ipairs(seen) do
  if entry[2][1] ~= ARGV[3] then
    events = events + 1
    if oldest == '' then oldest = entry[1] end
  end
end
local length = redis.call('XLEN', KEYS[1])
if #seen < tonumber(ARGV[2]) then lag = #seen elseif lag < 0 then lag = length end
return {lag, #seen, oldest, events}
"""


def backlog(client: redis.Redis, *, now_ms: int) -> list[ShardBacklog]:
    """Depth and age of the oldest unread event of every shard; age 0 where nothing is unread.

    Without the flow's cursor (it never ran, or runs without a recovery store) all that is there counts as unread.

    Raises:
        Unavailable: Redis cannot be asked.
    """
    heartbeat = field_of(Kind.HEARTBEAT, Encoding.JSON)
    arguments = (GROUP, BACKLOG_SAMPLE, heartbeat)
    commands: list[Command] = [("EVAL_RO", _BACKLOG, 1, log_key(shard), *arguments) for shard in range(SHARDS)]
    with unavailable():
        connection = client.connection_pool.get_connection()
        try:
            replies = pipelined(connection, commands)
        finally:
            client.connection_pool.release(connection)
        for reply in replies:
            if isinstance(reply, redis.ResponseError):
                raise reply
    return [_waiting(shard, now_ms, *reply) for shard, reply in enumerate(replies)]


_UNREAD: Final = """
if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
local unread = {}
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local named = {}
  for i = 1, #group, 2 do named[group[i]] = group[i + 1] end
  if string.sub(named['name'], 1, #ARGV[1]) == ARGV[1] then
    local next = redis.call('XRANGE', KEYS[1], '(' .. named['last-delivered-id'], '+', 'COUNT', 1)[1]
    unread[#unread + 1] = {string.sub(named['name'], #ARGV[1] + 1), next and next[1] or ''}
  end
end
return unread
"""


def reader_ages(client: redis.Redis, *, now_ms: int) -> dict[str, int]:
    """The registered readers, and the age in ms of the oldest entry that each has not durably read; 0 where none is.

    Raises:
        Unavailable: Redis cannot be asked.
    """
    with unavailable(), client.pipeline(transaction=False) as pipe:
        for shard in range(SHARDS):
            pipe.eval_ro(_UNREAD, 1, log_key(shard), READER_GROUPS)
        replies: list[Any] = pipe.execute()
    ages: dict[str, int] = {}
    for name, entry_id in (pair for reply in replies for pair in reply):
        age = now_ms - int(entry_id.partition(b"-")[0]) if entry_id else 0
        ages[name.decode()] = max(age, ages.get(name.decode(), 0))
    return ages


def forget_reader(client: redis.Redis, group: str) -> int:
    """Let a reader hold back nothing any more; on how many shards it was registered.

    Raises:
        Unavailable: it may be registered still.
    """
    with unavailable(), client.pipeline(transaction=False) as pipe:
        for shard in range(SHARDS):
            pipe.xgroup_destroy(log_key(shard), group)
        replies = pipe.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, redis.ResponseError) and "requires the key to exist" not in str(reply):
                raise reply
    return sum(reply for reply in replies if isinstance(reply, int))


class StreamCount(NamedTuple):
    """What the server says of a shard: entries ever added, entries there, and the id of the last one ever."""

    added: int
    length: int
    last: tuple[int, int]


def stream_counts(client: redis.Redis) -> list[StreamCount]:
    """Of every shard; nought where nothing was ever added.

    Raises:
        Unavailable: Redis cannot be asked.
    """
    with unavailable(), client.pipeline(transaction=False) as pipe:
        for shard in range(SHARDS):
            pipe.xinfo_stream(log_key(shard))
        replies: list[Any] = pipe.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, redis.ResponseError) and "no such key" not in str(reply):
                raise reply
    return [StreamCount(0, 0, (0, 0)) if isinstance(r, redis.ResponseError) else _count(r) for r in replies]


def _count(info: dict[Any, Any]) -> StreamCount:
    named = {key.decode() if isinstance(key, bytes) else key: value for key, value in info.items()}
    ms, _, seq = named["last-generated-id"].decode().partition("-")
    return StreamCount(named["entries-added"], named["length"], (int(ms), int(seq)))


def log_backlog(client: redis.Redis, *, now_ms: int) -> tuple[int, int]:
    """How many requests for logs are not settled, and the age of the oldest one in ms; 0 where there is none.

    Raises:
        Unavailable: Redis cannot be asked.
    """
    with unavailable(), client.pipeline(transaction=False) as pipe:
        for shard in range(SHARDS):
            pipe.xlen(requests_key(shard))
            pipe.xrange(requests_key(shard), count=1)
        replies: list[Any] = pipe.execute()
    oldest = [int(entries[0][0].partition(b"-")[0]) for entries in replies[1::2] if entries]
    return sum(replies[::2]), max(0, now_ms - min(oldest, default=now_ms))


def _waiting(shard: int, now_ms: int, unread: int, seen: int, oldest: bytes | str, events: int) -> ShardBacklog:
    depth = round(events * unread / seen) if seen else 0
    text = oldest.decode() if isinstance(oldest, bytes) else oldest
    age = max(0, now_ms - int(text.partition("-")[0])) if text else 0
    return ShardBacklog(shard, depth, age)
