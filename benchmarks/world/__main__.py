"""Run the world as a process of its own: `python -m benchmarks.world --url http://127.0.0.1:8080/webhooks ...`."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.world import truth
from benchmarks.world.api import LIMITS, Api
from benchmarks.world.deliveries import Source, Weather, deliveries
from benchmarks.world.deliveries import truth as truth_of
from benchmarks.world.faults import FAULTS, Chance
from benchmarks.world.log_server import LogServer, Troubled
from benchmarks.world.places import settle
from benchmarks.world.post import Ledger, Poster
from benchmarks.world.records import Clock, Happening
from benchmarks.world.sim import Habits, Outage, World
from benchmarks.world.site import Site
from benchmarks.world.troubles import OUTAGES
from benchmarks.world.web import serving

_LOGS_LINGER_SECONDS: Final = 3.0  # logs of the last failures can still be read


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.world", description=__doc__)
    add = parser.add_argument
    add("--url", required=True, help="the receiver's address, up to and without the source's name")
    add("--secrets-json", required=True, metavar="FILE", help="sources by name: platform, kind, secret; - is stdin")
    add("--seed", type=int, default=7)
    add("--speed", type=float, default=60.0, help="how many simulated seconds pass in one")
    add("--duration", type=float, default=60.0, help="seconds until it ends")
    add("--rate", type=float, default=2.0, help="pushes per second; each makes 10 to 30 deliveries")
    add("--repositories", type=int, default=48)
    add("--duplicates", type=float, default=0.03, help="share of deliveries that come twice")
    add("--disorder", type=float, default=0.5, help="seconds by which deliveries may overtake each other")
    add("--delayed", type=float, default=0.0, help="share of deliveries that come --delay seconds late")
    add("--delay", type=float, default=10.0)
    add("--lost", type=float, default=0.0, help="share of deliveries that never come")
    add("--ledger", metavar="FILE", help="append what is true and what was answered, as JSON lines")
    add("--connections", type=int, default=32)
    add("--logs-port", type=int, help="serve the platforms' APIs there, and the logs of ended jobs; see api.py")
    add("--logs-json", metavar="FILE", help="the credential that each platform's API wants")
    add("--logs-seconds", type=float, default=0.2, help="how late each answer comes")
    add("--logs-faults", type=float, default=0.0, help="share of answers with logs that are faults")
    add("--api-faults", type=float, default=0.0, help="share of all other answers that are faults")
    add("--api-fault-kinds", default="", help=f"which, by commas: {', '.join(FAULTS)}; all, if none is named")
    add("--api-limit", action="append", default=[], metavar="PLATFORM=REQUESTS/SECONDS", help="another rate limit")
    add(
        "--outage", action="append", default=[], metavar="NAME:FROM:SECONDS", help="in the world's time; no others come"
    )
    add("--truth", metavar="FILE", help="write what was true, and what was done about it, as JSON lines at the end")
    return parser.parse_args(argv)


def read_sources(where: str) -> dict[str, Source]:
    """The sources written in the JSON file `where`, or on standard input."""
    text = sys.stdin.read() if where == "-" else Path(where).read_text("utf-8")
    return msgspec.json.decode(text, type=dict[str, Source])


def _told(happenings: Iterator[Happening], ledger: Ledger, api: Api | None) -> Iterator[Happening]:
    for happening in happenings:
        if api is not None:
            api.remember(happening)
        true = truth_of(happening)
        if true is not None:
            ledger.write("truth", true)
        yield happening


def _api(args: argparse.Namespace, world: World, clock: Clock, poster: Poster) -> Api:
    credentials = msgspec.json.decode(Path(args.logs_json).read_bytes(), type=dict[str, str])
    logs = LogServer(clock, credentials, Troubled(args.logs_seconds, args.logs_faults), seed=args.seed)
    logs.origin = f"http://127.0.0.1:{args.logs_port}"
    kinds = tuple(kind for kind in args.api_fault_kinds.split(",") if kind)
    limits = {**LIMITS, **dict(map(_limit, args.api_limit))}
    site = Site(world, clock, poster.posted, poster.again)
    return Api(site, logs, credentials, Chance(args.api_faults, kinds, seed=args.seed), limits=limits)


def _limit(text: str) -> tuple[str, tuple[int, float]]:
    platform, _, rest = text.partition("=")
    requests, _, seconds = rest.partition("/")
    return platform, (int(requests), float(seconds))


def _outage(text: str) -> Outage:
    name, begins, seconds = text.split(":")
    trouble = next(one for one in OUTAGES if one.name == name)
    return Outage(float(begins), float(begins) + float(seconds), trouble)


def _write_truth(where: str, site: Site, at: float) -> None:
    lines = [*truth.failures(site, at), *truth.acts(site), {"record": "counts", **truth.counts(site, at)}]
    lines += [{"record": "invalid_request", "request": request} for request in site.invalid]
    Path(where).write_bytes(msgspec.json.Encoder().encode_lines(lines))


async def _run(args: argparse.Namespace, ledger: Ledger) -> dict[str, object]:
    sources = read_sources(args.secrets_json)
    began = time.time()
    repositories = settle({n: s.platform for n, s in sources.items()}, seed=args.seed, count=args.repositories)
    habits = Habits(pushes_per_second=args.rate / args.speed)
    outages = sorted(map(_outage, args.outage))
    world = World(repositories, habits, seed=args.seed, salt=f"{began:.3f}", outages=outages)
    weather = Weather(args.duplicates, args.disorder, args.delayed, args.delay, args.lost)
    clock = Clock(began, args.speed)
    poster = Poster(args.url, ledger, connections=args.connections)
    api = _api(args, world, clock, poster) if args.logs_port else None
    happenings = _told(world.happenings(args.duration * args.speed), ledger, api)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    due = deliveries(happenings, sources, clock, weather, seed=args.seed)
    async with serving(api.answer, port=args.logs_port) if api else nullcontext():
        await poster.post_all(due, stop)
        if api is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _LOGS_LINGER_SECONDS)
    if api is not None and args.truth:
        _write_truth(args.truth, api.site, clock.at(time.time()))
    return {
        "seed": args.seed,
        "seconds": round(time.time() - began, 1),
        "deliveries": poster.statuses.total(),
        "statuses": {str(status): n for status, n in sorted(poster.statuses.items())},
        **({"truth": truth.counts(api.site, clock.at(time.time())), "faults": dict(api.faults)} if api else {}),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Post the world's webhooks until the time is up or a signal comes; say in one JSON line what was answered."""
    args = _arguments(argv)
    with ExitStack() as stack:
        file = stack.enter_context(Path(args.ledger).open("a", encoding="utf-8")) if args.ledger else None
        print(msgspec.json.encode(asyncio.run(_run(args, Ledger(file)))).decode())


if __name__ == "__main__":
    main()
