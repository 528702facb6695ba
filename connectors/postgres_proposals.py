"""Suggest mode: decisions that wait for a person, and what people say to them.

Yes and no are conditional updates: of two people at once one is heard, and the other is told who was faster. Each is
one transaction with its row of the audit, whose subject is the decision. Yes puts the case back into the queue, from
which healers take it as if it had been to be acted on at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final, NamedTuple
from uuid import UUID

from psycopg.rows import dict_row

from connectors.postgres import Connection
from connectors.postgres_audit import record

Row = dict[str, Any]
EVERYWHERE: Final = "*"


class Outcome(StrEnum):
    """What came of an answer."""

    DONE = "done"
    NOT_FOUND = "not_found"  # no case, and no decision, has that id
    ANSWERED = "answered"  # by somebody who was faster
    EXPIRED = "expired"
    REPLACED = "replaced"  # by a later decision about the same case
    NOT_PROPOSED = "not_proposed"
    NEVER_ALWAYS = "never_always"  # a fork's, or one without a cause: nothing was approved


class Answered(NamedTuple):
    """What came of it, in words too; `by` is who was faster."""

    outcome: Outcome
    said: str
    by: str | None = None


class Always(NamedTuple):
    """Yes to what comes later, too: for so long, and in every repository or only in that of the decision."""

    lasts: timedelta | None = None
    everywhere: bool = False


class _Found(NamedTuple):
    case_id: UUID
    decision_id: UUID
    state: str
    reason: str
    approved_by: str | None
    expired: bool
    signature: str | None
    repository: str
    fork: bool


ALWAYS_BY: Final = """
SELECT said_by FROM guard.always
WHERE signature = %(signature)s AND repository IN (%(repository)s, '*') AND NOT %(fork)s
  AND revoked_at IS NULL AND (until IS NULL OR until > clock_timestamp())
ORDER BY always_id LIMIT 1
"""
"""Who said yes for good to such a decision. A fork's never has it: its code is a stranger's."""

_FIND: Final = """
SELECT h.case_id, h.decision_id, h.state, h.reason, h.approved_by,
       coalesce(h.expires_at <= clock_timestamp(), false), d.signature, d.repository, d.reason = 'fork_needs_approval'
FROM guard.healing h JOIN guard.decisions d ON d.decision_id = h.decision_id
WHERE %(about)s IN (h.case_id, h.decision_id)
"""
_APPROVE: Final = """
UPDATE guard.healing
SET state = 'waiting', reason = 'new', due_at = clock_timestamp(), approved_by = %(by)s, expires_at = NULL,
    changed_at = clock_timestamp()
WHERE case_id = %(case_id)s AND decision_id = %(decision_id)s
  AND state = 'proposed' AND (expires_at IS NULL OR expires_at > clock_timestamp())
"""
_REJECT: Final = """
UPDATE guard.healing
SET state = 'refused', reason = 'rejected', changed_at = clock_timestamp()
WHERE case_id = %(case_id)s AND decision_id = %(decision_id)s
  AND state = 'proposed' AND (expires_at IS NULL OR expires_at > clock_timestamp())
"""
_ANSWER: Final = """
SELECT actor FROM guard.audit WHERE subject = %s AND what IN ('approve', 'reject') ORDER BY audit_id DESC LIMIT 1
"""
_SAY_ALWAYS: Final = """
INSERT INTO guard.always (signature, repository, said_by, why, until)
VALUES (%s, %s, %s, %s, clock_timestamp() + %s) RETURNING always_id
"""


def proposals(connection: Connection) -> list[Row]:
    """What waits for a yes, that which expires first at the top."""
    return _rows(connection, "SELECT * FROM guard.proposals ORDER BY expires_at NULLS LAST, proposed_at, case_id")


def approve(
    connection: Connection, about: UUID, by: str, why: str, via: Mapping[str, Any], always: Always | None = None
) -> Answered:
    """Say yes to a case, or to one decision about it; with `always` to all such, if this one could be approved."""
    found = _find(connection, about)
    if found is None:
        return _missing(connection, about)
    if always and (found.fork or found.signature is None):
        what = "of a fork" if found.fork else "without a known cause"
        return Answered(Outcome.NEVER_ALWAYS, f"a decision {what} is approved one by one; nothing was approved")
    with connection.transaction():
        if not _answer(connection, _APPROVE, found, by):
            return _why_not(connection, about)
        _record(connection, by, "approve", found, {"why": why, **via})
        connection.execute("SELECT pg_notify('guard_healing', '')")
        if always:
            _say_always(connection, found, by, why, via, always)
    return Answered(Outcome.DONE, f"approved: decision {found.decision_id}")


def reject(connection: Connection, about: UUID, by: str, why: str, via: Mapping[str, Any]) -> Answered:
    """Say no to a case, or to one decision about it."""
    found = _find(connection, about)
    if found is None:
        return _missing(connection, about)
    with connection.transaction():
        if not _answer(connection, _REJECT, found, by):
            return _why_not(connection, about)
        _record(connection, by, "reject", found, {"why": why, **via})
    return Answered(Outcome.DONE, f"rejected: decision {found.decision_id}")


def _find(connection: Connection, about: UUID) -> _Found | None:
    row = connection.execute(_FIND, {"about": about}).fetchone()
    return _Found(*row) if row else None


def _answer(connection: Connection, query: str, found: _Found, by: str) -> bool:
    asked = {"case_id": found.case_id, "decision_id": found.decision_id, "by": by}
    return connection.execute(query.encode(), asked).rowcount == 1


def _missing(connection: Connection, about: UUID) -> Answered:
    known = connection.execute("SELECT 1 FROM guard.decisions WHERE decision_id = %s", [about]).fetchone()
    if known:
        return Answered(Outcome.REPLACED, f"decision {about} is not proposed; there may be a later one about its case")
    return Answered(Outcome.NOT_FOUND, f"there is no proposal {about}")


def _why_not(connection: Connection, about: UUID) -> Answered:
    found = _find(connection, about)
    if found is None:
        return _missing(connection, about)
    if found.reason == "expired" or (found.state == "proposed" and found.expired):
        return Answered(Outcome.EXPIRED, f"decision {found.decision_id} was not answered in time")
    row = connection.execute(_ANSWER, [str(found.decision_id)]).fetchone()
    by = found.approved_by or (row[0] if row else None)
    if by:
        done = "approved" if found.approved_by else "answered"
        return Answered(Outcome.ANSWERED, f"{by} was faster: decision {found.decision_id} is {done}", by)
    return Answered(
        Outcome.NOT_PROPOSED, f"decision {found.decision_id} is not proposed: it is {found.state}, {found.reason}"
    )


def _record(connection: Connection, by: str, what: str, found: _Found, detail: Mapping[str, Any]) -> None:
    about = {"case_id": str(found.case_id), "repository": found.repository, "signature": found.signature}
    record(connection, by, what, str(found.decision_id), {**about, **detail})


# --- yes, for good


def always_by(connection: Connection, signature: str, repository: str, *, fork: bool = False) -> str | None:
    """Who said yes for good to decisions of that cause in that repository; nobody did for a fork's."""
    asked = {"signature": signature, "repository": repository, "fork": fork}
    row = connection.execute(ALWAYS_BY, asked).fetchone()
    return row[0] if row else None


def standing(connection: Connection) -> list[Row]:
    """What is approved for good, as long as that holds."""
    return _rows(
        connection,
        "SELECT always_id, signature, repository, said_by, why, said_at, until FROM guard.always"
        " WHERE revoked_at IS NULL AND (until IS NULL OR until > clock_timestamp()) ORDER BY always_id",
    )


def revoke(connection: Connection, always_id: int, by: str, why: str, via: Mapping[str, Any]) -> bool:
    """Take a yes for good back, from now on; False where there is none of that number that holds."""
    with connection.transaction():
        query = (
            "UPDATE guard.always SET revoked_at = clock_timestamp(), revoked_by = %s"
            " WHERE always_id = %s AND revoked_at IS NULL"
        )
        if connection.execute(query, [by, always_id]).rowcount == 0:
            return False
        record(connection, by, "revoke", f"always {always_id}", {"why": why, **via})
    return True


def _say_always(
    connection: Connection, found: _Found, by: str, why: str, via: Mapping[str, Any], always: Always
) -> None:
    repository = EVERYWHERE if always.everywhere else found.repository
    row = connection.execute(_SAY_ALWAYS, [found.signature, repository, by, why, always.lasts]).fetchone()
    assert row is not None
    detail = {"signature": found.signature, "repository": repository, "decision_id": str(found.decision_id), "why": why}
    lasts = {"lasts_seconds": always.lasts.total_seconds()} if always.lasts else {}
    record(connection, by, "always", f"always {row[0]}", {**detail, **lasts, **via})


def _rows(connection: Connection, query: str) -> list[Row]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query.encode()).fetchall()
