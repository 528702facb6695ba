"""Seals over the audit: a chain of digests by which a row that was changed, removed or inserted is found, and named.

    the bytes of a row    JSON array, UTF-8, no blanks: [audit_id, at, actor, what, subject, detail]; `at` is seconds
                          since 1970 with six decimals and `detail` is PostgreSQL's text of its jsonb, both as text
    its print             SHA-256 of these bytes; its mark is the first 8 bytes of that
    a seal's digest       SHA-256 of the digest before (32 bytes; noughts before the first), the bytes of
                          [number, sealed_at, rows], and the print of each row by audit_id

The digest proves. `ids` and `marks` prove nothing, they tell which row it is when the digest does not fit: 8 bytes of
each row are enough for that. A seal is one line of JSON, the same in the file and in the table.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple

import msgspec

from models.records.errors import MalformedPayload

NOUGHTS: Final = "0" * 64
_DIGEST_BYTES: Final = 32
_MARK_BYTES: Final = 8
_LAST_ID: Final = (1 << 63) - 1


class AuditRow(NamedTuple):
    """A row of guard.audit, in the form in which it is sealed."""

    audit_id: int
    at: str
    actor: str
    what: str
    subject: str
    detail: str


class Seal(msgspec.Struct, frozen=True):
    """A digest over the rows that came since the seal before it. `ids` are runs, from and to, without gaps."""

    number: int
    sealed_at: str
    rows: int
    ids: tuple[tuple[int, int], ...]
    marks: str
    previous: str
    digest: str

    @property
    def through(self) -> int:
        """The audit_id of its last row."""
        return self.ids[-1][1]


class Fault(NamedTuple):
    """Something that is not as it was sealed, or not as it must be. `audit_id` is None where it is no row."""

    what: Literal["changed", "removed", "inserted", "seal", "trigger"]
    audit_id: int | None
    said: str


_SEAL: Final = msgspec.json.Decoder(Seal)


def line_of(seal: Seal) -> str:
    """The line that a seal is."""
    return msgspec.json.encode(seal).decode()


def read_line(line: str | bytes) -> Seal:
    """The seal that a line is.

    Raises:
        MalformedPayload: it is none.
    """
    try:
        seal = _SEAL.decode(line)
        sound = _covers_rows(seal) and all(
            len(bytes.fromhex(each)) == _DIGEST_BYTES for each in (seal.previous, seal.digest)
        )
    except (msgspec.DecodeError, ValueError) as error:
        raise MalformedPayload(f"it is no seal: {error}") from None
    if not sound:
        raise MalformedPayload("it is no seal: it does not say which rows it covers, or has no digest")
    return seal


def _covers_rows(seal: Seal) -> bool:
    ends = [end for run in seal.ids for end in run]
    rising = all(first <= last for first, last in seal.ids) and ends == sorted(ends)
    counted = sum(last - first + 1 for first, last in seal.ids)
    return rising and 0 < counted == seal.rows == len(_marks(seal)) and ends[-1] <= _LAST_ID


def seal_rows(previous: Seal | None, rows: Sequence[AuditRow], sealed_at: str) -> Seal:
    """The seal after `previous` over `rows`, of which there is at least one, by audit_id."""
    number, before = (previous.number + 1, previous.digest) if previous else (1, NOUGHTS)
    prints = [_print(row) for row in rows]
    digest = hashlib.sha256(bytes.fromhex(before))
    digest.update(msgspec.json.encode((number, sealed_at, len(rows))))
    digest.update(b"".join(prints))
    marks = base64.b64encode(b"".join(each[:_MARK_BYTES] for each in prints)).decode()
    return Seal(number, sealed_at, len(rows), _runs(rows), marks, before, digest.hexdigest())


def compare(seal: Seal, previous: Seal | None, rows: Sequence[AuditRow]) -> Fault | None:
    """What is wrong with `rows`, which stand where `seal` says there were such; or with the seal itself."""
    number, before = (previous.number + 1, previous.digest) if previous else (1, NOUGHTS)
    if (seal.number, seal.previous) != (number, before):
        return Fault("seal", None, f"seal {seal.number} is not one that follows on seal {number - 1}")
    if rows and seal_rows(previous, rows, seal.sealed_at) == seal:
        return None
    return _first_difference(seal, rows) or Fault(
        "seal", None, f"seal {seal.number} was changed, or the rows up to {seal.through} in a way that cannot be told"
    )


def _first_difference(seal: Seal, rows: Sequence[AuditRow]) -> Fault | None:
    there = iter(rows)
    row = next(there, None)
    for audit_id, mark in zip(_ids(seal), _marks(seal), strict=True):
        if row is not None and row.audit_id < audit_id:
            break
        if row is None or row.audit_id > audit_id:
            return Fault("removed", audit_id, f"row {audit_id} was removed")
        if _print(row)[:_MARK_BYTES] != mark:
            return Fault("changed", audit_id, f"row {audit_id} was changed")
        row = next(there, None)
    return row and Fault("inserted", row.audit_id, f"row {row.audit_id} was inserted later than others around it")


def _print(row: AuditRow) -> bytes:
    return hashlib.sha256(msgspec.json.encode(row)).digest()


def _ids(seal: Seal) -> Iterator[int]:
    for first, last in seal.ids:
        yield from range(first, last + 1)


def _marks(seal: Seal) -> list[bytes]:
    joined = base64.b64decode(seal.marks, validate=True)
    return [joined[at : at + _MARK_BYTES] for at in range(0, len(joined), _MARK_BYTES)]


def _runs(rows: Sequence[AuditRow]) -> tuple[tuple[int, int], ...]:
    runs: list[tuple[int, int]] = []
    for row in rows:
        if runs and row.audit_id == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], row.audit_id)
        else:
            runs.append((row.audit_id, row.audit_id))
    return tuple(runs)
