"""Every request that its official description has is as GitHub describes it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from connectors.platforms.acting import Send
from connectors.platforms.calls import github_past as github
from connectors.platforms.github import GitHub
from tests.connectors.platforms.acts import POSSIBLE, all_well, calls, github_run, hold, says
from tests.connectors.platforms.calls import description

OTHERS = {
    "GET /repos/acme/shop",
    "GET /repos/acme/shop/actions/runs/17001/attempts/1",
    "GET /repos/acme/shop/deployments",
    "GET /repos/acme/shop/deployments/9/statuses",
    "GET /repos/acme/shop/hooks/3",
    "GET /repos/acme/shop/actions/runs",
    "GET /repos/acme/shop/issues",
    "POST /repos/acme/shop/issues",
    "GET /repos/acme/shop/issues/7/comments",
    "POST /repos/acme/shop/issues/7/comments",
    f"GET /repos/acme/shop/commits/{'a' * 40}/comments",
    f"POST /repos/acme/shop/commits/{'a' * 40}/comments",
}
"""What we ask besides, which the description that is here was not cut to."""


def _past(step: Send, run: Any) -> Any:
    if "/deployments" in step.path:
        return [{"id": 9}]
    job = {"id": 1, "conclusion": "failure", "head_sha": "a" * 40}
    return {"jobs": [job], "workflow_runs": [run]} if "?" in step.path else run


def _requests() -> Iterator[Send]:
    well = all_well("github")
    for name in sorted(POSSIBLE["github"]):
        call = calls("github")[name]
        for talk in (GitHub().ask(call), GitHub().look(call)):
            assert talk is not None
            yield from hold(talk, well).sent
    hook = "repos/acme/shop/hooks/3"
    yield from hold(github.undelivered(hook, ""), lambda _: says(200, [])).sent
    yield from hold(github.redeliver(hook, 2**60), lambda _: says(202)).sent
    stands = github.hook(hook)
    assert stands is not None
    yield from hold(stands, lambda _: says(200, {})).sent
    run = github_run(repository={"full_name": "acme/shop"}, run_attempt=2)
    yield from hold(
        GitHub().recent("acme/shop", datetime(2026, 4, 1, tzinfo=UTC), "main"),
        lambda step: says(200, _past(step, run)),
    ).sent


def test_requests_are_as_github_describes_them() -> None:
    described = description.github()
    if described is None:
        pytest.skip("GitHub's description is not here: ../shared/openapi, or where GUARD_OPENAPI says")
    others = set()
    for step in _requests():
        if described.knows(step.method, step.path):
            assert described.faults(step.method, step.path, step.body) == [], step
        else:
            others.add(f"{step.method} {step.path.partition('?')[0]}")
    assert others == OTHERS


def test_what_is_not_as_described_is_noticed() -> None:
    described = description.github()
    if described is None:
        pytest.skip("GitHub's description is not here: ../shared/openapi, or where GUARD_OPENAPI says")
    rerun = "/repos/acme/shop/actions/runs/7/rerun"
    assert not described.faults("POST", rerun, b"")
    assert not described.faults("POST", rerun, b'{"enable_debug_logging": true}')
    assert described.faults("POST", rerun, b'{"enable_debug_logging": 7}')
    assert described.faults("POST", rerun + "?x=1", b"")
    assert described.faults("POST", "/repos/acme/shop/actions/runs/seven/rerun", b"")
    assert described.faults("PUT", rerun, b"")
    assert described.faults("DELETE", "/repos/acme/shop/actions/caches", b"")
