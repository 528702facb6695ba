"""The reconciler against a world, a Valkey and a PostgreSQL: what it finds, whom it blames, and when it leaves off."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import redis

from benchmarks.world.deliveries import Delivery, Source, Weather, deliveries
from benchmarks.world.post import Posted
from benchmarks.world.sim import Habits
from connectors import metrics
from connectors.deliveries import Normaliser
from connectors.platforms import PLATFORMS
from connectors.platforms.asking import Reply
from connectors.platforms.platform import Request
from connectors.postgres import connect
from connectors.postgres_reconcile import Place, reconciled, seen
from connectors.redaction import Redactor
from connectors.redis_append import Appender, heartbeat
from connectors.redis_heartbeats import last_heartbeat_ms
from connectors.redis_streams import log_key, publish, requests_key
from flows.embedded import free_ports
from flows.log_reading import Clocks
from flows.reconcile import Reconciler, open_reconciler
from flows.reconcile_hooks import MOST_TRIES
from flows.reconcile_runs import SILENT_LOOKS, Budget
from flows.settings import Settings
from models.records.entry import Kind, decode
from models.records.errors import ConfigError, Unavailable
from models.records.event import SHARDS, Event, EventType
from models.records.payload import from_json
from tests.benchmarks.world.apis import CREDENTIALS, Lab
from tests.flows.conftest import Guard
from tests.flows.reconciling import KEY, answering, settings

SOURCES = {
    "hub": Source("github", "signature", "a secret of the hub"),
    "lab": Source("gitlab", "token", "a secret of the lab"),
    "butler": Source("jenkins", "signature", "a secret of the butler"),
    "circle": Source("circleci", "signature", "a secret of the circle"),
}
ROOT = Path(__file__).parents[2]


class Clock:
    """The lab's time, as everyone sees it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def now(self) -> float:
        """Unix seconds."""
        return self.lab.now()


@pytest.fixture
def lab() -> Lab:
    """A world of some hours with nobody listening; its APIs know it all."""
    made = Lab(habits=Habits(pushes_per_second=1 / 200, breaks=0.3, reruns=0.2), speed=1.0, epoch=time.time() - 14400)
    made.go_on(9000)
    return made


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    made = redis.Redis.from_url(redis_url)
    yield made
    made.close()


def sent(lab: Lab, *, since: float = 0.0) -> list[Delivery]:
    """What webhooks sent of what happened from the lab's second `since` on."""
    told = deliveries(lab.told, SOURCES, lab.clock, Weather(), seed=1)
    return [one for one in told if since <= lab.clock.at(one.at) <= lab.at]


def come(client: redis.Redis, some: list[Delivery]) -> None:
    """Let the receiver's code bring `some` onto the streams."""
    normaliser = Normaliser(Redactor(KEY.encode()), os.urandom)
    for one in some:
        source = SOURCES[one.source]
        request = Request(dict(one.headers), one.body, one.at)
        publish(client, normaliser.normalise(one.source, PLATFORMS[source.platform], one.source, request).deliveries)


def on_streams(client: redis.Redis) -> list[Event]:
    """Every event that stands on the streams."""
    events = []
    for shard in range(SHARDS):
        found: Any = client.xrange(log_key(shard))
        entries = [decode(*next(iter(fields.items()))) for _, fields in found]
        events += [from_json(entry.payload) for entry in entries if entry.kind is Kind.EVENT]
    return events


def named(lab: Lab, instance: str) -> list[str]:
    """The repositories of an instance, as its platform names them."""
    names = []
    for repository in lab.world.runs:
        if repository.source == instance:
            whole = repository.full_name
            if instance == "butler":
                names += [f"{whole}/{workflow.name}" for workflow in repository.workflows]
            else:
                names.append(f"gh/{whole}" if instance == "circle" else whole)
    return names


@asynccontextmanager
async def opened(chosen: Settings, lab: Lab) -> AsyncIterator[Reconciler]:
    """A reconciler whose clock is the lab's."""
    clock = Clock(lab)
    one = open_reconciler(chosen, Clocks(clock.now, clock.now))
    try:
        yield one
    finally:
        await one.close()


@contextmanager
def at_work(
    lab: Lab, redis_url: str, database: str, instances: tuple[str, ...] = ("hub",), **more: Any
) -> Iterator[Callable[[Callable[[Reconciler], Awaitable[Any]]], Any]]:
    """Runs what is given with a reconciler of these instances, all of whose repositories the settings name."""
    with answering(lab) as url:
        repositories = {instance: named(lab, instance) for instance in instances}
        chosen = settings(redis_url, database, url, instances=instances, repositories=repositories, **more)

        def run(what: Callable[[Reconciler], Awaitable[Any]]) -> Any:
            async def main() -> Any:
                async with opened(chosen, lab) as one:
                    return await what(one)

            return asyncio.run(main())

        yield run


def test_what_nobody_brought_is_found_once_on_every_platform(
    lab: Lab, redis_url: str, database: str, client: redis.Redis
) -> None:
    lab.go_on(600)

    async def what(one: Reconciler) -> tuple[Any, Any]:
        return await one.round(since=timedelta(hours=5)), await one.round(since=timedelta(hours=5))

    with at_work(lab, redis_url, database, tuple(SOURCES)) as run:
        first, second = run(what)
    found = sum(look.reconciled.found for look in first.looks)
    events = on_streams(client)
    assert found == len(events) == len({event.id for event in events}) > 100
    assert {event.platform for event in events} == set(PLATFORMS)
    assert sum(look.reconciled.found for look in second.looks) == 0
    assert sum(look.known for look in second.looks) == found
    failed = [
        event
        for event in events
        if event.event_type is EventType.FAILED and (event.job_id or event.platform == "jenkins")
    ]
    assert sum(client.xlen(requests_key(shard)) for shard in range(SHARDS)) == len(failed), "their logs are read"


def test_what_webhooks_brought_is_known_and_stays_as_it_was(
    lab: Lab, redis_url: str, database: str, client: redis.Redis
) -> None:
    come(client, [one for one in sent(lab) if one.source == "hub"])
    before = {event.id: event for event in on_streams(client)}
    with at_work(lab, redis_url, database) as run:
        done = run(lambda one: one.round(since=timedelta(hours=5)))
    assert sum(look.known for look in done.looks) > 20
    assert sum(look.reconciled.found for look in done.looks) == 0
    assert {event.id: event for event in on_streams(client)} == before


def test_for_a_while_a_webhook_may_still_come(lab: Lab, redis_url: str, database: str, client: redis.Redis) -> None:
    with at_work(lab, redis_url, database, grace="40m") as run:
        run(lambda one: one.round(since=timedelta(hours=5)))
    newest = max(event.timestamp for event in on_streams(client))
    assert newest <= datetime.fromtimestamp(lab.now() - 2400, UTC)
    with connect(database) as connection:
        untils = {look.read_until for look in reconciled(connection).values()}
    assert untils == {datetime.fromtimestamp(lab.now() - 2400, UTC)}


def test_it_goes_on_where_it_was_whoever_looked(lab: Lab, redis_url: str, database: str, client: redis.Redis) -> None:
    with at_work(lab, redis_url, database, lookback="5h") as run:
        run(lambda one: one.round())
        before = {event.id for event in on_streams(client)}
        lab.go_on(4 * 3600)  # more than the lookback of somebody new would reach with 1 h
    with at_work(lab, redis_url, database, lookback="1h") as run:
        run(lambda one: one.round())
    true = {
        event.id
        for one in sent(lab)
        if one.source == "hub"
        for event in PLATFORMS["github"].events(Request(dict(one.headers), one.body, one.at), "hub").events
        if event.event_type is EventType.FAILED and event.timestamp.timestamp() < lab.now() - 120
    }
    after = {event.id for event in on_streams(client)}
    assert before < after
    assert true <= after


def test_what_is_older_than_duplicates_are_known_is_left_alone(
    lab: Lab, redis_url: str, database: str, client: redis.Redis
) -> None:
    with answering(lab) as url:
        chosen = settings(redis_url, database, url, instances=("hub",), repositories={"hub": named(lab, "hub")})
        short = chosen.model_copy(
            update={"redis": chosen.redis.model_copy(update={"duplicate_window": timedelta(hours=2)})}
        )

        async def main() -> None:
            async with opened(short, lab) as one:
                await one.round(since=timedelta(days=3))

        asyncio.run(main())
    oldest = min(event.timestamp.timestamp() for event in on_streams(client))
    assert oldest >= lab.now() - 3600 - 3600, "a run that ended within an hour began before"


def test_places_are_looked_at_when_they_are_due_and_the_least_recent_first(
    lab: Lab, redis_url: str, database: str
) -> None:
    async def what(one: Reconciler) -> list[int]:
        counts = [len((await one.round(interval_seconds=600)).looks)]
        lab.go_on(599)
        counts.append(len((await one.round(interval_seconds=600)).looks))
        lab.go_on(1)
        counts.append(len((await one.round(interval_seconds=600)).looks))
        return counts

    with at_work(lab, redis_url, database) as run:
        assert run(what) == [4, 0, 4]


def test_an_instance_is_asked_no_more_than_it_may_be(lab: Lab, redis_url: str, database: str) -> None:
    async def what(one: Reconciler) -> list[tuple[int, int]]:
        told, one.at_once = [], 1
        for _ in range(30):
            done = await one.round(since=timedelta(hours=5), interval_seconds=10**6)
            told.append((len(done.looks), done.left))
            lab.at += 3600
        return told

    with at_work(lab, redis_url, database, requests_per_hour=6) as run:
        told = run(what)
    assert told[0] == (1, 3), "the rest is looked at later"
    assert sum(looks for looks, _ in told) == 4
    assert told[-1] == (0, 0)


def test_a_budget_fills_up_again_to_an_hours_worth() -> None:
    budget = Budget(60, 0.0)

    def ask(times: int) -> None:
        for _ in range(times):
            talk = budget.counted(PLATFORMS["jenkins"].recent("a/b", datetime.now(UTC), "main"))
            next(talk)
            with pytest.raises(StopIteration):
                talk.send(Reply(200, {}, body=b"{}"))

    ask(60)
    assert [budget.spent(at) for at in (0.0, 59.0, 60.0)] == [True, True, False]
    assert not budget.spent(10_000.0)
    ask(60)
    assert budget.spent(10_000.0), "what was left unused for longer than an hour is gone"


def test_a_platform_that_is_away_is_left_alone_and_one_that_refuses_is_asked_on(
    lab: Lab, redis_url: str, database: str
) -> None:
    with at_work(lab, redis_url, database) as run:
        lab.api._credentials = {**CREDENTIALS, "github": "another"}
        done = run(lambda one: one.round())
        assert len(done.unread) == len(done.looks) == 4
        assert {look.reconciled.why for look in done.unread} == {"HTTP 401: Bad credentials"}
        lab.api._credentials = CREDENTIALS
        lab.api._limits = {"github": (0, 60.0)}

        async def one_by_one(one: Reconciler) -> Any:
            one.at_once = 1
            return await one.round()

        done = run(one_by_one)
        assert (len(done.looks), done.left) == (1, 3)
    with connect(database) as connection:
        assert {look.found for look in reconciled(connection).values()} == {0}


def test_where_things_ran_is_known_from_postgres(database: str) -> None:
    with connect(database) as connection:
        row = "(0, 1, 'github', 'hub', 'acme/shop', now(), 1, 0, 0, 0, '{}', 0)"
        columns = "shard, position, platform, instance, repository, minute, started, completed, failed"
        connection.execute(
            f"INSERT INTO guard.aggregates ({columns}, duration_ms_sum, durations, late) VALUES {row}".encode()
        )
        now = datetime.now(UTC)
        assert seen(connection, now - timedelta(hours=1)) == {Place("github", "hub", "acme/shop")}
        assert seen(connection, now + timedelta(hours=1)) == set()


# --- silence


async def looks(one: Reconciler, lab: Lab, times: int, between: Callable[[], None] = lambda: None) -> int:
    """Look so many times, ten minutes apart; how many repositories are silent then."""
    for _ in range(times):
        lab.go_on(600)
        between()
        await one.round()
    with connect(_url(one)) as connection:
        return sum(look.missed_looks >= SILENT_LOOKS for look in reconciled(connection).values())


def _url(one: Reconciler) -> str:
    return one.memory._url


@pytest.fixture
def busy() -> Lab:
    """A world in which every repository fails every few minutes."""
    made = Lab(habits=Habits(pushes_per_second=1 / 10, breaks=0.6, reruns=0.0), speed=1.0, epoch=time.time() - 40_000)
    made.go_on(3600)
    return made


def test_a_webhook_that_tells_nothing_while_jobs_fail_is_silent(busy: Lab, redis_url: str, database: str) -> None:
    async def what(one: Reconciler) -> list[int]:
        return [await looks(one, busy, 3), await looks(one, busy, SILENT_LOOKS + 2)]

    with at_work(busy, redis_url, database, requests_per_hour=100_000) as run:
        soon, later = run(what)
    assert soon == 0, "nobody knows yet whether a receiver was there"
    assert later == 4


def test_one_that_is_heard_of_now_and_then_is_not(
    busy: Lab, redis_url: str, database: str, client: redis.Redis
) -> None:
    def half() -> None:
        come(client, [one for one in sent(busy, since=busy.at - 800) if one.source == "hub"][::2])

    with at_work(busy, redis_url, database, requests_per_hour=100_000) as run:
        assert run(lambda one: looks(one, busy, 8, half)) == 0


def test_nobody_is_blamed_while_no_receiver_is_there(busy: Lab, redis_url: str, database: str) -> None:
    async def what(one: Reconciler) -> int:
        for _ in range(8):
            await one.watch()
            await looks(one, busy, 1)
        assert one.away
        return await looks(one, busy, 0)

    with at_work(busy, redis_url, database, requests_per_hour=100_000) as run:
        assert run(what) == 0


# --- receivers


def test_a_receiver_that_is_back_is_noticed(lab: Lab, redis_url: str, database: str, client: redis.Redis) -> None:
    async def beat() -> None:
        appender = Appender(redis_url)
        await heartbeat(appender, int(lab.now() * 1000))
        await appender.close()

    async def what(one: Reconciler) -> list[bool]:
        lab.at = time.time() - lab.clock.epoch  # entry ids are the server's time
        await beat()
        told = [await one.watch(), one.away]
        lab.at += 31
        told += [await one.watch(), one.away]
        lab.at = time.time() - lab.clock.epoch
        await beat()
        return [*told, await one.watch(), one.away]

    assert last_heartbeat_ms(client) is None
    with at_work(lab, redis_url, database) as run:
        assert run(what) == [False, False, False, True, True, False]


def test_redis_away_is_said_so(lab: Lab, tmp_path: Path, database: str) -> None:
    with at_work(lab, f"unix://{tmp_path}/nobody.sock", database) as run, pytest.raises(Unavailable):
        run(lambda one: one.watch())


# --- webhooks


def hooked(lab: Lab) -> tuple[str, str]:
    """A repository of the hub, and the webhook of it."""
    name = named(lab, "hub")[0]
    return name, f"repos/{name}/hooks/1"


class Sender:
    """What the world sent, and sends again when it is asked to."""

    def __init__(self, lab: Lab, name: str, *, statuses: dict[str, int]) -> None:
        self.lab, self.name, self.number = lab, name, 0
        self.asked: list[str] = []
        self.answers = 202
        for guid, status in statuses.items():
            self.post(guid, status)
        lab.site.redeliver = self.again

    def post(self, guid: str, status: int) -> None:
        """A delivery was tried."""
        self.number += 1
        headers = {"x-github-event": "workflow_job"}
        delivery = Delivery(0.0, "hub", "/hub", guid, 0, headers, b"{}", {"repository": self.name})
        self.lab.posted.append(Posted(self.number, delivery, self.lab.now(), status, again=False))

    def again(self, posted: Posted) -> None:
        """It is asked for again, and tried."""
        self.asked.append(posted.delivery.id)
        self.post(posted.delivery.id, self.answers)


def test_what_nobody_took_is_asked_for_once_and_then_left_alone(lab: Lab, redis_url: str, database: str) -> None:
    name, hook = hooked(lab)
    sender = Sender(lab, name, statuses={"a": 202, "b": 0, "c": 502, "d": 500})
    sender.post("d", 202)

    async def what(one: Reconciler) -> None:
        for _ in range(4):
            await one.visit_hooks()
            lab.go_on(600)

    with at_work(lab, redis_url, database, hooks={"hub": [hook]}, acting={"hub": "doer"}) as run:
        lab.credentials["github.act"] = "doer"
        run(what)
    assert sender.asked == ["b", "c"]
    with connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM guard.redeliveries").fetchone() == (0,)


def test_two_reconcilers_ask_for_it_once(lab: Lab, redis_url: str, database: str) -> None:
    name, hook = hooked(lab)
    sender = Sender(lab, name, statuses={f"g{i}": 0 for i in range(20)})

    async def what(one: Reconciler) -> None:
        await asyncio.gather(*(one.visit_hooks() for _ in range(4)))

    with at_work(lab, redis_url, database, hooks={"hub": [hook]}, acting={"hub": "doer"}) as run:
        lab.credentials["github.act"] = "doer"
        run(what)
    assert sorted(sender.asked) == sorted(f"g{i}" for i in range(20))


def test_what_is_never_taken_is_given_up_later_and_later(lab: Lab, redis_url: str, database: str) -> None:
    name, hook = hooked(lab)
    sender = Sender(lab, name, statuses={"a": 0})
    sender.answers = 502
    at: list[float] = []

    async def what(one: Reconciler) -> None:
        for _ in range(20 * 60):
            before = len(sender.asked)
            await one.visit_hooks()
            at.extend([lab.at] * (len(sender.asked) - before))
            lab.at += 60

    with at_work(lab, redis_url, database, hooks={"hub": [hook]}, acting={"hub": "doer"}) as run:
        lab.api._limits = {"github": (10**6, 3600.0)}
        lab.credentials["github.act"] = "doer"
        run(what)
    assert sender.asked == ["a"] * MOST_TRIES
    waits = [round((later - one) / 60) for one, later in pairwise(at)]
    assert waits == [1, 5, 25, 125]


def test_nothing_is_asked_for_while_nobody_listens(lab: Lab, redis_url: str, database: str) -> None:
    name, hook = hooked(lab)
    sender = Sender(lab, name, statuses={"a": 0})

    async def what(one: Reconciler) -> None:
        await one.watch()
        await one.visit_hooks()

    with at_work(lab, redis_url, database, hooks={"hub": [hook]}, acting={"hub": "doer"}) as run:
        lab.credentials["github.act"] = "doer"
        run(what)
    assert sender.asked == []


def test_a_credential_that_may_not_ask_is_no_try_lost_for_ever(lab: Lab, redis_url: str, database: str) -> None:
    name, hook = hooked(lab)
    sender = Sender(lab, name, statuses={"a": 0})

    async def what(one: Reconciler) -> None:
        lab.api._limits = {"github": (2, 3600.0)}  # the question how it stands, and the list; not the third
        await one.visit_hooks()
        assert sender.asked == []
        lab.api._limits = {"github": (10**6, 3600.0)}
        lab.go_on(7200)
        await one.visit_hooks()

    with at_work(lab, redis_url, database, hooks={"hub": [hook]}, acting={"hub": "doer"}) as run:
        lab.credentials["github.act"] = "doer"
        run(what)
    assert sender.asked == ["a"]


def test_how_webhooks_stand_is_told(lab: Lab, redis_url: str, database: str) -> None:
    name, hook = hooked(lab)
    Sender(lab, name, statuses={"a": 502})
    other = f"projects/{named(lab, 'lab')[0]}/hooks/1"
    acting = {"hub": "doer", "lab": "maker"}
    chosen = {"hub": [hook], "lab": [other]}
    with at_work(lab, redis_url, database, ("hub", "lab"), hooks=chosen, acting=acting) as run:
        lab.credentials |= {"github.act": "doer", "gitlab.act": "maker"}
        run(lambda one: one.visit_hooks())
    with connect(database) as connection:
        rows = connection.execute("SELECT hook, disabled, failing, why FROM guard.hooks ORDER BY platform").fetchall()
    assert rows == [(hook, False, True, "No answer"), (other, False, False, "")]
    text = metrics.render().decode()
    assert f'guard_hook_state{{api="hub",hook="{hook}"}} 1.0' in text
    assert f'guard_hook_state{{api="lab",hook="{other}"}} 0.0' in text


def test_hooks_need_what_may_see_to_them(lab: Lab, redis_url: str, database: str) -> None:
    with pytest.raises(ConfigError, match=r"platforms\.hub\.hooks: needs an act_credential"):
        open_reconciler(
            settings(redis_url, database, "http://127.0.0.1:1", instances=("hub",), hooks={"hub": ["app/hook"]})
        )


# --- the command and the process


@pytest.fixture
def env(lab: Lab, tmp_path: Path) -> Iterator[Path]:
    """A settings file by which the lab is asked."""
    with answering(lab) as url:
        path = tmp_path / "guard.toml"
        names = ", ".join(f'"{name}"' for name in named(lab, "hub"))
        path.write_text(
            f'[platforms.hub]\nplatform = "github"\ninstance = "hub"\nurl = "{url}/github"\n'
            f'read_credential = {{ kind = "token", value = "hub" }}\nrepositories = [{names}]\n'
        )
        yield path


@pytest.mark.usefixtures("servers")
def test_once_says_what_was_missing(guard: Guard, env: Path, lab: Lab) -> None:
    said = guard("--settings", env, "reconcile", "--once", "--since", "5h")
    assert said.status == 0
    first, _, rest = said.out.partition(" repositories looked at: ")
    assert int(first) == 4
    assert int(rest.partition(" events were missing")[0]) > 20
    again = guard("--settings", env, "reconcile", "--once")
    assert "4 repositories looked at: 0 events were missing" in again.out
    lab.api._credentials = {"github": "another"}
    refused = guard("--settings", env, "reconcile", "--once")
    assert refused.status == 3
    assert f"guard: github {named(lab, 'hub')[0]}: HTTP 401: Bad credentials" in refused.err


@pytest.mark.usefixtures("servers")
def test_since_is_for_once(guard: Guard) -> None:
    assert guard("reconcile", "--since", "3h").status == 2
    assert guard("reconcile", "--once", "--since", "soon").status == 2


@pytest.mark.usefixtures("servers")
def test_the_process_reconciles_until_it_is_told_to_stop(env: Path, client: redis.Redis) -> None:
    port = free_ports()
    environment = {**os.environ, "GUARD_SETTINGS": str(env), "GUARD_RECONCILE__METRICS_PORT": str(port)}
    command = (sys.executable, "-c", "import sys; from flows.cli import main; sys.exit(main(['reconcile']))")
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE)
    try:
        from tests.faults.harness import metric
        from tests.helpers import wait_until

        def found() -> bool:
            assert process.poll() is None
            try:
                return metric(port, "guard_reconcile_events_total", 'outcome="found"') > 20
            except OSError:
                return False

        wait_until(found, within=30, what="found events")
        assert len(on_streams(client)) > 20
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()
