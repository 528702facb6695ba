"""`guard backtest --acts`: what healers would have done with each set of rules, and what rivals would have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import polars as pl
from rich.console import RenderableType

from analytics import act_rows, act_sums
from analytics.act_replay import Healers, Said
from analytics.act_rivals import RIVALS, rival
from analytics.act_rows import ActRow
from analytics.act_sums import Strategy
from analytics.acting import Acting
from analytics.executions import Cost, Executions
from analytics.guards import Limits
from analytics.past import SILENCE_MS, Span
from connectors.platforms import PLATFORMS
from flows.act_limits import limits_of, rules_of
from flows.backtest import Judged
from flows.report import price_of
from flows.settings import Prices, Settings
from flows.tables import table
from models.records.ledger import HoldRules
from models.records.outputs import DecisionRow, IncidentRow, Verdict
from models.records.tables import TIMES

FILE: Final = "acts.parquet"
ALL_IN_ACT: Final = ", all in mode act"
"""What the name of a set of rules ends with where all that it only observes or suggests is done too."""
_SIDES: Final = ("rulebook", "compared")
_COLUMNS: Final = {name: field for field, name in TIMES.items()}


class Terms(NamedTuple):
    """How much may be done, and what it costs, as the settings say."""

    limits: Limits
    rules: HoldRules
    prices: Prices


def terms_of(settings: Settings) -> Terms:
    """Those of `settings`."""
    return Terms(limits_of(settings), rules_of(settings), settings.prices)


def acted(
    files: Sequence[Mapping[str, Path]], parts: Sequence[Judged], span: Span, terms: Terms, to: Path
) -> dict[str, Any]:
    """The part of the report that says what would have been done, by the tables of each side; its rows go into `to`."""
    ends = pl.read_parquet([part.ends for part in parts if part.ends is not None])
    price = partial(_priced, terms.prices)
    strategies: list[Strategy] = []
    for side, tables in enumerate(files):
        frames = {name: pl.read_parquet(tables[name]) for name in ("failures", "diagnoses")}
        executions = Executions(ends, frames["failures"], frames["diagnoses"])
        completed = sum((part.completed for part in parts if part.side == side), start=Counter[int]())
        said = Said(
            _decisions(tables["decisions"]), _incidents(tables["incidents"]), completed, span.last_ms + SILENCE_MS
        )
        strategies += _healers(_SIDES[side], said, executions, terms)
        if side == 0:
            failures = frames["failures"].with_columns(pl.col("occurred_at").dt.epoch("ms").alias("occurred_ms"))
            rivals = [Strategy(name, rival(name, failures, executions, price)) for name in RIVALS]
    strategies += rivals
    act_rows.frame([row for one in strategies for row in one.rows]).write_parquet(to / FILE, compression="zstd")
    return {
        "currency": terms.prices.currency,
        "strategies": [act_sums.sums(one) for one in strategies],
        "differences": [act_sums.difference(*pair) for pair in _pairs({one.name: one for one in strategies})],
    }


def _healers(name: str, said: Said, executions: Executions, terms: Terms) -> Iterator[Strategy]:
    """What healers do as the mode stands; and, where some of it is only observed or suggested, if it were all done."""
    yield _healed(name, said, executions, terms)
    if any(row.verdict == Verdict.ACT and row.mode != "act" for row in said.decisions):
        bold = [row._replace(mode="act") for row in said.decisions]
        yield _healed(f"{name}{ALL_IN_ACT}", said._replace(decisions=bold), executions, terms)


def _healed(name: str, said: Said, executions: Executions, terms: Terms) -> Strategy:
    caps = {platform: adapter.most_reruns for platform, adapter in PLATFORMS.items()}
    acting = Acting(terms.limits, terms.rules, most_reruns=caps)
    rows: list[ActRow] = Healers(name, acting, executions, partial(_priced, terms.prices)).run(said)
    in_force = {row.case_id: row for row in sorted(said.decisions, key=lambda row: row.revision)}
    return Strategy(name, rows, acting.held, in_force)


def _pairs(known: Mapping[str, Strategy]) -> Iterator[tuple[Strategy, Strategy]]:
    """What is set beside what: both sets of rules; each alone beside what runs again whatever failed."""
    for end in ("", ALL_IN_ACT):
        one, other = (known.get(f"{side}{end}") or known.get(side) for side in _SIDES)
        if one is not None and other is not None and (not end or {one.name, other.name} - set(_SIDES)):
            yield one, other
    own = known.get(f"{_SIDES[0]}{ALL_IN_ACT}", known[_SIDES[0]])
    yield own, known["once"]


def _priced(prices: Prices, costs: Sequence[Cost]) -> tuple[float, float]:
    minutes = sum(cost.minutes for cost in costs)
    return minutes, sum(cost.minutes * price_of(cost.labels, prices) for cost in costs)


def _decisions(path: Path) -> list[DecisionRow]:
    """Those about cases that were to be acted on at any time, and the last of every case: why nothing is done."""
    rows = pl.read_parquet(path)
    wanted = rows.filter(pl.col("verdict") == Verdict.ACT.value).select("case_id").unique()
    last = rows.sort("revision").unique("case_id", keep="last")
    kept = pl.concat([rows.join(wanted, on="case_id", how="semi"), last.join(wanted, on="case_id", how="anti")])
    return [DecisionRow(**row) for row in _rows(kept)]


def _incidents(path: Path) -> list[IncidentRow]:
    return [IncidentRow(**row) for row in _rows(pl.read_parquet(path))]


def _rows(frame: pl.DataFrame) -> Iterable[dict[str, Any]]:
    """Rows with times as Unix milliseconds, under the names of the records' fields."""
    times = {name: _COLUMNS[name] for name in frame.columns if frame.schema[name] == pl.Datetime("ms", "UTC")}
    columns = [pl.col(name).dt.epoch("ms") for name in times]
    return frame.with_columns(columns).rename(times).iter_rows(named=True)


# --- for a terminal


def shown(said: Mapping[str, Any]) -> list[RenderableType]:
    """The part for a terminal."""
    why = reasons(said)
    return [
        table("what would have been done", heads(said), figures(said)),
        *([table("what healers would have held, refused or left waiting", REASONS, why)] if why else []),
        *(table(title, ONLY, rows) for title, rows in only(said) if rows),
    ]


def heads(said: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns of `figures`."""
    costs = ("#reruns", "#CI minutes", f"#{said['currency']}")
    return ("strategy", *costs, "#rescued", "#harmed", "#unknown", "#held", "#refused", "#other acts")


def figures(said: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """A row for each strategy."""
    names = ("strategy", "reruns", "minutes", "money", "rescued", "harmed", "unknown")
    return [
        (
            *(one[name] for name in names),
            sum(one["held"].values()),
            sum(one["refused"].values()),
            one["other_acts"],
        )
        for one in said["strategies"]
    ]


REASONS: Final = ("strategy", "which", "why", "#cases")
ONLY: Final = ("who", "#reruns", "why the other would not", "#rescued", "#harmed", "#unknown", "#CI minutes")


def reasons(said: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Why cases had to wait, were refused, or still wait at the end."""
    return [
        (one["strategy"], which, why, count)
        for one in said["strategies"]
        for which in ("held", "refused", "waiting")
        for why, count in one[which].items()
    ]


def only(said: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
    """What only one of two would have run again: a title and rows for each pair that differs."""
    for pair in said["differences"]:
        rows = [
            (pair[who], one["reruns"], one["because"], one["rescued"], one["harmed"], one["unknown"], one["minutes"])
            for who in ("one", "other")
            for one in pair[f"only_{who}"]
        ]
        yield f"run again by one only: {pair['one']} and {pair['other']}", rows
