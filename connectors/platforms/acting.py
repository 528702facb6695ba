"""How a platform is asked to do something, and what its answers mean. Records and rules only: nothing here sends.

As with logs (asking.py) a conversation is a generator: it yields a Send or a Pause, is sent the Reply, or the Silence
where none came, and returns how it ended. What a status means is the same everywhere and is told in `consequence`; a
platform file sees only answers that it has asked for, and says only what is its own.

    an answer to             a question                what changes something
    2xx                      the platform file's       the platform file's
    2xx, but garbage         Unavailable               Ambiguous
    3xx                      Refused (moved): nothing is followed
    400, 422 and other 4xx   Refused (invalid)
    401                      Refused (login)
    403                      Refused (permission), or Unavailable where it names when to come again
    404, 410                 Refused (not found)
    409, 423                 Refused (state)
    408, 425, 429            Unavailable: the server says that it has done nothing
    5xx, 1xx, 304            Unavailable               Ambiguous: a gateway may say so after the effect
    silence, nothing sent    Unavailable               Unavailable
    silence, something sent  Unavailable               Ambiguous

https://www.rfc-editor.org/rfc/rfc9110#section-15
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias, TypeVar

import msgspec

from connectors.platforms.asking import Pause, Reply, retry_after
from connectors.platforms.reading import Fields, clean, decode_object, head
from models.records.calls import Ambiguous, Refusal, Refused, Result, RunState, Unavailable
from models.records.errors import MalformedPayload

JSON: Final[Mapping[str, str]] = {"content-type": "application/json"}
MOST_PAGES: Final = 10
PAGE: Final = 100

_MAX_WORDS_BYTES: Final = 200
_OK: Final = range(200, 300)
_MOVED: Final = frozenset(range(300, 400)) - {304}
_FORBIDDEN: Final = 403
_NOTHING_DONE: Final = frozenset({408, 425, 429})
_REFUSALS: Final = {
    401: Refusal.LOGIN,
    403: Refusal.PERMISSION,
    404: Refusal.NOT_FOUND,
    410: Refusal.NOT_FOUND,
    409: Refusal.STATE,
    423: Refusal.STATE,
}
_CLIENT_ERRORS: Final = range(400, 500)
_MARKER: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_.-")


@dataclass(frozen=True, slots=True)
class Send:
    """One request, without the credential. `path` stands behind the API's base, of which `up` parts are left off first.

    `changes`: it has an effect. `takes`: the answers that the conversation wants to see for itself, besides any 2xx.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    changes: bool = False
    takes: Callable[[Reply], bool] = field(default=lambda _: False, repr=False)
    up: int = 0


@dataclass(frozen=True, slots=True)
class Silence:
    """No answer came. `sent`: some of the request may have reached the platform."""

    why: str
    sent: bool


Stop: TypeAlias = Refused | Unavailable | Ambiguous
Judge: TypeAlias = Callable[[Reply], "Stop | None"]
T = TypeVar("T")
Asking: TypeAlias = Generator[Send | Pause, Reply, T]
"""What a platform file writes: it is sent only what it has asked for."""
Talk: TypeAlias = Generator[Send | Pause, Reply | Silence, T | Stop]
"""What a platform file gives: whoever holds the conversation sends what came, whatever that is."""
Acting: TypeAlias = Talk[Result]
Looking: TypeAlias = Talk[RunState]


def conversation(asking: Asking[T], judge: Judge | None = None) -> Talk[T]:
    """`asking`, ended by any answer that it did not ask for. `judge` knows what is the platform's own in those."""
    changed = False  # the last thing sent was to change something
    sent = False
    try:
        step = next(asking)
        while True:
            said = yield step
            if isinstance(step, Send):
                sent, changed = True, step.changes
                stop = _stopped(step, said, judge)
                if stop is not None:
                    return stop
            step = asking.send(said if isinstance(said, Reply) else Reply(0, {}))
    except StopIteration as ended:
        result: T = ended.value
        return result
    except MalformedPayload as error:
        if not sent:
            return Refused(Refusal.INVALID, error.detail)
        return Ambiguous(error.detail) if changed else Unavailable(error.detail)
    finally:
        asking.close()


def _stopped(step: Send, said: Reply | Silence, judge: Judge | None) -> Stop | None:
    if isinstance(said, Silence):
        return Ambiguous(said.why) if step.changes and said.sent else Unavailable(said.why)
    if step.takes(said):
        return None
    own = judge(said) if judge is not None and said.status not in _OK else None
    return own or consequence(said, changes=step.changes)


def consequence(reply: Reply, *, changes: bool) -> Stop | None:
    """What `reply` means on any platform; None where it is the answer that was asked for."""
    status, why, after = reply.status, words(reply), retry_after(reply)
    if status in _OK:
        return None
    if status in _MOVED:
        return Refused(Refusal.MOVED, why)
    if status in _NOTHING_DONE or (status == _FORBIDDEN and after is not None):
        return Unavailable(why, after)
    if status in _CLIENT_ERRORS:
        return Refused(_REFUSALS.get(status, Refusal.INVALID), why)
    return Ambiguous(why, after) if changes else Unavailable(why, after)


def words(reply: Reply) -> str:
    """The status and what the platform says to it, as far as that can be read."""
    said = message(reply)
    return f"HTTP {reply.status}: {said}" if said else f"HTTP {reply.status}"


def message(reply: Reply) -> str:
    """What the platform says under `message` or `error`; nothing where it does not."""
    try:
        body = msgspec.json.decode(reply.body) if reply.body else None
    except (msgspec.DecodeError, RecursionError):
        return ""
    if not isinstance(body, dict):
        return ""
    said = next((body[key] for key in ("message", "error", "error_description") if isinstance(body.get(key), str)), "")
    return head(" ".join(clean(said).split()), _MAX_WORDS_BYTES)


def answered(reply: Reply) -> Fields:
    """The object that an answer holds; an empty one where it holds nothing.

    Raises:
        MalformedPayload: it holds something else.
    """
    return decode_object(reply.body) if reply.body else Fields({})


def encoded(**fields: object) -> bytes:
    """`fields` as a JSON body."""
    return msgspec.json.encode(fields)


def hidden(marker: str) -> str:
    """`marker` as Markdown shows it to nobody.

    Raises:
        MalformedPayload: it could end what hides it.
    """
    if not set(marker) <= _MARKER or not marker or "--" in marker:
        raise MalformedPayload("marker: letters, digits and single hyphens were expected")
    return f"<!-- {marker} -->"


def marked(body: str, marker: str) -> str:
    """`body` with `marker` below it."""
    return f"{body}\n\n{hidden(marker)}"
