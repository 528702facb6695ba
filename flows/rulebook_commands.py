"""guard rulebook: what decides."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cyclopts import App

from analytics.rulebook import Rulebook, compose
from connectors import redis_streams
from connectors.postgres import read_progress
from connectors.postgres_queries import rulebook_digests
from flows import rulebook_lines, rulebooks, servers
from flows.command import PLAIN, In, answer, show
from flows.settings import Settings
from flows.tables import escape, to_json
from models.records.errors import ConfigError
from models.records.event import SHARDS

app = App(name="rulebook", help="What decides: show, check, compare or activate it.", default_parameter=PLAIN)


def named_rulebook(named: str | None, settings: Settings) -> Rulebook:
    """The rulebook of the settings, the shipped one, one in a file, or one that PostgreSQL keeps, by the beginning of
    its digest. A file is one of settings (.toml), or a rulebook's body (.json).

    Raises:
        ConfigError: there is none of that name, or it is wrong.
    """
    if named in {None, "settings"}:
        return rulebooks.configured(settings)
    if named == "shipped":
        return compose()
    path = Path(str(named))
    if path.suffix == ".toml":
        return rulebooks.configured(Settings.load(os.environ, path=path, given={}))
    if path.suffix == ".json":
        return rulebooks.in_file(path)
    with servers.database(settings) as connection:
        digests = rulebook_digests(connection, str(named))
        if len(digests) != 1:
            found = "no rulebook" if not digests else f"{len(digests)} rulebooks"
            raise ConfigError(f"{found} in PostgreSQL with a digest that begins with {named!r}")
        return rulebooks.kept(connection, digests[0])


@app.command(name="show")
def rulebookshow(digest: str | None = None, /, *, json: bool = False, context: In) -> None:
    """A rulebook, whole.

    Parameters
    ----------
    digest
        Its digest or the beginning of it, or "shipped"; the one of the settings if not given.
    """
    named = named_rulebook(digest, context.settings())
    if json:
        answer(to_json({"digest": named.digest, **rulebook_lines.in_full(named)}))
    else:
        show(rulebook_lines.shown(named))


@app.command(name="check")
def rulebook_check(*, context: In) -> None:
    """Put together the rulebook of the settings, and say what is wrong with it."""
    made = rulebooks.configured(context.settings())
    answer(f"ok  {made.digest}: {len(made.detectors)} detectors, {len(made.catalogue.signatures)} signatures")


@app.command(name="diff")
def rulebook_diff(before: str, after: str | None = None, /, *, context: In) -> None:
    """What tells two rulebooks apart, a line each: where, and what it was and is.

    Parameters
    ----------
    before
        A digest or the beginning of one, "shipped" or "settings".
    after
        Likewise; the one of the settings if not given.
    """
    settings = context.settings()
    for line in rulebook_lines.difference(named_rulebook(before, settings), named_rulebook(after, settings)):
        answer(escape(line))


@app.command(name="activate")
def rulebook_activate(digest: str | None = None, /, *, context: In) -> None:
    """Put a rulebook in force, from here on in every shard. A flow that starts activates the one of its settings.

    Parameters
    ----------
    digest
        Its digest or the beginning of it, or "shipped"; the one of the settings if not given.
    """
    settings = context.settings()
    chosen = named_rulebook(digest, settings)
    with servers.database(settings) as connection, servers.streams(settings) as client:
        append: Callable[..., Any] = partial(redis_streams.append_entry, client)
        told = rulebooks.activate(chosen, connection, read_progress(connection), append, servers.now_ms())
    answer(f"{chosen.digest}: " + (f"put in force in {len(told)} of {SHARDS} shards" if told else "in force already"))
