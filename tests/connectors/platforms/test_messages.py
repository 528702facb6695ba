import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.platforms.messages import Messages
from models.records.errors import MalformedPayload


def read(body: bytes, sizes: list[int] | None = None) -> tuple[bytes, bool]:
    """What comes of `body`, fed in pieces of these sizes, over and over."""
    decoder, text, at, turn = Messages(), b"", 0, 0
    while at < len(body):
        size = sizes[turn % len(sizes)] if sizes else len(body)
        text += b"".join(decoder.feed(body[at : at + size]))
        at, turn = at + size, turn + 1
    return text, decoder.ended


TRICKY = st.text(st.sampled_from(list('ab"\\/\n\té😀\ud83d\ude00\x00ud8{}[],:\x1b')), max_size=40)
OTHERS: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | TRICKY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TRICKY, inner, max_size=3),
    max_leaves=6,
)


@given(
    st.lists(st.tuples(TRICKY, st.dictionaries(TRICKY.filter(lambda name: name != "message"), OTHERS, max_size=3))),
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
    st.booleans(),
)
def test_the_messages_come_out_as_any_json_reader_sees_them_in_whatever_pieces(
    items: list[tuple[str, dict[str, Any]]], sizes: list[int], ascii_only: bool
) -> None:
    array = [{**others, "message": message, "type": "out"} for message, others in items]
    body = json.dumps(array, ensure_ascii=ascii_only).encode("utf-8", "replace")
    wanted = "".join(item["message"] for item in json.loads(body)).encode("utf-8", "replace")
    assert read(body, sizes) == (wanted, True)


@given(st.binary(max_size=200), st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_any_bytes_are_text_or_malformed(body: bytes, sizes: list[int]) -> None:
    for wrapped in (body, b"[" + body, b'[{"message": "' + body):
        try:
            read(wrapped, sizes)
        except MalformedPayload:
            continue


@pytest.mark.parametrize("body", [b"{}", b'"text"', b'{"message": "no array"}'])
def test_what_is_no_array_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedPayload, match="an array was expected"):
        read(body)


def test_an_escape_that_json_does_not_have_is_malformed() -> None:
    with pytest.raises(MalformedPayload, match="escape"):
        read(rb'[{"message": "a\x41"}]')


def test_what_follows_the_array_is_not_read() -> None:
    assert read(b'[{"message":"a"}] [{"message":"b"}]') == (b"a", True)


def test_a_long_message_is_handed_on_piece_by_piece() -> None:
    decoder = Messages()
    body = json.dumps([{"message": 'say "hi" \\ ' * 100_000}]).encode()
    held = 0
    for at in range(0, len(body), 4096):
        for piece in decoder.feed(body[at : at + 4096]):
            held = max(held, len(piece))
        held = max(held, len(decoder._held))
    assert held <= 4096 + 12
    assert decoder.ended


@pytest.mark.parametrize("unit", [rb"\"", rb"\\", rb"\ud83d", "é".encode(), b"{", b"x"])
def test_no_text_takes_more_than_linear_time(unit: bytes) -> None:
    """Ten megabytes of each would not end within the time of a test if one of them were quadratic."""
    decoder = Messages()
    for chunk in (b'[{"message":"', *[unit * (65536 // len(unit))] * 160):
        for _ in decoder.feed(chunk):
            pass
