"""guard audit: what people and healers did, and whether that is still what they did."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cyclopts import App

from connectors import postgres_audit
from flows import servers
from flows.command import AWAY, DONE, PLAIN, In, answer, complain, show
from flows.tables import table, to_json
from models.records.duration import duration
from models.records.errors import ConfigError

app = App(name="audit", help="What people and healers did: list, seal or verify it.", default_parameter=PLAIN)


@app.default
def audit(*, since: str = "1d", actor: str | None = None, json: bool = False, context: In) -> None:
    """What people and healers did, oldest first.

    Parameters
    ----------
    since
        From so long ago on: 1d, 12h.
    actor
        By one of them only.
    """
    try:
        past = duration(since)
    except ValueError as error:
        raise ConfigError(f"--since: {error}") from None
    with servers.database(context.settings()) as connection:
        rows = postgres_audit.rows_since(connection, servers.ago(past), actor=actor)
    if json:
        answer(to_json(rows))
        return
    columns = ("#id", "at", "who", "what", "to what", "detail")
    show([table("audit", columns, (_line(row) for row in rows))])


def _line(row: postgres_audit.Row) -> tuple[object, ...]:
    detail = ", ".join(f"{name} {value}" for name, value in row["detail"].items() if value not in (None, ""))
    return (row["audit_id"], row["at"], row["actor"], row["what"], row["subject"], detail)


@app.command(name="seal")
def audit_seal(*, context: In) -> None:
    """Seal what is new in the audit: a digest of it goes into the database, and into the file act.audit_seals."""
    settings = context.settings()
    settings.require("act.audit_seals")
    with servers.database(settings) as connection:
        sealed = postgres_audit.seal(connection, settings.act.audit_seals, datetime.now(UTC))
    answer(f"{sealed.rows} rows in {sealed.seals} new seals; {sealed.lines} lines added to {settings.act.audit_seals}")


@app.command(name="verify")
def audit_verify(*, file: Path | None = None, context: In) -> int:
    """Hold every row of the audit against its seal, and name the first that was changed, removed or inserted.

    Parameters
    ----------
    file
        A copy of the seals to believe; act.audit_seals if not given.
    """
    settings = context.settings()
    path = file or settings.act.audit_seals
    with servers.database(settings) as connection:
        verified = postgres_audit.verify(connection, path)
    for fault in verified.faults:
        complain(fault.said)
    held = f"{verified.rows} rows are as they were sealed, by {verified.seals} seals"
    answer(f"{held}; {verified.unsealed} came since")
    if path is None:
        complain("act.audit_seals is not set: whoever can change rows can change the seals in the database as well")
    return AWAY if verified.faults else DONE
