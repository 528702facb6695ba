from __future__ import annotations

from collections import Counter, defaultdict

from benchmarks.world.records import Ending, Happening, JobRun, What
from benchmarks.world.sim import MAX_JOB_SECONDS
from tests.benchmarks.world.conftest import happen


def _ended(happenings: list[Happening]) -> list[tuple[Happening, JobRun]]:
    return [(h, h.job) for h in happenings if h.what is What.JOB_FINISHED and h.job is not None]


def test_happenings_come_in_order_and_are_counted(happenings: list[Happening]) -> None:
    assert [h.at for h in happenings] == sorted(h.at for h in happenings)
    assert [h.serial for h in happenings] == list(range(len(happenings)))


def test_the_same_seed_is_the_same_world_and_another_seed_is_not() -> None:
    def told(seed: int) -> list[tuple[float, str, str, str | None]]:
        return [(h.at, h.what, h.attempt.uid, h.job.uid if h.job else None) for h in happen(seed, seconds=900)]

    assert told(7) == told(7)
    assert told(7) != told(8)


def test_a_shorter_world_is_the_beginning_of_a_longer_one(happenings: list[Happening]) -> None:
    short = happen(seconds=600)
    assert [(h.at, h.what) for h in short] == [(h.at, h.what) for h in happenings[: len(short)]]


def test_salt_changes_ids_and_nothing_else(happenings: list[Happening]) -> None:
    salted = happen(salt="another evening")
    assert [(h.at, h.what) for h in salted] == [(h.at, h.what) for h in happenings]
    assert not {h.attempt.run.id for h in salted} & {h.attempt.run.id for h in happenings}


def test_jobs_pass_fail_flake_hang_and_are_skipped() -> None:
    jobs = [job for _, job in _ended(happen(seconds=60_000))]
    assert {job.ending for job in jobs} == set(Ending)
    assert {job.trouble.kind for job in jobs if job.trouble} == {"real", "flaky", "infrastructure", "resources", "hang"}


def test_some_jobs_start_and_never_end() -> None:
    happenings = happen(seconds=20_000)
    hung = {h.job.number for h in happenings if h.what is What.JOB_STARTED and h.job and h.job.finished_at is None}
    assert hung
    assert not hung & {job.number for _, job in _ended(happenings)}


def test_what_does_not_hang_ends_in_time(happenings: list[Happening]) -> None:
    for _, job in _ended(happenings):
        assert job.finished_at is not None
        if job.ending is not Ending.TIMED_OUT:
            assert job.finished_at - job.started_at <= MAX_JOB_SECONDS + 1e-6


def test_real_faults_never_pass_on_the_same_commit_and_the_others_mostly_do() -> None:
    passed: dict[str, Counter[bool]] = defaultdict(Counter)
    last: dict[tuple[int, str], JobRun] = {}
    for happening, job in _ended(happen(seconds=60_000)):
        key = (happening.attempt.run.id, job.job.name)
        before = last.get(key)
        if before is not None and before.trouble is not None and job.ending is not Ending.SKIPPED:
            passed[before.trouble.kind][job.ending is Ending.PASSED] += 1
        last[key] = job
    assert passed["real"][True] == 0
    assert passed["real"][False] > 10
    for kind in ("flaky", "infrastructure"):
        assert passed[kind][True] > passed[kind][False], kind


def test_a_stage_begins_when_the_one_before_has_passed(happenings: list[Happening]) -> None:
    for attempt in {id(h.attempt): h.attempt for h in happenings}.values():
        failed = [j for j in attempt.jobs if j.ending in (Ending.FAILED, Ending.TIMED_OUT, Ending.CANCELLED)]
        skipped = [j for j in attempt.jobs if j.ending is Ending.SKIPPED]
        assert not skipped or failed
        if attempt.ending is Ending.PASSED:
            assert all(j.ending is Ending.PASSED for j in (*attempt.jobs, *attempt.kept))
