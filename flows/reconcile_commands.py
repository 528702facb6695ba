"""guard reconcile: ask the platforms for what no webhook brought."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows import servers
from flows.command import DONE, LEFT_OUT, In, answer, complain, log_from_here_on
from models.records.duration import duration
from models.records.errors import ConfigError

if TYPE_CHECKING:
    from flows.reconcile import Round


def reconcile(*, since: str | None = None, once: bool = False, context: In) -> int:
    """Ask the platforms what no webhook brought, and have them send again what they could not deliver.

    Parameters
    ----------
    since
        With --once: how far back to look (3h); to where all is known if not given.
    once
        Look once and say what was missing, in place of looking until told to stop.
    """
    from flows import reconcile as reconciler  # noqa: PLC0415 - the HTTP client, which few commands need

    if since is not None and not once:
        raise ConfigError("--since is for --once; what runs on knows how far back it has to look")
    settings = context.settings()
    servers.require_schema(settings.postgres.url.get_secret_value())
    log_from_here_on(settings)
    if not once:
        reconciler.run(settings)
        return DONE
    try:
        past = duration(since) if since is not None else None
    except ValueError as error:
        raise ConfigError(f"--since: {error}") from None
    return _said(reconciler.once(settings, since=past))


def _said(done: Round) -> int:
    found = sum(look.reconciled.found for look in done.looks)
    known = sum(look.known for look in done.looks)
    answer(f"{len(done.looks)} repositories looked at: {found} events were missing, {known} were known")
    for look in done.unread:
        complain(f"{look.place.platform} {look.place.repository}: {look.reconciled.why}")
    unreadable = sum(look.unreadable for look in done.looks)
    if unreadable:
        complain(f"{unreadable} runs or jobs could not be read")
    if done.left:
        complain(f"{done.left} repositories were not looked at: their instances were asked enough for now")
    return LEFT_OUT if done.unread or done.left or unreadable else DONE
