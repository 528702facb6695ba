"""The index of a passing log: bounded, plain bytes, and honest about what it does not know."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics.logs import passing
from analytics.logs.mask import masked_hashes
from analytics.logs.passing import PassingIndex, PassingIndexing

LOG = b"\x1b[32mok\x1b[0m 12 tests in 3 s\r\nbuilding core\nbuilding core\nDone.\n"


def index_of(log: bytes, step: int = 7) -> PassingIndex:
    indexing = PassingIndexing()
    for at in range(0, len(log), step):
        indexing.feed(log[at : at + step])
    return indexing.finish()


def test_it_has_the_lines_of_the_log_whatever_varies_in_them() -> None:
    index = index_of(LOG)
    assert index.contains(masked_hashes(b"ok 7 tests in 44 s\nbuilding core\nfailed\n")).tolist() == [True, True, False]
    assert index.knows(masked_hashes(b"failed\n")).all()
    assert len(index.hashes) == 3


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 90))
def test_chunks_do_not_matter(step: int) -> None:
    assert index_of(LOG, step).to_bytes() == index_of(LOG).to_bytes()


def test_it_is_kept_as_plain_bytes() -> None:
    index = index_of(LOG)
    data = index.to_bytes()
    read = PassingIndex.from_bytes(data)
    assert read is not None
    assert (read.hashes == index.hashes).all()
    assert read.limit == index.limit
    assert len(data) == 16 + 8 * 3
    assert (np.diff(np.frombuffer(data[16:], "<u8").astype(object)) > 0).all()


@pytest.mark.parametrize("broken", [b"", b"PASS", b"x" * 40, index_of(LOG).to_bytes()[:-1]])
def test_what_is_no_index_is_none(broken: bytes) -> None:
    assert PassingIndex.from_bytes(broken) is None


@pytest.mark.parametrize("version", ["_FORM", "NORMALISER_VERSION", "MASK_VERSION"])
def test_an_index_of_another_version_is_none(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    data = index_of(LOG).to_bytes()
    monkeypatch.setattr(passing, version, 99)
    assert PassingIndex.from_bytes(data) is None


def test_an_index_that_is_full_says_nothing_about_what_it_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passing, "MOST_HASHES", 100)
    words = ["".join(chr(97 + int(digit)) for digit in str(number)) for number in range(1000)]
    log = "".join(f"line {word}\n" for word in words).encode()
    index = index_of(log, 999)
    hashes = masked_hashes(log)
    assert len(index.hashes) == 100
    assert index.contains(hashes).sum() == 100
    assert (index.contains(hashes) == index.knows(hashes)).all()
    kept = PassingIndex.from_bytes(index.to_bytes())
    assert kept is not None
    assert kept.limit == index.limit


def test_an_empty_log_has_nothing() -> None:
    index = index_of(b"")
    assert not index.contains(masked_hashes(b"anything\n")).any()
    assert not index.contains(masked_hashes(b"")).any()
