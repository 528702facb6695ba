"""Two sets of rules on the same past: which decisions differ, and what makes the difference.

Compared is what is in force at the end, the last revision of each decision. What brought it about is read from the
two decisions themselves: the signature, the score, what was known of the jobs, or the policy alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
import polars as pl

from models.records.outputs import FindingState

_SHOWN: Final = 5
_JUDGED: Final = ("verdict", "reason", "action", "mode")
_TOLD: Final = ("case_id", "instance", "repository", "pipeline_id", "attempt")
_COMPARED: Final = (*_JUDGED, "signature", "score", "model", "explanation")


def in_force(decisions: pl.LazyFrame) -> pl.LazyFrame:
    """The last revision of each decision about a run attempt; what is done about findings follows from these."""
    return (
        decisions.filter(pl.col("because_of").is_null())
        .sort("case_id", "revision")
        .unique("case_id", keep="last", maintain_order=True)
    )


def compared(before: Mapping[str, pl.LazyFrame], after: Mapping[str, pl.LazyFrame]) -> dict[str, Any]:
    """What differs between what two sets of rules said."""
    return {
        "decisions": _decisions(before["decisions"], after["decisions"]),
        "findings": _findings(before["findings"], after["findings"]),
    }


def _decisions(before: pl.LazyFrame, after: pl.LazyFrame) -> dict[str, Any]:
    sides = [in_force(side).select(*_TOLD, *_COMPARED) for side in (before, after)]
    both = sides[0].join(sides[1], on=list(_TOLD), how="full", coalesce=True, suffix="_after")
    differs = pl.any_horizontal(pl.col(name).ne_missing(pl.col(f"{name}_after")) for name in _JUDGED)
    total, rows = both.select(pl.len()).collect().item(), both.filter(differs).sort("case_id").collect()
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows.iter_rows(named=True):
        groups.setdefault(tuple(_verdict(row, end) for end in ("", "_after")), []).append(row)
    ordered = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    return {
        "compared": total,
        "changed": len(rows),
        "groups": [
            {"before": old, "after": new, "count": len(some), "because": _counted(some), "examples": _examples(some)}
            for (old, new), some in ordered
        ],
    }


def _verdict(row: Mapping[str, Any], end: str) -> str:
    """Verdict and reason in words; the action and the mode where something is done."""
    if row[f"verdict{end}"] is None:
        return "no decision"
    action = row[f"action{end}"]
    return f"{row[f'verdict{end}']}: {row[f'reason{end}']}" + (f" ({action}, {row[f'mode{end}']})" if action else "")


def _because(row: Mapping[str, Any]) -> str:
    """What differs in what the two decisions were made of."""
    if row["verdict"] is None or row["verdict_after"] is None:
        return "decided on by one only"
    if row["signature"] != row["signature_after"]:
        return f"signature {row['signature'] or 'none'} -> {row['signature_after'] or 'none'}"
    said = [msgspec.json.decode(row[name] or "{}") for name in ("explanation", "explanation_after")]
    facts = sorted(set(_facts(said[0])) | set(_facts(said[1])))
    different = [name for name in facts if _facts(said[0]).get(name) != _facts(said[1]).get(name)]
    if different:
        return f"{', '.join(different)} differs"
    return "score" if row["score"] != row["score_after"] else "policy"


def _facts(explanation: Mapping[str, Any]) -> dict[str, Any]:
    """What was known of the jobs, by name, and of the run."""
    facts = {name: value for name, value in explanation.items() if name not in {"jobs", "score_moved_by"}}
    jobs = explanation.get("jobs") or []
    for name in sorted({name for job in jobs for name in job}):
        facts[name] = [job.get(name) for job in jobs]
    return facts


def _counted(rows: list[dict[str, Any]]) -> dict[str, int]:
    """How often each cause, the most frequent first."""
    counts: dict[str, int] = {}
    for row in rows:
        why = _because(row)
        counts[why] = counts.get(why, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN])


def _examples(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            **{name: row[name] for name in _TOLD},
            "because": _because(row),
            "score": [row["score"], row["score_after"]],
        }
        for row in rows[:_SHOWN]
    ]


def _findings(before: pl.LazyFrame, after: pl.LazyFrame) -> dict[str, Any]:
    """Findings that only one of both raised, by detector."""
    sides = [
        side.filter(pl.col("state") == FindingState.RAISED.value).sort("at").unique("finding_id", maintain_order=True)
        for side in (before, after)
    ]
    return {
        name: dict(_only(mine.join(other, on="finding_id", how="anti").collect()))
        for name, mine, other in (("only_before", sides[0], sides[1]), ("only_after", sides[1], sides[0]))
    }


def _only(findings: pl.DataFrame) -> Iterator[tuple[str, Any]]:
    for (detector,), some in sorted(findings.group_by("detector")):
        rows = some.sort("at", "finding_id")
        yield str(detector), {"count": len(rows), "examples": rows.select("repository", "message").head(3).to_dicts()}
