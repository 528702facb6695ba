"""What a credential lacks is known at the start, as far as its platform tells."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from connectors.platforms import PLATFORMS
from connectors.platforms.acting import Send
from connectors.platforms.asking import Reply
from connectors.platforms.calls import circleci, github, gitlab, jenkins
from connectors.platforms.rights import READ, Rights, needed
from models.records.calls import Refusal, Refused, Unavailable
from tests.connectors.platforms.acts import POSSIBLE, TARGETS, calls, hold, says

NEEDS = {"github": github.NEEDS, "gitlab": gitlab.NEEDS, "jenkins": jenkins.NEEDS, "circleci": circleci.NEEDS}
each_platform = pytest.mark.parametrize("platform", sorted(PLATFORMS))


def asked(platform: str, wanted: list[str], answers: dict[str, Reply]) -> Any:
    """How it ended; `answers` are by the end of the path."""

    def answering(step: Send) -> Reply:
        return next(said for end, said in answers.items() if urlsplit(step.path).path.endswith(end))

    held = hold(PLATFORMS[platform].rights(TARGETS[platform]["repository"], wanted), answering)
    assert not held.changes
    return held.ended


@each_platform
def test_what_each_call_needs_is_known(platform: str) -> None:
    for name in POSSIBLE[platform]:
        tag = msgspec.to_builtins(calls(platform)[name])["call"]
        assert needed(NEEDS[platform], [tag])
    assert needed(NEEDS[platform], [READ])
    assert not needed(NEEDS[platform], ["notify"])


@each_platform
@pytest.mark.parametrize(
    ("answer", "ended"),
    [
        (says(401), Refused(Refusal.LOGIN, "HTTP 401")),
        (says(500), Unavailable("HTTP 500")),
        (says(403, retry_after="7"), Unavailable("HTTP 403", 7.0)),
        (says(429, retry_after="7"), Unavailable("HTTP 429", 7.0)),
        (says(301), Refused(Refusal.MOVED, "HTTP 301")),
    ],
    ids=lambda value: getattr(value, "status", None),
)
def test_what_cannot_be_asked_is_no_lack(platform: str, answer: Reply, ended: Any) -> None:
    assert asked(platform, ["rerun_job"], {"": answer}) == ended


def test_a_classic_token_of_github_has_scopes() -> None:
    def lacks(scopes: str, wanted: list[str]) -> tuple[str, ...]:
        missing: tuple[str, ...] = asked("github", wanted, {"": says(200, {}, x_oauth_scopes=scopes)}).missing
        return missing

    assert lacks("repo, read:org", ["rerun", "comment", "open_issue", "reconcile"]) == ()
    assert lacks("read:org", ["rerun"]) == ("repo, for actions=read, actions=write",)
    assert lacks("", []) == ("repo, for actions=read",)


def test_a_fine_grained_token_of_github_is_told_what_it_lacks_by_refusals() -> None:
    no = says(
        403,
        {"message": "Resource not accessible by personal access token"},
        x_accepted_github_permissions="actions=write,checks=read; actions=admin",
    )
    assert asked("github", ["rerun"], {"/cancel": no, "": says(200, {})}).missing == ("actions=write", "checks=read")
    assert asked("github", ["rerun"], {"/cancel": says(404), "": says(200, {})}) == Rights()
    assert asked("github", [], {"": says(200, {})}) == Rights()
    unnamed = asked("github", ["rerun"], {"": says(403, {"message": "Must have admin rights to Repository."})})
    assert unnamed.missing == ("Must have admin rights to Repository.",)
    assert asked("github", ["comment"], {"": says(200, {})}).unproven == ("contents=read", "pull_requests=write")


def _gitlab(wanted: list[str], level: int | None, project: int = 200, **token: Any) -> Rights:
    access = {"project_access": None, "group_access": None if level is None else {"access_level": level}}
    own = says(200, {"name": "guard", "scopes": ["api"], "active": True, "expires_at": "2026-12-31", **token})
    ended = asked("gitlab", wanted, {"/self": own, "": says(project, {"id": 1, "permissions": access})})
    assert isinstance(ended, Rights)
    return ended


def test_a_token_of_gitlab_has_scopes_an_end_and_a_role() -> None:
    assert _gitlab(["rerun_job"], 30) == Rights("guard", (), (), "2026-12-31")
    assert _gitlab(["rerun_job"], 30, scopes=["read_api"]).missing == ("api",)
    assert _gitlab([], None, scopes=["read_api"]).missing == ()
    assert _gitlab(["rerun_job"], 20).missing == ("the role Developer",)
    assert _gitlab(["rerun_job"], None).missing == ("the role Developer",)
    assert _gitlab([], 30, revoked=True).missing == ("a token that is active",)
    assert _gitlab([], 30, project=404).missing == ("to see the project",)


def test_jenkins_tells_only_whether_it_knows_somebody_and_shows_the_job() -> None:
    def ended(who: dict[str, Any], job: int = 200) -> Rights:
        rights = asked("jenkins", ["cancel"], {"/whoAmI/api/json": says(200, who), "": says(job, {})})
        assert isinstance(rights, Rights)
        return rights

    known = {"anonymous": False, "authenticated": True, "name": "guard"}
    assert ended(known) == Rights("guard", (), ("Job/Cancel",))
    assert ended(known, 404).missing == ("Job/Read",)
    assert ended(known, 403).missing == ("Job/Read",)
    assert ended({"anonymous": True, "authenticated": True}).missing == ("a login that Jenkins knows",)


def test_circleci_tells_who_it_is_and_whether_the_project_is_seen() -> None:
    me = says(200, {"login": "guard"})
    rights = asked("circleci", ["rerun"], {"/me": me, "": says(200, {})})
    assert (rights.who, rights.missing, len(rights.unproven)) == ("guard", (), 1)
    assert asked("circleci", [], {"/me": me, "": says(404)}).missing == ("a person who may read the project",)
