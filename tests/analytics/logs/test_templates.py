"""Templates of unknown failures: what falls together, what is kept of it, and the drafts."""

from __future__ import annotations

import random

import pytest
import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics.logs import templates as module
from analytics.logs.templates import Templates, draft
from analytics.signatures.catalogue import read

LINES = [
    "error: cannot find value `alpha` in this scope",
    "error: cannot find value `beta` in this scope",
    "error: cannot find value `gamma` in this scope",
    "quota of 12 GB exceeded for volume build-7f3a9c2d",
    "quota of 7 GB exceeded for volume build-0c1d2e3f",
    "the licence server said: 'none left'",
]


def _templates(lines: list[str]) -> Templates:
    templates = Templates()
    templates.add_all(lines)
    return templates


def test_lines_that_say_the_same_fall_together() -> None:
    found = _templates(LINES).clusters()
    assert [(cluster.count, cluster.template) for cluster in found] == [
        (3, "error: cannot find value <*> in this scope"),
        (2, "quota of<*> exceeded for volume build-<*>"),
        (1, "the licence server said: 'none left'"),
    ]
    assert found[1].example == "quota of 12 GB exceeded for volume build-7f3a9c2d"


def test_within_one_call_the_order_does_not_matter() -> None:
    shuffled = random.Random(5).sample(LINES, len(LINES))
    assert _templates(shuffled).to_bytes() == _templates(LINES).to_bytes()


def test_merging_adds_up_what_each_has_seen() -> None:
    one, other = _templates(LINES[:4]), _templates(LINES[4:] + LINES[:1])
    one.merge(other)
    assert sorted(cluster.count for cluster in one.clusters()) == [1, 2, 4]


def test_a_cluster_keeps_its_name_while_it_grows() -> None:
    templates = _templates(LINES[:1])
    name = templates.clusters()[0].name
    templates.add_all(LINES[1:3])
    assert [cluster.name for cluster in templates.clusters()] == [name]


def test_the_state_is_kept_as_plain_bytes_and_goes_on_where_it_was() -> None:
    kept = Templates.from_bytes(_templates(LINES[:3]).to_bytes())
    assert kept is not None
    kept.add_all(LINES[3:])
    assert kept.to_bytes() == _templates(LINES).to_bytes()


def test_a_state_of_another_version_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    data = _templates(LINES).to_bytes()
    monkeypatch.setattr(module, "MASK_VERSION", 99)
    assert Templates.from_bytes(data) is None
    assert Templates.from_bytes(b"anything") is None


def test_it_is_bounded_and_the_rarest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CLUSTERS", 2)
    assert [cluster.count for cluster in _templates(LINES).clusters()] == [3, 2]


def test_the_nearest_cluster_of_a_line() -> None:
    templates = _templates(LINES)
    found = templates.nearest("error: cannot find value `delta` in this crate")
    assert found is not None
    cluster, share = found
    assert cluster.count == 3
    assert 0.5 < share < 1
    assert templates.nearest("something else altogether") is None
    assert Templates().nearest("anything") is None


def test_a_draft_is_a_signature_that_matches_its_lines() -> None:
    templates = _templates(LINES)
    drafts = "\n".join(found for cluster in templates.clusters() if (found := draft(cluster)))
    signatures = {signature.name: signature for signature in read("drafts", drafts)}
    assert len(signatures) == 3
    for cluster in templates.clusters():
        signature = signatures[f"draft_{cluster.name}"]
        assert signature.matches == (cluster.example,)
        assert re2.search(signature.text[0], cluster.example)


def test_of_lines_with_too_little_in_common_there_is_no_draft() -> None:
    assert draft(_templates(["a 12", "a 13"]).clusters()[0]) is None


_WORDS = st.sampled_from(
    ["error:", "in", "a.c:12", "7", "[x]", "(y)", "it's", "$HOME", "naïve", "C:\\x", "12 ms", "  "]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(_WORDS, min_size=1, max_size=9).map(" ".join), min_size=1, max_size=12))
def test_a_pattern_matches_every_line_of_its_cluster(lines: list[str]) -> None:
    for line in lines:
        templates = Templates()
        templates.add_all(lines)
        found = templates.nearest(line)
        if line.strip() and found is not None and found[0].pattern and found[1] == 1:
            assert re2.search(found[0].pattern, line), found[0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(_WORDS, min_size=1, max_size=50).map(" ".join), min_size=1, max_size=12))
def test_every_line_is_counted_once(lines: list[str]) -> None:
    assert sum(cluster.count for cluster in _templates(lines).clusters()) == len(lines)
