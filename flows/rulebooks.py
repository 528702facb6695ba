"""Rulebooks in force: kept in PostgreSQL by digest, put in force by a control entry in each shard's log."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from analytics.policy.reading import ImpossiblePolicy
from analytics.rulebook import Rulebook, compose
from analytics.signatures.catalogue import Catalogue, Signature, read
from connectors.postgres import Connection, Progress, connect, get_rulebook, put_rulebook, unavailable
from flows import policy_files
from flows.log_apis import readable
from flows.settings import Settings
from models.records.entry import Encoding, Entry, Kind
from models.records.errors import ConfigError, Unavailable
from models.records.event import SHARDS

AWAIT_LOG_SECONDS: Final = 10
"""How long a decision waits for the log of a failed job, where logs are read."""


def configured(settings: Settings) -> Rulebook:
    """The rulebook that the settings make of the shipped one.

    Raises:
        ConfigError: naming the key, or the signature file and entry, or the line of the policy.
    """
    added = tuple(signature for path in settings.rulebook.signature_files for signature in own(path))
    waits = {"await_log_seconds": AWAIT_LOG_SECONDS} if any(readable(settings)) else {}
    written, places = policy_files.written(settings)
    policy = {"mode": settings.mode, **waits, **written}
    rules = settings.rulebook
    try:
        return compose(detectors=rules.detectors, policy=policy, signatures=added, fleet=rules.fleet)
    except ImpossiblePolicy as error:
        raise policy_files.located(error, settings, places) from None


def own(path: Path) -> tuple[Signature, ...]:
    """The signatures of an operator's file.

    Raises:
        ConfigError: naming file, entry and reason.
    """
    signatures = read(str(path), _text(path))
    try:
        Catalogue(signatures).check()  # while the file is known
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return signatures


def in_file(path: Path) -> Rulebook:
    """The rulebook whose body stands in a file as JSON.

    Raises:
        ConfigError: naming the file, and what is wrong with it.
    """
    try:
        return Rulebook(msgspec.json.decode(_text(path), type=dict[str, Any]))
    except (msgspec.DecodeError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None


def resolver(url: str, *, away: Callable[[Unavailable], None] | None = None) -> Callable[[str], Rulebook]:
    """What gives the rulebook of a digest: the shipped one, or one that PostgreSQL keeps. Each is read once.

    While PostgreSQL is away, `away` is called and then asked again; without it, Unavailable is raised. A rulebook is
    compiled when it is read, a second or two, so that no failure has to wait for it later.
    """
    known = {(shipped := compose()).digest: shipped}
    shipped.catalogue.check()

    def resolve(digest: str) -> Rulebook:
        while digest not in known:
            try:
                with unavailable(), connect(url) as connection:
                    rulebook = kept(connection, digest)
                rulebook.catalogue.check()
                known[digest] = rulebook
            except Unavailable as error:
                if away is None:
                    raise
                away(error)
        return known[digest]

    return resolve


def kept(connection: Connection, digest: str) -> Rulebook:
    """The rulebook of `digest`.

    Raises:
        ConfigError: PostgreSQL has none of that digest, or what it has is not what was put in.
    """
    body = get_rulebook(connection, digest)
    if body is None:
        raise ConfigError(f"rulebook {digest}: not in PostgreSQL")
    rulebook = Rulebook(body)
    if rulebook.digest != digest:
        raise ConfigError(f"rulebook {digest}: what PostgreSQL has under it has the digest {rulebook.digest}")
    return rulebook


def control(rulebook: Rulebook, now_ms: int) -> Entry:
    """The entry that puts `rulebook` in force from where it stands."""
    return Entry(Kind.CONTROL, Encoding.JSON, now_ms, msgspec.json.encode({"rulebook": rulebook.digest}))


def activate(
    rulebook: Rulebook,
    connection: Connection,
    progress: Mapping[int, Progress],
    append: Callable[[int, Entry], object],
    now_ms: int,
) -> list[int]:
    """Put `rulebook` in force in every shard that is not known to follow it already; return those shards.

    A shard that has not come to an earlier control entry yet gets a second one, which changes nothing.
    """
    put_rulebook(connection, rulebook.digest, rulebook.body, created_by=getpass.getuser())
    behind = [shard for shard in range(SHARDS) if shard not in progress or progress[shard].rulebook != rulebook.digest]
    for shard in behind:
        append(shard, control(rulebook, now_ms))
    return behind
