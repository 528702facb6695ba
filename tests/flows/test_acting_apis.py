"""Who may be asked to do something, and with what: against a server that plays GitHub, or another platform."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks.world.web import Answer, Asked, serving
from connectors.platforms import PLATFORMS
from connectors.platforms.github import GitHub as GitHubFile
from connectors.platforms.past import Undelivered
from flows.acting_apis import Hands, Way, actable, check_rights
from flows.log_apis import readable
from flows.log_reading import Clocks
from flows.settings import Settings
from models.records.calls import Call, Comment, Done, Refusal, Refused, RerunJob, Result, Unavailable
from models.records.errors import ConfigError
from tests.benchmarks.world.apis import CREDENTIALS, Lab, rerun_of
from tests.flows.reconciling import answering

AT = datetime(2026, 4, 1, 10, tzinfo=UTC).timestamp()
ACTS, READS = "canary-that-acts", "canary-that-reads"
PEM = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
RERUN = RerunJob(platform="github", instance="main", repository="acme/shop", pipeline_id="5", job_id="7")
SAID = Comment(
    platform="github", instance="main", repository="acme/shop", pipeline_id="5", body="x", marker="m", pull_request=3
)
APP = {"kind": "app", "app_id": 12345, "value": PEM}
GITHUB: Way = ("github", "main")
GITHUB_FILE = GitHubFile()


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.at = AT

    def now(self) -> float:
        """Unix seconds."""
        return self.at


def settings(url: str, acting: Mapping[str, Any] | None, platform: str = "github", **more: Any) -> Settings:
    api = {"platform": platform, "instance": "main", "url": url, **more}
    if acting is not None:
        api["act_credential"] = dict(acting)
    return Settings.load({}, given={"platforms": {"acme": api}})


def asking(call: Call) -> Any:
    talk = PLATFORMS[call.platform].ask(call)
    assert talk is not None
    return talk


class GitHub:
    """Answers as GitHub does: one App, its installation, and whatever else is asked of it."""

    def __init__(self, other: Callable[[Asked], Answer] = lambda _: Answer(201, b"{}")) -> None:
        self.asked: list[Asked] = []
        self.given = 0
        self.lives_minutes = 60
        self.granted: dict[str, str] = {"actions": "write", "metadata": "read"}
        self.clock = Clock()
        self._other = other

    def answer(self, request: Asked) -> Answer:
        """What it answers to `request`."""
        self.asked.append(request)
        if request.target.endswith("/installation"):
            return _json(200, {"id": 77, "app_slug": "guard", "permissions": self.granted})
        if not request.target.endswith("/access_tokens"):
            return self._other(request)
        wanted = json.loads(request.body)
        if not wanted["permissions"].items() <= self.granted.items():
            return _json(422, {"message": "The permissions requested are not granted to this installation."})
        self.given += 1
        until = datetime.fromtimestamp(self.clock.at + 60 * self.lives_minutes, UTC)
        token = f"ghs_canary{self.given}"
        return _json(
            201,
            {"token": token, "expires_at": until.isoformat(), "permissions": wanted["permissions"], "repositories": []},
        )

    def tokens(self) -> list[str]:
        """What was shown with each request that is not about tokens."""
        rest = [one for one in self.asked if not one.target.endswith(("/installation", "/access_tokens"))]
        return [one.headers["authorization"].removeprefix("Bearer ") for one in rest]


def _json(status: int, body: object) -> Answer:
    return Answer(status, json.dumps(body).encode(), {"content-type": "application/json"})


@asynccontextmanager
async def hands(
    github: GitHub, acting: Mapping[str, Any] = APP, platform: str = "github", **more: Any
) -> AsyncIterator[Hands]:
    """The hands that these settings give, on a server that answers as `github` does."""
    async with serving(github.answer) as port:
        set_up = settings(f"http://127.0.0.1:{port}", acting, platform, **more)
        found = actable(set_up, clocks=Clocks(github.clock.now, github.clock.now))
        one = found[PLATFORMS[platform].name, "main"]
        try:
            yield one
        finally:
            await one.close()


def run(github: GitHub, what: Callable[[Hands], Awaitable[Any]], *about: Any, **more: Any) -> Any:
    async def main() -> Any:
        async with hands(github, *about, **more) as one:
            return await what(one)

    return asyncio.run(main())


def test_where_no_act_credential_is_set_there_are_no_hands() -> None:
    reading: dict[str, Any] = {"read_credential": {"kind": "token", "value": READS}}
    assert actable(settings("https://api.example", None, **reading)) == {}


def test_what_acts_is_not_asked_for_logs_and_what_reads_is_not_asked_to_act() -> None:
    only_acts = settings("https://api.example", {"kind": "token", "value": ACTS})
    assert list(readable(only_acts)) == []
    reading: dict[str, Any] = {"read_credential": {"kind": "token", "value": READS}}
    github = GitHub()
    run(github, lambda one: one.hold(asking(RERUN), "acme/shop"), {"kind": "token", "value": ACTS}, **reading)
    assert github.tokens() == [ACTS]


def test_one_secret_for_both_is_refused_and_not_told() -> None:
    reading: dict[str, Any] = {"read_credential": {"kind": "token", "value": ACTS}}
    with pytest.raises(ConfigError, match=r"platforms\.acme\.act_credential: the same as read_credential") as caught:
        settings("https://api.example", {"kind": "token", "value": ACTS}, **reading)
    assert ACTS not in str(caught.value)


@pytest.mark.parametrize(
    ("acting", "platform", "line"),
    [
        ({"kind": "basic", "value": ACTS}, "github", r"act_credential\.kind: github takes app or token"),
        ({"kind": "app", "app_id": "1", "value": PEM}, "gitlab", r"act_credential\.kind: gitlab takes token"),
        ({"kind": "token", "value": ACTS}, "jenkins", r"act_credential\.kind: jenkins takes basic"),
        ({"kind": "app", "app_id": "1", "value": ACTS}, "github", r"act_credential\.value: the private key"),
        ({"kind": "app", "value": PEM}, "github", r"act_credential\.app_id: must be set where kind is app"),
        ({"kind": "token", "app_id": "1", "value": ACTS}, "github", r"act_credential\.app_id: must be set where kind"),
    ],
)
def test_a_credential_that_could_open_nothing_is_said_with_its_key(
    acting: dict[str, Any], platform: str, line: str
) -> None:
    with pytest.raises(ConfigError, match=line) as caught:
        actable(settings("https://api.example", acting, platform))
    assert ACTS not in str(caught.value)
    assert "PRIVATE KEY" not in str(caught.value)


def test_a_platform_without_one_place_needs_an_address() -> None:
    given = {"acme": {"platform": "jenkins", "instance": "main", "act_credential": {"kind": "basic", "value": "a:b"}}}
    with pytest.raises(ConfigError, match=r"platforms\.acme\.url: must be set"):
        actable(Settings.load({}, given={"platforms": given}))


def test_no_secret_shows_in_what_is_in_force() -> None:
    lines = "\n".join(settings("https://api.example", APP).lines())
    assert 'platforms.acme.act_credential.app_id = "12345"' in lines
    assert "PRIVATE KEY" not in lines


def test_an_app_shows_a_token_for_the_one_repository_and_for_what_is_done() -> None:
    github = GitHub()
    assert run(github, lambda one: one.hold(asking(RERUN), "acme/shop")) == Done(attempt=2)
    (wanted,) = [json.loads(one.body) for one in github.asked if one.target.endswith("/access_tokens")]
    assert wanted == {"repositories": ["shop"], "permissions": {"actions": "write", "metadata": "read"}}
    assert github.tokens() == ["ghs_canary1"]


def test_what_needs_more_is_given_a_token_of_its_own() -> None:
    github = GitHub(lambda asked: _json(200, []) if asked.method == "GET" else _json(201, {"id": 5}))
    github.granted |= {"contents": "read", "pull_requests": "write", "actions": "read"}

    def main(one: Hands) -> Awaitable[Result]:
        return one.hold(asking(SAID), "acme/shop", calls=("comment",))

    assert isinstance(run(github, main), Done)
    (wanted,) = [json.loads(one.body)["permissions"] for one in github.asked if one.target.endswith("/access_tokens")]
    assert wanted == {"actions": "read", "contents": "read", "metadata": "read", "pull_requests": "write"}


def test_a_token_is_used_until_shortly_before_its_end() -> None:
    github = GitHub()

    async def main(one: Hands) -> None:
        for minutes in (0, 54, 1, 30):
            github.clock.at += 60 * minutes
            assert await one.hold(asking(RERUN), "acme/shop") == Done(attempt=2)
        await one.hold(asking(RERUN), "acme/other")

    run(github, main)
    assert github.tokens() == ["ghs_canary1", "ghs_canary1", "ghs_canary2", "ghs_canary2", "ghs_canary3"]


def test_a_token_that_was_withdrawn_is_replaced_the_next_time() -> None:
    gone = {"ghs_canary1"}
    withdrawn: list[bool] = []

    def other(asked: Asked) -> Answer:
        token = asked.headers["authorization"].removeprefix("Bearer ")
        return _json(401, {"message": "Bad credentials"}) if withdrawn and token in gone else Answer(201, b"{}")

    github = GitHub(other)

    async def main(one: Hands) -> list[Any]:
        first = await one.hold(asking(RERUN), "acme/shop")
        withdrawn.append(True)
        return [first, *[await one.hold(asking(RERUN), "acme/shop") for _ in range(2)]]

    done, later, again = run(github, main)
    assert done == again == Done(attempt=2)
    assert later == Unavailable("HTTP 401: Bad credentials: the token was withdrawn")


def test_an_app_that_is_not_installed_or_may_too_little_is_refused_before_anything_is_asked() -> None:
    github = GitHub()
    github.granted = {"actions": "read", "metadata": "read"}
    ended = run(github, lambda one: one.hold(asking(RERUN), "acme/shop"))
    assert isinstance(ended, Refused)
    assert ended.refusal is Refusal.PERMISSION
    assert github.tokens() == []


def test_what_a_token_lacks_is_told_line_by_line() -> None:
    def no(asked: Asked) -> Answer:
        accepted = {"x-accepted-github-permissions": "actions=write"}
        return _json(200, {"workflow_runs": []}) if asked.method == "GET" else Answer(403, b"{}", accepted)

    async def main(one: Hands) -> list[str]:
        repositories: list[Any] = [("github", "main", "acme/shop"), ("gitlab", "other", "acme/shop")]
        return await check_rights({GITHUB: one}, repositories)

    lines = run(GitHub(no), main, {"kind": "token", "value": ACTS})
    assert lines == ["platforms.acme.act_credential: lacks actions=write, in acme/shop"]


def test_what_an_app_lacks_is_told_line_by_line() -> None:
    github = GitHub()
    github.granted = {"actions": "read", "metadata": "read", "pull_requests": "write"}

    def main(one: Hands) -> Awaitable[list[str]]:
        return check_rights({GITHUB: one}, [("github", "main", "acme/shop")], ("rerun", "comment"))

    assert run(github, main) == [
        "platforms.acme.act_credential: lacks actions=write, in acme/shop",
        "platforms.acme.act_credential: lacks contents=read, in acme/shop",
    ]
    github.granted = {"actions": "write", "metadata": "read", "pull_requests": "write", "contents": "write"}
    assert run(github, main) == []


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "the platform does not take it, in acme/shop (HTTP 401)"),
        (404, "there is no such repository, or it does not see it, in acme/shop (HTTP 404)"),
        (302, "the API is somewhere else than platforms.*.url says, in acme/shop (HTTP 302)"),
        (422, "the platform refuses to say what it may do, in acme/shop (HTTP 422)"),
        (500, "nobody knows what it may do in acme/shop: no answer (HTTP 500)"),
    ],
)
def test_a_credential_that_is_not_taken_is_told_in_words(status: int, words: str) -> None:
    def main(one: Hands) -> Awaitable[list[str]]:
        return check_rights({GITHUB: one}, [("github", "main", "acme/shop")])

    lines = run(GitHub(lambda _: Answer(status, b"")), main, {"kind": "token", "value": ACTS})
    assert lines == [f"platforms.acme.act_credential: {words}"]


@pytest.mark.parametrize(
    ("hook", "narrowed"),
    [
        (
            "repos/acme/shop/hooks/1",
            {
                "repositories": ["shop"],
                "permissions": {"actions": "read", "metadata": "read", "repository_hooks": "write"},
            },
        ),
        ("orgs/acme/hooks/1", {"permissions": {"actions": "read", "metadata": "read", "organization_hooks": "write"}}),
        ("app/hook", None),
    ],
)
def test_an_app_sees_to_a_webhook_with_no_more_than_that_needs(hook: str, narrowed: Any) -> None:
    github = GitHub(lambda _: _json(200, []))
    github.granted |= {"actions": "read", "repository_hooks": "write", "organization_hooks": "write"}
    ended = run(github, lambda one: one.hold_hook(GITHUB_FILE.undelivered(hook, "2026-04-01"), hook))
    assert ended == Undelivered([], frozenset())
    wanted = [json.loads(one.body) for one in github.asked if one.target.endswith("/access_tokens")]
    assert wanted == ([] if narrowed is None else [narrowed])
    (shown,) = github.tokens()
    assert shown.count(".") == (2 if narrowed is None else 0), "as itself it shows what it has signed"
    if hook.startswith("orgs"):
        assert github.asked[0].target == "/orgs/acme/installation"


def test_a_token_sees_to_a_webhook_as_it_is() -> None:
    github = GitHub(lambda _: _json(200, []))
    acting = {"kind": "token", "value": ACTS}
    run(github, lambda one: one.hold_hook(GITHUB_FILE.undelivered("app/hook", ""), "app/hook"), acting)
    assert github.tokens() == [ACTS]


def test_an_app_heals_in_the_world_and_is_known_to_be_able_to() -> None:
    lab = Lab(credentials={**CREDENTIALS, "github.act": "nobody", "github.app": "12345"})
    attempt, job = lab.failed("github", kind="flaky")
    call = rerun_of(attempt, job)

    async def main(url: str) -> tuple[Any, list[str]]:
        (one,) = actable(settings(f"{url}/github", APP), clocks=Clocks(lab.now, lab.now)).values()
        try:
            done = await one.hold(asking(call), call.repository)
            return done, await check_rights({GITHUB: one}, [("github", "main", call.repository)])
        finally:
            await one.close()

    with answering(lab) as url:
        assert asyncio.run(main(url)) == (Done(attempt=2), [])
    assert len(lab.site.acts) == 1
