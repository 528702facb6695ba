"""When a receiver was last there, by the heartbeats that it puts into the shards."""

from __future__ import annotations

from typing import Any, Final

import redis

from connectors.redis_streams import log_key
from connectors.redis_wire import unavailable
from models.records.entry import Encoding, Kind, field_of
from models.records.event import SHARDS

_LOOKED_AT: Final = 2000  # entries of a shard: more than come between two heartbeats

_LAST: Final = """
for _, entry in ipairs(redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', ARGV[2])) do
  if entry[2][1] == ARGV[1] then return entry[1] end
end
return ''
"""


def last_heartbeat_ms(client: redis.Redis) -> int | None:
    """When the newest heartbeat came, Unix ms; None where there is none.

    Raises:
        Unavailable: Redis cannot be asked.
    """
    heartbeat = field_of(Kind.HEARTBEAT, Encoding.JSON)
    with unavailable(), client.pipeline(transaction=False) as pipe:
        for shard in range(SHARDS):
            pipe.eval_ro(_LAST, 1, log_key(shard), heartbeat, _LOOKED_AT)
        replies: list[Any] = pipe.execute()
    return max((int(reply.partition(b"-")[0]) for reply in replies if reply), default=None)
