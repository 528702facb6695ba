from __future__ import annotations

import base64
from typing import Final

import pytest

from benchmarks.world.deliveries import Delivery, Source, Weather, deliveries
from benchmarks.world.places import settle
from benchmarks.world.records import Clock, Happening
from benchmarks.world.sim import Habits, World

SOURCES: Final = {
    "hub": Source("github", "signature", "secret of the hub"),
    "lab-token": Source("gitlab", "token", "secret of the lab"),
    "lab-signed": Source("gitlab", "signing_token", "whsec_" + base64.b64encode(b"0123456789abcdef" * 2).decode()),
    "butler-basic": Source("jenkins", "basic", "ci:secret of the butler"),
    "butler-path": Source("jenkins", "path", "secret-in-the-path"),
    "butler-signed": Source("jenkins", "signature", "secret of a Jenkinsfile"),
    "circle": Source("circleci", "signature", "secret of the circle"),
}
CALM: Final = Weather()
CLOCK: Final = Clock(1_763_900_000.0, 60.0)


def happen(seed: int = 7, *, seconds: float = 3600.0, salt: str = "") -> list[Happening]:
    repositories = settle({name: source.platform for name, source in SOURCES.items()}, seed=seed, count=28)
    return list(World(repositories, Habits(pushes_per_second=1 / 20), seed=seed, salt=salt).happenings(seconds))


def deliver(happenings: list[Happening], weather: Weather = CALM, seed: int = 7) -> list[Delivery]:
    return list(deliveries(happenings, SOURCES, CLOCK, weather, seed=seed))


@pytest.fixture(scope="session")
def happenings() -> list[Happening]:
    return happen()


@pytest.fixture(scope="session")
def calm(happenings: list[Happening]) -> list[Delivery]:
    return deliver(happenings)
