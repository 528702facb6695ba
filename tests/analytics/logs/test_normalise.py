"""The text of a log: what each thing that logs are full of becomes, and what must hold for any bytes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from analytics.logs import normalise as module
from analytics.logs.normalise import CUT, LINE_BYTES, Normaliser, normalise


def _line(raw: bytes | str) -> str:
    text = normalise(raw if isinstance(raw, bytes) else raw.encode())
    assert text.endswith(b"\n")
    return text[:-1].decode()


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[31;1mred\x1b[0m and \x1b[38;5;12mblue\x1b[m", "red and blue"),
        ("\x1b]0;a title\x07text", "text"),
        ("\x1b]8;;https://example.org\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b_bk;t=1700000000000\x07$ make", "$ make"),
        ("\x1b(B\x1b[?25lhidden cursor\x1b[?25h\x1b=\x1b>", "hidden cursor"),
        ("\x1b]0;never ended", "0;never ended"),
        ("a lone \x1b goes alone", "a lone  goes alone"),
        ("\x1b\x1b[31m[32m", "[32m"),
    ],
)
def test_escape_sequences_go(raw: str, shown: str) -> None:
    assert _line(raw) == shown


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("10 %\r50 %\r100 %", "100 %"),
        ("10 %\r50 %\r100 %\r", "100 %"),
        ("10 %\r\x1b[Kdone", "done"),
        ("fetching\r          \r", "fetching"),
        ("text\r\r", "text"),
        ("[1/4] Resolving\x1b[2K\x1b[1G[2/4] Fetching\x1b[2K\x1b[1GDone", "Done"),
        ("|\b/\b-\b\\\bready", "ready"),
        ("12 %\b\b\b\b99 %", "99 %"),
        ("a\b\b\bb", "b"),
        ("abc\r\bdef", "def"),
        ("é\bè", "è"),
        ("to column\x1b[60G[ ok ]", "to column[ ok ]"),
    ],
)
def test_of_a_line_written_over_what_was_written_last_is_shown(raw: str, shown: str) -> None:
    assert _line(raw) == shown


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("2024-05-01T12:00:00.1234567Z npm ERR! code 1", "npm ERR! code 1"),
        (
            "2024-05-01T12:00:00.1234567Z ##[error]Process completed with exit code 1.",
            "Process completed with exit code 1.",
        ),
        ("##[group]Run make test", "Run make test"),
        ("##[endgroup]", ""),
        ("##[section]Starting: Build", "Starting: Build"),
        ("2024-05-01T12:00:00.123456Z 00O Running", "Running"),
        ("2024-05-01T12:00:00.123456Z 01E+ more", " more"),
        ("2024-05-01T12:00:00.123456Z", ""),
        ("section_start:1714564800:build_script[collapsed=true]\r\x1b[0K\x1b[36;1mExecuting\x1b[0;m", "Executing"),
        ("section_end:1714564800:build_script\r\x1b[0K", ""),
        ("travis_fold:start:git\r\x1b[0Ktravis_time:start:01\r\x1b[0K$ git clone", "$ git clone"),
        ("travis_fold:end:git\r\x1b[0K", ""),
        ("[2024-05-01T12:00:00.123Z] + make", "+ make"),
        ("[Pipeline] sh", ""),
        ("[Pipeline] // stage", ""),
        ("2024-05-01 12:00:00,123 INFO its own stamp stays", "2024-05-01 12:00:00,123 INFO its own stamp stays"),
    ],
)
def test_what_platforms_add_goes_and_what_they_say_stays(raw: str, shown: str) -> None:
    assert _line(raw) == shown


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"\xef\xbb\xbfplain", "plain"),
        ("naïve ✓".encode("utf-16"), "naïve ✓"),
        (b"\xfe\xff" + "naïve ✓".encode("utf-16-be"), "naïve ✓"),
        (b"caf\xe9 \x93ouvert\x94", "café “ouvert”"),
        (b"a\0b\x07c\x7f", "abc"),
        ("tabs\tstay, blanks at the end do not \t ", "tabs\tstay, blanks at the end do not"),
        (b"windows\r", "windows"),
    ],
)
def test_any_encoding_becomes_utf_8(raw: bytes | str, shown: str) -> None:
    assert _line(raw) == shown


def test_a_broken_line_does_not_harm_its_neighbours() -> None:
    assert normalise("é\n".encode() + b"\xe9\n" + "✓\n".encode()).decode() == "é\né\n✓\n"


def test_what_the_platform_calls_an_error_is_told_apart() -> None:
    raw = b"a\n2024-05-01T12:00:00Z ##[error]b\n\n##[warning]c\n##[error]d ##[error]\n"
    normaliser = Normaliser()
    blocks = [*normaliser.feed(raw), *normaliser.finish()]
    assert [block.errors for block in blocks] == [(1, 4)]


def test_every_line_of_the_log_is_a_line_of_the_text() -> None:
    assert normalise(b"") == b""
    assert normalise(b"\n") == b"\n"
    assert normalise(b"a\r\n\r\nb") == b"a\n\nb\n"
    assert normalise(b"[Pipeline] {\n[Pipeline] sh\n+ make\n") == b"\n\n+ make\n"


def test_a_long_line_keeps_both_ends_and_is_cut_between_words() -> None:
    line = normalise(b" ".join(b"word%05d" % i for i in range(5000)))[:-1]
    head, tail = line.split(CUT)
    assert len(line) <= LINE_BYTES
    assert head.startswith(b"word00000 ")
    assert tail.endswith(b" word04999")
    assert len(head.split()[-1]) == len(tail.split()[0]) == len(b"word00000")


@pytest.mark.parametrize("unit", ["é", "✓", "x"])
def test_a_cut_never_stands_within_a_character(unit: str) -> None:
    line = normalise((unit * 100_000).encode())[:-1]
    assert set(line.decode()) <= {unit, *CUT.decode()}
    assert LINE_BYTES - 8 <= len(line) <= LINE_BYTES


@pytest.mark.parametrize("size", [module._BLOCK_BYTES - 1, module._BLOCK_BYTES, 3 * module._BLOCK_BYTES + 17])
@pytest.mark.parametrize("after", [b"", b"\n", b"\nnext\n"])
def test_a_line_longer_than_a_block_costs_no_memory_and_loses_nothing_else(size: int, after: bytes) -> None:
    raw = b"first\n" + b"=" * size + after
    normaliser = Normaliser()
    texts = []
    for at in range(0, len(raw), 50_000):
        texts += [block.text for block in normaliser.feed(raw[at : at + 50_000])]
        assert len(normaliser._rest) <= module._BLOCK_BYTES + 50_000
    texts += [block.text for block in normaliser.finish()]
    assert b"".join(texts) == normalise(raw)
    lines = normalise(raw).split(b"\n")
    assert lines[0] == b"first"
    assert CUT in lines[1]
    assert lines[2:-1] == ([b"next"] if b"next" in after else [])


_PIECES = st.sampled_from(
    [
        *(
            "\x1b",
            "[",
            "]",
            "31m",
            "K",
            "2K",
            "1G",
            "G",
            "\x07",
            "\\",
            "\r",
            "\n",
            "\r\n",
            "\b",
            "\t",
            " ",
            "\0",
            "é",
            "✓",
        ),
        *("2024-05-01T12:00:00.1Z", "2024-05-01T12:00:00Z ", "00O ", "01E+", "##[error]", "##[group]", "[Pipeline] x"),
        *("section_start:1:a", "section_end:1:a\r", "travis_fold:start:a", "::group::", "text", "0", "Z", "\ufeff"),
    ]
).map(str.encode)
_RAW = st.lists(st.one_of(_PIECES, st.binary(max_size=6)), max_size=40).map(b"".join)
_STARTS = st.sampled_from([b"", b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"])


@settings(max_examples=500, deadline=None)
@given(_STARTS, _RAW)
@example(b"", b"2024-05-01T12:00\x1b[0m:00Z text")
@example(b"", b"##[error]2024-05-01T12:00:00Z ##[error] x")
def test_doing_it_again_changes_nothing(start: bytes, raw: bytes) -> None:
    once = normalise(start + raw)
    assert normalise(once) == once
    assert once.decode().count("\n") == once.count(b"\n")


@settings(max_examples=300, deadline=None)
@given(_STARTS, _RAW, st.lists(st.integers(0, 80), max_size=6))
def test_any_division_into_chunks_gives_the_same_text(start: bytes, raw: bytes, cuts: list[int]) -> None:
    whole = start + raw
    normaliser = Normaliser()
    places = [0, *sorted(cuts), len(whole)]
    chunks = [whole[a:b] for a, b in itertools.pairwise(places)]
    blocks = [block for chunk in chunks for block in normaliser.feed(chunk)] + list(normaliser.finish())
    assert b"".join(block.text for block in blocks) == normalise(whole)
    assert normaliser.raw_bytes == len(whole)
    assert normaliser.lines == normalise(whole).count(b"\n")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(_RAW, st.sampled_from([0, 0, 3000, 5000, 70_000])), max_size=8), st.integers(1, 400_000))
def test_blocks_end_where_the_log_says_whatever_the_chunks(lines: list[tuple[bytes, int]], step: int) -> None:
    whole = b"\n".join(raw + b"x" * padding for raw, padding in lines) * 20
    one, many = Normaliser(), Normaliser()
    expected = [*one.feed(whole), *one.finish()]
    chunks = [whole[at : at + step] for at in range(0, len(whole), step)]
    assert [block for chunk in chunks for block in many.feed(chunk)] + list(many.finish()) == expected


@settings(max_examples=100, deadline=None)
@given(_RAW)
def test_no_line_is_longer_than_said_and_no_control_is_left(raw: bytes) -> None:
    text = normalise(raw * 50)
    assert all(len(line) <= LINE_BYTES for line in text.split(b"\n"))
    assert not set(text) & (set(range(32)) - set(b"\t\n") | {127})
