"""guard stop and guard go: the kill switch."""

from __future__ import annotations

from flows import stopping
from flows.command import AWAY, DONE, In, answer, complain
from flows.tables import escape
from models.records.errors import ConfigError


def stop(*, why: str, by: str | None = None, context: In) -> int:
    """Stop all healers: nothing is asked of any platform from now on. Works while PostgreSQL is away.

    Parameters
    ----------
    why
        The reason, for all who wonder later.
    by
        Who says so; the shell's user if not given.
    """
    settings = context.settings()
    note = stopping.new_note(by or stopping.shell_user(), _words(why))
    path = settings.act.stop_file
    told = stopping.stop(path, settings.postgres.url.get_secret_value(), note, how="guard stop")
    _tell("stopped", told)
    if path is None:
        answer("act.stop_file is not set: only the database can stop healers, or their HTTP API")
    if not told.reached:
        complain("nothing was reached, and healers go on; POST /v1/pause on each of them stops it")
        return AWAY
    if told.missed:
        complain("what was not reached: a healer that finds the other stop passes it on as soon as it can")
    return DONE


def go(*, why: str, by: str | None = None, context: In) -> int:
    """Let healers go on: takes back every stop, in the database and as a file.

    Parameters
    ----------
    why
        The reason, for all who wonder later.
    by
        Who says so; the shell's user if not given.
    """
    settings = context.settings()
    said_by = by or stopping.shell_user()
    url = settings.postgres.url.get_secret_value()
    told = stopping.go(settings.act.stop_file, url, by=said_by, why=_words(why), how="guard go")
    _tell("taken back", told)
    if told.missed:
        complain("not all of it could be taken back: healers stay stopped")
        return AWAY
    answer("healers go on, but for those on whose own machines another stop file is")
    return DONE


def _words(why: str) -> str:
    if not why.strip():
        raise ConfigError("--why: say why")
    return why.strip()


def _tell(what: str, told: stopping.Told) -> None:
    for name in told.reached:
        answer(f"{what}: {escape(name)}")
    for name, reason in told.missed:
        complain(f"not {what}: {name}: {reason}")
