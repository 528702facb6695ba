"""Recorded deliveries, as `guard normalise` takes them: a body and its headers, or both in one JSON file.

{"headers": {"X-GitHub-Event": "workflow_run", ...}, "body": {...} or "text as it came"}
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import urlencode

import msgspec

from models.records.errors import ConfigError

_FORM: Final = "application/x-www-form-urlencoded"


class _Whole(msgspec.Struct):
    headers: dict[str, str]
    body: dict[str, Any] | list[Any] | str


def read(file: str) -> bytes:
    """The bytes of `file`; - is standard input.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None


@contextmanager
def opened(file: str) -> Iterator[BinaryIO]:
    """`file` to be read piece by piece; - is standard input.

    Raises:
        ConfigError: it cannot be opened.
    """
    if file == "-":
        yield sys.stdin.buffer
        return
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(Path(file).open("rb"))
        except OSError as error:
            raise ConfigError(f"{file}: {error.strerror}") from None
        yield stream


def headers_of(lines: Iterable[str]) -> dict[str, str]:
    """Headers written `Name: value`.

    Raises:
        ConfigError: a line that is none.
    """
    headers = {}
    for line in filter(str.strip, lines):
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise ConfigError(f"a header is written 'Name: value', not {line!r}")
        headers[name.strip()] = value.strip()
    return headers


def header_file(path: Path) -> dict[str, str]:
    """The headers in a file: `Name: value` lines, or one JSON object.

    Raises:
        ConfigError: it cannot be read, or is neither.
    """
    content = read(str(path))
    try:
        if content.lstrip()[:1] == b"{":
            return msgspec.json.decode(content, type=dict[str, str])
        return headers_of(content.decode().splitlines())
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None


def whole(content: bytes) -> tuple[dict[str, str], bytes] | None:
    """Headers and body of a file that has both; None where it is a body alone."""
    try:
        both = msgspec.json.decode(content, type=_Whole)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if isinstance(both.body, str):
        return both.headers, both.body.encode()
    body = msgspec.json.encode(both.body)
    kind = next((value for name, value in both.headers.items() if name.lower() == "content-type"), "")
    return both.headers, urlencode({"payload": body}).encode() if kind.startswith(_FORM) else body
