"""The views that people read, each against a count by hand in Python over random rows."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import product
from statistics import mean, median
from typing import Any, NamedTuple

import pytest
from psycopg.rows import dict_row

from analytics.detectors.broken_main import BrokenMain
from analytics.detectors.detector import History
from analytics.examples import passed
from connectors.postgres import Connection, connect
from connectors.postgres_rows import STATEMENT, Written, texts
from models.records.event import uuid5_text
from models.records.outputs import Aggregate, DiagnosisRow, Failure, FindingRow, JobHour, ShardOutput
from tests.connectors.outputs import HOUR_MS, MINUTE_MS, aggregate, diagnosis, failure, finding, job_hour, progress

DAY_MS = 24 * HOUR_MS
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PLACES = [("github", "github.com", "org/a"), ("github", "github.com", "org/b"), ("gitlab", "gitlab.one", "org/a")]
JOBS = [("CI", "test"), ("CI", "lint"), ("", "")]
SIGNATURES = [None, "connection-reset", "disk-full"]
NAMED = ("workflow", "job_name")

Row = dict[str, Any]


class World(NamedTuple):
    """Random rows, and when they were made."""

    now_ms: int
    failures: list[Failure]
    diagnoses: list[DiagnosisRow]
    aggregates: list[Aggregate]
    job_hours: list[JobHour]
    findings: list[FindingRow]


def stamp(ms: int) -> datetime:
    return EPOCH + timedelta(milliseconds=ms)


def floor(ms: int, size_ms: int) -> datetime:
    return stamp(ms - ms % size_ms)


def made(rng: random.Random) -> World:
    """Ten days of three repositories, so that some of it is older than a week."""
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    times = [now_ms - rng.randrange(10 * DAY_MS) for _ in range(300)]
    failures = [_failed(rng, number, at_ms) for number, at_ms in enumerate(times)]
    return World(
        now_ms,
        failures,
        [_read(rng, it) for it in failures if rng.random() < 0.5],
        [_minute(rng, now_ms, number) for number in range(200)],
        list(_hours(rng, now_ms)),
        [*_flips(rng, failures), *_broken(rng, now_ms)],
    )


def _buckets(rng: random.Random, total: int) -> list[int]:
    counts = [0] * 16
    for _ in range(total):
        counts[min(int(rng.expovariate(0.3)), 15)] += 1
    return counts


def _failed(rng: random.Random, number: int, at_ms: int) -> Failure:
    platform, instance, repository = rng.choice(PLACES)
    workflow, job_name = rng.choice(JOBS)
    return failure(
        number,
        platform=platform,
        instance=instance,
        repository=repository,
        workflow=workflow or None,
        job_name=job_name or None,
        job_id=rng.choice([None, str(number)]),
        commit_sha=rng.choice([None, *(letter * 40 for letter in "abcd")]),
        attempt=rng.choice([1, 1, 2]),
        occurred_ms=at_ms,
        duration_ms=rng.choice([None, rng.randrange(3_600_000)]),
        signature=(signature := rng.choice(SIGNATURES)),
        category=signature and f"of {signature}",
    )


def _read(rng: random.Random, it: Failure) -> DiagnosisRow:
    signature = rng.choice(SIGNATURES)
    said = diagnosis(1, signature=signature, category=signature and f"of {signature}")
    return said._replace(failure_id=it.failure_id, case_id=it.case_id)


def _minute(rng: random.Random, now_ms: int, number: int) -> Aggregate:
    platform, instance, repository = PLACES[number % 3]
    back = (number // 3) * 97 * MINUTE_MS
    completed, failed = rng.randrange(4), rng.randrange(3)
    return aggregate(
        number,
        platform=platform,
        instance=instance,
        repository=repository,
        minute_ms=(now_ms - back) // MINUTE_MS * MINUTE_MS,
        started=rng.randrange(9),
        completed=completed,
        failed=failed,
        duration_ms_sum=rng.randrange(10**7) if completed + failed else 0,
        durations=_buckets(rng, completed + failed),
        late=rng.randrange(2),
    )


def _hours(rng: random.Random, now_ms: int) -> Iterator[JobHour]:
    for number, ((platform, instance, repository), job, back) in enumerate(product(PLACES, JOBS, range(2, 200, 9))):
        passed, failed, other = rng.randrange(9), rng.randrange(4), rng.randrange(2)
        main = [rng.randint(0, passed), rng.randint(0, failed)]
        yield job_hour(
            number,
            platform=platform,
            instance=instance,
            repository=repository,
            workflow=job[0],
            job_name=job[1],
            hour_ms=now_ms // HOUR_MS * HOUR_MS - back * HOUR_MS,
            passed=passed,
            failed=failed,
            other=other,
            reruns=rng.randint(0, passed + failed),
            duration_ms_sum=rng.randrange(10**8),
            duration_ms_failed_sum=rng.randrange(10**7),
            duration_ms_rerun_sum=rng.randrange(10**7),
            durations=_buckets(rng, passed + failed),
            queue_ms_sum=rng.randrange(10**6),
            queues=_buckets(rng, passed),
            main_passed=main[0],
            main_failed=main[1],
            late=rng.randrange(2),
        )


def _subject(workflow: str | None, job_name: str | None, repository: str) -> str:
    parts = {"repository": repository, "workflow": workflow or None, "job_name": job_name or None}
    said = ", ".join(f'"{name}": ' + ("null" if value is None else f'"{value}"') for name, value in parts.items())
    return f"{{{said}}}"


def _flips(rng: random.Random, failures: list[Failure]) -> Iterator[FindingRow]:
    """Some failures are followed by a pass; some of those are named again by a later answer, or cleared."""
    for number, it in enumerate(it for it in failures if rng.random() < 0.4):
        raised = finding(
            number,
            0,
            detector="FlakyTest",
            instance=it.instance,
            repository=it.repository,
            subject=_subject(it.workflow, it.job_name, it.repository),
            first_ms=it.occurred_ms,
            last_ms=it.occurred_ms + rng.randrange(1, HOUR_MS),
            events=[it.failure_id, uuid5_text("pass", str(number))],
        )
        yield raised
        if rng.random() < 0.5:
            yield raised._replace(revision=1, state="changed", last_ms=raised.last_ms + rng.randrange(1, HOUR_MS))
            yield raised._replace(revision=2, state="cleared", last_ms=raised.last_ms + 2 * HOUR_MS)


def _broken(rng: random.Random, now_ms: int) -> Iterator[FindingRow]:
    reasons = ["passed again on commit a", "nothing failed there within 12:00:00", "began earlier than was known", None]
    for number, ((_, instance, repository), job, why) in enumerate(product(PLACES, JOBS, reasons), 10_000):
        raised = finding(
            number,
            0,
            detector="BrokenMain",
            instance=instance,
            repository=repository,
            subject=_subject(*job, repository),
            first_ms=now_ms - rng.randrange(10 * DAY_MS),
        )
        yield raised
        if rng.random() < 0.5:
            yield raised._replace(revision=1, state="changed", first_ms=raised.first_ms + rng.randrange(HOUR_MS))
        if why:
            yield raised._replace(
                revision=2, state="cleared", message=why, at_ms=raised.first_ms + rng.randrange(DAY_MS)
            )


@pytest.fixture
def world(rng: random.Random) -> World:
    return made(rng)


@pytest.fixture
def connection(database: str, world: World) -> Iterator[Connection]:
    said = ShardOutput(
        world.failures, world.findings, [], world.aggregates, [], world.diagnoses, job_hours=world.job_hours
    )
    with connect(database) as connection:
        for parameters in texts([Written(0, said, progress(1))]):
            connection.execute(STATEMENT, parameters)
        yield connection


def rows(connection: Connection, view: str) -> list[Row]:
    with connection.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(f"SELECT * FROM guard.{view}".encode()).fetchall()
    return [{name: float(v) if isinstance(v, Decimal) else v for name, v in row.items()} for row in found]


def same(found: Iterable[Row], expected: Iterable[Row], *keys: str) -> None:
    """Insist that both have the same rows, and every row the same columns; floats may differ in their last digits."""

    def by_key(some: Iterable[Row]) -> dict[Hashable, Row]:
        return {tuple(row[key] for key in keys): row for row in some}

    rows, wanted = list(found), list(expected)
    there, hand = by_key(rows), by_key(wanted)
    assert len(there) == len(rows)
    assert there.keys() == hand.keys()
    assert hand
    for key, row in hand.items():
        assert there[key] == {name: pytest.approx(v) if isinstance(v, float) else v for name, v in row.items()}, key


def grouped(rows: Iterable[Any], key: Callable[[Any], Hashable]) -> dict[Any, list[Any]]:
    found = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return found


def total(rows: Iterable[Any], field: str) -> int:
    return sum(getattr(row, field) for row in rows)


def ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def quantile_s(counts: list[int], share: float) -> float | None:
    """Where the straight line inside the bucket that holds the share stands, in seconds."""
    wanted, below = share * sum(counts), 0
    for bucket, count in enumerate(counts):
        if count and below + count >= wanted:
            low = 0.0 if bucket == 0 else 2.0 ** (bucket - 1)
            high = low if bucket == len(counts) - 1 else 2.0**bucket
            return low + (high - low) * (wanted - below) / count
        below += count
    return None


def exact_s(durations_ms: list[int], share: float) -> float | None:
    """The quantile as percentile_cont has it, in seconds."""
    if not durations_ms:
        return None
    known = sorted(durations_ms)
    at = share * (len(known) - 1)
    low, high = known[math.floor(at)], known[math.ceil(at)]
    return (low + (high - low) * (at - math.floor(at))) / 1000


def spread(rows: list[Any], sum_field: str, buckets_field: str, name: str) -> Row:
    """Mean, median, p95 and buckets of some rows under the names that the views give them."""
    counts = [sum(column) for column in zip(*(getattr(row, buckets_field) for row in rows), strict=True)] or None
    return {
        f"{name}_mean_s": counts and ratio(total(rows, sum_field) / 1000, sum(counts)),
        f"{name}_p50_s": counts and quantile_s(counts, 0.5),
        f"{name}_p95_s": counts and quantile_s(counts, 0.95),
        buckets_field: counts,
    }


def ended(minutes: list[Aggregate]) -> Row:
    sums = {name: total(minutes, name) for name in ("started", "completed", "failed", "late")}
    rate = ratio(sums["failed"], sums["completed"] + sums["failed"])
    return sums | {"failure_rate": rate} | spread(minutes, "duration_ms_sum", "durations", "duration")


def counted(hours: list[JobHour]) -> Row:
    """What hours and days of repositories and platforms have of the hours of jobs."""
    runs = total(hours, "passed") + total(hours, "failed") + total(hours, "other")
    main, failed = total(hours, "main_passed") + total(hours, "main_failed"), total(hours, "main_failed")
    said = {"runs": runs, "reruns": total(hours, "reruns"), "rerun_share": ratio(total(hours, "reruns"), runs)}
    said |= {"main_runs": main, "main_failed": failed, "main_failure_rate": ratio(failed, main)}
    return said | spread(hours, "queue_ms_sum", "queues", "queue")


def ran(hours: list[JobHour]) -> Row:
    """What hours and days of jobs have."""
    passed, failed, other = (total(hours, name) for name in ("passed", "failed", "other"))
    return {
        "passed": passed,
        "failed": failed,
        "other": other,
        "failure_rate": ratio(failed, passed + failed),
        **spread(hours, "duration_ms_sum", "durations", "duration"),
        "failed_minutes": total(hours, "duration_ms_failed_sum") / 60_000,
        "rerun_minutes": total(hours, "duration_ms_rerun_sum") / 60_000,
        "late": total(hours, "late"),
        **counted(hours),
    }


@pytest.mark.parametrize("of", ["repository", "platform"])
def test_minutes(connection: Connection, world: World, of: str) -> None:
    keys = ("platform", "instance", "repository")[: 3 if of == "repository" else 2]
    by_minute = grouped(world.aggregates, lambda it: (*(getattr(it, key) for key in keys), it.minute_ms))
    expected = [
        {**dict(zip(keys, key, strict=True)), "minute": stamp(minute_ms), **ended(minutes)}
        for (*key, minute_ms), minutes in by_minute.items()
    ]
    same(rows(connection, f"{of}_minutes"), expected, *keys, "minute")


@pytest.mark.parametrize("of", ["repository", "platform"])
@pytest.mark.parametrize(("period", "size_ms"), [("hour", HOUR_MS), ("day", DAY_MS)])
def test_hours_and_days(connection: Connection, world: World, of: str, period: str, size_ms: int) -> None:
    keys = ("platform", "instance", "repository")[: 3 if of == "repository" else 2]

    def place(it: Any, at_ms: int) -> tuple[Any, ...]:
        return (*(getattr(it, key) for key in keys), floor(at_ms, size_ms))

    minutes = grouped(world.aggregates, lambda it: place(it, it.minute_ms))
    hours = grouped(world.job_hours, lambda it: place(it, it.hour_ms))
    expected = [
        {**dict(zip((*keys, period), key, strict=True)), **ended(minutes[key]), **counted(hours[key])}
        for key in {*minutes, *hours}
    ]
    same(rows(connection, f"{of}_{period}s"), expected, *keys, period)


@pytest.mark.parametrize(
    ("view", "period", "size_ms"), [("job_hour_rates", "hour", HOUR_MS), ("job_days", "day", DAY_MS)]
)
def test_jobs(connection: Connection, world: World, view: str, period: str, size_ms: int) -> None:
    keys = ("platform", "instance", "repository", *NAMED)
    by_job = grouped(world.job_hours, lambda it: (*(getattr(it, k) for k in keys), floor(it.hour_ms, size_ms)))
    expected = [{**dict(zip((*keys, period), key, strict=True)), **ran(hours)} for key, hours in by_job.items()]
    same(rows(connection, view), expected, *keys, period)


def explained(world: World) -> list[Failure]:
    """The failures with the signature and category that hold now."""
    read = {it.failure_id: it for it in world.diagnoses}
    return [
        it._replace(signature=read[it.failure_id].signature, category=read[it.failure_id].category)
        if it.failure_id in read
        else it
        for it in world.failures
    ]


@pytest.mark.parametrize(("period", "size_ms"), [("minute", MINUTE_MS), ("hour", HOUR_MS), ("day", DAY_MS)])
def test_signatures(connection: Connection, world: World, period: str, size_ms: int) -> None:
    failures = explained(world)
    in_period = grouped(failures, lambda it: floor(it.occurred_ms, size_ms))
    expected = []
    for (signature, at), some in grouped(failures, lambda it: (it.signature, floor(it.occurred_ms, size_ms))).items():
        durations = [it.duration_ms for it in some if it.duration_ms is not None]
        reruns = sum(it.attempt > 1 for it in some)
        expected.append(
            {
                "signature": signature,
                "category": signature and f"of {signature}",
                period: at,
                "failures": len(some),
                "share": len(some) / len(in_period[at]),
                "repositories": len({(it.instance, it.repository) for it in some}),
                "reruns": reruns,
                "rerun_share": reruns / len(some),
                "failed_minutes": sum(durations) / 60_000,
                "duration_p50_s": exact_s(durations, 0.5),
                "duration_p95_s": exact_s(durations, 0.95),
            }
        )
    same(rows(connection, f"signature_{period}s"), expected, "signature", period)


def recoveries(world: World) -> list[Row]:
    """By hand: the first failure of a job on a commit in a day, and the first pass that was seen after one of them."""
    green: dict[str, int] = {}
    for it in world.findings:
        if it.detector == "FlakyTest" and it.state != "cleared":
            for event in it.events:
                green[event] = min(green.get(event, it.last_ms), it.last_ms)
    jobs = [it for it in world.failures if it.commit_sha and (it.job_id or it.job_name)]
    found = []
    for (place, commit, day), some in grouped(
        jobs,
        lambda it: (
            (it.instance, it.repository, it.workflow or "", it.job_name or ""),
            it.commit_sha,
            floor(it.occurred_ms, DAY_MS),
        ),
    ).items():
        passes = [green[it.failure_id] for it in some if it.failure_id in green]
        first = min(it.occurred_ms for it in some)
        found.append(_episode("commit", place, commit, day, first, min(passes, default=None)))
    for some in grouped(
        (it for it in world.findings if it.detector == "BrokenMain"), lambda it: it.finding_id
    ).values():
        last = max(some, key=lambda it: it.revision)
        if last.message != "began earlier than was known":
            first_ms = min(it.first_ms for it in some)
            passed = last.state == "cleared" and last.message.startswith("passed again")
            place = (last.instance, last.repository, *job_of(last)[2:])
            ended_ms = last.at_ms if passed else None
            found.append(_episode("main", place, None, floor(first_ms, DAY_MS), first_ms, ended_ms))
    return found


def _episode(
    scope: str, place: tuple[str, ...], commit: str | None, day: datetime, failed_ms: int, green_ms: int | None
) -> Row:
    return {
        "scope": scope,
        **dict(zip(("instance", "repository", *NAMED), place, strict=True)),
        "commit_sha": commit,
        "day": day,
        "failed_at": stamp(failed_ms),
        "green_at": None if green_ms is None else stamp(green_ms),
        "seconds": None if green_ms is None else (green_ms - failed_ms) / 1000,
    }


def test_recoveries(connection: Connection, world: World) -> None:
    keys = ("scope", "instance", "repository", *NAMED, "commit_sha", "failed_at")
    expected = recoveries(world)
    assert {row["seconds"] is None for row in expected} == {True, False}
    same(rows(connection, "recoveries"), expected, *keys)


def test_the_view_and_the_detector_have_the_same_word_for_green() -> None:
    history = History([passed(0, commit="c", main=True)])
    assert BrokenMain().cleared(history, 0).startswith("passed again")


def test_what_never_got_green_is_in_no_mean_and_counted(connection: Connection, world: World) -> None:
    keys = ("scope", "instance", "repository", *NAMED, "day")
    expected = []
    for key, some in grouped(recoveries(world), lambda row: tuple(row[name] for name in keys)).items():
        seconds = [row["seconds"] for row in some if row["seconds"] is not None]
        expected.append(
            {
                **dict(zip(keys, key, strict=True)),
                "episodes": len(some),
                "green": len(seconds),
                "never_green": len(some) - len(seconds),
                "mean_s": mean(seconds) if seconds else None,
                "p50_s": median(seconds) if seconds else None,
                "seconds": sum(seconds) if seconds else None,
            }
        )
    same(rows(connection, "time_to_green"), expected, *keys)


def job_of(it: Failure | JobHour | FindingRow) -> tuple[str, ...]:
    if isinstance(it, FindingRow):
        job = next(job for job in JOBS if _subject(*job, it.repository) == it.subject)
        return (it.instance, it.repository, *job)
    return (it.instance, it.repository, it.workflow or "", it.job_name or "")


def test_the_flakiest_jobs(connection: Connection, world: World) -> None:
    week_ms = world.now_ms - 7 * DAY_MS
    answers = (it for it in world.findings if it.detector == "FlakyTest" and it.state != "cleared")
    flips = grouped((it for it in answers if it.last_ms > week_ms), job_of)
    hours = grouped((it for it in world.job_hours if it.hour_ms > week_ms), job_of)
    expected = []
    for job, some in flips.items():
        said = ran(hours[job])
        passes = {it.last_ms for it in some}
        expected.append(
            dict(zip(("instance", "repository", *NAMED), job, strict=True))
            | {"flips": len(passes), "last_flip_at": stamp(max(passes))}
            | {name: said[name] for name in ("runs", "failed", "failure_rate", "reruns", "rerun_share")}
        )
    same(rows(connection, "flakiest_jobs"), expected, "instance", "repository", *NAMED)


def test_the_most_expensive_failures(connection: Connection, world: World) -> None:
    week_ms = world.now_ms - 7 * DAY_MS
    recent = [it for it in explained(world) if it.occurred_ms > week_ms + MINUTE_MS]
    by_job = grouped(recent, job_of)
    hours = grouped((it for it in world.job_hours if it.hour_ms > week_ms), job_of)
    expected = []
    for (signature, *job), some in grouped(recent, lambda it: (it.signature, *job_of(it))).items():
        failed = sum(it.duration_ms or 0 for it in some) / 60_000
        rerun = total(hours[tuple(job)], "duration_ms_rerun_sum") / 60_000 * len(some) / len(by_job[tuple(job)])
        expected.append(
            {
                "signature": signature,
                "category": signature and f"of {signature}",
                **dict(zip(("instance", "repository", *NAMED), job, strict=True)),
                "failures": len(some),
                "reruns": sum(it.attempt > 1 for it in some),
                "failed_minutes": failed,
                "rerun_minutes": rerun,
                "minutes": failed + rerun,
                "last_failed_at": stamp(max(it.occurred_ms for it in some)),
            }
        )
    same(rows(connection, "most_expensive_failures"), expected, "signature", "instance", "repository", *NAMED)


def test_buckets_are_added_one_by_one(connection: Connection, world: World) -> None:
    row = connection.execute(
        "SELECT guard.sum_buckets(durations), guard.bucket_total(guard.sum_buckets(durations)) FROM guard.job_hours"
    ).fetchone()
    expected = [sum(column) for column in zip(*(it.durations for it in world.job_hours), strict=True)]
    assert row == (expected, sum(expected))
    assert connection.execute("SELECT guard.sum_buckets(queues) FROM guard.job_hours WHERE false").fetchone() == (None,)


def test_the_quantile_of_buckets_is_in_the_bucket_of_the_true_one(connection: Connection, rng: random.Random) -> None:
    for share in (0.0, 0.5, 0.95, 1.0):
        durations_ms = [int(rng.lognormvariate(10, 2)) for _ in range(rng.randint(1, 50))]
        counts = [0] * 16
        for ms in durations_ms:
            counts[min((-(-ms // 1000) - 1).bit_length() if ms > 1000 else 0, 15)] += 1
        true_ms = sorted(durations_ms)[max(math.ceil(share * len(durations_ms)) - 1, 0)]
        row = connection.execute("SELECT guard.duration_quantile(%s::bigint[], %s)", [counts, share]).fetchone()
        assert row is not None
        assert max(row[0], true_ms) < 1000.001 or true_ms > 2**14 * 1000 or 0.5 <= row[0] / true_ms <= 2


def test_every_column_that_people_read_says_what_it_is(connection: Connection) -> None:
    views = "repository_minutes|platform|job|signature_(minute|hour|day)|recoveries|time_to|flakiest|most_exp|counted"
    bare = connection.execute(
        "SELECT relname, attname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid"
        " WHERE relnamespace = 'guard'::regnamespace AND attnum > 0 AND relkind IN ('r', 'v')"
        " AND relname ~ %s AND col_description(pg_class.oid, attnum) IS NULL",
        [f"^({views}|repository_(hours|days))"],
    ).fetchall()
    assert bare == []
