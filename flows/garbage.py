"""The garbage collector in a process whose memory is what it remembers: it looks at each object once."""

from __future__ import annotations

import gc
from typing import Any, Final

_YOUNG: Final = 10_000
"""So many new objects, some 7 ms of work, make it look; batches alone are made and dropped by the thousand."""


def look_once() -> None:
    """Look at new objects when they have become many, and never again at those that stay.

    A shard remembers hundreds of thousands of objects for minutes. Going through all of them, as CPython does now and
    then, stopped it for half a second every hundred at 5,000 events/s, for nothing: it makes no cycles
    (tests/analytics/test_shard.py holds it to that). A cycle that outlives its first look, as an error that is just
    being handled may, stays for good.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG)
    gc.callbacks.append(_keep_what_stays)


def _keep_what_stays(phase: str, _info: dict[str, Any]) -> None:
    if phase == "stop":
        gc.freeze()
