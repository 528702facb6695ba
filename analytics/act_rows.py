"""What would have been done, as rows: one for each act, and one for each case of which nothing came."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

import polars as pl

from analytics.executions import Cost
from analytics.reruns import Judged
from models.records.outputs import ActEnd, DecisionRow


class Came(StrEnum):
    """What would have come of a rerun, by the execution that somebody else asked for."""

    RESCUED = "rescued"  # it passed
    HARMED = "harmed"  # it failed again, or passed on a commit that proved broken all the same
    UNKNOWN = "unknown"  # nobody ran it again, or that was called off


class ActRow(NamedTuple):
    """One act, or one case of which nothing came: then without `act_id`."""

    strategy: str
    case_id: str
    decision_id: str | None
    act_id: str | None
    platform: str
    instance: str
    repository: str
    pipeline_id: str
    workflow_id: str | None
    attempt: int
    commit_sha: str | None
    branch: str | None
    signature: str | None
    action: str | None
    target: str | None
    state: str  # done or dropped; of a case refused, waiting, proposed or observed
    why: str | None  # of what is not done
    asked_ms: int | None
    probe: bool = False
    reruns: bool = False  # it runs something again
    came: str | None = None  # of Came, of what was run again
    outcome: str | None = None  # of ActEnd, that of the execution which somebody asked for
    masked: bool = False
    ended_ms: int | None = None
    minutes: float = 0.0  # that what failed took
    money: float = 0.0


Price = Callable[[Sequence[Cost]], tuple[float, float]]
"""CI minutes and money of what failed jobs took."""

_TIMES: Final = {"asked_ms": "asked_at", "ended_ms": "ended_at"}
_TYPES: Final = {"attempt": pl.Int64, "probe": pl.Boolean, "reruns": pl.Boolean, "masked": pl.Boolean}
_NUMBERS: Final = {"minutes": pl.Float64, "money": pl.Float64, "asked_ms": pl.Int64, "ended_ms": pl.Int64}
_SCHEMA: Final = {name: (_TYPES | _NUMBERS).get(name, pl.String) for name in ActRow._fields}


def frame(rows: Sequence[ActRow]) -> pl.DataFrame:
    """The rows as the table acts.parquet."""
    made = pl.DataFrame(rows, schema=_SCHEMA, orient="row")
    times = [pl.from_epoch(old, "ms").dt.replace_time_zone("UTC").alias(new) for old, new in _TIMES.items()]
    return made.with_columns(times).drop(*_TIMES)


def row_of(strategy: str, decision: DecisionRow, state: str, why: str | None) -> ActRow:
    """The row of a case."""
    return ActRow(
        strategy,
        decision.case_id,
        decision.decision_id,
        None,
        decision.platform,
        decision.instance,
        decision.repository,
        decision.pipeline_id,
        decision.workflow_id,
        decision.attempt,
        decision.commit_sha,
        decision.branch,
        decision.signature,
        decision.action,
        None,
        state,
        why,
        None,
    )


def came(judged: Judged) -> Came:
    """What would have come of it."""
    if judged.outcome is ActEnd.PASSED:
        return Came.HARMED if judged.masked else Came.RESCUED
    failed = judged.outcome in (ActEnd.FAILED_SAME, ActEnd.FAILED_OTHERWISE)
    return Came.HARMED if failed else Came.UNKNOWN
