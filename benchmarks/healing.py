"""Healing against three rivals, in the same worlds: `python -m benchmarks.healing`.

    never           nothing is run again
    once            whatever fails is run again at once, in its first attempt
    twice           ... and in its second
    guard           what ships: shards, fleet, policy, guards and budgets, asking the platforms' APIs

Everything of ours is real but the network and the ledger's tables (analytics/acting.py stands for them): the world's
webhooks are normalised, shards judge them, decisions are asked of the world's APIs in the platforms' own words, and
what comes of them comes back as webhooks. Of logs the shards get the lines that tell why, as a reader finds them.
Nobody else presses a button. One world a seed, in simulated time; the same seed gives the same world to each.

    --rulebook A.toml [--compare B.toml]     rulebooks of your own in the place of what ships, and what one came to
                                             less what the other and the rivals did, seed by seed

Only what a rulebook says in mode act is done. Budgets are wide, whatever the settings say: rules are compared.
"""

from __future__ import annotations

import argparse
import heapq
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from analytics.act_replay import acted_of
from analytics.acting import Acting, Due
from analytics.fleet import Fleet
from analytics.guards import RERUNS, Limits, moved_on
from analytics.rulebook import Rulebook, compose
from analytics.shard import Shard
from benchmarks.healing_score import BOOKS, STUDENT, Score, differences, table
from benchmarks.world import truth
from benchmarks.world.api import Api
from benchmarks.world.deliveries import Delivery, Source, Weather, deliveries
from benchmarks.world.faults import Chance
from benchmarks.world.log_server import LogServer, Troubled
from benchmarks.world.places import settle
from benchmarks.world.post import Posted
from benchmarks.world.records import Attempt, Clock, Ending, Happening, Trouble, What
from benchmarks.world.sim import FAILED, Habits, Outage, World
from benchmarks.world.site import Act, Site
from benchmarks.world.troubles import OUTAGES
from benchmarks.world.web import Asked
from connectors.deliveries import Normaliser
from connectors.platforms import PLATFORMS
from connectors.platforms.acting import Send, Talk
from connectors.platforms.asking import Reply
from connectors.platforms.platform import Credential, Request
from connectors.redaction import Redactor
from flows.rulebook_commands import named_rulebook
from flows.settings import Settings
from models.records.calls import Done, RunState
from models.records.columns import decode
from models.records.entry import Encoding, Entry, Kind, encode
from models.records.event import SHARDS, EventType, shard_of
from models.records.event import Event as EventRecord
from models.records.evidence import Evidence, Line, Reading
from models.records.ledger import ActState, HoldRules, Why
from models.records.payload import from_json
from models.records.raw import RawEntry

_EPOCH: Final = 1_763_900_000.0
_SOURCES: Final = {
    "github": Source("github", "signature", "unused"),
    "gitlab": Source("gitlab", "token", "unused"),
    "jenkins": Source("jenkins", "basic", "unused:unused"),
    "circleci": Source("circleci", "signature", "unused"),
}
_CREDENTIALS: Final = {"github": "hub", "gitlab": "lab", "jenkins": "ci:butler", "circleci": "circle"}
_STEP_SECONDS: Final = 5.0
_BEAT_SECONDS: Final = 15.0
_LOG_SECONDS: Final = 3.0
_FAILING: Final = (Ending.FAILED, Ending.TIMED_OUT)
_AT_ONCE_SECONDS: Final = 1.0
"""After which a rival runs again what has failed."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One world: `outage` is when, in seconds, a registry is away and for how long."""

    seed: int
    hours: float = 6.0
    repositories: int = 120
    pushes_per_hour: float = 180.0
    outage: tuple[float, float] | None = None


class Place:
    """A world with its APIs, asked without a network."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.clock = Clock(_EPOCH, 1.0)
        self.at = 0.0
        platforms = {name: source.platform for name, source in _SOURCES.items()}
        repositories = settle(platforms, seed=scene.seed, count=scene.repositories)
        habits = Habits(pushes_per_second=scene.pushes_per_hour / 3600, reruns=0.0)
        outages = []
        if scene.outage is not None:
            begins, length = scene.outage
            outages = [Outage(begins, begins + length, OUTAGES[0])]
        self.world = World(repositories, habits, seed=scene.seed, outages=outages)
        posted: Sequence[Posted] = ()
        self.site = Site(self.world, self.clock, posted, lambda _posted: None)
        logs = LogServer(self.clock, _CREDENTIALS, Troubled(), seed=scene.seed)
        chance = Chance(0.0, (), seed=scene.seed)
        self._api = Api(self.site, logs, _CREDENTIALS, chance, limits={"github": (10**9, 3600.0)}, now=self._now)

    def _now(self) -> float:
        return self.clock.seconds(self.at)

    def hold(self, talk: Talk[Any], platform: str) -> Any:  # noqa: ANN401 - what the conversation gives
        """Hold a conversation with the API of `platform`."""
        credential = Credential("basic" if platform == "jenkins" else "token", _CREDENTIALS[platform])
        login = {**PLATFORMS[platform].api_headers, **PLATFORMS[platform].login(credential)}
        try:
            step = next(talk)
            while True:
                reply = self._reply(platform, step, login) if isinstance(step, Send) else Reply(0, {})
                step = talk.send(reply)
        except StopIteration as ended:
            return ended.value

    def _reply(self, platform: str, step: Send, login: Mapping[str, str]) -> Reply:
        base = f"/{platform}" if not step.up else ""
        headers = {name.lower(): value for name, value in {**login, **step.headers}.items()}
        answer = self._api.answer(Asked(f"{base}{step.path}", headers, step.method, step.body))
        assert isinstance(answer.body, bytes)
        return Reply(answer.status, dict(answer.headers), self._now(), body=answer.body)

    def score(self, extra: Mapping[str, Any]) -> Score:
        """How it stands at the end."""
        counts = truth.counts(self.site, self.at)
        reruns = [act for act in self.site.acts if act.what == "rerun"]
        minutes = sum(_minutes(act.after, self.at) for act in reruns)
        begins, length = self.scene.outage or (0.0, 0.0)
        struck = [act for act in reruns if _is_struck(act)]
        return Score(
            counts["reruns"],
            counts["healed"],
            counts["failed_again"],
            counts["harmed"],
            counts["missed"],
            round(minutes, 1),
            sum(begins <= act.at < begins + length for act in struck),
            extra.get("drained_seconds"),
            extra.get("held", {}),
            extra.get("refused", {}),
        )


def _is_struck(act: Act) -> bool:
    """Whether an act was to heal what an outage of the registry failed."""
    jobs = (*act.attempt.kept, *act.attempt.jobs)
    return any(job.trouble is OUTAGES[0] and job.ending in _FAILING for job in jobs)


def _minutes(attempt: Attempt, until: float) -> float:
    return sum((min(job.finished_at or until, until) - job.started_at) / 60 for job in attempt.jobs if job.began(until))


def rival(scene: Scene, most: int) -> Score:
    """Run again at once whatever fails, up to so many times."""
    place = Place(scene)
    waiting: list[tuple[float, int, Attempt]] = []

    def told() -> Iterator[Happening]:
        for happening in place.world.happenings(scene.hours * 3600):
            while waiting and waiting[0][0] <= happening.at:
                at, _, attempt = heapq.heappop(waiting)
                place.site.rerun(attempt, FAILED, at)
            yield happening

    for n, happening in enumerate(told()):
        attempt, place.at = happening.attempt, happening.at
        if happening.what is What.RUN_FINISHED and attempt.ending in _FAILING and attempt.number <= most:
            heapq.heappush(waiting, (happening.at + _AT_ONCE_SECONDS, n, attempt))
    place.at = scene.hours * 3600
    return place.score({})


class Guard:
    """What ships, beside a world."""

    def __init__(self, scene: Scene, rulebook: Rulebook, limits: Limits, rules: HoldRules) -> None:
        self.place = Place(scene)
        caps = {name: platform.most_reruns for name, platform in PLATFORMS.items()}
        self.acting = Acting(limits, rules, most_reruns=caps, seed=scene.seed)
        self._shards = [Shard(number, rulebook, lambda _digest: rulebook) for number in range(SHARDS)]
        self._fleet = Fleet()
        self._normaliser = Normaliser(Redactor(b"a key of the benchmarks"), bytes)
        self._told: list[list[tuple[int, bytes, bytes]]] = [[] for _ in range(SHARDS)]
        self._positions = [0] * SHARDS
        self._later: list[tuple[float, int, int, Entry]] = []
        self._troubles: dict[tuple[str, str], list[Trouble]] = {}
        self._minutes: dict[str, float] = {}  # that failures took
        self._order = 0
        self._drained_seconds: float | None = None

    def run(self) -> Score:
        """Let the world go by; what came of it."""
        scene, clock = self.place.scene, self.place.clock
        weather = Weather(duplicates=0.03, disorder=0.5)
        posted = deliveries(self._noted(), _SOURCES, clock, weather, seed=scene.seed)
        now = next_beat = _EPOCH
        for delivery in posted:
            while delivery.at >= now + _STEP_SECONDS:
                now += _STEP_SECONDS
                if now >= next_beat:
                    next_beat += _BEAT_SECONDS
                    self._beat(now)
                self._step(now)
            self._post(delivery)
        end = _EPOCH + scene.hours * 3600
        while now < end:
            now += _STEP_SECONDS
            self._beat(now)
            self._step(now)
        return self.place.score(
            {
                "held": dict(self.acting.held),
                "refused": dict(self.acting.refused),
                "drained_seconds": self._drained_seconds,
            }
        )

    def _noted(self) -> Iterator[Happening]:
        """All that happens, with why jobs fail kept for their logs."""
        for happening in self.place.world.happenings(self.place.scene.hours * 3600):
            job = happening.job
            if happening.what is What.JOB_FINISHED and job is not None and job.trouble is not None:
                attempt = happening.attempt
                repository = attempt.run.repository
                number = job.uid if repository.platform == "circleci" else str(job.number)
                if repository.platform == "jenkins":
                    number = f"{repository.full_name}/{attempt.run.workflow.name} {attempt.build}"
                self._troubles.setdefault((repository.source, number), []).append(job.trouble)
            yield happening

    def _post(self, delivery: Delivery) -> None:
        request = Request(dict(delivery.headers), delivery.body, delivery.at, None)
        platform = PLATFORMS[_SOURCES[delivery.source].platform]
        for said in self._normaliser.normalise(delivery.source, platform, delivery.source, request).deliveries:
            for entry, _mark in said.items:
                self._tell(said.shard, delivery.at, entry)
                if entry.kind is Kind.EVENT:
                    self._log(said.shard, delivery, from_json(entry.payload))

    def _log(self, shard: int, delivery: Delivery, event: EventRecord) -> None:
        """What a reader finds in the log of a failed job, some seconds later."""
        if event.event_type is not EventType.FAILED or (event.job_id is None and delivery.source != "jenkins"):
            return
        number = f"{event.repository} {event.pipeline_id}" if event.job_id is None else event.job_id
        troubles = self._troubles.get((delivery.source, number), [])
        lines = [text for trouble in troubles for text in trouble.log]
        evidence = Evidence(
            event_id=event.id,
            instance=event.metadata.instance,
            repository=event.repository,
            pipeline_id=event.pipeline_id,
            workflow_id=event.metadata.workflow_id,
            job_id=event.job_id,
            attempt=event.metadata.attempt,
            reading=Reading.READ if lines else Reading.NO_LOG,
            lines=tuple(Line(n, text, True) for n, text in enumerate(lines, 1)),
            log_lines=len(lines),
            log_bytes=sum(map(len, lines)),
        )
        at = delivery.at + _LOG_SECONDS
        entry = Entry(Kind.EVIDENCE, Encoding.JSON, round(at * 1000), msgspec.json.encode(evidence))
        self._push(at, shard, entry)

    def _push(self, at: float, shard: int, entry: Entry) -> None:
        self._order += 1
        heapq.heappush(self._later, (at, self._order, shard, entry))

    def _tell(self, shard: int, at: float, entry: Entry) -> None:
        self._told[shard].append((round(at * 1000), *encode(entry)))

    def _beat(self, now: float) -> None:
        beat = Entry(Kind.HEARTBEAT, Encoding.JSON, round(now * 1000), b"{}")
        for shard in range(SHARDS):
            self._push(now, shard, beat)

    def _step(self, now: float) -> None:
        """Let the shards judge what was told by `now`, then do what is due."""
        while self._later and self._later[0][0] <= now:
            at, _, shard, entry = heapq.heappop(self._later)
            self._tell(shard, at, entry)
        for shard, told in enumerate(self._told):
            if told:
                self._judge(shard, sorted(told, key=lambda entry: entry[0]))
                told.clear()
        self.place.at = self.place.clock.at(now)
        for due in self.acting.due(now * 1000):
            self._carry_out(due, now)

    def _judge(self, number: int, told: list[tuple[int, bytes, bytes]]) -> None:
        entries = []
        for at_ms, name, value in told:
            self._positions[number] += 1
            entries.append(RawEntry(self._positions[number], at_ms, self._positions[number], (name, value)))
        output = self._shards[number].process(decode(entries))
        for minutes in output.closed:
            for incident in self._fleet.process(minutes):
                self.acting.incident(incident)
        for outcome in output.act_outcomes:
            self.acting.came_of(outcome)
        self._minutes.update({row.failure_id: (row.duration_ms or 0) / 60_000 for row in output.failures})
        for decision in output.decisions:
            self.acting.decided(decision, sum(self._minutes.get(failure, 0.0) for failure in decision.jobs))
        self.acting.ended(told[-1][0], sum(row.completed for row in output.aggregates))

    def _carry_out(self, due: Due, now: float) -> None:
        """As the healer does it (flows/carrying.py), with nobody in between."""
        call, platform = due.call, PLATFORMS[due.call.platform]
        if not call.moves_run:  # a note: nobody reads it here
            self.acting.settled(due, ActState.DONE)
            return
        state = self.place.hold(platform.look(call), call.platform)
        talk = platform.ask(call)
        moved = moved_on(call, state) if isinstance(state, RunState) else Why.PLATFORM_AWAY
        if talk is None or moved is not None:
            self.acting.settled(due, ActState.DROPPED, moved or Why.NO_ACTION)
            return
        result = self.place.hold(talk, call.platform)
        done = isinstance(result, Done)
        self._note_drained(due)
        made = msgspec.to_builtins(result) if done else None
        self.acting.settled(due, ActState.DONE if done else ActState.REFUSED, made=made)
        if done and isinstance(call, RERUNS):
            self._tell_shard(due, now)

    def _note_drained(self, due: Due) -> None:
        """Note when something was run again that waited for the end of the outage."""
        if self.place.scene.outage is None:
            return
        ends = sum(self.place.scene.outage)
        if self.place.clock.at(due.decision.at_ms / 1000) < ends <= self.place.at and due.waited:
            self._drained_seconds = self.place.at - ends

    def _tell_shard(self, due: Due, now: float) -> None:
        row, acted = due.decision, acted_of(due, round(now * 1000))
        entry = Entry(Kind.OUTCOME, Encoding.JSON, round(now * 1000), msgspec.json.encode(acted))
        self._push(now, shard_of(row.instance, row.repository), entry)


RIVALS: Final = {"never": 0, "once": 1, "twice": 2}
"""How often each runs again what fails."""
_SHIPPED: Final = {"guard": compose(policy={"mode": "act", "await_log_seconds": 10, "most_attempts": 2}).body}


def played(scene: Scene, strategy: str, body: Mapping[str, Any] | None) -> Score:
    """What comes of `scene` where that rival heals, or the rulebook `body`."""
    if body is None:
        return rival(scene, RIVALS[strategy])
    return Guard(scene, Rulebook(body), WIDE, HoldRules()).run()


WIDE: Final = Limits(
    repository_per_hour=60,
    fleet_per_hour=4000,
    repository_minutes_per_hour=1e6,
    fleet_minutes_per_hour=1e6,
    least_reruns_per_hour=4000,
)
"""Budgets that are wide enough not to be what is measured."""


def outage_scene(seed: int) -> Scene:
    """Thirty minutes without a registry, over 500 repositories, after two hours in which the fleet learns."""
    return Scene(seed, hours=3.0, repositories=500, pushes_per_hour=1500.0, outage=(7200.0, 1800.0))


def rulebooks(rulebook: str | None, compare: str | None) -> Mapping[str, Mapping[str, Any]]:
    """The bodies of the rulebooks that are played, by the strategy's name.

    Raises:
        ConfigError: there is none of that name, or it is wrong.
    """
    if rulebook is None:
        return _SHIPPED
    named = dict(zip(BOOKS, (rulebook, compare), strict=True))
    return {name: named_rulebook(one, Settings.load({})).body for name, one in named.items() if one is not None}


def main() -> None:
    """Play every scene with every strategy; a line for each, then the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.healing", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, choices=STUDENT)
    parser.add_argument("--hours", type=float, default=6.0)
    parser.add_argument("--outage", action="store_true", help="half an hour without a registry over 500 repositories")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rulebook", help="a settings file, or a rulebook's body (.json), in the place of what ships")
    parser.add_argument("--compare", help="a second one, in the same worlds")
    args = parser.parse_args()
    if args.compare and not args.rulebook:
        parser.error("--compare wants --rulebook")
    bodies = rulebooks(args.rulebook, args.compare)
    scenes = [outage_scene(seed) if args.outage else Scene(seed, args.hours) for seed in range(args.seeds)]
    scores = play(scenes, bodies, args.processes)
    print(table(scores))
    if args.rulebook:
        print(f"\n{differences(scores)}")


def play(scenes: Sequence[Scene], bodies: Mapping[str, Mapping[str, Any]], processes: int) -> dict[str, list[Score]]:
    """What comes of every scene, by strategy; a line is printed for each."""
    strategies: dict[str, Mapping[str, Any] | None] = {**dict.fromkeys(RIVALS), **bodies}
    plays = [(scene, strategy, body) for scene in scenes for strategy, body in strategies.items()]
    scores: dict[str, list[Score]] = {strategy: [] for strategy in strategies}
    with ProcessPoolExecutor(processes) as pool:
        for (scene, strategy, _), score in zip(plays, pool.map(played, *zip(*plays, strict=True)), strict=True):
            scores[strategy].append(score)
            told = {"seed": scene.seed, "strategy": strategy, **score._asdict()}
            print(msgspec.json.encode(told).decode(), flush=True)
    return scores


if __name__ == "__main__":
    main()
