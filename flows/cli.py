"""guard: the face of Pipeline Guard.

Commands only join: what they do stands in a module of its own beside this one. Answers go to standard output, all else
to standard error. Exit status: 0 done; 1 something is away or says no; 2 the settings or the command are wrong; 3 some
of the input was left out.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from connectors import redis_streams
from connectors.postgres import migrate as apply_migrations
from connectors.postgres import prune as delete_older
from flows import (
    archive_commands,
    audit_commands,
    backtest_commands,
    checking,
    dead_commands,
    explain_commands,
    people_commands,
    policy_check,
    publish,
    quarantine_commands,
    reconcile_commands,
    recorded,
    report_commands,
    rulebook_commands,
    rulebooks,
    servers,
    status,
    stop_commands,
    supervise,
    top,
)
from flows.command import (
    AWAY,
    DONE,
    INTERRUPTED,
    LEFT_OUT,
    PLAIN,
    WRONG,
    Context,
    Help,
    In,
    answer,
    complain,
    log_from_here_on,
    show,
)
from flows.normalise import normalise as normalised
from flows.settings import Settings
from flows.tables import escape, one_line, to_json
from models.records.entry import Encoding
from models.records.errors import ConfigError, GuardError, InputError, Unavailable
from models.records.event import PlatformName

app = App(
    name="guard",
    help="Watches CI/CD pipelines, understands why they fail, and heals what can be healed.",
    version_flags=[],
    console=Help(),
    default_parameter=PLAIN,
    result_action="return_value",
    exit_on_error=False,
    print_error=False,
)
app.meta.default_parameter = PLAIN
app.command(archive_commands.archive_, name="archive")
app.command(dead_commands.app)
app.command(rulebook_commands.app)
app.command(report_commands.report_, name="report")
app.command(quarantine_commands.app)
app.command(top.top)
app.command(backtest_commands.run, name="backtest")
app.command(reconcile_commands.reconcile)
app.command(explain_commands.explain)
app.command(explain_commands.unknown_, name="unknown")
app.command(explain_commands.signatures_, name="signatures")
app.command(audit_commands.app)
app.command(people_commands.proposals)
app.command(people_commands.approve)
app.command(people_commands.reject)
app.command(people_commands.always_, name="always")
app.command(stop_commands.stop)
app.command(stop_commands.go)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    try:
        ended: int | None = app.meta(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except (ConfigError, InputError, CycloptsError) as error:
        complain(str(error))
        return WRONG
    except GuardError as error:
        complain(one_line(str(error)))
        return AWAY
    except BrokenPipeError:
        # Nobody reads on, which is theirs to choose; the interpreter must not find it out again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        return INTERRUPTED
    return ended or DONE


@app.meta.default
def _start(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    settings: Annotated[
        Path | None, Parameter(help="The settings file; else the one that GUARD_SETTINGS names.")
    ] = None,
) -> int | None:
    command, bound, ignored = app.parse_args(tokens)
    ended: int | None = command(*bound.args, **bound.kwargs, **dict.fromkeys(ignored, Context(settings)))
    return ended


# --- running


@app.command
def receive(*, context: In) -> None:
    """Take webhooks, until told to stop."""
    from flows import receive as receiver  # noqa: PLC0415 - web server and framework, which no other command needs

    settings = context.settings()
    log_from_here_on(settings)
    receiver.run(settings)


@app.command
def flow(
    *, processes: int | None = None, ephemeral: bool = False, from_progress: bool = False, context: In
) -> int | None:
    """Run the dataflow, until told to stop.

    Parameters
    ----------
    processes
        How many; flow.processes of the settings if not given.
    ephemeral
        Run without a recovery store, for trying out: no cursor moves and nothing is trimmed.
    from_progress
        Go on from what PostgreSQL has where the recovery store is lost.
    """
    given = {"processes": processes, "ephemeral": ephemeral or None}
    settings = context.settings(flow={key: value for key, value in given.items() if value is not None})
    servers.require_schema(settings.postgres.url.get_secret_value())
    log_from_here_on(settings)
    arguments = [
        *(["--settings", str(context.path)] if context.path else []),
        *(["--ephemeral"] if ephemeral else []),
        *(["--from-progress"] if from_progress else []),
    ]
    os.environ["GUARD_FLOW__PROCESSES"] = str(settings.flow.processes)  # which every process must know
    return supervise.supervise(supervise.workers(settings.flow.processes, arguments))


@app.command(name="logs")
def logs_(*, number: int = 0, context: In) -> None:
    """Read the logs of failed jobs, until told to stop.

    Parameters
    ----------
    number
        Which reader on this machine it is, from 0; its metrics port is so many above logs.metrics_port.
    """
    from flows import read_logs  # noqa: PLC0415 - the HTTP client, which no other command needs

    settings = context.settings()
    servers.require_schema(settings.postgres.url.get_secret_value())
    log_from_here_on(settings)
    read_logs.run(settings, number=number)


@app.command
def act(*, number: int = 0, context: In) -> None:
    """Act on decisions where the policy says so, until told to stop.

    Parameters
    ----------
    number
        Which healer on this machine it is, from 0; its ports are so many above those of the settings.
    """
    from flows import act as healing  # noqa: PLC0415 - the HTTP client, which no other command needs

    settings = context.settings()
    servers.require_schema(settings.postgres.url.get_secret_value())
    log_from_here_on(settings)
    healing.run(settings, number=number)


@app.command
def demo(
    *,
    stay: bool = False,
    seconds: float = 60.0,
    seed: int = 9,
    speed: float = 60.0,
    rate: float = 6.0,
    plain: bool = False,
    keep: Path | None = None,
    picture: Path | None = None,
) -> int:
    """Show the whole way at work: a simulated CI world, and all that stands behind it, on servers of its own.

    Parameters
    ----------
    stay
        Go on until Ctrl-C, and say how to reach what runs.
    seconds
        How long the world lasts.
    seed
        Which world: the same number gives the same pipelines.
    speed
        How many of the world's seconds pass in one.
    rate
        Pushes a second; each makes 10 to 30 deliveries.
    plain
        Lines instead of the live view, as where there is no terminal.
    keep
        The directory that everything is kept in; that of an earlier demo is taken up again.
    picture
        Save the last view there, as SVG.
    """
    from flows import demo as whole  # noqa: PLC0415 - servers and the live view, which no other command needs

    seen = whole.run(whole.Options(stay, seconds, seed, speed, rate, plain, keep, picture))
    return DONE if seen else AWAY


@app.command
def migrate(*, prune: bool = False, context: In) -> None:
    """Bring the schema in PostgreSQL up to this release.

    Parameters
    ----------
    prune
        Then delete the rows that are older than the settings' retention.
    """
    settings = context.settings()
    url = settings.postgres.url.get_secret_value()
    with servers.answering():
        done = apply_migrations(url)
        for name in done:
            answer(f"applied {name}")
        if not done:
            answer("the schema is up to date")
        if prune:
            _prune(url, settings)


def _prune(url: str, settings: Settings) -> None:
    for name, days in settings.retention:
        older_than = datetime.now(UTC) - timedelta(days=days)
        for deleted in delete_older(url, older_than, tables=[name]).values():
            answer(f"deleted {deleted} rows of {name} older than {days} days")


# --- looking


@app.command(name="status")
def status_(*, json: bool = False, context: In) -> int:
    """How it stands: shards, counts of the last hour, decisions, failures, dead letters."""
    standing = status.look(context.settings(), at_ms=servers.now_ms())
    if json:
        answer(to_json(standing))
    else:
        show(status.shown(standing))
    for line in standing.unreachable:
        complain(line)
    return AWAY if standing.unreachable else DONE


@app.command
def check(
    *,
    all_: Annotated[bool, Parameter(name="--all")] = False,
    connect: bool = False,
    credentials: bool = False,
    json: bool = False,
    about: Annotated[policy_check.Asked, Parameter(name="*")] = policy_check.Asked(),  # noqa: B008 - it is frozen
    context: In,
) -> int:
    """Check the settings, and say what is in force; or, with --job, what the policy says of a job, and why.

    Parameters
    ----------
    all_
        Show what was left at its default, too.
    connect
        Ask Redis and PostgreSQL whether they will do.
    credentials
        Ask the platforms what the credentials for them lack, in repositories that are known.
    json
        What the policy says of the job, as JSON.
    """
    settings = context.settings()
    if about.job is not None:
        said = policy_check.look(about, settings, rulebooks.configured(settings))
        if json:
            answer(to_json(policy_check.as_data(said)))
        else:
            show(policy_check.shown(said))
        return DONE
    if json or about != policy_check.Asked():
        raise ConfigError("--job: must be given with --json, and with what says more of a job")
    for line in checking.in_force(settings, defaults=all_):
        answer(line)
    fine = True
    for checked in (*checking.check(settings, connect=connect), *_credentials(settings, ask=credentials)):
        answer(f"{'ok' if checked.ok else 'NOT OK'}  {checked.what}: {escape(checked.said)}")
        fine &= checked.ok
    return DONE if fine else AWAY


def _credentials(settings: Settings, *, ask: bool) -> Iterable[checking.Checked]:
    if not ask:
        return ()
    from flows import credentials_check  # noqa: PLC0415 - the HTTP client, which few commands need

    return credentials_check.check(settings)


@app.command
def version() -> None:
    """The version of this release."""
    answer(f"pipeline-guard {installed_version('pipeline-guard')}")


# --- events by hand


@app.command
def normalise(
    file: Annotated[str, Parameter(allow_leading_hyphen=True)] = "-",
    /,
    *,
    platform: PlatformName,
    instance: str = "local",
    headers: Path | None = None,
    header: Annotated[tuple[str, ...], Parameter(name=["--header", "-H"])] = (),
) -> int:
    """The events that a recorded delivery becomes, as JSON lines; or why there are none. Needs no server.

    Parameters
    ----------
    file
        Its body, or {"headers": {...}, "body": ...}; - is standard input.
    platform
        Whose delivery it is.
    instance
        The name of the server or organisation, as a source of the settings has it.
    headers
        A file with its headers: "Name: value" lines or a JSON object.
    header
        One header, "Name: value". May be given several times.
    """
    named = (recorded.header_file(headers) if headers else {}) | recorded.headers_of(header)
    body = recorded.read(file)
    if not named and (both := recorded.whole(body)):
        named, body = both
    said = normalised(platform, instance, named, body, received_at=time.time())
    for line in said.lines:
        answer(line.decode())
    if said.reason is not None:
        complain(said.reason)
    return LEFT_OUT if said.rejected else DONE


@app.command(name="publish")
def publish_(
    file: Annotated[str, Parameter(allow_leading_hyphen=True)] = "-",
    /,
    *,
    encoding: Literal["json", "pb", "pbs"] = "json",
    rate: float | None = None,
    now: bool = False,
    no_marks: bool = False,
    context: In,
) -> int:
    """Put events, as JSON lines, onto the streams.

    Parameters
    ----------
    file
        Events, one a line; - is standard input.
    encoding
        How they are written: json, pb, or pbs (many in one entry).
    rate
        So many events a second at most.
    now
        Shift all times so that the first event happens now. Else they are replayed as if received when they happened.
    no_marks
        Append what was appended already once more.
    """
    if rate is not None and not 0 < rate < math.inf:
        raise ConfigError(f"--rate: expected more than 0 events a second, got {rate:g}")
    settings = context.settings()
    redactor = servers.redactor(settings)
    window_ms = settings.redis.duplicate_window // timedelta(milliseconds=1)
    with recorded.opened(file) as lines, servers.streams(settings) as client:
        publisher = publish.Publisher(
            partial(redis_streams.publish, client, ttl_ms=window_ms),
            redactor=redactor,
            clock=publish.EventClock(servers.now_ms, to_now=now),
            complain=lambda number, reason: complain(f"line {number}: {reason}"),
            encoding=Encoding(encoding),
            marks=not no_marks,
        )
        try:
            for batch in publish.paced(publish.lines_of(lines), rate, monotonic=time.monotonic, sleep=time.sleep):
                publisher.publish(batch)
                _progress(publisher.done, end="\r")
        except Unavailable as error:
            raise Unavailable(f"{error}; on the streams so far: {publisher.done}") from error
        except KeyboardInterrupt:
            _progress(publisher.done, end="\n")
            raise
    _progress(publisher.done, end="\n")
    return LEFT_OUT if publisher.done.bad else DONE


def _progress(done: publish.Published, *, end: str) -> None:
    """Say how far it came: while it goes on only to a terminal, which the next line then writes over."""
    if end == "\n" or sys.stderr.isatty():
        sys.stderr.write(f"{done}{end}")


if __name__ == "__main__":
    sys.exit(main())
