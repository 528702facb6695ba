"""What is Jenkins' own in acting."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.platforms.acting import Send
from connectors.platforms.asking import Reply
from connectors.platforms.jenkins import Jenkins
from models.records.calls import Ambiguous, Done, Refusal, Refused, RunState, Unavailable
from models.records.event import Outcome
from tests.connectors.platforms.acts import NEWER, SHA, all_well, at_the_effect, calls, hold, jenkins_build, says

CALLS = calls("jenkins")
WELL = all_well("jenkins")
JOB = "/job/acme/job/shop/job/feature%252Fx"
BACK = says(302, location=f"https://ci.example{JOB}/")


def acted(name: str, answering: Any) -> Any:
    talk = Jenkins().ask(CALLS[name])
    assert talk is not None
    return hold(talk, answering)


def test_a_build_is_run_again_as_it_was() -> None:
    held = acted("rerun_failed", WELL)
    assert [step.path for step in held.sent] == [f"{JOB}/45/replay/rebuild"]


@pytest.mark.parametrize(
    ("location", "ended"),
    [
        (f"https://ci.example{JOB}/", Done()),
        (f"https://ci.example/jenkins{JOB}", Done()),
        ("../..", Done()),
        (
            "https://ci.example/login?from=%2Fjob%2Facme",
            Refused(Refusal.LOGIN, "HTTP 302: sent to the login page"),
        ),
        ("/securityRealm/commenceLogin", Refused(Refusal.LOGIN, "HTTP 302: sent to the login page")),
        ("https://ci.example/job/other/", Refused(Refusal.MOVED, "HTTP 302")),
        (f"https://ci.example{JOB}-2/", Refused(Refusal.MOVED, "HTTP 302")),
        ("http://[::1", Refused(Refusal.MOVED, "HTTP 302")),
    ],
)
def test_where_an_answer_leads_says_what_happened(location: str, ended: Any) -> None:
    for name in ("rerun", "cancel", "clear_caches"):
        assert acted(name, lambda _: says(302, location=location)).ended == ended


def test_a_page_in_place_of_a_redirect_is_ambiguous() -> None:
    assert isinstance(acted("cancel", lambda _: says(200, b"<html>")).ended, Ambiguous)
    assert isinstance(acted("cancel", lambda _: says(302)).ended, Ambiguous)


NO_CRUMB = says(403, b"<html><title>Error 403 No valid crumb was included in the request</title></html>")


def test_with_a_password_a_crumb_and_its_cookie_are_fetched_and_sent() -> None:
    crumb = {"crumbRequestField": "Jenkins-Crumb", "crumb": "f00"}

    def answering(step: Send) -> Reply:
        if step.method == "GET":
            return says(200, crumb, set_cookie="JSESSIONID.1=node0; Path=/; HttpOnly")
        return BACK if step.headers.get("jenkins-crumb") == "f00" else NO_CRUMB

    held = acted("rerun", answering)
    assert held.ended == Done()
    assert [step.path for step in held.sent] == [f"{JOB}/45/replay/rebuild", "/crumbIssuer/api/json", held.sent[0].path]
    assert held.sent[-1].headers == {"jenkins-crumb": "f00", "cookie": "JSESSIONID.1=node0"}


@pytest.mark.parametrize(
    ("crumb", "kind"),
    [
        (says(404), Refused),
        (says(500), Unavailable),
        (says(200, {}), Unavailable),
        (says(200, {"crumbRequestField": "a b", "crumb": "x\r\ny"}), Unavailable),
    ],
)
def test_without_a_crumb_nothing_is_done(crumb: Reply, kind: type) -> None:
    held = acted("rerun", lambda step: crumb if step.method == "GET" else NO_CRUMB)
    assert isinstance(held.ended, kind)
    assert len(held.changes) == 1


def test_a_crumb_is_fetched_once() -> None:
    crumb = says(200, {"crumbRequestField": "Jenkins-Crumb", "crumb": "old"})
    held = acted("rerun", lambda step: crumb if step.method == "GET" else NO_CRUMB)
    assert held.ended == Refused(Refusal.PERMISSION, "HTTP 403")
    assert len(held.sent) == 3


def _freestyle(parameters: list[dict[str, Any]], location: str) -> Any:
    def answering(step: Send) -> Reply:
        if step.method == "GET":
            return says(200, {"actions": [{}, {"parameters": parameters}] if parameters else [{}]})
        return says(404) if "/replay/" in step.path else says(201, location=location)

    return acted("rerun", answering)


def test_what_is_no_pipeline_is_built_anew_with_its_parameters() -> None:
    held = _freestyle([{"name": "ENV", "value": "a b"}, {"name": "DRY", "value": True}], "https://ci/queue/item/81/")
    assert held.ended == Done(reference="81")
    assert held.sent[-1].path == f"{JOB}/buildWithParameters"
    assert held.sent[-1].body == b"ENV=a+b&DRY=true"
    plain = _freestyle([], "/queue/item/82/")
    assert (plain.ended, plain.sent[-1].path) == (Done(reference="82"), f"{JOB}/build")


def test_a_hidden_parameter_cannot_be_given_again() -> None:
    held = _freestyle([{"name": "PASSWORD"}], "/queue/item/1/")
    assert held.ended == Refused(Refusal.IMPOSSIBLE, "a parameter does not show its value")
    assert len(held.changes) == 1


def test_a_queue_that_does_not_take_it_is_a_matter_of_state() -> None:
    assert _freestyle([], ".").ended.refusal is Refusal.STATE


def test_a_build_that_resists_is_stopped_by_force() -> None:
    assert acted("force_cancel", WELL).sent[0].path.endswith("/45/term")
    assert acted("cancel", WELL).sent[0].path.endswith("/45/stop")


def test_a_job_that_is_not_buildable_is_a_matter_of_state() -> None:
    assert acted("rerun", at_the_effect("jenkins", says(409))).ended == Refused(Refusal.STATE, "HTTP 409")


def look(*builds: dict[str, Any], **job: Any) -> RunState:
    def answering(step: Send) -> Reply:
        ours = "/45/" in step.path
        return says(200, jenkins_build() if ours else {"inQueue": False, "builds": list(builds), **job})

    state = hold(Jenkins().look(CALLS["rerun"]), answering).ended
    assert isinstance(state, RunState)
    return state


def _revision(sha: str, branch: str = "origin/main") -> dict[str, Any]:
    return {"lastBuiltRevision": {"SHA1": sha, "branch": [{"name": branch}]}}


def test_a_rebuild_is_a_newer_build_of_the_commit_or_one_that_says_so() -> None:
    replay = {"_class": "org.jenkinsci.plugins.workflow.cps.replay.ReplayCause", "shortDescription": "Replayed #45"}
    young = jenkins_build(47, building=True, result=None, actions=[{"causes": [{"userId": "bot"}, replay]}])
    state = look(young, jenkins_build(46), jenkins_build())
    assert (state.outcome, state.attempt, state.successor, state.by) == (Outcome.RUNNING, 3, "47", "bot")
    other = {**replay, "shortDescription": "Replayed #4"}
    assert look(jenkins_build(47, actions=[{"causes": [other]}])).successor is None


def test_a_rebuild_that_still_waits_in_the_queue_is_one() -> None:
    state = look(jenkins_build(), inQueue=True, queueItem={"id": 81})
    assert (state.outcome, state.successor, state.attempt) == (Outcome.QUEUED, "queue 81", 2)


def test_a_newer_build_of_another_commit_of_the_branch_overtakes() -> None:
    assert look(jenkins_build(46, actions=[_revision(NEWER)])).overtaken
    assert not look(jenkins_build(46, actions=[_revision(NEWER, "origin/else")])).overtaken
    assert not look(jenkins_build(44, actions=[_revision(NEWER)])).overtaken
    assert look(jenkins_build(46)).head_sha == SHA
