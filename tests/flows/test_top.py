"""guard top: what it shows, how wide, how often it asks; and what guard status tells of the same."""

from __future__ import annotations

from datetime import UTC, datetime
from io import StringIO
from typing import get_args

import pytest
from rich.console import Console

from connectors.postgres_people import By, Cost, Decided, FlakyJob, Green, Line, Standing, Totals
from flows.servers import now_ms
from flows.top import Board, Paced, Since, plain
from flows.top_view import brief, percent, view
from models.records.outputs import ShardOutput
from tests.connectors.outputs import aggregate, decision, failure, finding, incident, job_hour, progress
from tests.flows.conftest import Guard, write

AT = datetime(2026, 11, 26, 8, 50, tzinfo=UTC)
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
HOSTILE = "acme/\x1b[2J\x07app\n[bold]"


def board(by: By = "repository", since: Since = "24h", *, name: str = "acme/app", most: int = 40) -> Board:
    """As much of everything as fits no terminal."""
    counted = Line(1234, "github", "github.com", name, "CI", f"{name} test", None, None, 123_456, 0.25)
    line = Line(12, signature=name, share=0.1, repositories=3, failed_minutes=5.04) if by == "signature" else counted
    return Board(
        at=AT,
        since=since,
        by=by,
        totals=Totals(1000, 900, 90, 0.1, 62.0, 7200.0, None),
        lines=[line] * most,
        green=[Green("commit", 9, 7, 2, 754.0, 300.0), Green("main", 1, 0, 1, None, None)],
        flakiest=[FlakyJob("github.com", name, "CI", "test", 7, AT, 0, 0, None, 0, None)] * most,
        most_expensive=[Cost(None, None, "github.com", name, "CI", "test", 3, 1, 30.0, 4.0, 34.0, AT)] * most,
        decisions=[Decided("skip", "unknown_cause", 9), Decided("act", "transient_cause", 2)] * 4,
        findings=[Standing("FlakyTest", 3)],
    )


def drawn(shown: Board, width: int, height: int | None = None) -> list[str]:
    console = Console(width=width, height=height or 100, file=StringIO(), force_terminal=False, highlight=False)
    with console.capture() as captured:
        console.print(view(shown, width=width, height=height))
    return captured.get().rstrip("\n").split("\n")


@pytest.mark.parametrize("by", get_args(By))
@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 40), (120, 30), (200, 60)])
def test_it_fills_the_terminal_and_no_more(by: By, width: int, height: int) -> None:
    lines = drawn(board(by, name="a-long-name-of-a-repository/" * 8), width, height)
    assert max(map(len, lines)) <= width
    assert height - 3 <= len(lines) <= height


def test_numbers_stand_below_one_another() -> None:
    lines = drawn(board(), 80)
    at = next(number for number, line in enumerate(lines) if line.startswith("repository"))
    header, first = lines[at : at + 2]
    for column, value in (("ended", "123,456"), ("failed", "1,234"), ("rate", "25.0%")):
        assert header.index(column) + len(column) == first.index(value) + len(value)


@pytest.mark.parametrize("by", get_args(By))
def test_what_others_wrote_cannot_steer_the_terminal(by: By) -> None:
    text = plain(board(by, name=HOSTILE))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[bold]" in text
    assert all("acme" not in line or line.lstrip() == line for line in text.split("\n"))


def test_plain_text_has_no_colours_and_says_what_is_left_out() -> None:
    lines = plain(board()).split("\n")
    assert lines[0].startswith("guard top  the last 24 hours, by repository")
    assert lines[1] == "ended 900  failed 90 10.0%  p50 1m02s  p95 2h00m  reruns -"
    assert lines[2] == (
        "green on the same commit after 12m34s (7; never or not yet 2)  main after - (0; never or not yet 1)"
    )
    assert lines[-2].startswith("decisions  skip unknown_cause 9, act transient_cause 2, ")
    assert lines[-2].endswith(" more")
    assert lines[-1] == "findings   FlakyTest 3"


def test_an_empty_database_is_shown_as_one() -> None:
    empty = Board(AT, "1h", "job", Totals(0, 0, 0, None, None, None, None), [], [], [], [], [], [])
    text = plain(empty)
    assert "nothing turned red" in text
    assert text.count("none") == 5


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "-"),
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (59.6, "1m00s"),
        (3599, "59m59s"),
        (7500, "2h05m"),
        (273_600, "3d04h"),
    ],
)
def test_lengths_of_time_are_brief(seconds: float | None, shown: str) -> None:
    assert brief(seconds).plain == shown


def test_shares_are_per_cent() -> None:
    assert [percent(share).plain for share in (None, 0.0, 0.0449, 1.0)] == ["-", "0.0%", "4.5%", "100.0%"]


def test_what_takes_long_is_asked_for_less_often() -> None:
    now, asked = 0.0, 0

    def ask() -> int:
        nonlocal now, asked
        now += 0.5
        asked += 1
        return asked

    paced = Paced(ask, monotonic=lambda: now)
    assert paced.look() == 1
    now = 4.9
    assert paced.look() == 1
    now = 5.0
    assert paced.look() == 2
    quick = Paced(lambda: now, monotonic=lambda: now)
    quick.look()
    now += 1.0
    assert quick.look() == now


# --- on a real database


@pytest.fixture
def rows(servers: None, database: str) -> None:
    """A repository of which some jobs failed ten minutes ago."""
    now = now_ms()
    lately = now - 10 * MINUTE_MS
    minute, hour = lately // MINUTE_MS * MINUTE_MS, now // HOUR_MS * HOUR_MS - HOUR_MS
    red = [failure(number, occurred_ms=lately, duration_ms=90_000) for number in range(3)]
    flaky = finding(
        1,
        detector="FlakyTest",
        subject='{"repository": "org/repo", "workflow": "CI", "job_name": "test (3.11)"}',
        first_ms=lately,
        last_ms=lately + 60_000,
        events=[red[0].failure_id],
    )
    whole = aggregate(1, minute_ms=minute, duration_ms_sum=9_000, durations=[0, 0, 4, *[0] * 13])
    hours = [job_hour(1, hour_ms=hour)]
    said = ShardOutput(red, [flaky], [decision(1)], [whole], [], job_hours=hours, incidents=[incident(1)])
    write(database, [(1, said, progress(1))])


@pytest.mark.parametrize("by", get_args(By))
@pytest.mark.parametrize("since", get_args(Since))
def test_each_list_and_window_on_a_real_database(guard: Guard, rows: None, by: By, since: Since) -> None:
    said = guard("top", "--by", by, "--since", since, "--json")
    assert (said.status, said.err) == (0, "")
    told = said.json()
    assert (told["by"], told["since"]) == (by, since)
    assert {name: told["totals"][name] for name in ("started", "ended", "failed")} == {
        "started": 5,
        "ended": 4,
        "failed": 1,
    }
    (line,) = told["lines"]
    assert line["failed"] == (1 if by in ("repository", "platform") else 3)
    assert told["green"][0]["green"] == 1
    (flaky,) = told["flakiest"]
    assert (flaky["flips"], flaky["job_name"]) == (1, "test (3.11)")
    (cost,) = told["most_expensive"]
    assert (cost["failures"], cost["minutes"]) == (3, pytest.approx(4.5 + cost["rerun_minutes"]))
    assert told["decisions"] == [{"verdict": "wait", "reason": "run_in_progress", "cases": 1}]
    assert told["findings"] == [{"detector": "FlakyTest", "findings": 1}]


def test_where_there_is_no_terminal_it_is_shown_once(guard: Guard, rows: None) -> None:
    said = guard("top", "--since", "1h")
    assert (said.status, said.err) == (0, "")
    assert said.lines[0].startswith("guard top  the last hour, by repository")
    assert any(line.startswith("org/repo ") for line in said.lines)
    assert "\x1b" not in said.out


def test_status_tells_the_essential(guard: Guard, rows: None) -> None:
    told = guard("status", "--json").json()["essentials"]
    assert [(each["symptom"], each["value"]) for each in told["incidents"]] == [
        ("connection-reset", "registry.example")
    ]
    assert (told["jobs"]["ended"], told["jobs"]["failed"]) == (4, 1)
    assert len(told["flakiest"]) == len(told["most_expensive"]) == 1
    text = guard("status").out
    assert "1 (25.0%)" in text
    assert "24 repositories within 5 minutes" in text
    assert "flakiest jobs in 7 days" in text
    assert "most expensive failures in 7 days" in text
