"""Whether Pipeline Guard could run as it is set: what is in force, what the servers are, and what would lose data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from connectors import redis_safety
from connectors.postgres import migrations, schema_version
from flows.log_apis import readable
from flows.rulebooks import configured
from flows.servers import answering, streams
from flows.settings import Settings
from flows.tables import one_line
from models.records.errors import ConfigError, GuardError

_DEFAULT = "(default)"


class Checked(NamedTuple):
    """One thing that was looked at."""

    what: str
    ok: bool
    said: str


def in_force(settings: Settings, *, defaults: bool) -> list[str]:
    """The settings line by line, those left at their default only if asked for."""
    return [line for line in settings.lines() if defaults or not line.endswith(_DEFAULT)]


def check(settings: Settings, *, connect: bool) -> Iterator[Checked]:
    """Look at what `settings` name: the rulebook, and with `connect` the servers."""
    rulebook = configured(settings)
    yield Checked("rulebook", ok=True, said=rulebook.digest)
    yield from _logs(settings)
    if connect:
        yield from _redis(settings)
        yield _postgres(settings)


def _logs(settings: Settings) -> Iterator[Checked]:
    """Whose logs will be read, and whose will not."""
    try:
        read = {(api.platform, api.instance) for _, api in readable(settings)}
    except ConfigError as error:
        yield Checked("logs", ok=False, said=str(error))
        return
    sources = {(source.platform, source.instance) for source in settings.receiver.sources.values()}
    for name, api in settings.platforms.items():
        if (api.platform, api.instance) not in sources:
            yield Checked("logs", ok=False, said=f"platforms.{name}: no source is {api.platform} {api.instance}")
    for platform, instance in sorted(sources):
        can = (platform, instance) in read
        said = "read" if can else "not read: no table under [platforms] has a read_credential for it"
        yield Checked("logs", ok=True, said=f"{platform} {instance}: {said}")


def _redis(settings: Settings) -> Iterator[Checked]:
    try:
        with streams(settings) as client:
            server = redis_safety.look(client)
    except GuardError as error:
        yield Checked("redis", ok=False, said=one_line(str(error)))
        return
    problems = redis_safety.unsafe(server)
    told = "".join(f", {key} {value}" for key, value in sorted((server.config or {}).items()))
    yield Checked("redis", ok=not problems, said=f"{server.name} {server.version}{told}")
    for problem in problems:
        yield Checked("redis", ok=False, said=problem)


def _postgres(settings: Settings) -> Checked:
    wanted = migrations()[-1].version
    try:
        with answering():
            version = schema_version(settings.postgres.url.get_secret_value())
    except GuardError as error:
        return Checked("postgresql", ok=False, said=one_line(str(error)))
    said = f"schema version {version}" if version else "no tables of ours"
    if version < wanted:
        return Checked("postgresql", ok=False, said=f"{said}, version {wanted} is needed: run `guard migrate`")
    return Checked("postgresql", ok=True, said=said)
