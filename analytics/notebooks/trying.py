"""Trying other parameters on the past: which there are, a rulebook with one of them changed, and what that moves."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
import polars as pl

from analytics.backtest import Told
from analytics.detectors.detector import found
from analytics.fleet_rules import FleetRules
from analytics.rulebook import Rulebook, compose
from analytics.side_by_side import compared
from models.records.duration import duration_text
from models.records.outputs import FindingState, IncidentState

FLEET: Final = "fleet"
_TIMES: Final = (0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4)
"""What is worth trying is about as large as what is shipped."""
_SMALL: Final = 10
"""Up to here whole numbers are tried one by one."""
_MINUTE: Final = timedelta(minutes=1)

Number: TypeAlias = int | float


class Parameter(NamedTuple):
    """A number of a detector or of the fleet; a duration is counted in minutes."""

    of: str
    name: str
    default: Number
    is_duration: bool = False

    @property
    def steps(self) -> list[Number]:
        """Values to try, the default among them."""
        if not isinstance(self.default, int):
            return sorted({self.default, *(float(f"{times * self.default:.4g}") for times in _TIMES)})
        if self.default <= _SMALL:
            return list(range(1, 3 * self.default + 1))
        return [round(times * self.default) for times in _TIMES]

    def table(self, value: Number) -> dict[str, Mapping[str, Any]]:
        """What a rulebook says where this parameter is `value`."""
        return {self.of: {self.name: duration_text(value * _MINUTE) if self.is_duration else value}}


def parameters() -> dict[str, Parameter]:
    """Every number that can be changed, by a name that says whose it is, and the unit of durations."""
    of_fleet = msgspec.structs.asdict(FleetRules())
    tables = {**{cls.__name__: _defaults(cls()) for cls in found()}, FLEET: of_fleet}
    all_of_them = (_parameter(of, *field) for of, table in tables.items() for field in table.items())
    return {f"{p.of}.{p.name}{' (minutes)' if p.is_duration else ''}": p for p in all_of_them if p is not None}


def _defaults(rule: Any) -> dict[str, Any]:  # noqa: ANN401 - any dataclass
    return {field.name: getattr(rule, field.name) for field in dataclasses.fields(rule)}


def _parameter(of: str, name: str, default: object) -> Parameter | None:
    if isinstance(default, timedelta):
        return Parameter(of, name, default / _MINUTE, is_duration=True)
    return Parameter(of, name, default) if isinstance(default, int | float) and not isinstance(default, bool) else None


def rulebook(parameter: Parameter, value: Number) -> Rulebook:
    """The shipped rules with `parameter` changed.

    Raises:
        ConfigError: it cannot have this value.
    """
    table = parameter.table(value)
    return compose(fleet=table[FLEET]) if FLEET in table else compose(detectors=table)


class Moved(NamedTuple):
    """What other rules made of the same events.

    `findings` and `incidents` have a row for each that only one of both raised or opened: `new` or `gone`.
    """

    counts: pl.DataFrame
    findings: pl.DataFrame
    incidents: pl.DataFrame
    decisions: Mapping[str, Any]


def moved(before: Told, after: Told) -> Moved:
    """What differs; ids are made of what they are about, so that the same finding has the same one on both sides."""
    findings = [raised(told) for told in (before, after)]
    incidents = [opened(told) for told in (before, after)]
    lazily = [{n: pl.DataFrame(told.tables[n]).lazy() for n in ("findings", "decisions")} for told in (before, after)]
    return Moved(
        counts=_counts(*findings),
        findings=_differ("finding_id", *findings),
        incidents=_differ("incident_id", *incidents),
        decisions=compared(*lazily)["decisions"],
    )


def raised(told: Told) -> pl.DataFrame:
    """Findings as they were raised."""
    findings = pl.DataFrame(told.tables["findings"]).sort("at", "finding_id")
    return findings.filter(pl.col("state") == FindingState.RAISED.value).unique("finding_id", maintain_order=True)


def opened(told: Told) -> pl.DataFrame:
    """Incidents as they were opened."""
    incidents = pl.DataFrame(told.tables["incidents"]).sort("at", "incident_id")
    return incidents.filter(pl.col("state") == IncidentState.OPENED.value)


def latest(told: Told) -> pl.DataFrame:
    """Incidents as they stood at the end."""
    incidents = pl.DataFrame(told.tables["incidents"]).sort("incident_id", "revision")
    return incidents.unique("incident_id", keep="last", maintain_order=True).sort("began_at", "incident_id")


def _counts(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    sides = [side.group_by("detector").len(name) for name, side in (("before", before), ("after", after))]
    return sides[0].join(sides[1], on="detector", how="full", coalesce=True).fill_null(0).sort("detector")


def _differ(key: str, before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    sides = (("gone", before, after), ("new", after, before))
    rows = [
        mine.join(other, on=key, how="anti").insert_column(0, pl.lit(change).alias("change"))
        for change, mine, other in sides
    ]
    return pl.concat(rows).sort("at", key)
