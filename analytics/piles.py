"""Piles: tables of sums that grow, each row added up a few times only, and written down once.

Theory. Adding every new row to one table of all sums costs as much as that table each time. Here new rows are a table
of their own, and two tables become one when the older is not twice as large as the newer: a row takes part in at most
as many additions as there are doublings (the log-structured merge of O'Neil et al., Acta Informatica 33, 1996). What
stands does not change until it is merged, so that most of it is in the next snapshot as it was in the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
import pyarrow as pa

from analytics.journal import Chunks, packed, unpacked

_LARGE: Final = 2048
"""A table of so many rows is not written down in a snapshot only, which is no time for it."""


class Written:
    """Tables of one schema as chunks of a journal; one that was written is the same chunk the next time."""

    def __init__(self) -> None:
        """Begin with none."""
        self._chunks: dict[int, tuple[pa.Table, bytes]] = {}  # by the id() of the table, which they hold

    def chunks(self, tables: Iterable[pa.Table]) -> Chunks:
        """All of `tables`; of what else was written nothing is remembered."""
        known = self._chunks
        self._chunks = {id(table): known.get(id(table)) or (table, _packed(table)) for table in tables}
        return Chunks(chunk for _, chunk in self._chunks.values())

    def settle(self, tables: Iterable[pa.Table]) -> None:
        """Write the large ones of `tables` before they are asked for."""
        known = self._chunks
        large = [table for table in tables if table.num_rows >= _LARGE or id(table) in known]
        self._chunks = {id(table): known.get(id(table)) or (table, _packed(table)) for table in large}

    def read(self, chunks: Iterable[bytes]) -> list[pa.Table]:
        """The tables that `chunks` gave."""
        told = [(pa.ipc.open_stream(unpacked(chunk)).read_all(), chunk) for chunk in chunks]
        self._chunks = {id(table): (table, chunk) for table, chunk in told}
        return [table for table, _ in told]


class Pile:
    """Sums under keys."""

    def __init__(self, summed: Callable[[pa.Table], pa.Table]) -> None:
        """Begin with none; `summed` adds up the rows of a table that have the same keys."""
        self._summed: Final = summed
        self._written: Final = Written()
        self.tables: list[pa.Table] = []

    def put(self, table: pa.Table) -> None:
        """Add the rows of `table`."""
        new = self._summed(table)
        while self.tables and self.tables[-1].num_rows <= 2 * new.num_rows:
            new = self._summed(pa.concat_tables([self.tables.pop(), new]))
        if new.num_rows:
            self.tables.append(new)

    def take(self, column: str, value: int) -> pa.Table | None:
        """Take out the rows whose `column` is `value`, of which some may have the same keys; None if there are none."""
        taken, left = [], []
        for table in self.tables:
            mine = np.asarray(table.column(column)) == value
            if not mine.any():
                left.append(table)
                continue
            taken.append(table.filter(pa.array(mine)))
            if not mine.all():
                left.append(table.filter(pa.array(~mine)))
        self.tables = left
        return pa.concat_tables(taken) if taken else None

    def settle(self) -> None:
        """Write down what is large."""
        self._written.settle(self.tables)

    def state(self, more: list[pa.Table]) -> Chunks:
        """All of it, and the rows of `more`, which are to be added: a snapshot is no time for it."""
        return self._written.chunks([*self.tables, *joined(more)])

    def load(self, state: list[bytes]) -> None:
        """Take what `state` gave."""
        self.tables = self._written.read(state)


def joined(tables: list[pa.Table]) -> list[pa.Table]:
    """One table of all rows, or none of none."""
    return [pa.concat_tables(tables).combine_chunks()] if len(tables) > 1 else tables


def _packed(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return packed(sink.getvalue().to_pybytes())
