"""What is asked of a platform's API, and what its answers mean. Records only: nothing here sends or waits.

A conversation with a platform is a generator. It yields what to do next, a Get or a Pause, is sent the Reply to it, and
returns how it ended:

    steps = platform.log(job)
    step = next(steps)                     # Get(path="/repos/acme/shop/actions/jobs/7/logs", ...)
    steps.send(Reply(200, {...}, ...))     # raises StopIteration(Found())

Paths are made of ids alone, each escaped, and stand behind an address that the operator has configured. The one address
that comes from elsewhere is one that the API itself has just answered with; it is asked without a credential, and only
where the operator allows its host.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Final, Protocol, TypeAlias
from urllib.parse import quote

import msgspec

from models.records.errors import MalformedPayload

_MAX_DIGITS: Final = 20
_MAX_RETRY_SECONDS: Final = 24 * 3600.0
_UNAUTHORISED, _FORBIDDEN, _TOO_MANY = 401, 403, 429
_OK: Final = range(200, 300)
_NOT_THERE: Final = frozenset({404, 410})
_LATER: Final = frozenset({408, 425, _TOO_MANY, *range(500, 600)})


class JobRun(msgspec.Struct, frozen=True, omit_defaults=True):
    """One run of a job, by every name that the API of its platform may know it by."""

    repository: str
    pipeline_id: str
    job_id: str | None = None  # null where run and job are one (Jenkins)
    attempt: int = 1
    job_number: int | None = None
    job_name: str | None = None


class Decoder(Protocol):
    """Makes text of the bytes of a body, piece by piece, holding no more than it must."""

    @property
    def ended(self) -> bool:
        """Whether no more text will come, whatever of the body is left."""

    def feed(self, chunk: bytes) -> Iterable[bytes]:
        """The text that `chunk` completes, in pieces of bounded size; to be used up before the next chunk is fed.

        Raises:
            MalformedPayload: the body is not what it should be.
        """


@dataclass(frozen=True, slots=True)
class Get:
    """Ask for something. What comes is text of the log where there is a `text` to read it with, else it is small.

    Exactly one of `path`, behind the base and with the credential, and `elsewhere`, a whole address without it.
    """

    path: str = ""
    elsewhere: str = field(default="", repr=False)  # signed, as a rule
    accept: str = "*/*"
    text: Callable[[], Decoder] | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait a little: there is more to come."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, its headers by lower-case name. `at` is when it came, Unix seconds; only a small one has a `body`."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    at: float = 0.0
    redirected: bool = False  # it came from where the API had sent us on to
    body: bytes = field(default=b"", repr=False)
    text_bytes: int = 0  # how much text of the log came with it


@dataclass(frozen=True, slots=True)
class Found:
    """The log was there, and all of it came. `exit_code` where the platform itself gave one."""

    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class NotThere:
    """The platform has no such log: never written, erased, expired."""

    why: str


@dataclass(frozen=True, slots=True)
class Denied:
    """The platform said no, and will again; `login` where it is the credential that it does not take."""

    why: str
    login: bool = False


@dataclass(frozen=True, slots=True)
class TryLater:
    """No answer to go by. `retry_after` is in seconds, where the platform named it: nothing is asked before."""

    why: str
    retry_after: float | None = None


Step: TypeAlias = Get | Pause
Ending: TypeAlias = Found | NotThere | Denied | TryLater
Steps: TypeAlias = Generator[Step, Reply, Ending]


class Plain:
    """A body that is text as it comes."""

    ended = False

    def feed(self, chunk: bytes) -> Iterable[bytes]:
        """`chunk`."""
        return (chunk,)


def meaning(reply: Reply) -> Ending | None:
    """What a status means on any platform; None where it is the answer that was asked for.

    https://www.rfc-editor.org/rfc/rfc9110#section-15
    """
    why, after = f"HTTP {reply.status}", retry_after(reply)
    if reply.status in _OK:
        return None
    if reply.status in _NOT_THERE:
        return NotThere(why)
    if reply.status in _LATER or (reply.status == _FORBIDDEN and after is not None):
        return TryLater(why, after)
    return Denied(why, login=reply.status == _UNAUTHORISED)


def retry_after(reply: Reply) -> float | None:
    """For how many seconds nothing should be asked, at most a day; None where the reply does not say.

    https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3
    """
    value = reply.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS:
        return min(float(value), _MAX_RETRY_SECONDS)
    return until(_seconds(value), reply) if value else None


def until(moment: float | None, reply: Reply) -> float | None:
    """How many seconds after `reply` that moment is, Unix seconds; none below 0 or above a day."""
    return None if moment is None else min(max(moment - reply.at, 0.0), _MAX_RETRY_SECONDS)


def _seconds(value: str) -> float | None:
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None


def number(value: str | int | None, name: str) -> str:
    """An id that is a whole number, as it stands in a path.

    Raises:
        MalformedPayload: it is none.
    """
    text = "" if value is None else str(value)
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise MalformedPayload(f"{name}: a whole number was expected")
    return text


def segments(path: str, name: str, *, least: int = 1, most: int = 64) -> list[str]:
    """The parts of `path`, each escaped so that it can be nothing but one part of a path.

    Raises:
        MalformedPayload: too few or too many of them, or one that would mean another place (`..`) or nothing.
    """
    parts = path.split("/")
    if not least <= len(parts) <= most or any(part in {"", ".", ".."} for part in parts):
        raise MalformedPayload(f"{name}: a path of {least} to {most} names was expected")
    return [quote(part, safe="", errors="replace") for part in parts]
