"""guard quarantine: what is set aside because it is flaky."""

from __future__ import annotations

import getpass
import time
from uuid import UUID

import msgspec
from cyclopts import App

from analytics.errands import RELEASE
from connectors import redis_streams
from connectors.postgres_quarantines import Lasting, find, lasting, released
from flows import servers
from flows.command import AWAY, DONE, PLAIN, In, answer, complain, show
from flows.tables import table, to_json
from models.records.acted import Acted, ActResult
from models.records.entry import Encoding, Entry, Kind
from models.records.event import shard_of, uuid5_text

app = App(name="quarantine", help="Flaky jobs and tests that are set aside: list or release.", default_parameter=PLAIN)


@app.command(name="list")
def quarantine_list(*, over: bool = False, json: bool = False, context: In) -> None:
    """What is in quarantine now, the newest first.

    Parameters
    ----------
    over
        Those that ended too.
    """
    with servers.database(context.settings()) as connection:
        rows = lasting(connection, over=over)
    if json:
        answer(to_json(rows))
        return
    names: tuple[str, ...] = (
        "decision_id",
        "repository",
        "workflow",
        "job_name",
        "test",
        "owner",
        "begun_by",
        "expires_at",
    )
    names += ("released_at", "why_released") if over else ()
    columns = ("id", "repository", "workflow", "job", "test", "owner", "begun by", "expires", "released", "why")
    show([table("quarantines", columns[: len(names)], ([row[name] for name in names] for row in rows))])


@app.command(name="release")
def quarantine_release(quarantine: UUID, /, *, context: In) -> int:
    """End a quarantine: failures of the job count again.

    Its shard is told, and says so in a decision; until then it lasts.

    Parameters
    ----------
    quarantine
        Its id, as `guard quarantine list` shows it.
    """
    settings = context.settings()
    with servers.database(settings) as connection, servers.streams(settings) as client:
        it = find(connection, quarantine)
        if it is None:
            complain(f"there is no quarantine {quarantine} that lasts")
            return AWAY
        now_ms = time.time_ns() // 1_000_000
        entry = Entry(Kind.OUTCOME, Encoding.JSON, now_ms, msgspec.json.encode(_release(it, now_ms)))
        redis_streams.append_entry(client, shard_of(it.instance, it.repository), entry)
        released(connection, quarantine, by=getpass.getuser())
    answer(f"{it.job_name} in {it.repository}: its quarantine ends")
    return DONE


def _release(it: Lasting, now_ms: int) -> Acted:
    """What the shard is told."""
    return Acted(
        act_id=uuid5_text("release", str(it.decision_id)),
        decision_id=str(it.decision_id),
        case_id=str(it.case_id),
        platform=it.platform,
        instance=it.instance,
        repository=it.repository,
        pipeline_id="",
        attempt=1,
        action=RELEASE,
        target=it.job_name,
        result=ActResult.DONE,
        asked_ms=now_ms,
    )
