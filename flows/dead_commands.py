"""guard dead: what could not be used."""

from __future__ import annotations

from functools import partial
from typing import Annotated
from uuid import UUID

from cyclopts import App, Parameter
from cyclopts.validators import Number

from connectors import redis_streams
from connectors.postgres_queries import dead_letter, dead_letters, open_dead_letters
from flows import servers
from flows.command import AWAY, DONE, LEFT_OUT, PLAIN, In, answer, complain, show
from flows.dead import Replayer
from flows.tables import escape, facts, table, to_json
from models.records.errors import ConfigError

app = App(name="dead", help="What could not be used: list, show or replay it.", default_parameter=PLAIN)


@app.command(name="list")
def dead_list(
    *, limit: Annotated[int, Parameter(validator=Number(gte=1))] = 100, json: bool = False, context: In
) -> None:
    """The dead letters that were not replayed yet, newest first.

    Parameters
    ----------
    limit
        How many at most.
    """
    with servers.database(context.settings()) as connection:
        letters = dead_letters(connection, limit=limit)
    if json:
        answer(to_json(letters))
        return
    names = ("dead_letter_id", "shard", "entry_id", "reason", "source", "received_at", "size_bytes", "detail")
    columns = ("id", "#shard", "entry", "reason", "source", "received", "#bytes", "detail")
    show([table("dead letters", columns, ([letter[name] for name in names] for letter in letters))])


@app.command(name="show")
def deadshow(letter_id: UUID, /, *, json: bool = False, context: In) -> int:
    """One dead letter, whole."""
    with servers.database(context.settings()) as connection:
        letter = dead_letter(connection, letter_id)
    if letter is None:
        complain(f"there is no dead letter {letter_id}")
        return AWAY
    payload = bytes(letter.pop("payload"))
    text = payload.decode("utf-8", "backslashreplace")
    if json:
        answer(to_json({**letter, "payload": payload, "text": text}))
        return DONE
    show([facts("dead letter", ((name.replace("_", " "), value) for name, value in letter.items()))])
    answer("\n".join(map(escape, text.split("\n"))))
    return DONE


@app.command(name="replay")
def dead_replay(
    *ids: UUID,
    all_: Annotated[bool, Parameter(name="--all")] = False,
    reason: str | None = None,
    again: bool = False,
    context: In,
) -> int:
    """Put dead letters back onto their shards.

    Parameters
    ----------
    ids
        Which ones.
    all_
        All that were not replayed yet.
    reason
        All of this reason that were not replayed yet.
    again
        Replay even what was replayed already.
    """
    if bool(ids) + all_ + (reason is not None) != 1:
        raise ConfigError("name dead letters by their ids, or say --all, or --reason and one reason")
    settings = context.settings()
    redactor = servers.redactor(settings)
    left = 0
    with servers.database(settings) as connection, servers.streams(settings) as client:
        replayer = Replayer(
            connection,
            partial(redis_streams.publish, client),
            redactor=redactor,
            sources=settings.receiver.sources,
            now_ms=servers.now_ms,
        )
        for letter_id in ids or open_dead_letters(connection, reason=reason):
            replayed = replayer.replay(letter_id, again=again)
            answer(f"{replayed.id}  {escape(replayed.said)}")
            left += not replayed.done
    return LEFT_OUT if left else DONE
