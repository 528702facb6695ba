"""Fit models/scorers/rerun_passes.json on the simulated world's history: `python -m benchmarks.fit_rerun_passes`.

The history is what the product would have seen: signed webhooks, normalised by the platforms, matched by the signatures
that ship. A label is what came of it: whether the next execution of the job on the same commit passed. Nothing of the
world's truth is used. A third of the repositories is held out, and the figures that stand in the artefact are theirs.

What is learnt is this world's: how often reruns pass elsewhere has to be learnt there.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from sklearn.metrics import brier_score_loss, roc_auc_score

from analytics.signatures.catalogue import Catalogue, facts_of
from analytics.signatures.catalogue import shipped as shipped_signatures
from benchmarks.world.deliveries import Delivery, Source, Weather, deliveries
from benchmarks.world.places import settle
from benchmarks.world.records import Clock, Happening, What
from benchmarks.world.sim import Habits, World
from connectors.platforms.circleci import CircleCI
from connectors.platforms.github import GitHub
from connectors.platforms.gitlab import GitLab
from connectors.platforms.jenkins import Jenkins
from connectors.platforms.platform import Platform, Request
from models.records.event import FAILING, Event, Outcome
from models.scorers import rerun_passes
from models.scorers.rerun_passes import RerunPasses
from models.scorers.scorer import Features

_PLATFORMS: Final[dict[str, Platform]] = {p.name: p for p in (GitHub(), GitLab(), Jenkins(), CircleCI())}
_SOURCES: Final = {
    "github": Source("github", "signature", "unused"),
    "gitlab": Source("gitlab", "token", "unused"),
    "jenkins": Source("jenkins", "basic", "unused:unused"),
    "circleci": Source("circleci", "signature", "unused"),
}
_EPOCH: Final = 1_763_900_000.0
_SPEEDS: Final = (1.0, 60.0)  # as the world is, and as a demo shows it: durations must not mislead the model there
_HELD_OUT: Final = 3  # one repository of so many
_BINS: Final = 10


@dataclass(frozen=True, slots=True)
class History:
    """How much is simulated. Each speed has a world of its own."""

    seed: int
    repositories: int = 240
    hours: float = 120.0
    pushes_per_hour: float = 120.0


class Labelled(NamedTuple):
    """A failed job of `repository`, what was known of it, and whether it passed when it ran again."""

    repository: str
    features: Features
    passed: bool


def main() -> None:
    """Fit, say what was reached, and write the artefact."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fit_rerun_passes", description=__doc__)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(rerun_passes.__file__).with_suffix(".json"))
    args = parser.parse_args()
    artefact = fit(History(seed=args.seed))
    args.out.write_bytes(encode(artefact))
    print(msgspec.json.format(msgspec.json.encode(artefact["fitted"]), indent=1).decode())


def encode(artefact: dict[str, Any]) -> bytes:
    """The artefact as the file has it."""
    return msgspec.json.format(msgspec.json.encode(artefact), indent=1) + b"\n"


def fit(history: History) -> dict[str, Any]:
    """The artefact fitted on `history`, with what it reaches on the repositories held out."""
    cases = [case for i in range(len(_SPEEDS)) for case in labelled(_events(history, i))]
    held = [case for case in cases if zlib.crc32(case.repository.encode()) % _HELD_OUT == 0]
    kept = [case for case in cases if zlib.crc32(case.repository.encode()) % _HELD_OUT]
    scorer = RerunPasses.learn([case.features for case in kept], [case.passed for case in kept])
    fitted = {"history": "simulated", **msgspec.to_builtins(history), "cases": len(kept), **judge(scorer, held)}
    return {**scorer.to_artefact(), "fitted": fitted}


def judge(scorer: RerunPasses, cases: Sequence[Labelled]) -> dict[str, Any]:
    """How well `scorer` ranks and how honest its chances are; `base_brier` is what the bare rate of passing reaches."""
    values = [score.value for score in scorer.score([case.features for case in cases])]
    known = [(value, case.passed) for value, case in zip(values, cases, strict=True) if value is not None]
    if not known:
        return {"held_out": len(cases), "unknown": len(cases)}
    scores, passed = np.array([value for value, _ in known]), np.array([label for _, label in known])
    bins = np.minimum((scores * _BINS).astype(int), _BINS - 1)
    return {
        "held_out": len(cases),
        "unknown": len(cases) - len(known),
        "passed": round(float(passed.mean()), 4),
        "auc": round(float(roc_auc_score(passed, scores)), 4),
        "brier": round(float(brier_score_loss(passed, scores)), 4),
        "base_brier": round(float(passed.mean() * (1 - passed.mean())), 4),
        "calibration": [
            {
                "predicted": round(float(scores[bins == i].mean()), 3),
                "passed": round(float(passed[bins == i].mean()), 3),
                "cases": int((bins == i).sum()),
            }
            for i in range(_BINS)
            if (bins == i).any()
        ],
    }


def _events(history: History, index: int) -> Iterator[Event]:
    """The ends of jobs that one of the worlds told of, normalised, in order."""
    seed, instance = history.seed * len(_SPEEDS) + index, f"world-{index}"
    repositories = settle(
        {name: source.platform for name, source in _SOURCES.items()}, seed=seed, count=history.repositories
    )
    world = World(repositories, Habits(pushes_per_second=history.pushes_per_hour / 3600), seed=seed)
    happenings = world.happenings(history.hours * 3600)
    ends = (h for h in happenings if h.what is (What.RUN_FINISHED if _is_jenkins(h) else What.JOB_FINISHED))
    for delivery in deliveries(ends, _SOURCES, Clock(_EPOCH, _SPEEDS[index]), Weather(), seed=seed):
        yield from _normalised(delivery, instance)


def _is_jenkins(happening: Happening) -> bool:
    """Whether run and job are one there."""
    return happening.attempt.run.repository.platform == "jenkins"


def _normalised(delivery: Delivery, instance: str) -> Sequence[Event]:
    request = Request(delivery.headers, delivery.body, delivery.at)
    return _PLATFORMS[delivery.source].events(request, instance).events


def labelled(events: Iterable[Event]) -> list[Labelled]:
    """The failed jobs of `events`, which are in order, whose next execution on the same commit is known."""
    catalogue = Catalogue(shipped_signatures())
    waiting: dict[tuple[str | None, ...], tuple[str, Event]] = {}
    found = []
    for event in events:
        meta = event.metadata
        if meta.job_name is None or meta.outcome not in FAILING | {Outcome.PASSED}:
            continue
        execution = event.job_id or event.pipeline_id
        key = (meta.instance, event.repository, meta.commit_sha, meta.workflow, meta.job_name)
        before = waiting.get(key)
        if before is not None:
            if before[0] == execution:  # told twice, as Jenkins does
                continue
            features = features_of(before[1], catalogue)
            name = f"{meta.instance} {event.repository}"
            found.append(Labelled(name, features, passed=meta.outcome is Outcome.PASSED))
            del waiting[key]
        if meta.outcome in FAILING:
            waiting[key] = (execution, event)
    return found


def features_of(event: Event, catalogue: Catalogue) -> dict[str, float | str]:
    """What the shard would know of the failed job in `event`; it scores each job by itself."""
    meta, failure = event.metadata, event.failure_context
    reason, exit_code = (failure.reason, failure.exit_code) if failure else (None, None)
    facts = facts_of(platform=event.platform, outcome=meta.outcome, reason=reason, step=meta.step, exit_code=exit_code)
    match = catalogue.match(event.platform, facts, failure.excerpt if failure else None)
    return rerun_passes.features(
        platform=event.platform,
        outcome=meta.outcome,
        step=meta.step,
        attempt=meta.attempt,
        failed_jobs=1,
        signature=match.signature.name if match else None,
        category=match.signature.category if match else None,
        reason=reason,
        trigger=meta.trigger,
        is_default_branch=meta.is_default_branch,
        duration_ms=meta.duration_ms,
        exit_code=exit_code,
    )


if __name__ == "__main__":
    main()
