"""guard backtest --acts: what would have been run again, and what is known to have come of that."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flows import backtest, backtest_inputs
from models.records.event import Event, Outcome
from tests.analytics.log import MINUTE, T0
from tests.analytics.past import events_of, lines_of
from tests.events import make_event
from tests.flows.conftest import Guard

ACT = '[rulebook.policy]\nmode = "act"\nawait_log_seconds = 0\n'
RUN: dict[str, Any] = {"job_id": None, "job_name": None}
TRANSIENT = {"step": "Set up job", "duration_ms": 120_000, "runner_labels": ["ubuntu-latest"]}
PRICES = "[prices.labels]\nubuntu-latest = 0.5\n"


def run(number: int, at_ms: int, outcome: Outcome, attempt: int = 1, **given: Any) -> Iterator[Event]:
    """Run `number` begins at `at_ms` and ends two minutes later; its job says why in its step."""
    about = {
        "pipeline_id": str(number),
        "attempt": attempt,
        "commit_sha": f"{number:040x}",
        "branch": f"topic-{number}",
        "repository": f"org/{number}",
        **given,
    }
    job = {"job_id": f"{number}{attempt}", **(TRANSIENT if outcome is Outcome.FAILED else {"duration_ms": 120_000})}
    yield make_event(Outcome.RUNNING, at_ms, **{**about, "job_id": f"{number}{attempt}"})
    yield make_event(outcome, at_ms + 2 * MINUTE, **{**about, **job})
    yield make_event(outcome, at_ms + 2 * MINUTE + 1000, **{**about, **RUN, "duration_ms": 121_000})


FAILED, PASSED = Outcome.FAILED, Outcome.PASSED
HOUR = 60 * MINUTE


def the_past() -> list[Event]:
    """One run of each kind, half an hour after the other, so that nothing looks like an outage."""
    told = [
        *run(1, T0, FAILED),
        *run(1, T0 + 20 * MINUTE, PASSED, 2),  # somebody ran it again, and it passed
        *run(2, T0 + 1 * HOUR, FAILED),
        *run(2, T0 + 1 * HOUR + 20 * MINUTE, FAILED, 2),  # ... and it failed again
        *run(3, T0 + 2 * HOUR, FAILED),  # nobody did
        *run(4, T0 + 3 * HOUR, FAILED),
        *run(4, T0 + 3 * HOUR + 2 * MINUTE + 5000, PASSED, 2),  # somebody did before we would have
        *run(5, T0 + 4 * HOUR, FAILED),
        *run(6, T0 + 4 * HOUR + 2 * MINUTE + 5000, PASSED, repository="org/5", branch="topic-5"),  # a newer commit
        *run(7, T0 + 5 * HOUR, PASSED),
    ]
    return sorted(told, key=lambda event: event.timestamp)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """The past, as JSON lines."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\n".join(lines_of(the_past())) + b"\n")
    return path


@pytest.fixture
def book(tmp_path: Path) -> Callable[..., Path]:
    """A settings file."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def strategies(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["strategy"]: one for one in report["acts"]["strategies"]}


def test_what_came_of_it_is_told_by_who_ran_it_again(
    guard: Guard, lines: Path, tmp_path: Path, book: Callable[..., Path]
) -> None:
    settings = book("act.toml", ACT + PRICES)
    said = guard("backtest", lines, "--to", tmp_path / "out", "--acts", "--json", "--settings", settings)
    assert said.status == 0, said.err
    known = strategies(said.json())
    rulebook = known["rulebook"]
    counts = {name: rulebook[name] for name in ("reruns", "rescued", "harmed", "with_the_same_cause", "unknown")}
    assert counts == {"reruns": 3, "rescued": 1, "harmed": 1, "with_the_same_cause": 1, "unknown": 1}
    assert (rulebook["minutes"], rulebook["money"]) == (6.0, 3.0)
    assert rulebook["refused"] == {"already_run": 1, "overtaken": 1}
    assert known["never"]["reruns"] == 0
    assert (known["once"]["reruns"], known["once"]["rescued"], known["once"]["harmed"]) == (5, 2, 1)
    assert (known["twice"]["reruns"], known["twice"]["rescued"], known["twice"]["harmed"]) == (6, 2, 1)
    rows = pl.read_parquet(tmp_path / "out" / "acts.parquet").filter(pl.col("strategy") == "rulebook")
    told = {row["repository"]: (row["state"], row["why"], row["came"]) for row in rows.sort("state").to_dicts()}
    assert told == {
        "org/1": ("done", None, "rescued"),
        "org/2": ("done", None, "harmed"),
        "org/3": ("done", None, "unknown"),
        "org/4": ("refused", "already_run", None),
        "org/5": ("refused", "overtaken", None),
    }


def test_the_difference_names_each_act_of_one_only_and_why_the_other_would_not(
    guard: Guard, lines: Path, tmp_path: Path, book: Callable[..., Path]
) -> None:
    fewer = book("fewer.toml", ACT + '[[rulebook.policy.rule]]\nwhen = { repository = "org/1" }\nnever = true\n')
    given = ("--rulebook", book("act.toml", ACT), "--compare", fewer)
    said = guard("backtest", lines, "--to", tmp_path / "out", "--acts", "--json", *given)
    assert said.status == 0, said.err
    between, rival = said.json()["acts"]["differences"]
    assert (between["one"], between["other"], between["only_other"]) == ("rulebook", "compared", [])
    (only,) = between["only_one"]
    assert (only["because"], only["reruns"], only["rescued"]) == ("skip: forbidden", 1, 1)
    assert [example["repository"] for example in only["examples"]] == ["org/1"]
    assert (rival["other"], [one["because"] for one in rival["only_other"]]) == (
        "once",
        ["refused: already_run", "refused: overtaken"],
    )


def test_what_is_only_observed_is_also_told_as_if_it_were_done(guard: Guard, lines: Path, tmp_path: Path) -> None:
    said = guard("backtest", lines, "--to", tmp_path / "out", "--rulebook", "shipped", "--acts", "--json")
    known = strategies(said.json())
    assert (known["rulebook"]["reruns"], known["rulebook"]["refused"]) == (0, {"mode": 5})
    assert known["rulebook, all in mode act"]["reruns"] == 3


def test_limits_are_those_of_the_settings(guard: Guard, lines: Path, tmp_path: Path, book: Callable[..., Path]) -> None:
    settings = book("act.toml", ACT + "[act.limits]\nfleet_minutes_per_hour = 1.0\n")
    said = guard("backtest", lines, "--to", tmp_path / "out", "--acts", "--json", "--settings", settings)
    rulebook = strategies(said.json())["rulebook"]
    assert (rulebook["reruns"], rulebook["held"]["fleet_budget"]) == (0, 5)


def test_the_report_says_it_on_the_terminal_and_on_the_page(
    guard: Guard, lines: Path, tmp_path: Path, book: Callable[..., Path]
) -> None:
    said = guard("backtest", lines, "--to", tmp_path / "out", "--rulebook", book("act.toml", ACT), "--acts")
    for text in ("what would have been done", "already_run", "run again by one only: rulebook and once"):
        assert text in said.out
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h2>What would have been done</h2>" in page
    assert "already_run" in page


def test_without_the_option_nothing_of_it_is_said(guard: Guard, lines: Path, tmp_path: Path) -> None:
    said = guard("backtest", lines, "--to", tmp_path / "out", "--json")
    assert "acts" not in said.json()
    assert not (tmp_path / "out" / "acts.parquet").exists()


def test_processes_and_pieces_change_no_byte(
    guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: random.Random, book: Callable[..., Path]
) -> None:
    lines, settings = tmp_path / "events.jsonl", book("act.toml", ACT + "most_attempts = 2\n")
    lines.write_bytes(b"\n".join(lines_of(events_of(rng))))
    guard("backtest", lines, "--to", tmp_path / "one", "--rulebook", settings, "--acts")
    monkeypatch.setattr(backtest, "_FEW_BYTES", 0)
    monkeypatch.setattr(backtest_inputs, "_PIECE_BYTES", 5000)
    guard("backtest", lines, "--to", tmp_path / "many", "--rulebook", settings, "--acts")
    assert (tmp_path / "many" / "report.json").read_bytes() == (tmp_path / "one" / "report.json").read_bytes()
    rows = [pl.read_parquet(tmp_path / name / "acts.parquet") for name in ("one", "many")]
    assert rows[0].equals(rows[1])
