"""The rivals of a rulebook over the past: whatever fails is run again at once, once or twice, or never.

They have no guards and no budgets. A second rerun is told of only where the past has a second attempt that failed: what
nobody ran again cannot have failed twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

import polars as pl

from analytics.act_rows import ActRow, Price, came
from analytics.executions import Executions
from models.records.acted import Acted, ActedJob, ActResult
from models.records.event import uuid5_text

RIVALS: Final[Mapping[str, int]] = {"never": 0, "once": 1, "twice": 2}
"""How often each runs again what fails."""
_AT_ONCE_MS: Final = 1000
_JOB: Final = ("case_id", "workflow", "job_name")


def rival(strategy: str, failures: pl.DataFrame, executions: Executions, price: Price) -> list[ActRow]:
    """What it would have run again: all that failed in an attempt; on GitLab, whose pipelines stay, each job alone."""
    is_gitlab = pl.col("platform") == "gitlab"
    again = pl.col("occurred_ms").rank("ordinal").over(_JOB).cast(pl.Int64) - 1
    tries = failures.sort("occurred_ms", "failure_id").with_columns(
        (pl.col("attempt") + pl.when(is_gitlab).then(again).otherwise(0)).alias("tried"),
        pl.when(is_gitlab).then("failure_id").otherwise(pl.lit("")).alias("alone"),
    )
    wanted = tries.filter(pl.col("tried") <= RIVALS[strategy]).sort("case_id", "tried", "alone", "failure_id")
    return list(_rows(strategy, wanted, executions, price))


def _rows(strategy: str, wanted: pl.DataFrame, executions: Executions, price: Price) -> Iterator[ActRow]:
    rows = wanted.iter_rows(named=True)
    for _, some in groupby(rows, key=lambda row: (row["case_id"], row["tried"], row["alone"])):
        failed = list(some)
        acted = _acted(failed)
        _, judged = executions.came_of(acted)
        minutes, money = price(executions.cost(job.failure_id for job in acted.jobs))
        yield ActRow(
            strategy=strategy,
            case_id=acted.case_id,
            decision_id=None,
            act_id=acted.act_id,
            platform=acted.platform,
            instance=acted.instance,
            repository=acted.repository,
            pipeline_id=acted.pipeline_id,
            workflow_id=acted.workflow_id,
            attempt=acted.attempt,
            commit_sha=acted.commit_sha,
            branch=acted.branch,
            signature=acted.signature,
            action=acted.action,
            target=acted.target,
            state="done",
            why=None,
            asked_ms=acted.asked_ms,
            reruns=True,
            came=came(judged).value,
            outcome=judged.outcome,
            masked=judged.masked,
            ended_ms=judged.ended_ms,
            minutes=minutes,
            money=money,
        )


def _acted(failed: Sequence[Mapping[str, Any]]) -> Acted:
    first = failed[0]
    alone = first["platform"] == "gitlab" and first["job_id"] is not None
    return Acted(
        act_id=uuid5_text("rival", first["case_id"], str(first["tried"]), first["alone"]),
        decision_id="",
        case_id=first["case_id"],
        platform=first["platform"],
        instance=first["instance"],
        repository=first["repository"],
        pipeline_id=first["pipeline_id"],
        workflow_id=first["workflow_id"],
        attempt=first["attempt"],
        action="rerun_job" if alone else "rerun_failed",
        target=first["job_id"] if alone else "run",
        result=ActResult.DONE,
        signature=first["signature"],
        commit_sha=first["commit_sha"],
        branch=first["branch"],
        jobs=tuple(
            ActedJob(row["failure_id"], row["workflow"] or "", row["job_name"] or "", row["signature"])
            for row in failed
        ),
        asked_ms=max(row["occurred_ms"] for row in failed) + _AT_ONCE_MS,
    )
