"""A conversation with a platform over HTTP, against a server that behaves as badly as is asked of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from benchmarks.world.web import Answer, Asked, serving
from connectors.holding import hold
from connectors.http import Api, Client, Limits
from connectors.platforms import PLATFORMS
from models.records.calls import Ambiguous, Call, ClearCaches, Done, Refusal, Refused, RerunJob, Result, Unavailable

TOKEN = "canary-credential-of-the-tests"
QUICK = Limits(connect_seconds=1.0, read_seconds=0.3, total_seconds=5.0, connections=1)
RETRY = RerunJob(platform="gitlab", instance="main", repository="acme/shop", pipeline_id="5", job_id="7")


def held(
    answer: Callable[[Asked], Answer] | Answer, call: Call = RETRY, *, base: str = "/api/v4", port: int | None = None
) -> tuple[Result, list[Asked]]:
    """How a call ended, and what was asked."""
    asked: list[Asked] = []

    def answering(request: Asked) -> Answer:
        asked.append(request)
        return answer if isinstance(answer, Answer) else answer(request)

    async def main() -> Result:
        async with serving(answering) as free:
            url = f"http://127.0.0.1:{port or free}{base}"
            client = Client(Api(url, {"authorization": f"Bearer {TOKEN}"}), QUICK)
            talk = PLATFORMS[call.platform].ask(call)
            assert talk is not None
            try:
                return await hold(client, talk, lambda: 1_775_040_000.0)
            finally:
                await client.close()

    return asyncio.run(main()), asked


def test_a_request_goes_out_once_with_the_credential_and_what_belongs_to_it() -> None:
    ended, asked = held(Answer(201, b'{"id": 8}'))
    assert ended == Done(pipeline_id="5", job_id="8")
    (request,) = asked
    assert (request.method, request.target) == ("POST", "/api/v4/projects/acme%2Fshop/jobs/7/retry")
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["content-length"] == "0"


def test_what_stands_beside_the_api_is_found() -> None:
    call = ClearCaches(platform="gitlab", instance="main", repository="acme/shop", pipeline_id="5")

    def answer(request: Asked) -> Answer:
        return Answer(200, b'{"id": 3}' if request.method == "GET" else b'{"data":{"runnerCacheClear":{"errors":[]}}}')

    ended, asked = held(answer, call)
    assert ended == Done()
    assert [request.target for request in asked] == ["/api/v4/projects/acme%2Fshop", "/api/graphql"]
    assert asked[1].headers["content-type"] == "application/json"
    assert b"gid://gitlab/Project/3" in asked[1].body


def test_whether_it_was_sent_is_known_where_no_answer_comes() -> None:
    late, asked = held(Answer(201, b'{"id": 8}', after=5.0))
    assert late == Ambiguous("no answer in time")
    assert len(asked) == 1
    assert isinstance(held(Answer(body=None))[0], Ambiguous)
    nobody, asked = held(Answer(201), port=1)
    assert isinstance(nobody, Unavailable)
    assert not asked


def test_no_redirect_is_followed() -> None:
    ended, asked = held(Answer(307, b"", {"location": "http://169.254.169.254/latest/"}))
    assert ended == Refused(Refusal.MOVED, "HTTP 307")
    assert len(asked) == 1


def test_an_answer_without_an_end_is_ambiguous() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"0123456789abcdef" * 4096

    assert isinstance(held(Answer(200, endless()))[0], Ambiguous)


def test_no_word_of_the_credential_comes_out() -> None:
    for answer in (Answer(401, b'{"message": "no"}'), Answer(500), Answer(body=None)):
        assert TOKEN not in repr(held(answer)[0])
