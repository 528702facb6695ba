"""What a shard tells the fleet of its failures."""

from __future__ import annotations

import random
from typing import Any

import pytest

from analytics import failure_panes
from analytics.failure_panes import Counted, FailurePanes, Kind, host_of
from analytics.rulebook import compose
from models.records.event import Outcome
from models.records.evidence import Reading
from models.records.outputs import ClosedMinutes, FailureGroup
from tests.analytics.log import MINUTE, RULEBOOK, SCORER, T0, Log, fresh, play, resolver, some_at_a_time

WAITING = compose(scorer=SCORER, policy={"await_log_seconds": 10}, fleet={"least_failures": 7})
RESOLVE = resolver(WAITING)
KIND = Kind("dns_failure", "network", "github", "github.com", "", "linux")


def told(log: Log, **more: Any) -> dict[int, tuple[FailureGroup, ...]]:
    """The groups of every minute after T0."""
    said, _ = play(log.entries, fresh(resolve=RESOLVE), **more)
    return {minute - T0 // MINUTE: groups for closed in said.closed for minute, groups in closed.minutes}


def failing(log: Log, number: int, at_ms: int, **given: Any) -> Any:
    own = {"pipeline_id": f"run {number}", "job_id": f"job {number}", "step": "Set up job", **given}
    return log.say(Outcome.FAILED, at_ms, **own)


def in_minutes(panes: FailurePanes) -> dict[int, list[tuple[str, tuple[tuple[str, int], ...], int]]]:
    panes.close(1 << 50, RULEBOOK)
    return {
        minute: [(g.symptom, g.repositories, g.late) for g in groups]
        for closed in panes.take()
        for minute, groups in closed.minutes
    }


def test_failures_are_counted_by_minute_and_by_what_they_have_in_common() -> None:
    log = Log()
    failing(log, 1, T0 + 1000, runner_labels=["x64", "linux"])
    failing(log, 2, T0 + 2000, runner_labels=["linux", "x64"])
    failing(log, 3, T0 + 3000, repository="org/b", runner_labels=["linux", "x64"])
    failing(log, 4, T0 + MINUTE, step="Weird step")
    log.say(Outcome.PASSED, T0 + MINUTE + 1, job_id="other")
    log.heartbeats(T0 + MINUTE, T0 + 4 * MINUTE)
    assert told(log) == {
        0: (
            FailureGroup(
                "github_set_up_job", "infrastructure", "github", "github.com", "", "linux,x64",
                (("org/b", 1), ("org/repo", 2)), 0,
            ),
        ),
        1: (FailureGroup("step Weird step", None, "github", "github.com", "", "", (("org/repo", 1),), 0),),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "symptom"),
    [
        ({"reason": "odd_reason", "step": "Odd step"}, "reason odd_reason"),
        ({"step": "Odd step"}, "step Odd step"),
        ({"step": None}, "outcome failed"),
        ({"step": "x" * 999}, f"step {'x' * 195}"),
    ],
)
def test_what_no_signature_knows_goes_by_what_its_webhook_says(given: dict[str, Any], symptom: str) -> None:
    log = Log()
    failing(log, 1, T0, **given)
    log.heartbeats(T0, T0 + 3 * MINUTE)
    assert [group.symptom for group in told(log)[0]] == [symptom]


def test_a_shard_without_failures_says_how_far_it_is_once_a_minute() -> None:
    log = Log()
    log.heartbeats(T0, T0 + 9 * MINUTE, 1000)
    said, _ = play(log.entries, sizes=iter([1] * len(log.entries)))
    assert [m.until - T0 // MINUTE for m in said.closed] == list(range(-2, 8))
    assert all(m.minutes == () and m.shard == 3 for m in said.closed)


def test_a_log_moves_a_failure_to_what_it_shows_within_its_minute() -> None:
    log = Log()
    log.control(T0, WAITING)
    one = failing(log, 1, T0 + 1000, step="Weird step")
    two = failing(log, 2, T0 + 2000, step="Weird step", repository="org/b")
    line = "fatal: unable to access 'https://git.example.org/a.git/': Could not resolve host: Git.Example.org"
    log.evidence(one, T0 + 30_000, lines=[(1, line)])
    log.evidence(two, T0 + 40_000, lines=[(1, "nothing that is known")], template="nothing that is <*>")
    log.evidence(one, T0 + 50_000, lines=[(1, "No space left on device")])
    log.heartbeats(T0 + 50_000, T0 + 4 * MINUTE)
    moved, unknown = told(log)[0]
    assert (moved.symptom, moved.host, moved.repositories) == ("dns_failure", "git.example.org", (("org/repo", 1),))
    assert (unknown.symptom, unknown.category, unknown.repositories) == (
        "line nothing that is <*>",
        None,
        (("org/b", 1),),
    )


def test_a_log_that_is_not_read_moves_nothing() -> None:
    log = Log()
    log.control(T0, WAITING)
    log.evidence(failing(log, 1, T0, step="Odd step"), T0 + 9000, reading=Reading.NO_LOG, why="HTTP 404")
    log.heartbeats(T0, T0 + 4 * MINUTE)
    assert [group.symptom for group in told(log)[0]] == ["step Odd step"]


def test_a_log_that_is_read_when_the_minute_is_closed_counts_in_the_present_one() -> None:
    log = Log()
    log.control(T0, WAITING)
    failed = failing(log, 1, T0, step="Weird step")
    log.heartbeats(T0, T0 + 3 * MINUTE)
    log.evidence(failed, T0 + 3 * MINUTE + 1, lines=[(1, "Could not resolve host: git.example.org")])
    log.heartbeats(T0 + 3 * MINUTE, T0 + 6 * MINUTE)
    found = {minute: [(g.symptom, g.late) for g in groups] for minute, groups in told(log).items()}
    assert found == {0: [("step Weird step", 0)], 3: [("dns_failure", 1)]}


def test_a_failure_told_late_counts_in_the_present_minute_and_one_told_much_later_not_at_all() -> None:
    log = Log()
    log.heartbeats(T0, T0 + 20 * MINUTE)
    for number, before in enumerate((1, 3, 10, 11)):
        failing(log, number, T0 + (20 - before) * MINUTE, received_ms=T0 + 20 * MINUTE)
    log.heartbeats(T0 + 20 * MINUTE, T0 + 23 * MINUTE)
    found = {m: [(g.repositories, g.late) for g in groups] for m, groups in told(log).items()}
    assert found == {19: [((("org/repo", 1),), 0)], 20: [((("org/repo", 2),), 2)]}


def test_a_minute_is_open_until_stream_time_has_passed_it_by_a_minute() -> None:
    panes, minute = FailurePanes(3), T0 // MINUTE
    assert panes.add(KIND, "org/a", T0, T0 + 2 * MINUTE - 1) == Counted(minute, KIND, False)
    assert panes.add(KIND, "org/a", T0, T0 + 2 * MINUTE) == Counted(minute + 2, KIND, True)
    panes.close(T0 + 2 * MINUTE - 1, RULEBOOK)
    (before,) = panes.take()
    panes.close(T0 + 2 * MINUTE, RULEBOOK)
    (closed,) = panes.take()
    assert (before.until, before.minutes) == (minute - 1, ())
    assert (closed.until, [m for m, _ in closed.minutes]) == (minute, [minute])
    panes.close(T0 + 2 * MINUTE, RULEBOOK)
    assert panes.take() == []


def test_what_is_moved_away_leaves_no_trace() -> None:
    panes, other = FailurePanes(3), KIND._replace(symptom="oom", host="h")
    counted = panes.add(KIND, "org/a", T0, T0)
    assert counted is not None
    panes.move(counted, other, "org/a", T0 + 1)
    assert in_minutes(panes) == {T0 // MINUTE: [("oom", (("org/a", 1),), 0)]}


def test_a_host_alone_is_no_reason_to_count_again() -> None:
    panes = FailurePanes(3)
    panes.move(Counted(T0 // MINUTE, KIND, False), KIND._replace(host="h"), "org/a", T0 + 5 * MINUTE)
    assert in_minutes(panes) == {}


def test_a_minute_of_which_a_part_is_lost_is_not_counted() -> None:
    panes = FailurePanes(3, from_ms=T0 + 1)
    assert panes.add(KIND, "org/a", T0 + 500, T0 + 500) is None
    assert panes.add(KIND, "org/a", T0 + MINUTE, T0 + MINUTE) is not None


def test_a_flood_of_kinds_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure_panes, "_MOST_KINDS", 3)
    panes = FailurePanes(3)
    counted = [panes.add(KIND._replace(symptom=f"line {n}"), "org/a", T0, T0) for n in range(5)]
    assert [one is not None for one in counted] == [True] * 3 + [False] * 2
    assert panes.add(KIND._replace(symptom="line 1"), "org/b", T0, T0) is not None


@pytest.mark.parametrize(
    ("captures", "host"),
    [
        ([("host", "Registry.Example.org.")], "registry.example.org"),
        ([("image", "registry.example.org/team/app:1")], "registry.example.org"),
        ([("image", "library/python")], ""),
        ([("image", "python:3.11")], ""),
        ([("file", "a.b/c")], ""),
        ([], ""),
    ],
)
def test_the_host_is_the_server_that_the_log_names(captures: list[tuple[str, str]], host: str) -> None:
    assert host_of(captures) == host


def test_rules_come_with_the_minutes_that_close_under_them(rng: random.Random) -> None:
    log = Log()
    log.heartbeats(T0, T0 + 5 * MINUTE)
    failing(log, 1, T0 + 4 * MINUTE)
    log.control(T0 + 5 * MINUTE + 1, WAITING)
    failing(log, 2, T0 + 5 * MINUTE)
    log.heartbeats(T0 + 6 * MINUTE, T0 + 9 * MINUTE)

    def ruled(closed: list[ClosedMinutes]) -> dict[int, str]:
        minutes = {T0 // MINUTE - 1: ""}
        for one in closed:
            minutes |= dict.fromkeys(range(max(minutes) + 1, one.until + 1), one.rulebook)
            assert one.rules == ({"least_failures": 7} if one.rulebook == WAITING.digest else {})
        return {minute - T0 // MINUTE: digest for minute, digest in minutes.items() if minute >= T0 // MINUTE}

    for sizes in (None, iter([1] * 99), some_at_a_time(rng)):
        said, _ = play(log.entries, fresh(resolve=RESOLVE), sizes=sizes)
        assert ruled(said.closed) == {
            **dict.fromkeys(range(4), RULEBOOK.digest),
            **dict.fromkeys(range(4, 8), WAITING.digest),
        }
