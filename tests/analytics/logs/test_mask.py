"""Masks: what varies from run to run goes, what tells lines apart stays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics.logs.mask import MASKED, mask, masked_hashes


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("took 12 ms", "took 1,204.5 ms"),
        ("ok    7 tests", "ok 1337 tests"),
        ("Downloaded 12.5 MB at 3 MB/s", "Downloaded 900 kB at 12 MB/s"),
        ("commit 8f4d3c2b1a09f8e7", "commit 1a09f8e78f4d3c2b"),
        ("id 3f1c2a0e-6c1b-5f0e-9a52-8c3f4a1b7d21 done", "id 7d21aa0e-0c1b-4f0e-8a52-3c3f4a1b9f00 done"),
        ("pod web-7d4b9c6f5-x2x8z is ready", "pod web-59c6f7d4b-aa8zk is ready"),
        ("at 0x7f3a1c2d9e50", "at 0x55d0c1e8"),
        ("dial tcp 10.0.0.12:5432: refused", "dial tcp 192.168.1.7:5432: refused"),
        ("from [2001:db8::8a2e:370:7334]", "from [2001:db8::1]"),
        ("2024-05-01T12:00:00.123Z started", "2025-11-30T01:02:03Z started"),
        ("left-pad@1.3.0 added", "left-pad@2.0.0-beta.1 added"),
        ("rm /tmp/tmpabcdef/x", "rm /tmp/tmpzyxwv/x"),
        ("=====> 40 %", "========> 70 %"),
        ("https://example.org/runs/123?try=1 failed", "https://example.org/runs/9?try=22 failed"),
        ("tests/test_a1.py:12: error", "tests/test_a1.py:312: error"),
    ],
)
def test_what_varies_is_masked(one: str, other: str) -> None:
    assert mask(one) == mask(other)
    assert MASKED in mask(one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("npm ERR! missing script: test", "npm ERR! missing script: build"),
        ("cannot find module express", "cannot find module lodash"),
        ("3 passed", "3 failed"),
        ("/srv/app/main.py: error", "/srv/app/other.py: error"),
    ],
)
def test_what_tells_lines_apart_stays(one: str, other: str) -> None:
    assert mask(one) != mask(other)
    assert masked_hashes(f"{one}\n".encode()) != masked_hashes(f"{other}\n".encode())


PINNED = [18087608124125238036, 5197578548964807871, 9439749841381727524]

_TEXT = st.text(st.sampled_from("ab0 9.:-_/=~#*<>@,+ \tMBs%é"), max_size=40)


@settings(max_examples=500, deadline=None)
@given(_TEXT)
def test_masking_twice_is_masking_once(text: str) -> None:
    assert mask(mask(text)) == mask(text)


@settings(max_examples=300, deadline=None)
@given(st.lists(_TEXT, max_size=8))
def test_hashes_of_many_lines_are_those_of_each(lines: list[str]) -> None:
    each = [masked_hashes(f"{line}\n".encode()) for line in lines]
    together = masked_hashes("".join(f"{line}\n" for line in lines).encode())
    assert together.tolist() == [int(one[0]) for one in each]


def test_lines_that_differ_have_hashes_that_differ() -> None:
    lines = [f"{'x' * place}{letter}{'y' * (19 - place)}" for place in range(20) for letter in "abcdefghij"]
    hashes = masked_hashes("".join(f"{line}\n" for line in lines).encode())
    assert len(np.unique(hashes)) == len(lines)
    assert hashes.dtype == np.uint64


def test_hashes_are_the_same_in_every_process_and_on_every_machine() -> None:
    assert masked_hashes("an error: naïve\n\nok 12 tests\n".encode()).tolist() == PINNED
