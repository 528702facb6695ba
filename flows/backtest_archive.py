"""An archive as a backtest reads it: what it holds, and the rulebooks that its control entries name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import polars as pl

from analytics.past import Span
from analytics.rulebook import compose
from connectors.parquet import events, files, gaps, shards
from flows import rulebooks, servers
from flows.backtest import Rules
from flows.backtest_report import Read
from flows.settings import Settings
from models.records.entry import HEADER_BYTES, Kind
from models.records.errors import ConfigError, GuardError, InputError

_CONTROL: Final = msgspec.json.Decoder(dict[str, Any])


def read(directory: Path) -> Read:
    """What the archive holds.

    Raises:
        InputError: nothing, or a file cannot be read.
    """
    received = pl.col("received_ms")
    count, first, last = (
        events(directory).select(pl.len(), received.min().alias("first"), received.max().alias("last")).collect().row(0)
    )
    if not count:
        raise InputError(f"no events in {directory}")
    missing = tuple(
        f"shard {shard}: positions {gap.first} to {gap.last}"
        for shard in shards(directory)
        for gap in gaps(directory, shard)
    )
    return Read((directory.name,), count, 0, (), (), Span(first, last), missing)


def rules(directory: Path, settings: Settings) -> Rules:
    """The shipped rules, and those that control entries bring into force: shipped, of the settings, or PostgreSQL's.

    Raises:
        ConfigError: PostgreSQL would know what a control entry names, and cannot be asked.
    """
    shipped = compose()
    known: dict[str, Mapping[str, Any]] = {one.digest: one.body for one in (shipped, rulebooks.configured(settings))}
    wanted = _named(directory) - set(known)
    return Rules(shipped.body, named=known | dict(_kept(wanted, settings) if wanted else {}))


def _named(directory: Path) -> set[str]:
    """The digests that control entries name."""
    paths = [file.path for file in files(directory)]
    if not paths:
        return set()
    entries = pl.scan_parquet(paths, missing_columns="insert", extra_columns="ignore")
    named = set()
    for value in entries.filter(pl.col("kind") == Kind.CONTROL.value).select("value").collect()["value"].drop_nulls():
        try:
            named.add(str(_CONTROL.decode(value[HEADER_BYTES:])["rulebook"]))
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError):
            continue  # a dead letter, as it was
    return named


def _kept(wanted: set[str], settings: Settings) -> Mapping[str, Mapping[str, Any]]:
    """The bodies of those that PostgreSQL has; the others were dead letters then, and are now."""
    found: dict[str, Mapping[str, Any]] = {}
    try:
        with servers.database(settings) as connection:
            for digest in sorted(wanted):
                try:
                    found[digest] = rulebooks.kept(connection, digest).body
                except ConfigError:
                    continue
    except GuardError as error:
        named = ", ".join(digest[:12] for digest in sorted(wanted))
        raise ConfigError(
            f"the archive was judged by the rulebook {named}, which PostgreSQL keeps: {error}; "
            "with --rulebook it is judged by another"
        ) from None
    return found
