"""The APIs of the world behave as the platforms do, and what is asked of them happens."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks.world import truth
from benchmarks.world.deliveries import Delivery
from benchmarks.world.faults import FAULTS
from benchmarks.world.post import Posted
from benchmarks.world.records import Ending, What
from benchmarks.world.sim import ALL, Habits, Outage
from benchmarks.world.troubles import OUTAGES
from benchmarks.world.web import Asked
from connectors.platforms import PLATFORMS, github_app
from connectors.platforms.acting import Send
from connectors.platforms.asking import Reply
from connectors.platforms.calls import github_past as github
from connectors.platforms.github import GitHub
from connectors.platforms.past import Hook
from connectors.platforms.rights import Rights
from models.records.calls import (
    Ambiguous,
    Cancel,
    ClearCaches,
    Comment,
    Done,
    OpenIssue,
    Refusal,
    Refused,
    Rerun,
    RerunFailed,
    RerunJob,
    Unavailable,
)
from models.records.event import FAILING, OPEN, Outcome
from tests.benchmarks.world.apis import CREDENTIALS, Lab, about, rerun_of
from tests.connectors.platforms.acts import hold
from tests.connectors.platforms.calls import description

each_platform = pytest.mark.parametrize("platform", sorted(PLATFORMS))


@each_platform
def test_a_flaky_run_that_is_run_again_runs_is_told_and_counted(platform: str) -> None:
    lab = Lab()
    attempt, job = lab.failed(platform, kind="flaky")
    call = rerun_of(attempt, job)
    before = lab.look(call)
    assert (before.outcome in FAILING, before.successor) == (True, None)
    assert before.commit_sha == attempt.run.commit.sha
    assert isinstance(lab.act(call), Done)
    after = lab.look(call)
    assert after.successor not in (None, before.successor)
    assert after.attempt == 2
    assert after.outcome in OPEN
    told = [h for h in lab.go_on(4000) if h.attempt.run is attempt.run]
    assert {What.RUN_QUEUED, What.RUN_STARTED, What.JOB_STARTED, What.RUN_FINISHED} <= {h.what for h in told}
    ended = lab.world.attempts[attempt.run.id][-1]
    assert (lab.look(call).outcome is Outcome.PASSED) is (ended.ending is Ending.PASSED)
    counts = truth.counts(lab.site, lab.at)
    assert counts["reruns"] == 1
    assert counts["healed"] + counts["failed_again"] == 1
    assert (counts["harmed"], counts["twice"], counts["invalid_requests"]) == (0, 0, 0)


@each_platform
def test_what_the_commit_breaks_fails_again_and_is_harm(platform: str) -> None:
    lab = Lab()
    attempt, job = lab.failed(platform, kind="real")
    assert isinstance(lab.act(rerun_of(attempt, job)), Done)
    lab.go_on(6000)
    again = lab.world.attempts[attempt.run.id][1]
    assert next(one for one in again.jobs if one.job is job.job).trouble is job.trouble
    counts = truth.counts(lab.site, lab.at)
    assert (counts["harmed"], counts["healed"]) == (1, 0)


@each_platform
def test_what_hangs_can_be_stopped_and_that_is_told(platform: str) -> None:
    lab = Lab(habits=Habits(pushes_per_second=1 / 20, hangs=0.3, reruns=0.0))
    attempt, job = lab.hanging(platform)
    call = Cancel(**about(attempt))
    assert lab.look(call).outcome is Outcome.RUNNING
    assert isinstance(lab.act(call), Done)
    told = [h for h in lab.go_on(60) if h.attempt.run is attempt.run]
    assert [h.job.ending for h in told if h.job and h.job.number == job.number] == [Ending.CANCELLED]
    assert [h.attempt.ending for h in told if h.what is What.RUN_FINISHED] != []
    assert lab.look(call).outcome not in OPEN
    assert truth.counts(lab.site, lab.at)["harmed"] == 0


@pytest.mark.parametrize("platform", ["gitlab", "circleci"])
def test_one_job_can_be_stopped(platform: str) -> None:
    lab = Lab(habits=Habits(pushes_per_second=1 / 20, hangs=0.3, reruns=0.0))
    attempt, job = lab.hanging(platform)
    assert isinstance(lab.act(Cancel(**about(attempt, job))), Done)
    told = [h for h in lab.go_on(60) if h.job is not None and h.job.number == job.number]
    assert [h.job.ending for h in told if h.job] == [Ending.CANCELLED]


def test_what_goes_on_cannot_be_run_again_on_github() -> None:
    lab = Lab()
    attempt, job = lab.failed("github", kind="flaky")
    call = rerun_of(attempt, job)
    lab.act(call)
    assert lab.act(call) == Refused(Refusal.STATE, "HTTP 403: This workflow is already running")
    assert lab.act(Cancel(**about(attempt))) == Done()
    lab.go_on(60)
    assert lab.act(Cancel(**about(attempt))).refusal is Refusal.STATE


def test_the_fifty_first_rerun_is_taken_and_runs_nothing() -> None:
    lab = Lab()
    attempt, _ = lab.failed("github")
    call = Rerun(**about(attempt))
    for number in range(52):
        assert lab.act(call) == Done(attempt=2), number
        lab.go_on(6000)
        while not lab.world.attempts[attempt.run.id][-1].ended(lab.at):
            lab.act(Cancel(**about(attempt)))
            lab.go_on(60)
    assert len(lab.world.attempts[attempt.run.id]) == 51
    assert lab.look(call).attempt == GitHub.most_reruns + 1 if GitHub.most_reruns else False


def test_a_job_of_gitlab_is_retried_once_while_others_run_and_gets_a_new_id() -> None:
    lab = Lab()
    attempt, job = lab.failed("gitlab", kind="flaky")
    call = RerunJob(**about(attempt, job))
    done = lab.act(call)
    assert done.job_id not in (None, str(job.number))
    assert lab.act(call).refusal is Refusal.STATE
    assert lab.look(call).successor == done.job_id


def test_a_job_of_a_pipeline_that_goes_on_can_be_retried_and_the_pipeline_ends_once() -> None:
    lab = Lab(habits=Habits(pushes_per_second=1 / 5, breaks=0.9, reruns=0.0, mends=0.0))
    for _ in range(400):
        lab.go_on(15)
        going_on = [
            (attempts[0], job)
            for attempts in lab.world.attempts.values()
            for job in attempts[0].jobs
            if attempts[0].run.repository.platform == "gitlab"
            and len(attempts) == 1
            and job.ended(lab.at)
            and job.ending is Ending.FAILED
            and not attempts[0].ended(lab.at)
            and attempts[0].finished_at is not None
        ]
        if going_on:
            break
    attempt, job = going_on[0]
    assert isinstance(lab.act(RerunJob(**about(attempt, job))), Done)
    told = [h for h in lab.go_on(8000) if h.attempt.run is attempt.run]
    assert [h.what for h in told].count(What.RUN_FINISHED) == 1
    ends = [h.job.number for h in told if h.what is What.JOB_FINISHED and h.job]
    assert len(ends) == len(set(ends))


def test_a_rerun_of_a_workflow_has_a_new_id_and_only_one_of_each_can_be_asked_for() -> None:
    lab = Lab()
    attempt, job = lab.failed("circleci", kind="flaky")
    call = rerun_of(attempt, job)
    done = lab.act(call)
    assert done.workflow_id == lab.look(call).successor
    assert lab.act(call).refusal is Refusal.STATE


def test_jenkins_wants_a_crumb_of_whoever_comes_with_a_password() -> None:
    lab = Lab(credentials={**CREDENTIALS, "jenkins.password": "ada:secret"})
    attempt, job = lab.failed("jenkins", kind="flaky")
    held = lab.hold("jenkins", PLATFORMS["jenkins"].ask(rerun_of(attempt, job)), credential="ada:secret")
    assert held.ended == Done()
    assert [step.path.rpartition("/")[2] for step in held.sent] == ["rebuild", "json", "rebuild"]
    assert len(lab.site.acts) == 1


@each_platform
def test_only_the_right_credential_opens_and_a_reader_changes_nothing(platform: str) -> None:
    lab = Lab(credentials={**CREDENTIALS, f"{platform}.act": "doer:x"})
    attempt, job = lab.failed(platform, kind="flaky")
    call = rerun_of(attempt, job)
    assert lab.look(call).outcome in FAILING
    assert lab.act(call).refusal is Refusal.PERMISSION
    assert lab.act(call, credential="no:one").refusal is Refusal.LOGIN
    assert not lab.site.acts
    assert isinstance(lab.act(call, credential="doer:x"), Done)


@pytest.mark.parametrize("platform", ["github", "gitlab", "circleci"])
def test_too_many_requests_are_turned_away_and_told_when_to_come_again(platform: str) -> None:
    lab = Lab(limits={platform: (2, 60.0)})
    attempt, job = lab.failed(platform, kind="flaky")
    call = rerun_of(attempt, job)
    for _ in range(2):
        lab.ask(platform, Send("GET", "/nothing"))
    ended = lab.act(call)
    assert isinstance(ended, Unavailable)
    assert ended.retry_after is not None
    assert 0 < ended.retry_after <= 60
    lab.go_on(61 * lab.clock.speed)
    assert isinstance(lab.act(call), Done)


def test_jenkins_takes_what_comes() -> None:
    lab = Lab(limits={})
    attempt, job = lab.failed("jenkins", kind="flaky")
    assert isinstance(lab.act(rerun_of(attempt, job)), Done)


@each_platform
def test_what_no_platform_has_is_turned_away_and_counted(platform: str) -> None:
    lab = Lab()
    attempt, job = lab.failed(platform, kind="flaky")
    sent = lab.hold(platform, PLATFORMS[platform].ask(rerun_of(attempt, job))).sent[0]
    for wrong, status in (
        (Send("POST", "/no/such/thing"), 404),
        (replace(sent, method="PUT"), 404),
        (replace(sent, path=sent.path + "?x=1"), 422),
        (replace(sent, body=b'{"x": 1}', headers={"content-type": "application/json"}), 422),
        (replace(sent, body=b"[1]", headers={"content-type": "application/json"}), 422),
    ):
        said = lab.ask(platform, wrong)
        assert isinstance(said, Reply)
        assert said.status == status
    assert truth.counts(lab.site, lab.at)["invalid_requests"] == 5
    assert len(lab.site.acts) == 1


@pytest.mark.parametrize("platform", ["github", "gitlab"])
def test_what_is_said_is_found_again_and_said_once(platform: str) -> None:
    lab = Lab()
    attempt, _ = lab.failed(platform)
    run = about(attempt)
    comment = Comment(**run, body="It was the registry.", marker="guard:1", commit_sha=attempt.run.commit.sha)
    below = Comment(**run, body="It was the registry.", marker="guard:1", pull_request=3)
    issue = OpenIssue(**run, title="Flaky", body="Once.", marker="guard:2", labels=("flaky",))
    for call in (comment, below, issue):
        first, second = lab.act(call), lab.act(call)
        assert isinstance(first, Done)
        assert (first.already, second.already) == (False, True)
        assert first.reference == second.reference
    assert isinstance(lab.act(ClearCaches(**run)), Done)
    assert not lab.site.invalid


@pytest.mark.parametrize("kind", sorted(FAULTS))
def test_a_fault_is_read_for_what_it_is_and_the_world_knows_whether_it_was_done(kind: str) -> None:
    lab = Lab(faults=1.0, kinds=(kind,))
    attempt, job = lab.failed("gitlab", kind="flaky")
    ended = lab.act(rerun_of(attempt, job))
    assert len(lab.site.acts) == FAULTS[kind].done
    assert isinstance(ended, Ambiguous) or not FAULTS[kind].done
    assert not isinstance(ended, Done)
    assert lab.api.faults == {kind: 1}


def test_faults_come_from_the_seed() -> None:
    def drawn(seed: int) -> list[Any]:
        lab = Lab(seed=seed, faults=0.5)
        attempt, _ = lab.failed("gitlab")
        return [type(lab.ask("gitlab", Send("GET", f"/projects/{attempt.run.repository.number}"))) for _ in range(50)]

    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)


def test_an_outage_fails_what_is_run_again_until_it_is_over() -> None:
    registry = next(trouble for trouble in OUTAGES if trouble.name == "registry_down")
    habits = Habits(pushes_per_second=1 / 5, reruns=0.0, breaks=0.0, strikes=0.0, hangs=0.0, outage_strikes=1.0)
    lab = Lab(habits=habits, outages=(Outage(0.0, 20_000.0, registry),))
    attempt, job = lab.failed("github", name="registry_down")
    assert lab.at < 10_000
    call = RerunFailed(**about(attempt))
    lab.act(call)
    lab.go_on(2000)
    assert next(j for j in lab.world.attempts[attempt.run.id][1].jobs if j.job is job.job).trouble is registry
    lab.go_on(25_000)
    for _ in range(9):  # and then it is gone with the chance that the trouble names
        lab.act(call)
        lab.go_on(4000)
    last = lab.world.attempts[attempt.run.id][-1]
    assert next(j for j in (*last.jobs, *last.kept) if j.job is job.job).trouble is not registry
    struck = [j for attempts in lab.world.attempts.values() for j in attempts[0].jobs if j.trouble is registry]
    assert all(j.started_at < 20_000 for j in struck)


def test_nothing_else_happens_otherwise_because_something_was_run_again() -> None:
    calm, busy = Lab(), Lab()
    attempt, job = busy.failed("github", kind="flaky")
    calm.failed("github", kind="flaky")
    busy.act(rerun_of(attempt, job))

    def rest(lab: Lab) -> list[Any]:
        told = [h for h in lab.go_on(20_000) if h.attempt.run.id != attempt.run.id]
        return [(h.at, h.what, h.attempt.run.id, h.job.number if h.job else None, h.attempt.ending) for h in told]

    assert rest(calm) == rest(busy)


def test_the_same_calls_in_the_same_world_come_to_the_same() -> None:
    def told() -> list[Any]:
        lab = Lab()
        for platform in sorted(PLATFORMS):
            attempt, job = lab.failed(platform, kind="flaky")
            lab.act(rerun_of(attempt, job))
        lab.go_on(3000)
        return [(h.at, h.what, h.attempt.uid, h.job.uid if h.job else None) for h in lab.told]

    assert told() == told()


def test_what_was_true_is_told_at_the_end() -> None:
    lab = Lab()
    attempt, job = lab.failed("gitlab", kind="flaky")
    missed = truth.counts(lab.site, lab.at)["missed"]
    assert missed >= 1
    lab.act(rerun_of(attempt, job))
    assert truth.counts(lab.site, lab.at)["missed"] == missed - 1
    failures = list(truth.failures(lab.site, lab.at))
    own = next(one for one in failures if one["job_number"] == job.number)
    assert (own["kind"], own["cause"]) == ("flaky", job.trouble.name if job.trouble else None)
    assert 0 < own["heals"] <= 1
    assert [act["target"] for act in truth.acts(lab.site)] == [str(job.number)]
    said = lab.api.answer(Asked("/world/truth", {}))
    assert isinstance(said.body, bytes)
    assert json.loads(said.body)["reruns"] == 1


def test_a_second_effect_on_the_same_target_is_counted() -> None:
    lab = Lab()
    attempt, _ = lab.failed("jenkins", kind="flaky")
    lab.site.rerun(attempt, ALL, lab.at)
    lab.site.acts.append(lab.site.acts[0])
    assert truth.counts(lab.site, lab.at)["twice"] == 1


def test_deliveries_that_nobody_took_can_be_asked_for_again() -> None:
    lab = Lab()
    attempt, _ = lab.failed("github")
    name = attempt.run.repository.full_name

    def posted(number: int, identity: str, status: int) -> Posted:
        headers = {"x-github-event": "workflow_run"}
        delivery = Delivery(0.0, "hub", "/hub", identity, 0, headers, b"{}", {"repository": name})
        return Posted(number, delivery, lab.clock.seconds(lab.at), status, again=False)

    hook = f"repos/{name}/hooks/1"
    lab.posted += [posted(i, f"g{i}", 200 if i % 2 else 0) for i in range(250)]
    found = lab.hold("github", github.undelivered(hook, "2020-01-01T00:00:00Z"))
    assert len(found.ended.failed) == 125
    assert len(found.sent) == 3
    assert lab.hold("github", github.redeliver(hook, found.ended.failed[0].id)).ended == Done()
    assert [one.number for one in lab.again] == [found.ended.failed[0].id]
    owner = lab.hold(
        "github", github.undelivered(f"orgs/{attempt.run.repository.owner}/hooks/2", "2020-01-01T00:00:00Z")
    )
    assert len(owner.ended.failed) == 125
    for one, failing in ((hook, False), (f"repos/{name}/hooks/9", False)):
        assert lab.hold("github", github.hook(one)).ended == Hook(disabled=False, failing=failing)
    lab.posted.append(posted(250, "g250", 502))
    assert lab.hold("github", github.hook(hook)).ended.failing


def test_a_hook_of_gitlab_stands_well() -> None:
    lab = Lab()
    attempt, _ = lab.failed("gitlab")
    talk = PLATFORMS["gitlab"].hook(f"projects/{attempt.run.repository.full_name}/hooks/1")
    assert lab.hold("gitlab", talk).ended == Hook(disabled=False, failing=False)


def test_what_happened_of_late_is_what_the_webhooks_told() -> None:
    lab = Lab()
    attempt, job = lab.failed("github", kind="real")
    name = attempt.run.repository.full_name
    recent = lab.hold("github", GitHub().recent(name, datetime(2020, 1, 1, tzinfo=UTC), "main")).ended
    assert recent.unreadable == 0
    assert (str(attempt.run.id), str(job.number)) in {(event.pipeline_id, event.job_id) for event in recent.events}
    assert not lab.site.invalid


def test_requests_and_answers_are_as_github_describes_them() -> None:
    described = description.github()
    if described is None:
        pytest.skip("GitHub's description is not here: ../shared/openapi, or where GUARD_OPENAPI says")
    lab = Lab()
    attempt, job = lab.failed("github", kind="flaky")
    call, run = rerun_of(attempt, job), about(attempt)
    file = GitHub()
    talks: list[Any] = [
        file.look(call),
        file.recent(run["repository"], datetime(2020, 1, 1, tzinfo=UTC), "main"),
        file.ask(call),
    ]
    talks += [file.ask(one) for one in (Cancel(**run), ClearCaches(**run), RerunJob(**about(attempt, job)))]
    talks += [github.undelivered(f"repos/{run['repository']}/hooks/1", "")]
    seen = 0
    for talk in talks:
        for step in lab.hold("github", talk).sent:
            if described.knows(step.method, step.path):
                said = lab.ask("github", step)
                assert isinstance(said, Reply)
                assert described.faults(step.method, step.path, step.body) == []
                if said.status < 400:
                    assert described.answer_faults(step.method, step.path, said.status, said.body) == [], step.path
                    seen += 1
    assert seen >= 4


@each_platform
def test_what_a_credential_lacks_is_told_at_the_start(platform: str) -> None:
    lab = Lab(credentials={**CREDENTIALS, f"{platform}.act": "doer:x"})
    attempt, _ = lab.failed(platform)
    name = about(attempt)["repository"]
    talk = PLATFORMS[platform].rights(name, ["rerun_failed"])
    assert lab.hold(platform, talk, credential="doer:x").ended.missing == ()
    assert lab.hold(platform, PLATFORMS[platform].rights(name, []), credential="no:one").ended.refusal is Refusal.LOGIN
    elsewhere = name.replace("/", "/no-such-")
    ended = lab.hold(platform, PLATFORMS[platform].rights(elsewhere, []), credential="doer:x").ended
    assert isinstance(ended, Refused) or ended.missing
    if platform == "github":
        reader = lab.hold(platform, PLATFORMS[platform].rights(name, ["rerun_failed"])).ended
        assert reader.missing == ("actions=write",)
    assert not lab.site.acts
    assert not lab.site.invalid


def test_an_app_is_given_tokens_that_open_one_repository_for_what_was_asked_for() -> None:
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    lab = Lab(credentials={**CREDENTIALS, "github.act": "doer", "github.app": "Iv1.guard"})
    attempt, job = lab.failed("github", kind="flaky")
    call = rerun_of(attempt, job)
    others = [one.full_name for one in lab.world.runs if one.platform == "github" and one is not attempt.run.repository]

    def given(identity: str, name: str, **permissions: str) -> Any:
        app = github_app.app(identity, pem)
        talk = github_app.token(app, name, lab.now(), permissions or github_app.ACTING)
        return hold(talk, lambda step: lab.ask("github", step, login=step.headers)).ended

    token = given("Iv1.guard", call.repository)
    assert token.repositories == (call.repository,)
    assert lab.act(call, credential=given("Iv1.guard", others[0]).value).refusal is Refusal.NOT_FOUND
    assert (
        lab.act(call, credential=given("Iv1.guard", call.repository, actions="read").value).refusal
        is Refusal.PERMISSION
    )
    assert isinstance(lab.act(call, credential=token.value), Done)
    assert given("Iv1.other", call.repository).refusal is Refusal.LOGIN
    assert given("Iv1.guard", "acme/nowhere").refusal is Refusal.NOT_FOUND
    assert given("Iv1.guard", call.repository, secrets="write").refusal is Refusal.PERMISSION
    lab.at += 3600 * lab.clock.speed
    assert lab.act(call, credential=token.value).refusal is Refusal.LOGIN
    rights = hold(
        github_app.rights(github_app.app("Iv1.guard", pem), call.repository, lab.now(), ["rerun", "comment"]),
        lambda step: lab.ask("github", step, login=step.headers),
    ).ended
    assert rights == Rights("pipeline-guard")
