"""guard report: what healing came to."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import RenderableType

from connectors import postgres_report
from flows import servers
from flows.command import DONE, In, answer, show
from flows.report import Green, Line, Report, Told, report
from flows.tables import facts, lasted, table, to_json
from models.records.duration import duration
from models.records.errors import ConfigError


def report_(*, since: str = "7d", repository: tuple[str, ...] = (), json: bool = False, context: In) -> int:
    """What healing came to: heals, minutes and money saved and spent, time to green, precision, masked regressions.

    Parameters
    ----------
    since
        How far back: 7d, 12h, 30m.
    repository
        Only this one. May be given several times.
    json
        The answer as JSON.
    """
    settings = context.settings()
    try:
        then = servers.ago(duration(since))
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"--since {since}: {error}") from None
    with servers.database(settings) as connection, servers.answering():
        made = report(
            then,
            settings.prices,
            postgres_report.reruns(connection, then, repository),
            postgres_report.recoveries(connection, then, repository),
            postgres_report.refusals(connection, then, repository),
        )
    if json:
        answer(to_json(made))
    else:
        show(view(made))
    return DONE


def view(made: Report) -> Iterable[RenderableType]:
    """The report as tables."""
    total = made.total
    yield facts(
        f"since {made.since:%Y-%m-%d %H:%M}Z",
        [
            ("run again", total.reruns),
            ("healed", total.heals),
            ("spent", f"{total.minutes_spent:.1f} CI minutes, {total.money_spent:.2f} {made.currency}"),
            ("saved", f"{total.minutes_saved:.1f} CI minutes, {total.money_saved:.2f} {made.currency}"),
            ("waiting saved", lasted(total.waiting_minutes_saved * 60_000)),
            ("green after, healed", None if total.green_s is None else lasted(total.green_s * 1000)),
            ("green after, not healed", _by_hand(made.not_healed)),
            ("precision", _share(total.precision)),
            ("masked regressions", _share(total.masked_rate)),
        ],
    )
    columns = ("#run again", "#healed", "#masked", "#same", "#other", "#off", "#unknown", "#spent", "#saved")
    last = ("precision", "masked rate", "#green after")
    for title, name, lines in (
        ("signatures", "signature", made.signatures),
        ("repositories", "repository", made.repositories),
    ):
        yield table(title, (name, *columns, *last), map(_row, lines))
    yield table("not acted on", ("reason", "#cases"), ((each.reason, each.cases) for each in made.refusals))


def _row(line: Line) -> tuple[object, ...]:
    return (
        line.name,
        line.reruns,
        line.heals,
        line.masked,
        line.failed_same,
        line.failed_otherwise,
        line.called_off,
        line.unknown,
        f"{line.money_spent:.2f}",
        f"{line.money_saved:.2f}",
        _share(line.precision),
        _share(line.masked_rate),
        None if line.green_s is None else lasted(line.green_s * 1000),
    )


def _share(told: Told) -> str | None:
    if told.share is None:
        return None
    return f"{told.share:.1%} ({told.low:.1%} to {told.high:.1%})"


def _by_hand(green: Green) -> str:
    mean = "-" if green.mean_s is None else lasted(green.mean_s * 1000)
    return f"{mean} ({green.green} of {green.episodes} got green)"
