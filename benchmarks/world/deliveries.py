"""From happenings to signed deliveries, with the duplicates, disorder, delay and loss that real senders show."""

from __future__ import annotations

import base64
import hmac
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, Final, Literal

import msgspec

from benchmarks.world import render_circleci, render_github, render_gitlab, render_jenkins
from benchmarks.world.records import Clock, Happening, Message, What
from models.records.event import PlatformName

_RENDER: Final[dict[PlatformName, Callable[[Happening, Clock], list[Message]]]] = {
    "github": render_github.render,
    "gitlab": render_gitlab.render,
    "jenkins": render_jenkins.render,
    "circleci": render_circleci.render,
}


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One source as the receiver knows it: whose webhooks they are, and what proves them."""

    platform: PlatformName
    kind: Literal["signature", "token", "signing_token", "basic", "path"]
    secret: str


@dataclass(frozen=True, slots=True)
class Weather:
    """How badly deliveries travel. Shares are of all deliveries, the rest is wall seconds."""

    duplicates: float = 0.0
    disorder: float = 0.0  # every delivery comes up to this much later than it was due
    delayed: float = 0.0  # share that comes `delay` seconds later still
    delay: float = 10.0
    lost: float = 0.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """One post: due `at` Unix seconds, to `path` behind the receiver's address."""

    at: float
    source: str
    path: str
    id: str
    copy: int  # 0 is the first, others repeat it
    headers: Mapping[str, str]
    body: bytes
    says: Mapping[str, Any]


def deliveries(
    happenings: Iterable[Happening], sources: Mapping[str, Source], clock: Clock, weather: Weather, *, seed: int
) -> Iterator[Delivery]:
    """What is posted of `happenings`, in the order in which it is posted."""
    rng = random.Random(f"weather {seed}")
    waiting: list[tuple[float, int, Delivery]] = []
    order = 0
    for happening in happenings:
        now = clock.seconds(happening.at)
        while waiting and waiting[0][0] <= now:
            yield heappop(waiting)[2]
        name = happening.attempt.run.repository.source
        source = sources[name]
        for message in _RENDER[source.platform](happening, clock):
            for copy, at in enumerate(_travel(now, weather, rng)):
                path, headers = sign(name, source, message, at)
                says = _says(happening, source.platform)
                delivery = Delivery(at, name, path, message.id, copy, headers, message.body, says)
                heappush(waiting, (at, order, delivery))
                order += 1
    while waiting:
        yield heappop(waiting)[2]


def _travel(at: float, weather: Weather, rng: random.Random) -> list[float]:
    """When the copies of a delivery due `at` are posted; none if it is lost. The draws do not depend on each other."""
    lost, late, twice = rng.random(), rng.random(), rng.random()
    times = [at + weather.disorder * rng.random(), at + weather.disorder * rng.random() + 2 * rng.random()]
    if lost < weather.lost:
        return []
    wait = weather.delay if late < weather.delayed else 0.0
    return [time + wait for time in times[: 2 if twice < weather.duplicates else 1]]


def sign(name: str, source: Source, message: Message, at: float) -> tuple[str, dict[str, str]]:
    """Path and headers that prove `message`, posted at `at`, as the platform does it."""
    headers = dict(message.headers)
    secret, path = source.secret.encode(), f"/{name}"
    match source.platform, source.kind:
        # https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
        case "github", "signature":
            headers["x-hub-signature-256"] = f"sha256={_hex(secret, message.body)}"
        case "gitlab", "token":
            headers["x-gitlab-token"] = source.secret
        # https://docs.gitlab.com/user/project/integrations/webhooks/
        case "gitlab", "signing_token":
            stamp = str(int(at))
            key = base64.b64decode(source.secret.removeprefix("whsec_"))
            signed = b".".join((message.id.encode(), stamp.encode(), message.body))
            value = base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
            headers |= {"webhook-id": message.id, "webhook-timestamp": stamp, "webhook-signature": f"v1,{value}"}
        # https://circleci.com/docs/outbound-webhooks/#validate-webhooks
        case "circleci", "signature":
            headers["circleci-signature"] = f"v1={_hex(secret, message.body)}"
        case "jenkins", "signature":  # no plugin signs: what a Jenkinsfile's httpRequest step would send
            headers["x-guard-signature-256"] = f"sha256={_hex(secret, message.body)}"
        case "jenkins", "basic":
            headers["authorization"] = f"Basic {base64.b64encode(secret).decode()}"
        case "jenkins", "path":
            path += f"/{source.secret}"
        case _:
            raise ValueError(f"source {name}: {source.platform} proves nothing by {source.kind}")
    return path, headers


def _hex(secret: bytes, body: bytes) -> str:
    return hmac.digest(secret, body, "sha256").hex()


def _says(happening: Happening, platform: PlatformName) -> dict[str, Any]:
    """What a delivery is about, for the ledger; repository, pipeline and job as the platform names them."""
    attempt, job = happening.attempt, happening.job
    run = attempt.run
    over = happening.what in (What.JOB_FINISHED, What.RUN_FINISHED)
    repository, pipeline, number = run.repository.full_name, str(run.id), None if job is None else str(job.number)
    if platform == "jenkins":  # the build is run and job in one
        repository, pipeline = f"{repository}/{run.workflow.name}", str(attempt.build)
    elif platform == "circleci":
        repository, pipeline, number = f"gh/{repository}", run.uid, None if job is None else job.uid
    return {
        "what": happening.what,
        "repository": repository,
        "pipeline": pipeline,
        "workflow": attempt.uid if platform == "circleci" else None,
        "attempt": attempt.number if platform == "github" else 1,
        "job": number,
        "ending": (job or attempt).ending if over else None,
    }


def truth(happening: Happening) -> dict[str, Any] | None:
    """What is true of a job that ends, or that hangs for good, whatever the webhooks say of it; None for all else."""
    job, attempt = happening.job, happening.attempt
    hangs = happening.what is What.JOB_STARTED and job is not None and job.finished_at is None
    if job is None or not (happening.what is What.JOB_FINISHED or hangs):
        return None
    repository = attempt.run.repository
    names = _says(happening, repository.platform)
    return {name: names[name] for name in ("repository", "pipeline", "workflow", "attempt", "job")} | {
        "source": repository.source,
        "name": job.job.name,
        "commit": attempt.run.commit.sha,
        "execution": attempt.number,
        "ending": job.ending,
        "cause": job.trouble.name if job.trouble else None,
        "kind": job.trouble.kind if job.trouble else None,
        "flaky": job.flaky,
    }
