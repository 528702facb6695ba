"""What each platform does in its own way when it is asked for a log."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from connectors.platforms.asking import Denied, Found, Get, JobRun, NotThere, Pause, Reply, Step, TryLater
from models.records.errors import MalformedPayload
from tests.connectors.platforms.logs import (
    AT,
    JOBS,
    TEXT,
    Answering,
    action,
    all_well,
    archive,
    build,
    messages,
    reply,
    talk,
)


def by_path(**answers: Reply) -> Answering:
    """Answers by a word that the path has in it; a 404 for all else."""

    def answering(step: Step) -> Reply:
        assert isinstance(step, Get)
        return next((said for word, said in answers.items() if f"/{word}/" in step.path + step.elsewhere), reply(404))

    return answering


# --- GitHub


def test_github_is_asked_for_the_log_of_the_job() -> None:
    assert talk("github", all_well).paths == ["/repos/acme/shop/actions/jobs/29001/logs"]


def test_a_job_of_github_without_a_log_is_looked_for_in_the_archive_of_its_attempt() -> None:
    zipped = archive({"0_lint.txt": b"other", "1_test (3.12).txt": TEXT, "test (3.12)/1_Set up job.txt": b"step"})
    said = talk("github", by_path(attempts=reply(200, zipped, redirected=True)))
    assert said.paths[1] == "/repos/acme/shop/actions/runs/17001/attempts/2/logs"
    assert (said.ending, said.text) == (Found(), TEXT)


def test_without_a_name_there_is_nothing_to_look_for_in_the_archive() -> None:
    job = JobRun("acme/shop", "17001", "29001")
    assert len(talk("github", by_path(), job).asked) == 1


def test_an_archive_without_the_job_has_no_log_of_it() -> None:
    said = talk("github", by_path(attempts=reply(200, archive({"0_lint.txt": b"other"}))))
    assert said.ending == NotThere("an empty log")


def test_a_log_of_github_that_has_expired_is_not_looked_for_elsewhere() -> None:
    assert len(talk("github", lambda _: reply(410)).asked) == 1


@pytest.mark.parametrize("status", [403, 404])
def test_a_log_that_is_not_stored_yet_is_asked_for_later(status: int) -> None:
    said = talk("github", lambda _: reply(status, redirected=True))
    assert isinstance(said.ending, TryLater)
    assert said.ending.retry_after is None


@pytest.mark.parametrize("status", [403, 429])
@pytest.mark.parametrize(
    ("reset", "wait"), [(str(int(AT) + 90), 90.0), (str(int(AT) - 5), 0.0), ("9" * 30, 86400.0), ("soon", None)]
)
def test_a_limit_of_github_says_when_it_ends(status: int, reset: str, wait: float | None) -> None:
    said = talk("github", lambda _: reply(status, x_ratelimit_remaining="0", x_ratelimit_reset=reset))
    assert said.ending == TryLater(f"HTTP {status}: rate limit", wait)


@pytest.mark.parametrize("repository", ["shop", "acme/shop/x", "/shop", "acme/", "acme/..", "."])
def test_a_repository_of_github_has_an_owner_and_a_name(repository: str) -> None:
    with pytest.raises(MalformedPayload, match=r"^repository: a path of 2 to 2 names"):
        talk("github", all_well, JobRun(repository, "1", "2"))


# --- GitLab


def test_a_project_of_gitlab_is_one_part_of_the_path_however_deep_it_lies() -> None:
    assert talk("gitlab", all_well).paths == ["/projects/acme%2Ftools%2Fshop/jobs/9001/trace"]


@pytest.mark.parametrize("job_id", [None, "", "x", "1/2", "-1", "٣", "1" * 21])
def test_a_job_has_a_number(job_id: str | None) -> None:
    with pytest.raises(MalformedPayload, match=r"^job_id: a whole number was expected"):
        talk("gitlab", all_well, JobRun("acme/shop", "1", job_id))


# --- Jenkins


def test_a_build_of_jenkins_is_reached_through_its_folders_and_branch_names_are_escaped_once_more() -> None:
    first = "/job/acme/job/shop/job/feature%252Fx/45/logText/progressiveText?start=0"
    assert talk("jenkins", all_well).paths == [first]


def _pieces(*sizes: int) -> Answering:
    """A console that grows to these sizes, and then says that no more will come."""
    left = list(sizes)

    def answering(step: Step) -> Reply:
        if isinstance(step, Pause):
            return Reply(0, {})
        start, size = int(step.path.rpartition("=")[2]), left.pop(0)
        return reply(200, b"x" * (size - start), x_text_size=str(size), x_more_data="true" if left else "")

    return answering


def test_the_console_of_a_build_that_still_writes_is_read_piece_by_piece() -> None:
    said = talk("jenkins", _pieces(10, 10, 25))
    assert (said.ending, len(said.text)) == (Found(), 25)
    assert [path.rpartition("=")[2] for path in said.paths] == ["0", "10", "10"]
    assert sum(isinstance(step, Pause) for step in said.asked) == 2


def test_a_build_that_never_ends_is_not_waited_for() -> None:
    said = talk("jenkins", _pieces(*range(1, 1000)))
    assert said.ending == Found()
    assert len(said.paths) == 5


@pytest.mark.parametrize("size", ["", "no number", "-1"])
def test_a_page_that_is_no_console_is_no_log(size: str) -> None:
    assert isinstance(talk("jenkins", lambda _: reply(200, b"<html>", x_text_size=size)).ending, Denied)


# --- CircleCI


def _circle(*actions: dict[str, Any], **outputs: Reply) -> Answering:
    def answering(step: Step) -> Reply:
        assert isinstance(step, Get)
        if step.path:
            return reply(200, build(*actions))
        return outputs[f"o{step.elsewhere.partition('?')[0].rpartition('/')[2]}"]

    return answering


def test_of_a_job_of_circleci_the_steps_that_failed_are_read_and_give_the_exit_code() -> None:
    actions = [action(1), action(2, status="failed", exit_code=137), action(3, status="failed", exit_code=None)]
    outputs = {"o2": reply(200, messages("two\r\n")), "o3": reply(200, messages("three"))}
    said = talk("circleci", _circle(*actions, **outputs))
    assert said.paths[0] == "/api/v1.1/project/gh/acme/shop/731"
    assert (said.ending, said.text) == (Found(exit_code=137), b"two\r\nthree")


def test_where_none_failed_all_of_them_are_read() -> None:
    outputs = {f"o{n}": reply(200, messages(f"{n}")) for n in (1, 2)}
    said = talk("circleci", _circle(action(1), action(2), **outputs))
    assert (said.ending, said.text) == (Found(), b"12")


def test_an_output_that_is_gone_does_not_hide_the_others_and_one_that_is_late_is_waited_for() -> None:
    failed = [action(n, status="failed", exit_code=1) for n in (1, 2)]
    said = talk("circleci", _circle(*failed, o1=reply(403), o2=reply(200, messages("there"))))
    assert (said.ending, said.text) == (Found(exit_code=1), b"there")
    assert talk("circleci", _circle(*failed, o1=reply(503))).ending == TryLater("HTTP 503")
    assert talk("circleci", _circle(*failed, o1=reply(200, b"[]"), o2=reply(404))).ending == NotThere("HTTP 404")


def test_steps_that_wrote_nothing_are_passed_over() -> None:
    actions = [action(1, output_url=None), {"index": 0}, action(2)]
    assert talk("circleci", _circle(*actions, o2=reply(200, messages("x")))).text == b"x"
    assert isinstance(talk("circleci", _circle({"index": 0})).ending, NotThere)
    assert isinstance(talk("circleci", lambda _: reply(200, b"{}")).ending, NotThere)


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b'{"steps": 7}', json.dumps({"steps": [[]]}).encode()])
def test_what_is_no_job_of_circleci_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedPayload):
        talk("circleci", lambda _: reply(200, body))


def test_at_most_64_outputs_are_read() -> None:
    actions = [action(n) for n in range(200)]
    said = talk("circleci", lambda step: reply(200, build(*actions)) if step.path else reply(200, messages("x")))  # type: ignore[union-attr]
    assert len(said.text) == 64


def test_a_job_without_a_number_cannot_be_asked_about() -> None:
    with pytest.raises(MalformedPayload, match=r"^job_number"):
        talk("circleci", all_well, JobRun("gh/acme/shop", "p", "j"))


# --- what is sent


@pytest.mark.parametrize(
    ("platform", "kind", "value", "header", "sent"),
    [
        ("github", "token", "abc", "authorization", "Bearer abc"),
        ("gitlab", "token", "abc", "authorization", "Bearer abc"),
        ("jenkins", "basic", "me:abc", "authorization", "Basic bWU6YWJj"),
        ("circleci", "token", "abc", "circle-token", "abc"),
    ],
)
def test_a_credential_goes_where_the_platform_looks_for_it(
    platform: str, kind: str, value: str, header: str, sent: str
) -> None:
    from connectors.platforms import PLATFORMS
    from connectors.platforms.platform import Credential

    assert PLATFORMS[platform].login(Credential(kind, value)) == {header: sent}


def test_a_signed_address_does_not_show() -> None:
    shown: list[Callable[[], str]] = [lambda: repr(Get(elsewhere="https://x/?sig=1")), lambda: repr(reply(200, b"s"))]
    assert not any(word in show() for show in shown for word in ("sig=1", "b's'"))
    assert JOBS.keys() == {"github", "gitlab", "jenkins", "circleci"}
