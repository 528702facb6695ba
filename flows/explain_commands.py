"""guard explain, guard unknown, guard signatures: why it failed, what is not known yet, what the rules are worth."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final
from uuid import UUID

import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number

from connectors.diagnoses import cases_of_job, oldest_failure, signature_hits
from connectors.postgres import Connection
from connectors.redaction import Redactor
from flows import explain as explain_id
from flows import explain_log, log_account, rulebooks, servers, unknown
from flows import signature_hits as hits
from flows.command import AWAY, DONE, WRONG, In, answer, complain, show
from flows.settings import Settings
from flows.tables import to_json
from models.records.errors import ConfigError
from models.records.event import PlatformName

_KEY_BYTES: Final = 32


def explain(
    *about: Annotated[str, Parameter(allow_leading_hyphen=True)],
    job: Annotated[tuple[str, ...], Parameter(name="--job")] = (),
    passing: Path | None = None,
    platform: PlatformName | None = None,
    signatures: tuple[Path, ...] = (),
    connect: bool = False,
    json: bool = False,
    context: In,
) -> int:
    """Why it failed: from a log, without any server; or all that is known of a decision, run, event, finding or job.

    Ends with 0 if each is explained; 1 if no signature explains one of the logs, or nothing is known of an id; 2 if
    something cannot be read or the command is wrong.

    Parameters
    ----------
    about
        Files with logs, - for standard input; or ids: of a decision, a run attempt, an event, a finding, or a job as
        its platform numbers it.
    job
        The id of a job, whatever it looks like.
    passing
        The last log of the same job that passed: what stands in it too proves nothing.
    platform
        Whose logs they are. Without it, no signature is kept out for being another platform's.
    signatures
        A file with signatures of your own. May be given several times.
    connect
        Look in PostgreSQL for the cluster that an unknown failure belongs to.
    json
        One JSON object a line for each log.
    """
    ids, files = _sorted(about)
    if not (ids or files or job):
        raise ConfigError("explain what? A file with a log, - for standard input, or an id")
    settings = context.settings()
    ended = DONE
    if files:
        explainer = explain_log.LogExplainer(
            explain_log.catalogue_of([*settings.rulebook.signature_files, *signatures], platform),
            Redactor(_key(settings)),
            passing=explain_log.passing_index(passing) if passing else None,
            platform=platform,
            near=unknown.nearest(settings) if connect else log_account.nowhere,
        )
        ended = max(_log(explainer, file, json=json) for file in files)
    return max(ended, _ids(settings, [*ids, *job], json=json)) if ids or job else ended


def _sorted(about: Sequence[str]) -> tuple[list[str], list[str]]:
    """Which arguments are ids, and which are files.

    Raises:
        ConfigError: one is neither.
    """
    ids, files = [], []
    for name in about:
        if _uuid(name) is not None:
            ids.append(name)
        elif name == explain_log.STDIN or Path(name).exists():
            files.append(name)
        elif name.isdecimal():
            ids.append(name)
        else:
            raise ConfigError(f"{name}: there is no such file, and it is no id")
    return ids, files


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _key(settings: Settings) -> bytes:
    """What pseudonyms are made with: the settings' key, or one of this moment where none is set."""
    key = settings.redaction.key
    return key.get_secret_value().encode() if key else secrets.token_bytes(_KEY_BYTES)


def _log(explainer: explain_log.LogExplainer, file: str, *, json: bool) -> int:
    try:
        account = explainer.explain(file)
    except ConfigError as error:
        complain(str(error))
        return WRONG
    if json:
        answer(msgspec.json.encode(account).decode())
    else:
        show(log_account.shown(account, account.log or file))
    return DONE if account.signature is not None else AWAY


def _ids(settings: Settings, ids: Sequence[str], *, json: bool) -> int:
    resolve = rulebooks.resolver(settings.postgres.url.get_secret_value())
    near = unknown.nearest(settings)
    ended = DONE
    with servers.database(settings) as connection:
        for name in ids:
            found = list(_known(connection, name, resolve, near))
            for known in found:
                if json:
                    answer(to_json(known))
                else:
                    show(explain_id.shown(known))
            if not found:
                complain(
                    f"nothing is known of {name}; failures, decisions and findings are kept, runs that passed are not"
                )
                ended = AWAY
    return ended


def _known(
    connection: Connection, name: str, resolve: explain_id.Resolve, near: log_account.Near
) -> Iterator[explain_id.Explained]:
    """What an id of ours stands for, else the run attempts with a job of that id."""
    identity = _uuid(name)
    known = explain_id.explained(connection, identity, resolve, near) if identity else None
    if known is not None:
        yield known
        return
    for case in cases_of_job(connection, name):
        if (known := explain_id.explained(connection, case, resolve, near)) is not None:
            yield known


def unknown_(
    *,
    days: Annotated[int, Parameter(validator=Number(gte=1, lte=3650))] = 30,
    most: Annotated[int, Parameter(validator=Number(gte=1, lte=100))] = 10,
    json: bool = False,
    context: In,
) -> None:
    """What no signature explains yet: the largest clusters of such failures, as drafts of signatures.

    The answer is a file that `guard explain --signatures` and the settings take, once somebody has said in it what
    each means.

    Parameters
    ----------
    days
        How far back; 30 if not given.
    most
        How many clusters; 10 if not given.
    """
    with servers.database(context.settings()) as connection:
        found = unknown.clusters(connection, servers.ago(timedelta(days=days)), days=days, most=most)
    answer(to_json(found) if json else unknown.written(found))


def signatures_(*, json: bool = False, context: In) -> None:
    """What each signature is worth: its hits of the last 30 days, and which have none or hit passing logs."""
    settings = context.settings()
    catalogue = rulebooks.configured(settings).catalogue
    with servers.database(settings) as connection:
        found = hits.standings(
            catalogue.signatures,
            signature_hits(connection),
            oldest=oldest_failure(connection),
            at=datetime.now(UTC),
        )
    if json:
        answer(to_json(found))
    else:
        show(hits.shown(found))
