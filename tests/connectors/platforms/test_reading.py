"""Foreign JSON is read strictly, and times in every form that the platforms write them in."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from connectors.platforms.reading import (
    MAX_DEPTH,
    MAX_INTEGER,
    Fields,
    clean,
    decode_object,
    head,
    milliseconds,
    read_time,
    tail,
)
from models.records.errors import MalformedPayload

NOON = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("2026-01-02T12:00:00Z", NOON),
        ("2026-01-02T12:00:00.250Z", NOON.replace(microsecond=250_000)),
        ("2026-01-02T14:00:00+02:00", NOON),
        ("2026-01-02T14:00:00+0200", NOON),
        ("2026-01-02 12:00:00 UTC", NOON),
        ("2026-01-02 14:00:00 +0200", NOON),
        ("2026-01-02 07:00:00 -0500", NOON),
        ("2026-01-02 12:00:00.361740256 +0000 UTC", NOON.replace(microsecond=361_740)),
        ("2026-01-02 14:00:00 +0200 CEST", NOON),
        (1767355200000, NOON),
        (1767355200250, NOON.replace(microsecond=250_000)),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", None),
        ("1969-12-31T23:59:59Z", None),
        (-1, None),
    ],
)
def test_each_form_of_time_is_read(value: str | int, moment: datetime | None) -> None:
    assert read_time(value) == moment


@pytest.mark.parametrize(
    "value",
    [
        "",
        "soon",
        "2026-01-02",
        "2026-01-02T",
        "2026-01-02xZ",
        "2026-01-02T12:00:00",
        "2026-01-02 12:00:00 PDT",
        "20260102T120000Z",
        "2026-13-02T12:00:00Z",
        "9999-12-31T23:59:59-02:00",
        "0001-01-01T00:00:00+02:00",
        10**15,
        10**30,
    ],
)
def test_what_is_no_time_is_refused(value: str | int) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any of its kinds
        read_time(value)


def test_a_duration_needs_two_ends_in_order() -> None:
    assert milliseconds(NOON, NOON.replace(second=1)) == 1000
    assert milliseconds(NOON.replace(second=1), NOON) is None
    assert milliseconds(None, NOON) is None
    assert milliseconds(NOON, None) is None


def test_sixty_four_levels_are_read_and_not_one_more() -> None:
    def nested(levels: int) -> bytes:
        return b'{"a":' * levels + b"1" + b"}" * levels

    assert decode_object(nested(MAX_DEPTH))
    with pytest.raises(MalformedPayload, match="64 levels"):
        decode_object(nested(MAX_DEPTH + 1))
    with pytest.raises(MalformedPayload, match="64 levels"):
        decode_object(b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"a":1,"a":1}', "same key twice"),
        (b'{"b":{"a":1,"a":1}}', "same key twice"),
        (b'{"a":9007199254740993}', "beyond 2"),
        (b'{"a":-9007199254740993}', "beyond 2"),
        (b'{"a":' + b"9" * 10_000 + b"}", "beyond 2"),
        (b'{"a":1e400}', "too large"),
        (b'{"a":-Infinity}', "not JSON"),
        (b"null", "it is null|is null"),
        (b'"a"', "text"),
        (b"{", "character 1"),
        (b'{"a":"\xff"}', "byte 6"),
        (b"\xef\xbb\xbf{}", "character 0"),
        (b"{}{}", "character 2"),
    ],
)
def test_what_other_readers_might_take_differently_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(MalformedPayload, match=says):
        decode_object(body)


def test_the_largest_whole_numbers_are_read() -> None:
    fields = decode_object(f'{{"a":{MAX_INTEGER},"b":{-MAX_INTEGER}}}'.encode())
    assert (fields.integer("a"), fields.integer("b")) == (MAX_INTEGER, -MAX_INTEGER)


def test_what_no_store_takes_becomes_a_question_mark() -> None:
    assert clean("a\x00b") == "a?b"
    assert clean("a\ud800b é") == "a?b é"
    assert clean("plain") == "plain"
    assert clean("é\x00") == "é?"


def test_text_is_cut_between_characters() -> None:
    assert head("é" * 10, 5) == "éé"
    assert tail("é" * 10, 5) == "éé"
    assert head("abc", 100) == tail("abc", 100) == "abc"


def test_text_is_optional_and_bounded() -> None:
    fields = Fields({"empty": "", "null": None, "long": "x" * 1000, "url": "y" * 3000, "number": 1})
    assert [fields.text(key) for key in ("empty", "null", "absent")] == [None] * 3
    assert len(fields.text("long") or "") == 512
    assert fields.text("long", None) == "x" * 1000
    assert fields.url("url") is None
    assert fields.url("absent") is None
    with pytest.raises(MalformedPayload, match="number: text was expected, it is a whole number"):
        fields.text("number")


@pytest.mark.parametrize("value", [None, "", True, 1.5, [], {}, "x" * 513, "a\x00", "\udc00"])
def test_what_names_nothing_is_no_id(value: object) -> None:
    with pytest.raises(MalformedPayload, match="a: an id"):
        Fields({"a": value}).identity("a")


def test_numbers_that_name_something_become_text() -> None:
    assert Fields({"a": 42}).identity("a") == "42"
    assert Fields({"a": "x/y"}).maybe_identity("a") == "x/y"
    assert Fields({"a": ""}).maybe_identity("a") is None


def test_numbers_are_read_within_their_bounds() -> None:
    fields = Fields({"n": 1.5, "i": 2, "neg": -1, "big": 1e300, "flag": True, "word": "1", "many": 2**31})
    assert (fields.number("n"), fields.number("i"), fields.number("absent")) == (1.5, 2, None)
    assert (fields.duration_ms("n", unit_ms=1000), fields.duration_ms("neg", unit_ms=1)) == (1500, None)
    assert Fields({"n": MAX_INTEGER}).duration_ms("n", unit_ms=1000) == MAX_INTEGER
    assert (fields.count("i"), fields.count("absent"), fields.integer("neg")) == (2, None, -1)
    for read, key in [
        (fields.number, "big"),
        (fields.number, "flag"),
        (fields.number, "word"),
        (fields.integer, "n"),
        (fields.integer, "flag"),
        (fields.count, "neg"),
        (fields.count, "many"),
    ]:
        with pytest.raises(MalformedPayload, match=f"^{key}: "):
            read(key)


def test_flags_times_and_lists_are_read_or_refused_by_path() -> None:
    fields = Fields({"a": {"t": 1.5, "f": "yes", "o": [1], "l": {}, "s": [1], "e": [], "when": ""}}).inner("a")
    assert (fields.flag("absent"), fields.time("when"), fields.texts("e"), fields.each("absent")) == (
        None,
        None,
        [],
        [],
    )
    assert not fields.inner("absent")
    assert "t" in fields
    assert "absent" not in fields
    readers: list[tuple[Callable[[str], object], str]] = [
        (fields.flag, "f"),
        (fields.time, "t"),
        (fields.each, "o"),
        (fields.each, "l"),
        (fields.texts, "s"),
        (fields.inner, "s"),
        (fields.required, "absent"),
        (fields.first_time, "absent"),
    ]
    for read, key in readers:
        with pytest.raises(MalformedPayload, match=rf"^a\.{key}: "):
            read(key)


def test_a_malformed_payload_never_quotes_the_value() -> None:
    with pytest.raises(MalformedPayload) as raised:
        Fields({"a": "hunter2"}).flag("a")
    assert "hunter2" not in raised.value.detail
