"""guard proposals, approve, reject, always: what is suggested, and what people say to it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from cyclopts import Parameter

from connectors import postgres_proposals
from connectors.postgres_proposals import Always, Answered, Outcome
from flows import servers
from flows.command import AWAY, DONE, In, answer, complain, show
from flows.stopping import shell_user, via
from flows.tables import escape, lasted, table, to_json
from models.records.duration import duration
from models.records.errors import ConfigError


def proposals(*, json: bool = False, context: In) -> None:
    """What is suggested and waits for a yes, that which expires first at the top."""
    with servers.database(context.settings()) as connection:
        found = postgres_proposals.proposals(connection)
    if json:
        answer(to_json(found))
        return
    now = datetime.now(UTC)
    columns = ("decision", "repository", "job", "action", "reason", "signature", "#score", "#left")
    show([table("proposals", columns, (_line(each, now) for each in found))])


def _line(proposal: dict[str, Any], now: datetime) -> tuple[object, ...]:
    job = proposal["job_name"] or proposal["pipeline_id"]
    more = f" and {proposal['more_jobs']} more" if proposal["more_jobs"] else ""
    expires = proposal["expires_at"]
    left = lasted(max((expires - now).total_seconds(), 0) * 1000) if expires else None
    shown = (proposal[name] for name in ("action", "reason", "signature", "score"))
    return (proposal["decision_id"], proposal["repository"], f"{job}{more}", *shown, left)


def approve(
    about: UUID,
    /,
    *,
    always: bool = False,
    lasts: str | None = None,
    everywhere: bool = False,
    why: str = "",
    by: str | None = None,
    context: In,
) -> int:
    """Say yes to what is suggested; it is done at once, if it still makes sense then.

    Parameters
    ----------
    about
        The id of the decision, as `guard proposals` has it, or of its case.
    always
        From now on, to every such signature in that repository, too. Never of a fork.
    lasts
        How long --always holds: 30d. Until it is revoked, if not given.
    everywhere
        --always in every repository.
    why
        A reason, for the audit.
    by
        Who says so; the shell's user if not given.
    """
    if (lasts is not None or everywhere) and not always:
        raise ConfigError("--lasts and --everywhere say how --always is meant, and it is not given")
    try:
        for_good = Always(duration(lasts) if lasts is not None else None, everywhere) if always else None
    except ValueError as error:
        raise ConfigError(f"--lasts: {error}") from None
    with servers.database(context.settings()) as connection:
        said = postgres_proposals.approve(connection, about, by or shell_user(), why, via("guard approve"), for_good)
    return _ended(said)


def reject(about: UUID, /, *, why: str, by: str | None = None, context: In) -> int:
    """Say no to what is suggested.

    Parameters
    ----------
    about
        The id of the decision, as `guard proposals` has it, or of its case.
    why
        The reason, for the audit.
    by
        Who says so; the shell's user if not given.
    """
    if not why.strip():
        raise ConfigError("--why: say why")
    with servers.database(context.settings()) as connection:
        said = postgres_proposals.reject(connection, about, by or shell_user(), why.strip(), via("guard reject"))
    return _ended(said)


def always_(
    *,
    revoke: Annotated[int | None, Parameter(name="--revoke")] = None,
    why: str = "",
    by: str | None = None,
    json: bool = False,
    context: In,
) -> int:
    """What was approved for good, by `guard approve --always`; or take one of these back.

    Parameters
    ----------
    revoke
        The number of the one that holds no longer.
    why
        A reason, for the audit.
    by
        Who revokes it; the shell's user if not given.
    """
    with servers.database(context.settings()) as connection:
        if revoke is not None:
            done = postgres_proposals.revoke(connection, revoke, by or shell_user(), why, via("guard always"))
            if not done:
                complain(f"nothing of the number {revoke} is approved for good")
                return AWAY
            answer(f"revoked: {revoke}")
            return DONE
        found = postgres_proposals.standing(connection)
    if json:
        answer(to_json(found))
        return DONE
    names = ("always_id", "signature", "repository", "said_by", "said_at", "until", "why")
    columns = ("#number", "signature", "repository", "by", "since", "until", "why")
    show([table("approved for good", columns, ([each[name] for name in names] for each in found))])
    return DONE


def _ended(said: Answered) -> int:
    if said.outcome is Outcome.DONE:
        answer(escape(said.said))
        return DONE
    complain(said.said)
    return AWAY
