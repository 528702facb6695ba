"""What the receiver answers, and that nothing is answered 2xx before it is durable."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import hmac
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from starlette.applications import Starlette

from connectors.deliveries import Normaliser
from connectors.platforms import PLATFORMS
from connectors.platforms.platform import Normalised, Platform, Request, Secret
from connectors.redaction import Redactor
from connectors.spool import Durable, Spool
from connectors.webhook import MOST_BODY_BYTES, Clocks, Meter, Source, create_admin_app, create_app
from models.records.entry import Kind, encode
from models.records.errors import ConfigError
from models.records.event import shard_of, uuid5_text
from models.records.payload import from_json
from tests.connectors.streams import Streams, until

FIXTURES = Path(__file__).parents[1] / "fixtures" / "webhooks"
FORM = "application/x-www-form-urlencoded"
SECRET = "the secret of the tests"
NOW = 1_767_225_600.5
MIB = 1 << 20
REDACTOR = Redactor(b"a key of the tests, 32 bytes lng")


class Counts(Meter):
    """A meter that remembers."""

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.proofs: list[tuple[str, int]] = []

    def answered(self, source: str, outcome: str, seconds: float) -> None:
        """Count it."""
        assert seconds >= 0
        self.outcomes[source, outcome] += 1

    def proved(self, source: str, index: int) -> None:
        """Note it."""
        self.proofs.append((source, index))


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def says(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Site(NamedTuple):
    """A receiver without a network."""

    app: Starlette
    streams: Streams
    spool: Spool | None
    durable: Durable
    meter: Counts

    async def post(
        self,
        body: bytes,
        *,
        source: str = "acme",
        headers: Mapping[str, str] | None = None,
        method: str = "POST",
        chunks: list[bytes] | None = None,
        hangs: bool = False,
    ) -> Answer:
        """Send `body`, or `chunks` that may stop coming, with exactly these headers."""
        parts = chunks if chunks is not None else [body]
        messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": part, "more_body": hangs or i + 1 < len(parts)}
            for i, part in enumerate(parts)
        ]
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop(0)
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Any) -> None:
            sent.append(message)

        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
        scope = {"type": "http", "method": method, "path": f"/webhooks/{source}", "headers": raw, "http_version": "1.1"}
        await self.app(scope | {"query_string": b"", "root_path": "", "scheme": "http"}, receive, send)
        start, end = sent
        found = {name.decode(): value.decode() for name, value in start["headers"]}
        assert int(found["content-length"]) == len(end["body"])
        return Answer(start["status"], found, end["body"])


def signed(body: bytes, secret: str = SECRET, **more: str) -> dict[str, str]:
    """Headers of a delivery of GitHub."""
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    base = {"content-type": "application/json", "x-github-event": "workflow_job", "x-github-delivery": "d-1"}
    return base | {"x-hub-signature-256": f"sha256={digest}"} | {k.replace("_", "-"): v for k, v in more.items()}


def github_job(**changes: object) -> bytes:
    """A failed job of GitHub Actions."""
    payload = json.loads((FIXTURES / "github" / "workflow_job.failed.json").read_text())
    payload = payload.get("body", payload)
    payload["workflow_job"] |= changes
    return json.dumps(payload).encode()


def github_source(**changes: Any) -> Source:
    """The source that most tests post to."""
    given: dict[str, Any] = {
        "name": "acme",
        "platform": PLATFORMS["github"],
        "instance": "github.com",
        "secrets": (Secret("signature", SECRET), Secret("signature", "the old one")),
    }
    return Source(**(given | changes))


def entropy(count: int) -> bytes:
    """Not random at all."""
    return bytes(range(1, count + 1))


@asynccontextmanager
async def site(*sources: Source, spool_dir: Path | None = None, appender: Any = None) -> AsyncIterator[Site]:
    """A receiver of `sources`, with a spool where `spool_dir` is given; nothing drains it."""
    streams = Streams()
    spool = await Spool.open(spool_dir, most_bytes=4 * MIB) if spool_dir else None
    durable = Durable(appender or streams, spool)
    meter = Counts()
    app = create_app(
        sources or [github_source()],
        normaliser=Normaliser(REDACTOR, entropy),
        durable=durable,
        meter=meter,
        clocks=Clocks(lambda: NOW, iter(range(1_000_000)).__next__, entropy),
    )
    try:
        yield Site(app, streams, spool, durable, meter)
    finally:
        if spool:
            await spool.close()


def run(work: Callable[[], Awaitable[None]]) -> None:
    """Run `work` on a loop of its own."""

    async def main() -> None:
        await work()

    asyncio.run(main())


def rejects(streams: Streams) -> list[dict[str, Any]]:
    """The rejects on all shards."""
    entries = [entry for delivery in streams.seen for entry, _ in delivery.items]
    return [msgspec.json.decode(entry.payload) for entry in entries if entry.kind is Kind.REJECT]


def test_a_proven_delivery_is_on_its_shard_with_trace_time_and_log_request_when_it_is_answered() -> None:
    async def work() -> None:
        async with site() as here:
            body = github_job()
            answer = await here.post(body, headers=signed(body))
            assert (answer.status, answer.says) == (202, {"status": "accepted"})
            (delivery,) = here.streams.seen
            ((entry, mark),) = delivery.items
            event = from_json(entry.payload)
            assert (entry.kind, entry.received_ms, mark) == (Kind.EVENT, int(NOW * 1000), event.id)
            assert entry.trace == entropy(24) + b"\x01"
            assert delivery.shard == shard_of("github.com", event.repository)
            (request,) = (json.loads(wanted) for wanted in delivery.log_requests)
            assert request == {
                "event_id": event.id,
                "platform": "github",
                "instance": "github.com",
                "repository": event.repository,
                "pipeline_id": event.pipeline_id,
                "job_id": event.job_id,
                "attempt": event.metadata.attempt,
                "traceparent": f"00-{entropy(16).hex()}-{bytes(range(17, 25)).hex()}-01",
                "job_name": event.metadata.job_name,
                "job_key": uuid5_text("job", "github.com", event.repository, "CI", event.metadata.job_name or ""),
            }
            assert here.meter.outcomes == {("acme", "accepted"): 1}

    run(work)


def test_the_same_again_is_a_duplicate() -> None:
    async def work() -> None:
        async with site() as here:
            body = github_job()
            await here.post(body, headers=signed(body))
            answer = await here.post(body, headers=signed(body))
            assert (answer.status, answer.says) == (200, {"status": "duplicate"})
            assert len(here.streams.seen) == 1

    run(work)


def test_what_is_of_no_interest_is_ignored_with_its_reason() -> None:
    async def work() -> None:
        async with site() as here:
            body = b'{"zen": "Design for failure.", "hook_id": 1, "hook": {}}'
            answer = await here.post(body, headers=signed(body, x_github_event="ping"))
            assert (answer.status, answer.says["status"]) == (200, "ignored")
            assert answer.says["reason"]
            assert not here.streams.seen

    run(work)


def test_a_form_of_github_is_taken() -> None:
    async def work() -> None:
        from urllib.parse import urlencode

        async with site() as here:
            body = urlencode({"payload": github_job().decode()}).encode()
            answer = await here.post(body, headers=signed(body, content_type=FORM))
            assert answer.says == {"status": "accepted"}

    run(work)


def test_an_old_secret_still_proves_and_is_told_apart() -> None:
    async def work() -> None:
        async with site() as here:
            for secret in (SECRET, "the old one"):
                body = github_job()
                assert (await here.post(body, headers=signed(body, secret))).status in (200, 202)
            assert here.meter.proofs == [("acme", 0), ("acme", 1)]

    run(work)


def test_every_refusal_of_the_unproven_has_one_body() -> None:
    async def work() -> None:
        gitlab = Source("lab", PLATFORMS["gitlab"], "gitlab.com", (Secret("token", SECRET),))
        jenkins = Source("ci", PLATFORMS["jenkins"], "ci.acme", (Secret("path", SECRET),))
        async with site(github_source(), gitlab, jenkins) as here:
            body = github_job()
            altered = body.replace(b"failure", b"success")
            answers = [
                await here.post(body, source="nobody", headers=signed(body)),
                await here.post(body, source="nobody/any", headers=signed(body)),
                await here.post(body, headers=signed(body, "wrong")),
                await here.post(altered, headers=signed(body)),
                await here.post(body, headers={"content-type": "application/json"}),
                await here.post(body, headers=signed(body, x_hub_signature_256="sha256=é")),
                await here.post(b"", headers=signed(b"x")),
                await here.post(body, source="lab", headers=signed(body, x_gitlab_token="wrong")),
                await here.post(body, source="ci", headers=signed(body)),
                await here.post(body, source="ci/wrong", headers=signed(body)),
                await here.post(b"payload=x", source="lab", headers=signed(b"", content_type=FORM)),
            ]
            assert {answer.status for answer in answers} == {401}
            assert len({(answer.body, tuple(answer.headers.items())) for answer in answers}) == 1
            assert here.meter.outcomes["unknown", "unauthorised"] == 2
            assert not here.streams.seen

    run(work)


def test_a_secret_in_the_address_proves() -> None:
    async def work() -> None:
        source = Source("ci", PLATFORMS["jenkins"], "ci.acme", (Secret("path", "a-path-secret"),))
        async with site(source) as here:
            body = b"{}"
            answer = await here.post(body, source="ci/a-path-secret", headers={"content-type": "application/json"})
            assert answer.status == 200

    run(work)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "NONSENSE"])
def test_other_methods_are_405(method: str) -> None:
    async def work() -> None:
        async with site() as here:
            answer = await here.post(b"", method=method, headers=signed(b""))
            assert (answer.status, answer.headers["allow"]) == (405, "POST")

    run(work)


@pytest.mark.parametrize(
    "headers",
    [
        {"content_type": "text/plain"},
        {"content_type": ""},
        {"content_type": "application/xml; charset=utf-8"},
        {"content_encoding": "gzip"},
        {"content_encoding": "br"},
    ],
)
def test_other_media_types_and_encodings_are_415(headers: dict[str, str]) -> None:
    async def work() -> None:
        async with site() as here:
            body = github_job()
            for source in ("acme", "nobody"):
                assert (await here.post(body, source=source, headers=signed(body, **headers))).status == 415

    run(work)


def test_a_media_type_that_the_proven_platform_does_not_send_is_415() -> None:
    async def work() -> None:
        gitlab = Source("lab", PLATFORMS["gitlab"], "gitlab.com", (Secret("token", SECRET),))
        async with site(gitlab) as here:
            headers = {"content-type": FORM, "x-gitlab-token": SECRET}
            assert (await here.post(b"payload=%7B%7D", source="lab", headers=headers)).status == 415

    run(work)


def test_a_charset_is_fine() -> None:
    async def work() -> None:
        async with site() as here:
            body = github_job()
            answer = await here.post(body, headers=signed(body, content_type="Application/JSON; charset=UTF-8"))
            assert answer.status == 202

    run(work)


def test_sizes_are_held_whether_told_or_not() -> None:
    async def work() -> None:
        async with site(github_source(max_body_bytes=1000), github_source(name="large", max_body_bytes=2000)) as here:
            body = b"x" * 1001
            told = await here.post(b"", headers=signed(body, content_length="1001"), chunks=[])
            untold = await here.post(body, headers=signed(body), chunks=[b"x" * 500, b"x" * 501])
            assert (told.status, untold.status) == (413, 413)
            assert (await here.post(body[:1000], headers=signed(body[:1000]))).says["status"] == "rejected"
            assert (await here.post(body, source="large", headers=signed(body))).says["status"] == "rejected"
            unknown = signed(b"", content_length=str(5 * MIB + 1))
            assert (await here.post(b"", source="nobody", headers=unknown, chunks=[])).status == 413

    run(work)


def test_headers_beyond_16_kib_are_431() -> None:
    async def work() -> None:
        async with site() as here:
            body = github_job()
            assert (await here.post(body, headers=signed(body, x_long="a" * (16 << 10)))).status == 431

    run(work)


def test_a_body_that_does_not_come_is_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.webhook.READ_SECONDS", 0.02)

    async def work() -> None:
        async with site() as here:
            body = github_job()
            answer = await here.post(b"", headers=signed(body), chunks=[body[:10]], hangs=True)
            assert (answer.status, answer.headers["connection"]) == (408, "close")

    run(work)


def test_who_hangs_up_is_not_answered() -> None:
    async def work() -> None:
        async with site() as here:
            scope: dict[str, Any] = {
                "type": "http",
                "method": "POST",
                "path": "/webhooks/acme",
                "query_string": b"",
                "root_path": "",
            }
            headers = [(k.encode(), v.encode()) for k, v in signed(b"").items()]

            async def receive() -> dict[str, str]:
                return {"type": "http.disconnect"}

            async def send(_message: object) -> None:
                raise AssertionError

            await here.app(scope | {"headers": headers}, receive, send)
            assert not here.meter.outcomes

    run(work)


def test_other_addresses_are_404() -> None:
    async def work() -> None:
        async with site() as here:
            sent: list[Any] = []

            async def send(message: Any) -> None:
                sent.append(message)

            async def receive() -> dict[str, Any]:
                return {"type": "http.request"}

            for path in ("/", "/webhooks", "/webhooks/acme/secret/more", "/metrics", "/healthz"):
                scope: dict[str, Any] = {"type": "http", "method": "GET", "path": path, "headers": [], "root_path": ""}
                await here.app(scope, receive, send)
            assert [message["status"] for message in sent if "status" in message] == [404] * 5

    run(work)


def test_without_redis_it_is_spooled_and_drains_in_order_before_newer_ones(tmp_path: Path) -> None:
    async def work() -> None:
        async with site(spool_dir=tmp_path) as here:
            assert here.spool is not None
            here.streams.away = True
            bodies = [github_job(id=number) for number in range(1000, 1020)]
            for body in bodies[:10]:
                answer = await here.post(body, headers=signed(body))
                assert (answer.status, answer.says) == (202, {"status": "spooled"})
            here.streams.away = False
            draining = asyncio.create_task(here.durable.drain())
            for body in bodies[10:]:
                assert (await here.post(body, headers=signed(body))).status == 202
            await until(lambda: here.spool is not None and here.spool.depth == 0)
            draining.cancel()
            jobs = [from_json(entry.payload).job_id for delivery in here.streams.seen for entry, _ in delivery.items]
            assert jobs == [str(number) for number in range(1000, 1020)]

    run(work)


def test_with_neither_redis_nor_spool_it_is_503_with_retry_after() -> None:
    async def work() -> None:
        async with site() as here:
            here.streams.away = True
            body = github_job()
            answer = await here.post(body, headers=signed(body))
            assert (answer.status, answer.headers["retry-after"]) == (503, "5")
            assert here.meter.outcomes == {("acme", "unavailable"): 1}

    run(work)


def test_it_is_not_answered_before_it_is_durable() -> None:
    class Slow:
        def __init__(self) -> None:
            self.asked = asyncio.Event()
            self.may = asyncio.Event()

        async def append(self, _delivery: object) -> int:
            self.asked.set()
            await self.may.wait()
            return 1

    async def work() -> None:
        slow = Slow()
        async with site(appender=slow) as here:
            body = github_job()
            posting = asyncio.create_task(here.post(body, headers=signed(body)))
            await slow.asked.wait()
            for _ in range(20):
                await asyncio.sleep(0)
            assert not posting.done()
            slow.may.set()
            assert (await posting).status == 202

    run(work)


_POISON: dict[str, bytes] = {
    "invalid JSON": b'{"action": ',
    "not an object": b"[1, 2]",
    "nothing": b"",
    "nested": b"[" * 10_000 + b"]" * 10_000,
    "nested in an object": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "65 levels": b'{"a":' * 65 + b"1" + b"}" * 65,
    "not UTF-8": b'{"action": "\xff\xfe"}',
    "a number too large": b'{"action": 1e400}',
    "an integer too large": b'{"action": ' + b"9" * 5000 + b"}",
    "NaN": b'{"action": NaN}',
    "the same key twice": b'{"action": "completed", "action": "completed"}',
    "a gzip bomb": gzip.compress(b"0" * MIB),
    "25 MB": b'{"action": "' + b"x" * (MOST_BODY_BYTES - 14) + b'"}',
    "a field of the wrong kind": b'{"action": "completed", "workflow_job": 3, "repository": {}}',
}


@pytest.mark.parametrize("name", _POISON)
def test_poison_of_a_proven_source_is_a_reject_with_its_reason(name: str) -> None:
    async def work() -> None:
        body = _POISON[name]
        async with site(github_source(max_body_bytes=MOST_BODY_BYTES)) as here:
            answer = await here.post(body, headers=signed(body))
            assert (answer.status, answer.says) == (200, {"status": "rejected", "reason": "malformed_payload"})
            (reject,) = rejects(here.streams)
            assert (reject["source"], reject["platform"], reject["reason"]) == ("acme", "github", "malformed_payload")
            assert reject["detail"]
            assert len(reject["body"].encode()) <= 256 << 10
            assert reject["headers"]["x-github-event"] == "workflow_job"
            assert "x-hub-signature-256" not in reject["headers"]
            (delivery,) = here.streams.seen
            assert delivery.shard == shard_of("github.com", "acme")
            again = await here.post(body, headers=signed(body))
            assert again.says["status"] == "rejected"
            assert len(here.streams.seen) == 1

    run(work)


@pytest.mark.parametrize("text", ["\\u0000", "\\ud800", "\\udfff\\ud800"])
def test_strange_characters_never_crash_the_receiver(text: str) -> None:
    async def work() -> None:
        async with site() as here:
            body = github_job(name="NAME").replace(b"NAME", text.encode())
            answer = await here.post(body, headers=signed(body))
            assert answer.says["status"] in ("accepted", "rejected")
            assert len(here.streams.seen) == 1

    run(work)


def test_a_bug_of_a_platform_file_is_a_reject_and_is_logged_without_the_body(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Platform):
        name = "github"
        secret_kinds = frozenset({"signature"})

        def verify(self, request: Request, secrets: Any) -> int:
            return 0

        def events(self, request: Request, instance: str) -> Normalised:
            raise ZeroDivisionError

    async def work() -> None:
        async with site(github_source(platform=Broken())) as here:
            answer = await here.post(b"{}", headers=signed(b"{}"))
            assert (answer.status, answer.says["reason"]) == (200, "normaliser_failed")
            assert rejects(here.streams)[0]["detail"] == "ZeroDivisionError"

    run(work)
    assert "failed on a delivery of acme" in caplog.text


def test_a_reject_resolves_escapes_before_it_is_redacted() -> None:
    async def work() -> None:
        token = "ghp_" + "R2D2c3POb8x1kQ9ZtY7uWvEaLmNsPdFgHjKl"
        hidden = "".join(f"\\u{ord(c):04x}" for c in token)
        async with site() as here:
            body = f'{{"a": "{hidden}", "b": "https:\\/\\/x:hunter2@h\\/", "c": "\\u0022\\\\u0041"'.encode()
            await here.post(body, headers=signed(body))
            (reject,) = rejects(here.streams)
            assert reject["body"].startswith(
                '{"a": "[REDACTED:github-token]", "b": "https://x:[REDACTED:url-password]@h/"'
            )
            assert reject["body"].endswith('"c": "\\u0022\\\\u0041"')

    run(work)


def test_no_half_of_a_secret_stands_at_the_cut() -> None:
    async def work() -> None:
        token = "ghp_" + "R2D2c3POb8x1kQ9ZtY7uWvEaLmNsPdFgHjKl"
        async with site() as here:
            for before in range((256 << 10) - 60, (256 << 10) + 8300, 101):
                body = b" " * before + token.encode() + b" " * 9000
                await here.post(body, headers=signed(body))
            assert len(rejects(here.streams)) > 70
            assert not any("ghp_" in reject["body"] for reject in rejects(here.streams))

    run(work)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"secrets": ()}, r"receiver\.sources\.acme: it has no secrets"),
        ({"secrets": (Secret("token", "x"),)}, r"acme\.secrets: github proves itself by signature, not by token"),
        ({"max_body_bytes": MOST_BODY_BYTES + 1}, r"acme\.max_body_bytes"),
        ({"max_body_bytes": 0}, r"acme\.max_body_bytes"),
    ],
)
def test_a_source_that_cannot_be_meant_is_refused_by_its_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        github_source(**changes)


def test_two_sources_of_one_name_are_refused() -> None:
    async def work() -> None:
        with pytest.raises(ConfigError, match="two of that name"):
            async with site(github_source(), github_source(instance="other")):
                pass

    run(work)


def test_an_unsigned_source_that_is_allowed_is_taken_and_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with site(github_source(secrets=(), allow_unsigned=True)) as here:
            body = github_job()
            headers = {"content-type": "application/json", "x-github-event": "workflow_job"}
            assert (await here.post(body, headers=headers)).status == 202

    run(work)
    assert "acme is not signed" in caplog.text


@pytest.mark.parametrize(("redis", "spool", "ready"), [(True, False, 200), (False, True, 200), (False, False, 503)])
def test_ready_means_that_a_delivery_could_be_made_durable(
    tmp_path: Path, redis: bool, spool: bool, ready: int
) -> None:
    async def work() -> None:
        async with site(spool_dir=tmp_path if spool else None) as here:

            async def reachable() -> bool:
                return redis

            app = create_admin_app(
                durable=here.durable, reachable=reachable, render=lambda: b"m 1\n", content_type="text/plain"
            )
            answers: dict[str, tuple[int, bytes]] = {}
            for path in ("/healthz", "/readyz", "/metrics"):
                sent: list[Any] = []

                async def send(message: Any, sent: list[Any] = sent) -> None:
                    sent.append(message)

                async def receive() -> dict[str, Any]:
                    return {"type": "http.request"}

                scope: dict[str, Any] = {"type": "http", "method": "GET", "path": path, "headers": [], "root_path": ""}
                await app(scope | {"query_string": b""}, receive, send)
                answers[path] = sent[0]["status"], sent[1]["body"]
            assert answers["/healthz"][0] == 200
            assert answers["/readyz"][0] == ready
            assert answers["/metrics"] == (200, b"m 1\n")

    run(work)


def test_entries_survive_the_wire_they_are_meant_for() -> None:
    async def work() -> None:
        async with site() as here:
            body = github_job()
            await here.post(body, headers=signed(body))
            ((entry, _),) = here.streams.seen[0].items
            assert encode(entry)[0] == b"event.json.1"

    run(work)
