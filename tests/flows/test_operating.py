"""The operator API on a real database: what it answers, and what the audit has of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import UUID, uuid4

import httpx2
import pytest

from connectors.postgres import connect
from flows.operating import operator_app
from flows.settings import Settings
from flows.stopping import Switch
from models.records.event import uuid5_text
from tests.connectors.proposed import propose
from tests.flows.switched import comes, watching

TOKEN = "0123456789abcdef"
NOWHERE = "postgresql://nobody@127.0.0.1:1/none"


def settings(url: str, path: Path | None = None) -> Settings:
    environ = {
        "GUARD_POSTGRES__URL": url,
        "GUARD_ACT__PEOPLE__ANN__TOKEN": TOKEN,
        "GUARD_ACT__PEOPLE__ANN__ROLE": "operator",
    }
    return Settings.load(environ | ({"GUARD_ACT__STOP_FILE": str(path)} if path else {}))


class Site:
    """A healer's API, and its switch."""

    def __init__(self, url: str, path: Path | None = None) -> None:
        set_up = settings(url, path)
        self.switch = Switch(path, url, healer="one")
        transport = httpx2.ASGITransport(app=operator_app(set_up, self.switch))
        self._client = httpx2.AsyncClient(
            transport=transport, base_url="http://guard", headers={"authorization": f"Bearer {TOKEN}"}
        )

    async def post(self, path: str, **said: object) -> tuple[int, dict[str, object]]:
        """Status and body of the answer."""
        answer = await self._client.post(path, json=said)
        return answer.status_code, answer.json()

    async def get(self, path: str) -> tuple[int, dict[str, object]]:
        """Status and body of the answer."""
        answer = await self._client.get(path)
        return answer.status_code, answer.json()


def audit(url: str) -> list[tuple[str, str, str]]:
    with connect(url) as connection:
        return connection.execute("SELECT actor, what, detail ->> 'via' FROM guard.audit ORDER BY audit_id").fetchall()


def test_proposals_are_listed_approved_and_rejected_in_the_name_of_the_token(database: str) -> None:
    with connect(database) as connection:
        ids = [propose(connection, number, signature="dns_failure") for number in range(3)]

    async def run() -> None:
        site = Site(database)
        status, listed = await site.get("/v1/proposals")
        assert (status, len(listed["proposals"])) == (200, 3)  # type: ignore[arg-type]
        case_id = uuid5_text("case", "0")
        assert (await site.post(f"/v1/proposals/{case_id}/approve"))[0] == 200
        status, said = await site.post(f"/v1/proposals/{ids[0]}/reject", why="x")
        assert (status, said["status"], said["by"]) == (409, "answered", "ann")
        assert (await site.post(f"/v1/proposals/{ids[1]}/reject", why="a bug"))[0] == 200
        assert (await site.post(f"/v1/proposals/{ids[2]}/always", lasts="soon"))[0] == 422
        assert (await site.post(f"/v1/proposals/{ids[2]}/always", lasts="30d", why="as ever"))[0] == 200
        assert (await site.post(f"/v1/proposals/{uuid4()}/approve"))[0] == 404
        assert (await site.get("/v1/proposals"))[1]["proposals"] == []

    asyncio.run(run())
    assert audit(database) == [("ann", what, "the API") for what in ("approve", "reject", "approve", "always")]


def test_a_fork_is_not_approved_for_good(database: str) -> None:
    with connect(database) as connection:
        about = propose(connection, 1, signature="dns_failure", reason="fork_needs_approval")

    async def run() -> None:
        status, said = await Site(database).post(f"/v1/proposals/{about}/always")
        assert (status, said["status"]) == (422, "never_always")

    asyncio.run(run())


def test_pause_and_resume(database: str, tmp_path: Path) -> None:
    async def run() -> None:
        site = Site(database, tmp_path / "stop")
        async with watching(site.switch) as switch:
            await comes(lambda: switch.stopped() is None)
            status, said = await site.post("/v1/pause", why="enough")
            reached = ["this healer", f"the file {tmp_path / 'stop'}", "the database"]
            assert (status, said) == (200, {"status": "paused", "reached": reached, "missed": {}})
            assert switch.stopped() is not None
            status, said = await site.post("/v1/resume", why="mended")
            assert (status, said["status"]) == (200, "resumed")
            await comes(lambda: switch.stopped() is None)

    asyncio.run(run())
    assert audit(database) == [("ann", "stop", "the API"), ("ann", "go", "the API")]


def test_pause_works_with_the_database_away_and_resume_does_not() -> None:
    async def run() -> None:
        site = Site(NOWHERE)
        status, said = await site.post("/v1/pause", why="enough")
        assert (status, said["reached"], list(said["missed"])) == (200, ["this healer"], ["the database"])  # type: ignore[call-overload]
        stopped = site.switch.stopped()
        assert stopped is not None
        assert (stopped.by, stopped.why, stopped.where) == ("ann", "enough", "process")
        status, said = await site.post("/v1/resume")
        assert (status, said["status"]) == (503, "still_paused")
        assert site.switch.stopped() == stopped
        assert (await site.get("/v1/proposals"))[0] == 503

    asyncio.run(run())


@pytest.mark.parametrize("about", [UUID(int=0)])
def test_settings_without_people_let_nobody_in(database: str, about: UUID) -> None:
    app = operator_app(Settings.load({"GUARD_POSTGRES__URL": database}), Switch(None, database, healer="one"))

    async def run() -> int:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://guard") as client:
            answer = await client.post(f"/v1/proposals/{about}/approve", headers={"authorization": f"Bearer {TOKEN}"})
            return answer.status_code

    assert asyncio.run(run()) == 401
