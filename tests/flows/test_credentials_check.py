"""guard check --credentials: what the credentials lack, in words, and never the credentials."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from flows.acting_apis import actable
from flows.credentials_check import warn
from flows.settings import Settings
from tests.benchmarks.world.apis import Lab
from tests.flows.conftest import Guard
from tests.flows.reconciling import answering


@pytest.fixture
def lab() -> Lab:
    made = Lab()
    made.go_on(6000)
    return made


@pytest.fixture
def path(lab: Lab, tmp_path: Path) -> Iterator[Path]:
    """Settings that name one repository of the lab's GitHub and of its GitLab."""
    names = {one.platform: one.full_name for one in lab.world.runs}
    with answering(lab) as url:
        text = ""
        for platform, reads in (("github", "hub"), ("gitlab", "lab")):
            text += (
                f'[platforms.{platform}]\nplatform = "{platform}"\ninstance = "main"\nurl = "{url}/{platform}"\n'
                f'read_credential = {{ kind = "token", value = "{reads}" }}\n'
                f'act_credential = {{ kind = "token", value = "canary-{platform}" }}\n'
                f'repositories = ["{names[platform]}"]\n'  # type: ignore[index] # one of them
            )
        written = tmp_path / "guard.toml"
        written.write_text(text)
        yield written


def test_what_may_do_what_it_is_for_is_ok(guard: Guard, path: Path, lab: Lab) -> None:
    lab.credentials |= {"github.act": "canary-github", "gitlab.act": "canary-gitlab"}
    said = guard("--settings", path, "check", "--credentials")
    own = [line for line in said.lines if "credentials:" in line]
    assert [line.partition(" will do in ")[0] for line in own] == [
        "ok  credentials: platforms.github.read_credential:",
        "ok  credentials: platforms.github.act_credential:",
        "ok  credentials: platforms.gitlab.read_credential:",
        "ok  credentials: platforms.gitlab.act_credential:",
    ]
    assert "canary" not in said.out + said.err


def test_what_may_not_is_not(guard: Guard, path: Path, lab: Lab) -> None:
    lab.credentials |= {"gitlab.act": "canary-gitlab"}
    said = guard("--settings", path, "check", "--credentials")
    assert said.status == 1
    (line,) = [line for line in said.lines if line.startswith("NOT OK  credentials")]
    assert line.startswith("NOT OK  credentials: platforms.github.act_credential: the platform does not take it, in ")
    assert "canary" not in said.out + said.err


def test_nothing_is_asked_where_nobody_wants_to_know(guard: Guard, path: Path) -> None:
    assert not [line for line in guard("--settings", path, "check").lines if "credentials:" in line]


def test_where_nothing_could_be_asked_about_is_said(guard: Guard, tmp_path: Path) -> None:
    settings = tmp_path / "guard.toml"
    settings.write_text('[platforms.x]\nplatform = "gitlab"\ninstance = "main"\n')
    said = guard("--settings", settings, "check", "--credentials")
    assert "ok  credentials: platforms.x: no repository to ask about" in said.lines
    assert "ok  credentials: platforms.x: no act_credential: nothing is ever done there" in said.lines


def test_a_healer_says_at_its_start_what_is_missing(path: Path, lab: Lab) -> None:
    lab.credentials |= {"gitlab.act": "canary-gitlab"}
    settings = Settings.load({}, path=path)

    async def main() -> None:
        hands = actable(settings)
        try:
            await warn(settings, hands)
        finally:
            for one in hands.values():
                await one.close()

    with capture_logs() as said:
        asyncio.run(main())
    (record,) = said
    assert record["event"] == "a credential lacks something"
    assert record["what"].startswith("platforms.github.act_credential: the platform does not take it, in ")
