"""guard archive: keep what the streams hold."""

from __future__ import annotations

from connectors import redis_streams
from flows import archive_check, servers
from flows.command import AWAY, DONE, LEFT_OUT, In, answer, complain, log_from_here_on, show
from flows.settings import Settings
from flows.tables import to_json
from models.records.errors import ConfigError
from models.records.event import SHARDS


def archive_(
    *, number: int = 0, of: int = 1, check: bool = False, forget: bool = False, json: bool = False, context: In
) -> int:
    """Keep every entry of the streams as Parquet, until told to stop.

    Parameters
    ----------
    number
        Which of several archivers it is, from 0; each has its share of the shards.
    of
        How many archivers there are.
    check
        Instead, compare what is archived with the streams, and say what is missing.
    forget
        Instead, let the archive hold back trimming no more, where none will run again.
    json
        The answer of --check as JSON.
    """
    if not 0 <= number < of <= SHARDS:
        raise ConfigError(f"--number and --of: expected 0 <= number < of <= {SHARDS}, got {number} and {of}")
    settings = context.settings()
    if check:
        return _archive_check(settings, as_json=json)
    if forget:
        with servers.streams(settings) as client:
            forgotten = redis_streams.forget_reader(client, redis_streams.ARCHIVE_GROUP)
        answer(f"the archive was registered on {forgotten} shards, and is no more")
        return DONE
    from flows import archive  # noqa: PLC0415 - the writer of Parquet, which no other command needs

    log_from_here_on(settings)
    archive.run(settings, number=number, of=of)
    return DONE


def _archive_check(settings: Settings, *, as_json: bool) -> int:
    checked = archive_check.look(settings)
    if as_json:
        answer(to_json(checked))
    else:
        show(archive_check.shown(checked))
    for line in checked.unreachable:
        complain(line)
    if checked.unreachable:
        return AWAY
    return DONE if all(one.complete for one in checked.shards) else LEFT_OUT
