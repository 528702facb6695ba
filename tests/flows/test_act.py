"""`guard act` as a process of its own, against the APIs of a simulated world."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from connectors.postgres import connect
from flows.embedded import EmbeddedValkey
from models.records.outputs import DecisionRow
from tests.connectors.healing import decide
from tests.flows.healers import Healers, Town, check, effects, healers, hurry, in_ledger, standings, told
from tests.helpers import wait_until


@pytest.fixture
def client(own_valkey: EmbeddedValkey) -> Iterator[Any]:
    with redis.Redis.from_url(own_valkey.url, protocol=2) as opened:
        yield opened


@pytest.fixture
def town(seed: int) -> Town:
    return Town(seed=seed)


def over(database: str, healer: Healers, cases: int) -> None:
    """Wait until so many cases have come to their end."""

    def ended() -> bool:
        healer.must_run()
        hurry(database)
        return (
            sum(count for (state, _), count in standings(database).items() if state in {"finished", "refused"}) >= cases
        )

    wait_until(ended, within=60, what="the end of all cases")


def all_told(client: Any, database: str) -> None:
    settled = in_ledger(database, "done", "refused", "dropped", "unknown").total()
    wait_until(lambda: told(client).total() >= settled, what="the shards were told")


def by_case(rows: list[DecisionRow]) -> dict[str, DecisionRow]:
    return {row.case_id: row for row in rows}


def test_what_is_decided_is_done_once_and_told_once_on_every_platform(
    town: Town, client: Any, own_valkey: EmbeddedValkey, database: str, tmp_path: Path
) -> None:
    rows = town.failures(40)
    assert {row.platform for row in rows} == {"github", "gitlab", "jenkins", "circleci"}
    with town.served() as port, healers(tmp_path, redis=own_valkey.url, postgres=database, world=port) as healer:
        decide(database, *rows)
        over(database, healer, len(rows))
        all_told(client, database)
        figures = check(town, database, client, by_case(rows))
        assert figures["done"] == effects(town).total() >= len(rows) - standings(database).total() + 20
        assert healer.terminate() == 0
    assert '"stopped"' in healer.words()
    with connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM guard.acts WHERE told_at IS NULL").fetchone() == (0,)
        audited = connection.execute("SELECT count(*) FROM guard.audit WHERE actor LIKE 'healer %'").fetchone()
    assert audited is not None
    assert audited[0] >= figures["acts"]


def test_a_decision_is_acted_on_at_once_and_not_at_the_next_look(
    town: Town, own_valkey: EmbeddedValkey, database: str, tmp_path: Path
) -> None:
    rows = town.failures(6)
    with town.served() as port, healers(tmp_path, redis=own_valkey.url, postgres=database, world=port) as healer:
        decide(database, rows[0])
        over(database, healer, 1)
        for i, row in enumerate(rows[1:], start=2):
            decide(database, row)
            over(database, healer, i)
    query = (
        "SELECT extract(epoch FROM min(a.asked_at) - d.written_at)::float8"
        " FROM guard.acts a JOIN guard.decisions d USING (decision_id) GROUP BY d.decision_id, d.written_at"
    )
    with connect(database) as connection:
        waits = sorted(row[0] for row in connection.execute(query).fetchall() if row[0] is not None)
    assert waits[len(waits) // 2] < 0.5  # a look every second would take half of one


def test_a_healer_that_is_stopped_does_nothing_until_it_may(
    town: Town, own_valkey: EmbeddedValkey, database: str, tmp_path: Path
) -> None:
    (row,) = town.failures(1)
    with connect(database) as connection:
        connection.execute("INSERT INTO guard.stops (stopped, said_by, why) VALUES (true, 'ada', 'to see')")
        with town.served() as port, healers(tmp_path, redis=own_valkey.url, postgres=database, world=port) as healer:
            wait_until(lambda: '"healing"' in healer.words(), within=30, what="the healer")
            decide(database, row)
            time.sleep(1.5)  # nothing is to be seen of what does not happen
            assert effects(town).total() == 0
            assert standings(database) == {("waiting", "new"): 1}
            connection.execute("INSERT INTO guard.stops (stopped, said_by, why) VALUES (false, 'ada', 'seen')")
            over(database, healer, 1)
    assert effects(town).total() == 1


def test_a_rerun_that_fails_again_and_again_ends_by_its_budgets(
    town: Town, client: Any, own_valkey: EmbeddedValkey, database: str, tmp_path: Path
) -> None:
    """A retry storm: whatever we run again fails again, and each failure is decided to be run again."""
    storms = town.broken()
    limits = 'job_per_hour = 1000\ncooldown = "1s"'
    given = {"redis": own_valkey.url, "postgres": database, "limits": limits}
    decided = dict(by_case(list(storms.values())))
    with town.served() as port, healers(tmp_path, world=port, **given) as healer:
        decide(database, *storms.values())
        for _ in range(100):
            over(database, healer, len(decided))
            wait_until(lambda: town.counts()["going_on"] == 0, within=30, what="the end of the reruns")
            again = [
                row for row in town.failed_again() if row.decision_id not in {r.decision_id for r in decided.values()}
            ]
            if not again:
                break
            decided |= by_case(again)
            decide(database, *again)
        else:
            pytest.fail("it goes on and on")
        all_told(client, database)
    done: dict[str, int] = {}
    for (platform, *_), count in effects(town).items():
        done[platform] = done.get(platform, 0) + count
    most = {"github": 2, "gitlab": 2, "circleci": 2, "jenkins": 6}  # of a run; of a commit where runs are new
    assert done.keys() == most.keys()
    assert all(done[platform] <= most[platform] for platform in most), done  # fewer where a newer commit came
