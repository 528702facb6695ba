"""What the detectors over profiles are worth: `python -m benchmarks.false_alarms [--keys N] [--seed N]`.

Seeded synthetic load, four weeks to learn from and four that are judged, look by look as a shard asks: volume swings
between night and noon, weekends have a quarter of it, repositories and jobs are of all sizes. In the first table
nothing is wrong, and whatever is raised is a false alarm. In the second something is planted at a random hour of a
working day, and what counts is how soon it is raised. Prints the tables of docs/detectors.md.

It is a simulation. It shows whether the stated bounds hold where their assumptions do, and by how much they are missed
where jobs fail in clumps, rates differ from day to day, or the runs of one hour are slow together.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from analytics.buckets import fine_bucket_of
from analytics.days import DAY_MS
from analytics.detectors.detector import JOB, REPOSITORY, Counts, Field, Profile, ProfileDetector
from analytics.detectors.duration_drift import DurationDrift
from analytics.detectors.failure_rate_shift import FailureRateShift
from analytics.detectors.intermittent import Intermittent
from analytics.detectors.queue_drift import QueueDrift

MONDAY_MS: Final = 20_759 * DAY_MS
"""2 November 2026: the load begins there."""
LEARNT_DAYS: Final = 28
JUDGED_DAYS: Final = 28
STRETCH_MS: Final[Mapping[tuple[Field, ...], int]] = {REPOSITORY: 600_000, JOB: 3_600_000}
_STRETCHES: Final[Mapping[tuple[Field, ...], int]] = {REPOSITORY: 48, JOB: 24}
_KEPT_DAYS: Final = 28
_SATURDAY: Final = 5
_SEED: Final = 20261130

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Load:
    """What ends in one repository, or of one job, and what is planted in it.

    runs_a_day        on a working day
    rate              of failures, and `to_rate` once it has shifted
    clump             job runs of one pipeline, which pass or fail together
    days_differ       standard deviation of the logarithm of a day's rate
    seconds, wait     median duration and time in queue, which `spread` and `wait_spread` spread (of the logarithm)
    swing             by how much more both are at noon, and less at night, as a logarithm; at weekends -0.3
    together          standard deviation that all runs of an hour share
    slower, longer    factors once it has drifted
    """

    runs_a_day: float = 100.0
    rate: float = 0.05
    to_rate: float | None = None
    clump: int = 1
    days_differ: float = 0.0
    seconds: float = 120.0
    wait: float = 10.0
    spread: float = 0.3
    wait_spread: float = 0.7
    swing: float = 0.0
    together: float = 0.0
    slower: float = 1.0
    longer: float = 1.0


def stretches(
    load: Load, width_ms: int, days: int, rng: np.random.Generator, planted_ms: int | None = None
) -> list[Counts]:
    """What ended, stretch by stretch; what is planted begins at `planted_ms`."""
    at = MONDAY_MS + np.arange(days * DAY_MS // width_ms) * width_ms
    noon = np.sin((at % DAY_MS / DAY_MS - 0.25) * 2 * np.pi)
    weekend = (at // DAY_MS + 3) % 7 >= _SATURDAY
    volume = load.runs_a_day * width_ms / DAY_MS * (1 + 0.8 * noon) * np.where(weekend, 0.25, 1.0)
    after = np.zeros(len(at), bool) if planted_ms is None else at >= planted_ms
    runs = rng.poisson(volume / load.clump) * load.clump
    failed = _failed(load, runs, after, at // DAY_MS - at[0] // DAY_MS, rng)
    cycle = load.swing * noon - 0.3 * weekend * (load.swing > 0) + rng.normal(0, load.together, len(at))
    of = np.repeat(np.arange(len(at)), runs)
    durations = _buckets(np.log(load.seconds) + cycle + np.log(load.slower) * after, load.spread, of, rng)
    waits = _buckets(np.log(load.wait) + cycle + np.log(load.longer) * after, load.wait_spread, of, rng)
    return [
        Counts(int(at[i]), int(runs[i] - failed[i]), int(failed[i]), 0, 0, durations[i], waits[i])
        for i in np.flatnonzero(runs).tolist()
    ]


def _failed(load: Load, runs: Ints, after: npt.NDArray[np.bool_], day: Ints, rng: np.random.Generator) -> Ints:
    rate = np.where(after, load.rate if load.to_rate is None else load.to_rate, load.rate)
    if load.days_differ:
        rate = np.minimum(rate * np.exp(rng.normal(0, load.days_differ, day[-1] + 1))[day], 0.9)
    return rng.binomial(runs // load.clump, rate) * load.clump


def _buckets(middle: Floats, spread: float, of: Ints, rng: np.random.Generator) -> Mapping[int, dict[int, int]]:
    """Durations by bucket, stretch by stretch, drawn around the middle of each."""
    drawn = np.exp(middle[of] + rng.normal(0, spread, len(of)))
    buckets = fine_bucket_of((drawn * 1000).astype(np.int64))
    places, counts = np.unique(of * 1000 + buckets + 1, return_counts=True)
    told: dict[int, dict[int, int]] = {}
    for place, count in zip(places.tolist(), counts.tolist(), strict=True):
        told.setdefault(place // 1000, {})[place % 1000 - 1] = count
    return told


def looks(told: Sequence[Counts], by: tuple[Field, ...], since_ms: int) -> Iterator[tuple[int, Profile]]:
    """The profile as it is at the end of each stretch from `since_ms` on, as analytics/profiles.py would have it."""
    width_ms, keep = STRETCH_MS[by], _STRETCHES[by]
    days: list[Counts] = []
    first = 0
    for i, stretch in enumerate(told):
        day_ms = stretch.at_ms // DAY_MS * DAY_MS
        if days and days[-1].at_ms == day_ms:
            days[-1] = _added(days[-1], stretch)
        else:
            days = [d for d in days if d.at_ms >= day_ms - _KEPT_DAYS * DAY_MS]
            days.append(_added(Counts(day_ms), stretch))
        while told[first].at_ms <= stretch.at_ms - keep * width_ms:
            first += 1
        if stretch.at_ms >= since_ms:
            yield stretch.at_ms + width_ms, Profile(told[first : i + 1], days)


def _added(day: Counts, stretch: Counts) -> Counts:
    durations, queues = dict(day.durations), dict(day.queues)
    for total, new in ((durations, stretch.durations), (queues, stretch.queues)):
        for bucket, count in new.items():
            total[bucket] = total.get(bucket, 0) + count
    return Counts(day.at_ms, day.passed + stretch.passed, day.failed + stretch.failed, 0, 0, durations, queues)


def false_alarms(rule: ProfileDetector, load: Load, seed: tuple[int, int]) -> tuple[int, int, float]:
    """How often `rule` is raised though nothing changed, how often it was asked, and the seconds of CPU that took."""
    told = stretches(load, STRETCH_MS[rule.by], LEARNT_DAYS + JUDGED_DAYS, np.random.default_rng(seed))
    raised, stands, asked, seconds = 0, False, 0, 0.0
    for at_ms, profile in looks(told, rule.by, MONDAY_MS + LEARNT_DAYS * DAY_MS):
        begun = time.process_time()
        finds = rule.judge(profile, at_ms) is not None
        seconds += time.process_time() - begun
        raised += finds and not stands
        stands, asked = finds, asked + 1
    return raised, asked, seconds


def delay_hours(rule: ProfileDetector, load: Load, seed: tuple[int, int]) -> float | None:
    """Hours from what was planted to the end of the stretch at which it is raised; None: not within two days."""
    rng = np.random.default_rng(seed)
    planted_ms = MONDAY_MS + LEARNT_DAYS * DAY_MS + int(rng.integers(0, 5 * DAY_MS))
    told = stretches(load, STRETCH_MS[rule.by], LEARNT_DAYS + 7, rng, planted_ms)
    for at_ms, profile in looks(told, rule.by, planted_ms):
        if at_ms > planted_ms + 2 * DAY_MS:
            return None
        if rule.judge(profile, at_ms) is not None:
            return (at_ms - planted_ms) / 3_600_000
    return None


SIZES: Final = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
JOB_SIZES: Final = (10.0, 30.0, 100.0, 300.0)
RATES: Final = (0.01, 0.05, 0.2, 0.5)


class Quiet(NamedTuple):
    """A row of the first table."""

    rule: ProfileDetector
    said: str
    loads: Sequence[Load]


class Planted(NamedTuple):
    """A row of the second table."""

    rule: ProfileDetector
    said: str
    load: Load


def quiet() -> Iterator[Quiet]:
    """Where nothing changes."""
    mixed = [Load(runs_a_day=size, rate=rate) for size in SIZES for rate in RATES]
    shift = FailureRateShift()
    yield Quiet(shift, "constant rates of 1, 5, 20 and 50 %", mixed)
    yield Quiet(shift, "job runs fail in clumps of 3", [replace(load, clump=3) for load in mixed])
    yield Quiet(shift, "in clumps of 10", [replace(load, clump=10) for load in mixed])
    yield Quiet(
        shift, "the rate differs by a third from day to day", [replace(load, days_differ=0.33) for load in mixed]
    )
    for rule in (DurationDrift(), QueueDrift()):
        steady = [Load(runs_a_day=size, wait=wait) for size in JOB_SIZES for wait in (3.0, 30.0, 300.0)]
        yield Quiet(rule, "nothing changes", steady)
        yield Quiet(rule, "a fifth slower at noon, faster at night", [replace(load, swing=0.2) for load in steady])
        rough = [replace(load, swing=0.2, together=0.15) for load in steady]
        yield Quiet(rule, "and the runs of one hour are 15 % slower together", rough)
    for rate in (0.002, 0.01, 0.02):
        loads = [Load(runs_a_day=size, rate=rate) for size in JOB_SIZES]
        yield Quiet(Intermittent(), f"{rate * 100:g} % fail", loads)


def planted() -> Iterator[Planted]:
    """Where something does."""
    for size in (30.0, 100.0, 300.0, 1000.0):
        for to_rate, said in ((0.25, "5 % to 25 %"), (1.0, "5 % to all")):
            yield Planted(FailureRateShift(), f"{said}, {size:g} job runs a day", Load(size, to_rate=to_rate))
    for size in (24.0, 100.0, 300.0):
        for slower in (1.5, 2.0):
            yield Planted(
                DurationDrift(), f"{slower:g} times, {size:g} runs a day", Load(size, slower=slower, swing=0.1)
            )
    for size in (24.0, 100.0, 300.0):
        yield Planted(QueueDrift(), f"10 s to 5 min, {size:g} runs a day", Load(size, longer=30.0, swing=0.1))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=2000, help="repositories or jobs a row of the first table")
    parser.add_argument("--planted", type=int, default=300, help="changes planted a row of the second")
    parser.add_argument("--seed", type=int, default=_SEED)
    parser.add_argument("--only", default="", help="one detector")
    given = parser.parse_args()
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        print(
            "| detector | nothing is wrong | false alarms a key and year | bound | judged, us |\n|---|---|---|---|---|"
        )
        for row in quiet():
            if given.only in type(row.rule).__name__:
                print(_quiet_row(row, given.keys, given.seed, pool), flush=True)
        print("\n| detector | planted | found in 2 days | after, median | after, 90 % |\n|---|---|---|---|---|")
        for plant in planted():
            if given.only in type(plant.rule).__name__:
                print(_planted_row(plant, given.planted, given.seed, pool), flush=True)


def _quiet_row(row: Quiet, keys: int, seed: int, pool: ProcessPoolExecutor) -> str:
    loads = [row.loads[i % len(row.loads)] for i in range(keys)]
    measured = pool.map(partial(false_alarms, row.rule), loads, [(seed, i) for i in range(keys)], chunksize=4)
    raised, asked, seconds = (sum(column) for column in zip(*measured, strict=True))
    years = keys * JUDGED_DAYS / 365
    bound = getattr(row.rule, "false_alarms_per_year", "-")
    name = type(row.rule).__name__
    rate = f"{raised / years:.3f} ({raised} in {years:.0f} years)"
    return f"| {name} | {row.said} | {rate} | {bound} | {seconds / asked * 1e6:.0f} |"


def _planted_row(row: Planted, count: int, seed: int, pool: ProcessPoolExecutor) -> str:
    seeds = [(seed, i) for i in range(count)]
    delays = list(pool.map(partial(delay_hours, row.rule, row.load), seeds, chunksize=4))
    found = sorted(delay for delay in delays if delay is not None)
    median, most = (found[int(share * len(found))] if found else 0.0 for share in (0.5, 0.9))
    return f"| {type(row.rule).__name__} | {row.said} | {len(found) / count:.0%} | {median:.1f} h | {most:.1f} h |"


if __name__ == "__main__":
    main()
