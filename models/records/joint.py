"""Small batches of several shards decoded as one: what a decode costs whatever its size is then paid once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Final

import numpy as np
import pyarrow as pa

from models.records.columns import BATCH_SCHEMA, Batch, decode
from models.records.raw import RawEntries, RawEntry

FEW: Final = 2000
"""With more entries than this the cost of numbering them anew outweighs what is saved."""
_POSITION: Final = BATCH_SCHEMA.get_field_index("position")


def decode_each(groups: Sequence[Sequence[RawEntry]]) -> list[Batch]:
    """The batch of each of `groups`, each the entries of one shard in log order; the same as `decode` of each."""
    if len(groups) == 1 or sum(map(len, groups)) > FEW:
        return [decode(group) for group in groups]
    ends = list(accumulate(map(len, groups)))
    whole = decode(_joined(list(map(RawEntries.of, groups))))
    numbers = np.asarray(whole.events.column("position"))
    batches = []
    for group, end in zip(groups, ends, strict=True):
        first = end - len(group)  # of the numbers, those from first + 1 to end are this group's
        row, stop = np.searchsorted(numbers, [first, end], side="right").tolist()
        by = group[0].position - first - 1 if len(group) else 0
        events = whole.events.slice(row, stop - row)
        moved = pa.array(numbers[row:stop] + by)
        marks = tuple(
            mark._replace(row=mark.row - row, position=mark.position + by)
            for mark in whole.marks
            if first < mark.position <= end
        )
        batches.append(
            Batch(
                events.set_column(_POSITION, BATCH_SCHEMA.field(_POSITION), moved),
                marks,
                group[-1].position if len(group) else 0,
                len(group),
            )
        )
    return batches


def _joined(groups: Sequence[RawEntries]) -> RawEntries:
    """All entries as one log, counted from 1."""
    fields = list(chain.from_iterable(group.fields for group in groups))
    numbers = ((group.entry_ms, group.entry_seqs) for group in groups)
    entry_ms, entry_seqs = (list(chain.from_iterable(each)) for each in zip(*numbers, strict=True))
    return RawEntries(range(1, len(fields) + 1), entry_ms, entry_seqs, fields)
