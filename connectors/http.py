"""The one way out: how every API of a platform is asked.

It stands on httpcore2, the transport of httpx2, because httpx2's client decides what must be decided here: it takes
proxies and keys from the environment, keeps cookies, unpacks bodies without a bound, and cannot be told how to connect.

* Time-outs on everything: to connect, between two pieces, for the whole. No more bytes than allowed, packed or not.
* A body is handed on in pieces and never held.
* Redirects are followed once, without the credential, over https, to hosts that the operator allows for that API.
* A name is resolved once, its addresses are judged, and one that passed is connected to; nobody resolves it again.
* Certificates are verified. No error names a credential, or the signature in an address.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urljoin, urlsplit

import httpcore2

from connectors.addresses import is_private_host, reachable
from connectors.inflating import GZIP, inflated
from models.records.errors import Refused, Unavailable

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

_USER_AGENT: Final = "pipeline-guard"
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_BODILESS: Final = frozenset({"GET", "DELETE"})
_KEEP_SECONDS: Final = 30.0  # an idle connection
_DRAINED_BYTES: Final = 16 << 10  # read to the end so that the connection can be used again
_MOST_ADDRESSES: Final = 3  # tried of one name
_LOOKUPS: Final = 2  # threads: of one API, so that a name server that hangs holds up no other
_MAX_HOST: Final = 253

logging.getLogger("httpcore2").setLevel(logging.WARNING)  # below that it writes down headers


@dataclass(frozen=True, slots=True)
class Api:
    """An API as the operator has configured it. `url` is its base, without a slash at its end."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # its credential among them
    hosts: tuple[str, ...] = ()  # to which it may send us on, or name addresses at; what ends in .HOST as well
    private: bool = False  # it stands in a network of our own
    ca_file: Path | None = None  # whom to trust besides those whom the machine trusts


@dataclass(frozen=True, slots=True)
class Limits:
    """How long and how much. `most_bytes` is of one body, unpacked."""

    connect_seconds: float = 5.0
    read_seconds: float = 15.0
    total_seconds: float = 120.0
    most_bytes: int = 512 << 20
    connections: int = 64


class Answer:
    """The head of an answer; its body comes in pieces, while the context that gave it is open."""

    def __init__(self, response: httpcore2.Response, *, redirected: bool, most_bytes: int) -> None:
        self.status = response.status
        self.headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
        self.redirected = redirected
        self.cut = False  # more was to come than is allowed
        self._response = response
        self._most_bytes = most_bytes
        self._begun = False

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body, unpacked, in pieces of at most 64 KiB; it ends early, with `cut`, where it is too long.

        Raises:
            Unavailable: it broke off, or is not packed as its head says.
            Refused: it is packed in a way that was not asked for.
        """
        unpack, self._begun = self._unpacker(), True
        left_bytes = packed_left_bytes = self._most_bytes
        async for chunk in self._response.aiter_stream():
            packed_left_bytes -= len(chunk)
            for piece in unpack(chunk):
                yield piece[:left_bytes]
                left_bytes -= len(piece)
                self.cut = left_bytes < 0 or packed_left_bytes < 0
                if self.cut:
                    return
                await asyncio.sleep(0)  # what comes faster than it is used must not keep others from theirs

    async def read(self, most_bytes: int) -> bytes:
        """The whole body, which should be small.

        Raises:
            Unavailable, Refused: as for `pieces`.
            Refused: it has more than `most_bytes`.
        """
        body = b""
        async with aclosing(self.pieces()) as pieces:
            async for piece in pieces:
                body += piece
                if len(body) > most_bytes or self.cut:
                    raise Refused(f"an answer of more than {most_bytes} bytes")
        return body

    async def leave(self) -> None:
        """Read what little there is of a body that nobody wanted, so that its connection can be used again."""
        length = self.headers.get("content-length", "")
        if not self._begun and length.isdigit() and int(length) <= _DRAINED_BYTES:
            async for _ in self._response.aiter_stream():
                pass

    def _unpacker(self) -> Callable[[bytes], Iterable[bytes]]:
        encoding = self.headers.get("content-encoding", "identity").strip().lower()
        if encoding in {"", "identity"}:
            return lambda chunk: (chunk,)
        if encoding in {"gzip", "x-gzip"}:
            return _Gunzip()
        raise Refused("an answer packed in a way that was not asked for")


class Unanswered(Unavailable):
    """There was no answer. `sent`: some of the request may have gone out."""

    def __init__(self, detail: str, *, sent: bool) -> None:
        super().__init__(detail)
        self.sent = sent


class _GoneOut:
    """Notices when a request begins to go out: https://www.encode.io/httpcore/extensions/#trace."""

    def __init__(self) -> None:
        self.sent = False

    async def __call__(self, event: str, _info: Mapping[str, Any]) -> None:
        self.sent = self.sent or "send_request" in event


class _Gunzip:
    """Unpacks gzip, of which several may follow each other."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(GZIP)

    def __call__(self, chunk: bytes) -> Iterable[bytes]:
        try:
            while chunk:
                if self._stream.eof:
                    self._stream = zlib.decompressobj(GZIP)
                yield from inflated(self._stream, chunk)
                chunk = self._stream.unused_data if self._stream.eof else b""
        except zlib.error:
            raise Unavailable("an answer that is not gzip, as it says") from None


class Client:
    """Asks one API. Its connections, and the threads that look up names, are shared with no other."""

    def __init__(self, api: Api, limits: Limits | None = None, *, resolve: Resolve | None = None) -> None:
        """`resolve` gives the addresses of a host; the system's resolver, if not given."""
        self._limits = limits or Limits()
        self._base = urlsplit(api.url)
        self._api = api
        self._private = api.private or is_private_host(self._base.hostname or "")
        self._lookups = ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="resolve")
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=_trust(api.ca_file),
            max_connections=self._limits.connections,
            max_keepalive_connections=self._limits.connections,
            keepalive_expiry=_KEEP_SECONDS,
            network_backend=_Judging(resolve or self._resolved, private=self._private),
        )

    async def close(self) -> None:
        """Close its connections."""
        await self._pool.aclose()
        self._lookups.shutdown(wait=False, cancel_futures=True)

    @asynccontextmanager
    async def get(self, path: str, *, accept: str = "*/*") -> AsyncIterator[Answer]:
        """The answer to a GET of `path`, which stands behind the base, with the credential; one redirect is followed.

        Raises:
            Unavailable: there is none, or it breaks off: time-outs, connections, certificates, what is not HTTP.
            Refused: an address that may not be connected to, or a redirect to where we may not be sent.
        """
        url = self._api.url + path
        async with self._bounded():
            async with self._asked(url, accept, self._api.headers) as answer:
                if answer.status not in _REDIRECTS:
                    yield answer
                    return
                target = self._allowed(answer.headers.get("location", ""), url)
            async with self._asked(target, accept, {}, redirected=True) as answer:
                yield answer

    @asynccontextmanager
    async def get_elsewhere(self, url: str, *, accept: str = "*/*") -> AsyncIterator[Answer]:
        """The answer to a GET of `url`, which the API has named: without the credential, and no redirect is followed.

        Raises:
            Unavailable, Refused: as `get` does.
        """
        async with self._bounded(), self._asked(self._allowed(url), accept, {}) as answer:
            yield answer

    @asynccontextmanager
    async def send(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes = b"", up: int = 0
    ) -> AsyncIterator[Answer]:
        """The answer to a request that may change something, with the credential; no redirect is followed.

        `path` stands behind the base, of which `up` parts are left off first.

        Raises:
            Unanswered, Refused: as `get` does; whether it was sent is known.
        """
        base = self._api.url.rsplit("/", up)[0] if up else self._api.url
        gone_out = _GoneOut()
        try:
            async with self._bounded():
                named = {**headers, **self._api.headers}
                asked = self._asked(base + path, "*/*", named, method=method, body=body, trace=gone_out)
                async with asked as answer:
                    yield answer
        except Unavailable as error:
            raise Unanswered(str(error), sent=gone_out.sent) from None

    @asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        """What goes wrong within, in our words; and an end to it."""
        try:
            async with asyncio.timeout(self._limits.total_seconds):
                yield
        except TimeoutError:
            raise Unavailable(f"no end after {self._limits.total_seconds:g} s") from None
        except httpcore2.TimeoutException as error:
            raise Unavailable(_WORDS.get(type(error), "timed out")) from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
            raise Unavailable(f"{_WORDS.get(type(error), 'no HTTP')}: {error}") from None

    @asynccontextmanager
    async def _asked(
        self,
        url: str,
        accept: str,
        headers: Mapping[str, str],
        *,
        redirected: bool = False,
        method: str = "GET",
        body: bytes = b"",
        trace: _GoneOut | None = None,
    ) -> AsyncIterator[Answer]:
        limits = self._limits
        times = (limits.connect_seconds, limits.read_seconds, limits.connect_seconds, limits.total_seconds)
        timeouts = dict(zip(("connect", "read", "write", "pool"), times, strict=True))
        sent = {"host": urlsplit(url).netloc, "user-agent": _USER_AGENT, "accept": accept, "accept-encoding": "gzip"}
        if body or method not in _BODILESS:
            sent["content-length"] = str(len(body))
        pairs = list({**sent, **headers}.items())
        extensions = {"timeout": timeouts, **({"trace": trace} if trace is not None else {})}
        request = httpcore2.Request(method, url, headers=pairs, content=body, extensions=extensions)
        response = await self._pool.handle_async_request(request)
        try:
            answer = Answer(response, redirected=redirected, most_bytes=limits.most_bytes)
            yield answer
            await answer.leave()
        finally:
            await response.aclose()

    def _allowed(self, url: str, base: str = "") -> str:
        """`url`, as `base` has it, if it leads where this API may send us.

        Raises:
            Refused: it does not.
        """
        try:
            url = urljoin(base, url)
            parts = urlsplit(url)
            host, port = (parts.hostname or "").lower(), parts.port
        except ValueError:
            raise Refused("sent on to what is no address") from None
        if not (url.isascii() and url.isprintable()):
            raise Refused("sent on to what is no address")
        plain = self._base.scheme == "http" and self._private
        if parts.scheme != "https" and not (plain and parts.scheme == "http"):
            raise Refused("sent on to an address that is not https")
        if not _is_plain_host(host, parts) or not (port in (None, 443) or self._private):
            raise Refused("sent on to an address with a login, or a port of its own")
        if not any(host == known or host.endswith(f".{known}") for known in self._api.hosts):
            raise Refused(f"sent on to {host}, which is not among the allowed hosts")
        return parts._replace(fragment="").geturl()

    async def _resolved(self, host: str, port: int) -> Sequence[str]:
        lookup = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._lookups, lookup)
        return list(dict.fromkeys(str(address[0]) for *_, address in found))


_WORDS: Final[Mapping[type[Exception], str]] = {
    httpcore2.ConnectTimeout: "no connection in time",
    httpcore2.ReadTimeout: "no answer in time",
    httpcore2.WriteTimeout: "it takes no request",
    httpcore2.PoolTimeout: "no connection free in time",
    httpcore2.ConnectError: "no connection",
    httpcore2.ReadError: "the connection broke",
    httpcore2.WriteError: "the connection broke",
}


def _is_plain_host(host: str, parts: SplitResult) -> bool:
    """Whether the address names a host and nothing that could be mistaken for one."""
    return bool(host) and host.isascii() and len(host) <= _MAX_HOST and "@" not in parts.netloc


@lru_cache
def _trust(ca_file: Path | None) -> ssl.SSLContext:
    """Whom to trust: those whom the machine trusts, and those in `ca_file`."""
    context = httpcore2.default_ssl_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context


class _Judging(httpcore2.AsyncNetworkBackend):
    """Connects to addresses that may be connected to, and to no other that a name resolves to."""

    def __init__(self, resolve: Resolve, *, private: bool) -> None:
        self._resolve = resolve
        self._private = private
        self._plain = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore2's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """A connection to the first address of `host` that takes one.

        Raises:
            Refused: it has none that may be connected to.
            httpcore2.ConnectError, httpcore2.ConnectTimeout: none takes one.
        """
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._resolve(host, port)
                last: Exception = httpcore2.ConnectError(f"{host} has no address")
                for address in self._judged(host, addresses)[:_MOST_ADDRESSES]:
                    try:
                        return await self._plain.connect_tcp(address, port, None, local_address, socket_options)
                    except httpcore2.ConnectError as error:
                        last = error
        except TimeoutError:
            raise httpcore2.ConnectTimeout(host) from None
        except OSError:
            raise httpcore2.ConnectError(f"{host} cannot be found") from None
        raise last

    def _judged(self, host: str, addresses: Sequence[str]) -> list[str]:
        good = [address for address in addresses if reachable(address, private=self._private)]
        if addresses and not good:
            raise Refused(f"{host} is at an address that may not be connected to")
        return good
