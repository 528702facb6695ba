"""Secrets and mail addresses are taken out of text before anything is stored, sent or logged.

A secret becomes `[REDACTED:<rule>]`; a mail address becomes `mail:<12 hex>`, the start of its HMAC, so that one person
stays one person under one key. The rules are data: redaction.toml.

One Hyperscan pass tells which rules can match, and only those are run again in RE2, for the place of the secret. Both
are linear in the text whatever it holds. A mark put in may complete another rule's pattern, so passes are repeated
until one changes nothing: redacting twice is the same as redacting once. Marks and the platforms' own `***` stay.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
import tomllib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import hyperscan
import msgspec
import re2

from models.records.event import Event, FailureContext, Metadata
from models.records.outputs import DeadLetter

RULES_PATH: Final = Path(__file__).with_name("redaction.toml")
MAIL: Final = "mail"
UNSETTLED: Final = "unsettled"  # text made so that marks complete patterns again and again: nothing of it is kept
_MOST_PASSES: Final = 8
_MIN_KEY_BYTES: Final = 16
_WORD_START: Final = r"(?:\b|\x1b\[[0-9;]*m|\\[bfnrt])"

_OPTIONS: Final = re2.Options()
_OPTIONS.encoding = re2.Options.Encoding.LATIN1  # bytes, as Hyperscan sees them
_SECRET_NAME: Final = re2.compile(
    r"(?i).*(?:passw(?:or)?d|passphrase|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|authorization|cookie)"
)
_MASK: Final = re2.compile(r"\**|\[REDACTED:[a-z-]+\]")

S = TypeVar("S", bound=msgspec.Struct)

_PLAIN: Final = ("repository", "pipeline_id", "job_id")


def _text_fields(struct: type[msgspec.Struct]) -> tuple[str, ...]:
    """Names of the fields that hold foreign text: strings, but not our own closed words."""
    info = msgspec.inspect.type_info(struct)
    assert isinstance(info, msgspec.inspect.StructType)
    return tuple(
        field.name
        for field in info.fields
        if any(isinstance(part, msgspec.inspect.StrType) for part in getattr(field.type, "types", (field.type,)))
    )


_META: Final = _text_fields(Metadata)
_FAILURE: Final = _text_fields(FailureContext)
_plain_of: Final = attrgetter(*_PLAIN)
_meta_of: Final = attrgetter(*_META)
_failure_of: Final = attrgetter(*_FAILURE)


class Rule(NamedTuple):
    """One kind of secret; how its fields are written is told at the top of redaction.toml."""

    id: str
    pattern: bytes
    allow: bytes | None
    example: str
    secret: str
    confuser: str


def load_rules(path: Path = RULES_PATH) -> tuple[Rule, ...]:
    """The rules of the file at `path`, in their order."""
    rules = []
    for table in tomllib.loads(path.read_text(encoding="utf-8"))["rule"]:
        secret = "".join(table["secret"])
        allow = table.get("allow")
        rules.append(
            Rule(
                id=table["id"],
                pattern=table["pattern"].replace(r"\<", _WORD_START).encode(),
                allow=allow.encode() if allow else None,
                example=table.get("matches", "{}").replace("{}", secret),
                secret=secret,
                confuser=table["confuser"],
            )
        )
    return tuple(rules)


def _count_nothing(_rule: str) -> None:
    pass


class Redactor:
    """Takes out secrets. May be used by several threads.

    `key`, of at least 16 bytes, makes the pseudonyms: who has it can tell whether an address is the one meant.
    `found` is called with the rule's id for each place.
    """

    def __init__(self, key: bytes, *, found: Callable[[str], None] = _count_nothing) -> None:
        if len(key) < _MIN_KEY_BYTES:
            raise ValueError(f"a redaction key of {len(key)} bytes; at least {_MIN_KEY_BYTES} are needed")
        rules = load_rules()
        self._key = key
        self._found = found
        self._ids = [rule.id for rule in rules]
        self._patterns = [re2.compile(rule.pattern, _OPTIONS) for rule in rules]
        self._allowed = [re2.compile(rule.allow, _OPTIONS) if rule.allow else None for rule in rules]
        names = "|".join(re2.escape(name) for name in (*self._ids, UNSETTLED))
        self._marks = re2.compile(rf"\[REDACTED:(?:{names})\]|\bmail:[0-9a-f]{{12}}\b".encode(), _OPTIONS)
        self._database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        self._database.compile(
            expressions=[rule.pattern for rule in rules],
            ids=list(range(len(rules))),
            flags=[hyperscan.HS_FLAG_SINGLEMATCH] * len(rules),
        )
        self._threads = threading.local()

    def redact(self, text: str) -> str:
        """`text` without what must not pass."""
        data = text.encode("utf-8", "surrogatepass")
        clean = self.redact_bytes(data)
        return text if clean is data else clean.decode("utf-8", "replace")

    def redact_bytes(self, data: bytes) -> bytes:
        """`data`, text in UTF-8 or any encoding that holds ASCII, without what must not pass.

        The same object where there was nothing.
        """
        for _ in range(_MOST_PASSES):
            hits = self._hits(data)
            clean = self._pass(data, hits) if hits else data
            if clean == data:
                return data
            data = clean
        self._found(UNSETTLED)
        return f"[REDACTED:{UNSETTLED}]".encode()

    def redact_event(self, event: Event) -> Event:
        """`event` without what must not pass in any of its texts; the same object where there was nothing."""
        texts = [*_plain_of(event), *_meta_of(event.metadata), *event.metadata.runner_labels]
        failure = event.failure_context
        if failure is not None:
            texts += [*_failure_of(failure), *failure.error_patterns]
        if not self._hits("\0".join(filter(None, texts)).encode("utf-8", "surrogatepass")):
            return event
        return msgspec.structs.replace(
            event,
            **self._fields(event, _PLAIN),
            metadata=self._struct(event.metadata, _META, "runner_labels"),
            failure_context=failure and self._struct(failure, _FAILURE, "error_patterns"),
        )

    def redact_letter(self, letter: DeadLetter) -> DeadLetter:
        """`letter`, which holds what others wrote into the streams, without what must not pass."""
        return letter._replace(detail=self.redact(letter.detail), payload=self.redact_bytes(letter.payload))

    def redact_value(self, value: Any) -> Any:  # noqa: ANN401 - anything that can be logged
        """`value`, of dicts, lists and what is in them, without what must not pass; what stands under the name of a
        secret goes whole. Bytes and unknown objects become text.
        """
        match value:
            case None | bool() | int() | float():
                return value
            case str():
                return self.redact(value)
            case dict():
                return {self.redact(str(k)): self._named(str(k), v) for k, v in value.items()}
            case list() | tuple() | set() | frozenset():
                return [self.redact_value(item) for item in value]
            case bytes() | bytearray():
                return self.redact(bytes(value).decode("utf-8", "replace"))
            case _:
                return self.redact(str(value))

    def _named(self, name: str, value: Any) -> Any:  # noqa: ANN401 - as redact_value
        if isinstance(value, str | bytes) and _SECRET_NAME.fullmatch(name):
            text = value if isinstance(value, str) else value.decode("utf-8", "replace")
            if not _MASK.fullmatch(text):
                self._found("assigned-secret")
                return "[REDACTED:assigned-secret]"
        return self.redact_value(value)

    def _fields(self, struct: msgspec.Struct, names: Iterable[str]) -> dict[str, Any]:
        return {name: self.redact(text) for name in names if (text := getattr(struct, name)) is not None}

    def _struct(self, struct: S, names: Iterable[str], listed: str) -> S:
        texts = [self.redact(text) for text in getattr(struct, listed)]
        return msgspec.structs.replace(struct, **self._fields(struct, names), **{listed: texts})

    def _hits(self, data: bytes) -> list[int]:
        """The rules, by number, that match somewhere in `data`."""
        try:
            scratch = self._threads.scratch
        except AttributeError:
            scratch = self._threads.scratch = hyperscan.Scratch(self._database)
        hits: list[int] = []
        self._database.scan(data, lambda rule, *_: hits.append(rule), scratch=scratch)
        hits.sort()
        return hits

    def _pass(self, data: bytes, hits: Sequence[int]) -> bytes:
        """`data` with the places that the rules `hits` point at replaced, all found in the same text."""
        marks = _Marks(found.span() for found in self._marks.finditer(data))
        places = sorted(place for rule in hits for place in self._places(data, rule, marks))
        pieces: list[bytes] = []
        done = 0
        for start, end, rule in _merged(places, self._ids.index(MAIL)):
            pieces += data[done:start], self._mark(rule, data[start:end])
            done = end
            self._found(self._ids[rule])
        return b"".join((*pieces, data[done:]))

    def _places(self, data: bytes, rule: int, marks: _Marks) -> Iterable[tuple[int, int, int]]:
        """Where the secrets of one rule stand. A mark is never cut in two, and never replaced where it stands alone."""
        pattern, allowed = self._patterns[rule], self._allowed[rule]
        groups = range(1, pattern.groups + 1)
        for found in pattern.finditer(data):
            start, end = next((span for group in groups if (span := found.span(group))[0] >= 0), found.span())
            if allowed and allowed.fullmatch(data[start:end]):
                continue
            around = marks.around(start, end)
            if around is not None:
                yield *around, rule

    def _mark(self, rule: int, secret: bytes) -> bytes:
        if self._ids[rule] == MAIL:
            return b"mail:" + hmac.digest(self._key, secret.lower(), hashlib.sha256).hex()[:12].encode()
        return f"[REDACTED:{self._ids[rule]}]".encode()


class _Marks:
    """The places of marks in a text, in order. None touches another, so each is found by bisection."""

    def __init__(self, places: Iterable[tuple[int, int]]) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in places:
            self._starts.append(start)
            self._ends.append(end)

    def around(self, start: int, end: int) -> tuple[int, int] | None:
        """The place widened so that it cuts no mark in two; None where all of it is within one."""
        first = bisect_right(self._ends, start)
        last = bisect_left(self._starts, end) - 1
        if first > last:
            return start, end
        if self._starts[first] <= start and end <= self._ends[first]:
            return None
        return min(start, self._starts[first]), max(end, self._ends[last])


def _merged(places: Iterable[tuple[int, int, int]], mail: int) -> list[tuple[int, int, int]]:
    """`places`, sorted, with those that overlap made one, named by the rule that stands first in the file.

    An address that overlaps a secret is given up: in a URL it is the password's end and the host.
    """
    merged: list[tuple[int, int, int]] = []
    for start, end, rule in places:
        if not merged or start >= merged[-1][1]:
            merged.append((start, end, rule))
            continue
        first, last, other = merged[-1]
        if other == mail:
            merged[-1] = (start, end, rule)
        elif rule != mail:
            merged[-1] = (first, max(last, end), min(rule, other))
    return merged


def redacting_processor(
    redactor: Redactor,
) -> Callable[[Any, str, MutableMapping[str, Any]], MutableMapping[str, Any]]:
    """A structlog processor for every record of our own logs. Stands behind whatever formats exceptions, and before
    the renderer, which escapes what is left.
    """

    def process(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:  # noqa: ANN401 - structlog's
        clean: dict[str, Any] = redactor.redact_value(dict(event))
        return clean

    return process
