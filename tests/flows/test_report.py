"""guard report: what it adds up, by hand and on a real database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from connectors.postgres import connect
from connectors.postgres_report import Recovery, Refused, Rerun
from flows.report import Share, price_of, report
from flows.servers import now_ms
from flows.settings import Prices
from models.records.outputs import ShardOutput
from tests.connectors.acted import act
from tests.connectors.outputs import MINUTE_MS, act_outcome, decision, failure, finding, progress
from tests.flows.conftest import Guard, write

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
PRICES = Prices(default=0.01, waiting=0.5, labels={"macos": 0.1, "big": 0.2})


def rerun(outcome: str | None = "passed", **changes: Any) -> Rerun:
    """A rerun of two minutes that ended ten minutes after the failure."""
    known: dict[str, Any] = {
        "repository": "org/a",
        "signature": "dns_failure",
        "minutes": 5.0,
        "outcome": outcome,
        "masked": False if outcome else None,
        "ends": [{"duration_ms": 120_000, "labels": "ubuntu"}] if outcome else None,
        "failed_at": NOW,
        "ended_at": NOW + timedelta(minutes=10) if outcome else None,
        **changes,
    }
    return Rerun(**known)


def test_wilsons_interval() -> None:
    assert Share(0, 0).bounds is None
    known = {(8, 10): (0.4902, 0.9433), (0, 10): (0.0, 0.2775), (10, 10): (0.7225, 1.0)}
    for (count, of), bounds in known.items():
        assert [round(bound, 4) for bound in Share(count, of).bounds or ()] == [*bounds]


@pytest.mark.parametrize(
    ("labels", "price"),
    [(None, 0.01), ("", 0.01), ("ubuntu", 0.01), ("macos", 0.1), ("big,macos,x", 0.2), ("bigger", 0.01)],
)
def test_the_dearest_label_has_the_price(labels: str | None, price: float) -> None:
    assert price_of(labels, PRICES) == price


def test_every_outcome_has_its_column_and_shares_are_of_what_settled() -> None:
    outcomes = ["passed", "passed", "passed", "failed_same", "failed_otherwise", "overtaken", "cancelled", "unseen"]
    made = report(NOW, PRICES, [*map(rerun, [*outcomes, None]), rerun(masked=True)], [], [])
    line = made.total
    assert (line.reruns, line.heals, line.masked, line.failed_same, line.failed_otherwise) == (10, 3, 1, 1, 1)
    assert (line.called_off, line.unknown) == (2, 2)
    assert (line.precision.share, line.masked_rate.share) == (4 / 6, 1 / 4)
    assert line.precision.low is not None
    assert line.precision.low < 4 / 6 < (line.precision.high or 0)


def test_what_it_costs_is_what_ran_and_what_is_saved_is_what_a_person_would_have_run_and_waited() -> None:
    by_hand = [Recovery("org/a", 8, 6, 6 * 3600.0), Recovery("org/b", 1, 1, 60.0)]
    both = [{"duration_ms": 60_000, "labels": "macos"}, {"duration_ms": 120_000, "labels": None}]
    made = report(NOW, PRICES, [rerun(ends=both), rerun("failed_same"), rerun(None)], by_hand, [])
    line = made.total
    assert line.minutes_spent == 3 + 2 + 5, "what is not known costs what the ledger expected"
    assert line.money_spent == round(0.1 + 0.02 + 0.02 + 0.05, 3)
    assert (line.minutes_saved, line.waiting_minutes_saved) == (3.0, 50.0)
    assert line.money_saved == round(0.1 + 0.02 + 50 * 0.5, 3)
    assert line.green_s == 600.0
    assert (made.not_healed.green, made.not_healed.mean_s) == (7, (6 * 3600 + 60) / 7)


def test_nothing_is_claimed_where_nothing_is_known_or_people_were_faster() -> None:
    assert report(NOW, PRICES, [rerun()], [], []).total.waiting_minutes_saved == 0
    fast = [Recovery("org/a", 9, 9, 9 * 60.0)]
    assert report(NOW, PRICES, [rerun()], fast, []).total.waiting_minutes_saved == 0
    few = [Recovery("org/a", 4, 4, 4 * 60.0), Recovery("org/b", 100, 96, 96 * 3600.0)]
    waiting = report(NOW, PRICES, [rerun()], few, []).total.waiting_minutes_saved
    assert waiting == round((4 * 60 + 96 * 3600) / 100 / 60 - 10, 3), "four say too little of org/a"


def test_lines_by_signature_and_repository_most_reruns_first() -> None:
    reruns = [rerun(), rerun(signature="oom", repository="org/b"), rerun(signature=None), rerun()]
    made = report(NOW, PRICES, reruns, [], [Refused("stale", 3)])
    assert [(line.name, line.reruns) for line in made.signatures] == [("dns_failure", 2), ("(none)", 1), ("oom", 1)]
    assert [(line.name, line.reruns) for line in made.repositories] == [("org/a", 3), ("org/b", 1)]
    assert made.refusals == [Refused("stale", 3)]


def test_nothing_done_is_a_report_too() -> None:
    made = report(NOW, PRICES, [], [], [])
    assert (made.total.reruns, made.total.precision.share, made.total.green_s, made.not_healed.mean_s) == (
        0,
        None,
        None,
        None,
    )


# --- on a real database


@pytest.fixture
def healed(servers: None, database: str) -> None:
    """Three acts: one passed, one passed and proved broken, one is not known; one failure nobody touched; a refusal."""
    ago = now_ms() - 60 * MINUTE_MS
    red = [failure(n, occurred_ms=ago, repository=f"org/{'ab'[n == 2]}") for n in range(3)]
    alone = failure(9, occurred_ms=ago, commit_sha="d" * 40)
    flaky = finding(1, detector="FlakyTest", events=[alone.failure_id], last_ms=ago + 30 * MINUTE_MS)
    came = [
        act_outcome(0, repository="org/a", ended_ms=ago + 10 * MINUTE_MS),
        act_outcome(2, repository="org/b", ended_ms=ago + 20 * MINUTE_MS),
        act_outcome(2, 1, repository="org/b", ended_ms=ago + 20 * MINUTE_MS, masked=True),
    ]
    refused = decision(5, verdict="act", mode="act", repository="org/a")
    said = ShardOutput([*red, alone], [flaky], [refused], [], [], act_outcomes=came)
    write(database, [(1, said, progress(1))])
    with connect(database) as connection:
        asked = datetime.now(UTC) - timedelta(minutes=50)
        for number, name in enumerate(("org/a", "org/a", "org/b")):
            act(connection, number, asked, repository=name)
        act(connection, 7, asked, repository="org/a", state="dropped")
        act(connection, 8, asked, repository="org/a", action="cancel")
        act(connection, 6, asked - timedelta(days=30), repository="org/a")
        connection.execute("UPDATE guard.healing SET state = 'refused', reason = 'stale'")


def test_the_report_on_a_real_database(guard: Guard, healed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARD_PRICES__LABELS__ubuntu-latest", "0.1")
    said = guard("report", "--json")
    assert (said.status, said.err) == (0, "")
    told = said.json()
    total = told["total"]
    assert (total["reruns"], total["heals"], total["masked"], total["unknown"]) == (3, 1, 1, 1)
    assert (total["minutes_spent"], total["money_spent"]) == (6.0, 0.416)
    assert (total["minutes_saved"], total["money_saved"]) == (2.0, 0.2)
    assert (total["green_s"], total["waiting_minutes_saved"]) == (600.0, 20.0)
    assert told["not_healed"] == {"episodes": 1, "green": 1, "mean_s": 1800.0}
    assert [line["name"] for line in told["repositories"]] == ["org/a", "org/b"]
    assert told["refusals"] == [{"reason": "stale", "cases": 1}]
    (only,) = guard("report", "--repository", "org/b", "--json").json()["repositories"]
    assert (only["reruns"], only["masked_rate"]["share"]) == (1, 1.0)


def test_the_report_for_people(guard: Guard, healed: None) -> None:
    said = guard("report", "--since", "12h")
    assert (said.status, said.err) == (0, "")
    for shown in ("healed", "connection-reset", "org/b", "stale", "10m", "CI minutes", "100.0% ("):
        assert shown in said.out, shown


def test_an_empty_database_and_a_wrong_word(guard: Guard, servers: None) -> None:
    assert guard("report").status == 0
    assert guard("report", "--json").json()["total"]["reruns"] == 0
    said = guard("report", "--since", "soon")
    assert said.status == 2
    assert said.err.startswith("guard: --since soon: expected a duration")
