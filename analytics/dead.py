"""Dead letters: what a shard cannot use, kept whole with its reason and position."""

from __future__ import annotations

from models.records.columns import Mark
from models.records.event import uuid5_text
from models.records.outputs import DeadLetter


def dead_letter(shard: int, mark: Mark, reason: str, detail: str, source: str | None = None) -> DeadLetter:
    """The entry of `mark`; its id is that of its place, so that it is one letter however often it is read."""
    entry = f"{mark.entry_ms}-{mark.entry_seq}"
    return DeadLetter(
        dead_letter_id=uuid5_text("dead", str(shard), entry, str(mark.part)),
        shard=shard,
        position=mark.position,
        entry_id=entry,
        part=mark.part,
        reason=_storable(reason),
        detail=_storable(detail),
        source=None if source is None else _storable(source),
        payload=mark.payload,
        received_ms=mark.received_ms,
    )


def _storable(text: str) -> str:
    """`text` as PostgreSQL takes it."""
    return text.replace("\0", "\ufffd")
