"""Patterns: both engines find the same lines, and what would be dear is refused with its reason."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from analytics.signatures.dialect import MOST_CHARACTERS, MOST_REPEATED, compiled
from analytics.signatures.patterns import Patterns

REFUSED = {
    "(": "missing",
    "a**": "bad repetition operator",
    r"(a)\1": "invalid escape sequence",
    "(?=a)": "invalid perl operator",
    "a{1001}": "invalid repetition size",
    "(?:a{100}){100}": "invalid repetition size",
    "x" * (MOST_CHARACTERS + 1): "longer than",
    "(a+)+b": "inside another",
    r"(?:\w+\s*)*:": "inside another",
    "((a*)b){2,}": "inside another",
    "(?:(a+)?b)+": "inside another",
    "(?P<name>x(?:y+z))*w": "inside another",
    f"a.{{0,{MOST_REPEATED + 1}}}b": "counted repetitions",
    f"a.{{0,{MOST_REPEATED}}}b.{{2}}c": "counted repetitions",
    "a*": "every line",
    "^$": "every line",
    "(?s)a.b": "flags",
    "(?i-s:a)": "flags",
    r"\Aabc": "not for lines",
    r"abc\z": "not for lines",
    "[é]": "ASCII",
}
NEVER = r"\bx\bx"
TAKEN = (
    "(a|b)+c",
    r"(?:\S )+x",
    "(?i)abc+",
    "(?i:a)b",
    "(?P<a>x+)y",
    r"[\]+*]+x",
    r"\(a+\)+x",
    "✖ failed",
    "é+x",
    "[[:alpha:]]+x",
)


@pytest.mark.parametrize("pattern", REFUSED)
def test_what_is_no_pattern_or_a_dear_one_is_refused_with_a_reason(pattern: str) -> None:
    with pytest.raises(ValueError, match=REFUSED[pattern]) as refusal:
        compiled(pattern)
    assert str(refusal.value).startswith("pattern ")
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("pattern", TAKEN)
def test_what_is_harmless_is_taken(pattern: str) -> None:
    Patterns([pattern])


PIECES = (
    r"\S+",
    ".+",
    r"(?P<a>\w+)",
    r"(x|.+)",
    r"(1+)?",
    r"\s",
    r"[^a]",
    r"[\s:]",
    r"\W",
    r"\D",
    "a",
    "b+",
    r"\bx\b",
    "^",
    ".{0,3}",
    "é",
    "(?i:K)",
    r"\d\d",
)
ENDS = st.lists(
    st.sampled_from(
        ("x", "x$", "(?:x|1$)", ".+$", "(?P<z>.+)$", "(x|.+)$", r"\S+", "(?P<z>x+)", ".*$", "(a|x+)", "|(?i)K$|b+")
    ),
    min_size=3,
    max_size=3,
)
TEXT = st.text(alphabet="abxkK é:1\n\t\r✖", max_size=60)


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from(PIECES), min_size=1, max_size=4), min_size=1, max_size=3), ENDS, TEXT)
def test_the_pass_over_a_block_finds_the_lines_that_re2_finds_one_by_one(
    pieces: list[list[str]], ends: list[str], text: str
) -> None:
    patterns = [f"{''.join(each)}{end}" for each, end in zip(pieces, ends, strict=False)]
    try:
        found = Patterns(patterns)
    except ValueError:  # what can never match, or matches the empty line
        reject()
    data = text.encode()
    starts = [0, *(i + 1 for i, byte in enumerate(data) if byte == ord("\n"))]
    passed = {(number, max(s for s in starts if s < end)) for end, number in found.ends(data)}
    alone = {
        (number, start)
        for number in range(len(patterns))
        for start, line in zip(starts, data.split(b"\n"), strict=True)
        if found.captures(number, line) is not None
    }
    assert passed == alone


def test_a_set_that_is_left_out_and_one_of_spaces_stay_on_their_line() -> None:
    assert Patterns([r"a[^x]b", r"a\sb", r"a[\s;]b", r"a\Wb"]).ends(b"a\nb") == []


def test_hyperscan_and_re2_are_given_the_same_bytes() -> None:
    source = compiled("✖ (?P<what>é+)").searched
    assert source == "(?:✖) (?P<what>(?:é))".encode()
    assert Patterns(["✖ (?P<what>é+)"]).captures(0, "✖ éé!".encode()) == (("what", "éé"),)


def test_captures_are_text_in_order_of_name_and_what_did_not_take_part_is_left_out() -> None:
    patterns = Patterns(["(?P<z>a+)(?P<y>b)?(?P<x>.*)"])
    assert patterns.captures(0, b"aac\xff") == (("x", "c\ufffd"), ("z", "aa"))
    assert patterns.captures(0, b"c") is None


def test_no_patterns_find_nothing() -> None:
    assert Patterns([]).ends(b"a") == []
    assert Patterns(["a"]).ends(b"") == []


def test_threads_do_not_disturb_each_other() -> None:
    patterns = Patterns(["boom"])
    results: list[int] = []

    def scan() -> None:
        results.extend(len(patterns.ends(b"boom\n" * 1000)) for _ in range(20))

    threads = [threading.Thread(target=scan) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [1000] * 80


def test_what_was_compiled_elsewhere_finds_the_same() -> None:
    compiled_here = Patterns(TAKEN)
    taken = Patterns(TAKEN, compiled_here.dump())
    text = "aac \xe9\xe9x [[xxy\n✖ failed abcc".encode()
    assert taken.ends(text) == compiled_here.ends(text) != []
    assert taken.captures(TAKEN.index("(?P<a>x+)y"), b"xxy") == (("a", "xx"),)
    assert Patterns([], Patterns([]).dump()).ends(text) == []
