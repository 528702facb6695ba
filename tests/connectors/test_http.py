"""The one HTTP client, against a server that behaves as badly as is asked of it."""

from __future__ import annotations

import asyncio
import gzip
import logging
import os
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks.world.web import Answer, Asked, serving
from connectors.http import Api, Client, Limits
from models.records.errors import Refused, Unavailable

TOKEN = "canary-credential-of-the-tests"
HEADERS = {"authorization": f"Bearer {TOKEN}"}
QUICK = Limits(connect_seconds=2.0, read_seconds=2.0, total_seconds=5.0, most_bytes=1 << 20)


def resolving(*addresses: str) -> Callable[[str, int], Awaitable[Sequence[str]]]:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return addresses

    return resolve


class Site:
    """A server, what was asked of it, and clients of it."""

    def __init__(self, port: int, answers: dict[str, Answer], asked: list[Asked]) -> None:
        self.port = port
        self.origin = f"http://127.0.0.1:{port}"
        self.answers = answers
        self.asked = asked
        self.clients: list[Client] = []

    def client(self, limits: Limits = QUICK, *, hosts: tuple[str, ...] = (), url: str | None = None) -> Client:
        """One that is closed with the site."""
        client = Client(Api(url or self.origin, HEADERS, hosts), limits)
        self.clients.append(client)
        return client


@asynccontextmanager
async def site(**answers: Answer) -> AsyncIterator[Site]:
    """Answers by path, without the slash."""
    asked: list[Asked] = []

    def answer(request: Asked) -> Answer:
        asked.append(request)
        return answers.get(request.target.strip("/").partition("?")[0], Answer(404, b"nothing here"))

    async with serving(answer) as port:
        here = Site(port, answers, asked)
        try:
            yield here
        finally:
            for client in here.clients:
                await client.close()


async def body_of(client: Client, path: str) -> bytes:
    async with client.get(path) as answer:
        return b"".join([piece async for piece in answer.pieces()])


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await work()

    asyncio.run(main())


def test_a_get_carries_the_credential_and_gives_status_headers_and_body() -> None:
    async def work() -> None:
        async with site(log=Answer(200, b"text", {"X-Text-Size": "4"})) as here, here.client().get("/log") as answer:
            assert (answer.status, answer.headers["x-text-size"], answer.redirected) == (200, "4", False)
            assert await answer.read(10) == b"text"
            (asked,) = here.asked
            assert asked.headers["authorization"] == f"Bearer {TOKEN}"
            assert asked.headers["host"] == f"127.0.0.1:{here.port}"
            assert "cookie" not in asked.headers

    run(work)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_once_and_without_the_credential(status: int) -> None:
    async def work() -> None:
        async with site(kept=Answer(200, b"kept text")) as here:
            here.answers["log"] = Answer(status, b"", {"Location": f"{here.origin}/kept?sig=x"})
            async with here.client(hosts=("127.0.0.1",)).get("/log") as answer:
                assert (answer.status, answer.redirected) == (200, True)
                assert await answer.read(100) == b"kept text"
            assert [request.target for request in here.asked] == ["/log", "/kept?sig=x"]
            assert "authorization" not in here.asked[1].headers

    run(work)


def test_a_second_redirect_is_an_answer_like_any_other() -> None:
    async def work() -> None:
        async with site() as here:
            here.answers["log"] = here.answers["kept"] = Answer(302, b"", {"location": f"{here.origin}/kept"})
            async with here.client(hosts=("127.0.0.1",)).get("/log") as answer:
                assert answer.status == 302
            assert len(here.asked) == 2

    run(work)


@pytest.mark.parametrize(
    "location",
    [
        *("http://169.254.169.254/latest/meta-data/", "https://169.254.169.254/", "https://evil.example/log"),
        *("https://example.com.evil.example/", "https://notexample.com/", "https://example.com@evil.example/"),
        *("https://user@example.com/", "ftp://example.com/", "file:///etc/passwd", "//evil.example/x", "", "/login"),
        *(
            "https://example.com:notaport/",
            "https://exa mple.com/",
            "https://ex\xe4mple.com/",
            "https:///x",
            "https://[",
        ),
    ],
)
def test_a_redirect_to_elsewhere_is_not_followed_and_its_query_is_not_told(location: str) -> None:
    async def work() -> None:
        answer = Answer(302, b"", {"location": f"{location}?sig={TOKEN}" if location else ""})
        async with site(log=answer) as here:
            with pytest.raises(Refused, match=r"^sent on to") as caught:
                await body_of(here.client(hosts=("example.com",)), "/log")
            assert TOKEN not in str(caught.value)
            assert len(here.asked) == 1

    run(work)


@pytest.mark.parametrize("url", ["http://example.com/x", "https://example.com:8443/x", "https://10.0.0.7/x"])
def test_what_a_public_api_names_must_be_https_on_its_own_port(url: str) -> None:
    async def work() -> None:
        client = Client(Api("https://api.example.com", HEADERS, ("example.com", "10.0.0.7")), QUICK)
        with pytest.raises(Refused):
            async with client.get_elsewhere(url):
                pass
        await client.close()

    run(work)


def test_what_the_api_names_is_asked_without_the_credential_and_sends_us_nowhere() -> None:
    async def work() -> None:
        async with site(out=Answer(200, b"[]")) as here:
            here.answers["on"] = Answer(302, b"", {"location": f"{here.origin}/out"})
            client = here.client(hosts=("127.0.0.1",))
            async with client.get_elsewhere(f"{here.origin}/out") as answer:
                assert await answer.read(10) == b"[]"
            async with client.get_elsewhere(f"{here.origin}/on") as answer:
                assert answer.status == 302
            assert all("authorization" not in request.headers for request in here.asked)

    run(work)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "169.254.169.254", "10.0.0.7", "::1", "::ffff:127.0.0.1", "fe80::1", "0.0.0.0"]
)
def test_a_public_name_that_resolves_to_ourselves_is_not_connected_to(address: str) -> None:
    async def work() -> None:
        async with site(log=Answer(200, b"secret")) as here:
            api = Api(f"http://api.example.com:{here.port}", HEADERS)
            client = Client(api, QUICK, resolve=resolving(address))
            with pytest.raises(Refused, match=r"api\.example\.com is at an address that may not be connected to"):
                await body_of(client, "/log")
            assert not here.asked
            await client.close()

    run(work)


def test_a_name_is_resolved_once_and_what_was_judged_is_what_is_connected_to() -> None:
    """Rebinding: the first answer is harmless, every later one leads to us."""

    async def work() -> None:
        async with site(log=Answer(200, b"here")) as here:
            answers = iter([["127.0.0.1"], ["169.254.169.254"]])

            async def resolve(host: str, port: int) -> Sequence[str]:
                return next(answers)

            api = Api(f"http://ci.example.com:{here.port}", HEADERS, private=True)
            client = Client(api, QUICK, resolve=resolve)
            assert await body_of(client, "/log") == b"here"
            assert here.asked[0].headers["host"] == f"ci.example.com:{here.port}"
            assert next(answers) == ["169.254.169.254"]
            await client.close()

    run(work)


def test_of_several_addresses_those_that_may_be_are_tried_in_turn() -> None:
    async def work() -> None:
        async with site(log=Answer(200, b"here")) as here:
            api = Api(f"http://ci.example.com:{here.port}", HEADERS, private=True)
            client = Client(api, QUICK, resolve=resolving("169.254.169.254", "127.9.9.9", "127.0.0.1"))
            assert await body_of(client, "/log") == b"here"
            await client.close()

    run(work)


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254"])
def test_not_even_a_private_api_is_asked_where_a_machine_keeps_its_credentials(address: str) -> None:
    async def work() -> None:
        client = Client(Api("http://ci.example.com", HEADERS, private=True), QUICK, resolve=resolving(address))
        with pytest.raises(Refused):
            await body_of(client, "/")
        await client.close()

    run(work)


def test_a_body_is_handed_on_while_it_comes() -> None:
    async def work() -> None:
        more = asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield b"first"
            await more.wait()
            yield b"second"

        async with site(log=Answer(200, slowly())) as here, here.client().get("/log") as answer:
            pieces = answer.pieces()
            assert await anext(pieces) == b"first"
            more.set()
            assert await anext(pieces) == b"second"
            assert [piece async for piece in pieces] == []
            assert not answer.cut

    run(work)


async def _endless() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * 60_000


def test_an_endless_body_is_cut_at_the_limit() -> None:
    async def work() -> None:
        async with site(log=Answer(200, _endless())) as here, here.client().get("/log") as answer:
            size = 0
            async for piece in answer.pieces():
                size += len(piece)
            assert (size, answer.cut) == (1 << 20, True)

    run(work)


def test_gzip_is_unpacked_and_a_bomb_is_cut_and_never_held() -> None:
    async def work() -> None:
        text = os.urandom(300_000)
        two = gzip.compress(text) + gzip.compress(b"more")
        bomb = gzip.compress(bytes(100 << 20))
        packed = {"content-encoding": "gzip"}
        async with site(log=Answer(200, two, packed), bomb=Answer(200, bomb, packed)) as here:
            client = here.client()
            assert await body_of(client, "/log") == text + b"more"
            assert here.asked[0].headers["accept-encoding"] == "gzip"
            async with client.get("/bomb") as answer:
                sizes = [len(piece) async for piece in answer.pieces()]
                assert answer.cut
            assert sum(sizes) == 1 << 20
            assert max(sizes) <= 64 << 10

    run(work)


def test_what_is_not_packed_as_it_says_is_no_answer() -> None:
    async def work() -> None:
        wrong = {"log": {"content-encoding": "gzip"}, "other": {"content-encoding": "br"}}
        async with site(**{name: Answer(200, b"not gzip", headers) for name, headers in wrong.items()}) as here:
            with pytest.raises(Unavailable, match="not gzip"):
                await body_of(here.client(), "/log")
            with pytest.raises(Refused, match="not asked for"):
                await body_of(here.client(), "/other")

    run(work)


def test_what_should_be_small_must_be() -> None:
    async def work() -> None:
        async with site(log=Answer(200, b"x" * 1001)) as here, here.client().get("/log") as answer:
            with pytest.raises(Refused, match="more than 1000 bytes"):
                await answer.read(1000)

    run(work)


async def _hanging(first: bytes) -> AsyncIterator[bytes]:
    yield first
    await asyncio.sleep(60)


@pytest.mark.parametrize(
    ("answer", "limits", "words"),
    [
        (Answer(200, b"late", after=60), Limits(read_seconds=0.1), "no answer in time"),
        (Answer(200, _hanging(b"x")), Limits(read_seconds=0.1), "no answer in time"),
        (Answer(200, _endless()), Limits(total_seconds=0.3, most_bytes=1 << 50), "no end after 0.3 s"),
        (Answer(body=None), QUICK, "no HTTP"),
    ],
    ids=["a head that does not come", "a body that stops", "a body without end", "nothing"],
)
def test_everything_has_an_end(answer: Answer, limits: Limits, words: str) -> None:
    async def work() -> None:
        async with site(log=answer) as here:
            with pytest.raises(Unavailable, match=words) as caught:
                await body_of(here.client(limits), "/log")
            assert TOKEN not in str(caught.value)

    run(work)


def test_what_speaks_no_http_or_does_not_listen_or_has_no_address_is_unavailable() -> None:
    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\0" * 1000)
        writer.close()

    async def work() -> None:
        server = await asyncio.start_server(garbage, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = Client(Api(f"http://127.0.0.1:{port}"), QUICK)
        with pytest.raises(Unavailable, match="no HTTP"):
            await body_of(client, "/")
        server.close()
        await server.wait_closed()
        with pytest.raises(Unavailable, match="no connection"):
            await body_of(client, "/")
        nowhere = Client(Api("https://ci.example.com"), QUICK, resolve=resolving())
        with pytest.raises(Unavailable, match="no connection"):
            await body_of(nowhere, "/")
        await client.close()
        await nowhere.close()

    run(work)


def test_a_resolver_that_hangs_is_not_waited_for_longer_than_a_connection() -> None:
    async def work() -> None:
        async def never(host: str, port: int) -> Sequence[str]:
            await asyncio.sleep(60)
            return []

        client = Client(Api("https://ci.example.com"), Limits(connect_seconds=0.1), resolve=never)
        with pytest.raises(Unavailable, match="no connection in time"):
            await body_of(client, "/")
        await client.close()

    run(work)


def test_connections_are_used_again_even_after_an_answer_that_nobody_read() -> None:
    async def work() -> None:
        seen: set[int] = set()

        async with site(log=Answer(404, b"nothing")) as here:
            client = here.client()
            for _ in range(3):
                async with client.get("/log") as answer:
                    stream = answer._response.extensions["network_stream"]
                    seen.add(stream.get_extra_info("client_addr")[1])
            assert len(seen) == 1

    run(work)


def test_at_most_so_many_connections_are_open_at_once() -> None:
    async def work() -> None:
        async with site(log=Answer(200, b"late", after=0.05)) as here:
            client = here.client(Limits(connections=2))
            assert await asyncio.gather(*(body_of(client, "/log") for _ in range(6))) == [b"late"] * 6

    run(work)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for ci.example.com that nobody has signed but itself, with its key."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=ci.example.com"]
    command += ["-addext", "subjectAltName=DNS:ci.example.com", "-keyout", str(path), "-out", f"{path}.crt"]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no openssl to make a certificate with")
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


def test_a_certificate_must_be_trusted_and_be_of_that_name(certificate: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            await writer.drain()
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    async def ask(host: str, port: int, ca_file: Path | None) -> bytes:
        api = Api(f"https://{host}:{port}", HEADERS, private=True, ca_file=ca_file)
        client = Client(api, QUICK, resolve=resolving("127.0.0.1"))
        try:
            return await body_of(client, "/")
        finally:
            await client.close()

    async def work() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        trusted = Path(f"{certificate}.crt")
        assert await ask("ci.example.com", port, trusted) == b"ok"
        with pytest.raises(Unavailable, match=r"(?i)certificate verify failed"):
            await ask("ci.example.com", port, None)
        with pytest.raises(Unavailable, match=r"(?i)certificate verify failed"):
            await ask("other.example.com", port, trusted)
        server.close()

    run(work)


def test_nothing_of_what_is_sent_or_named_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with site(kept=Answer(200, b"x")) as here:
            here.answers["log"] = Answer(302, b"", {"location": f"{here.origin}/kept?sig={TOKEN}"})
            await body_of(here.client(hosts=("127.0.0.1",)), "/log")

    with caplog.at_level(logging.DEBUG):
        run(work)
    assert TOKEN not in caplog.text


def test_neither_the_environment_nor_a_cookie_has_a_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    async def work() -> None:
        async with site(log=Answer(200, b"x", {"set-cookie": "session=1"})) as here:
            client = here.client()
            assert await body_of(client, "/log") == await body_of(client, "/log") == b"x"
            assert "cookie" not in here.asked[1].headers

    run(work)


def test_a_shown_api_hides_its_headers() -> None:
    assert TOKEN not in repr(Api("https://api.example.com", HEADERS))
