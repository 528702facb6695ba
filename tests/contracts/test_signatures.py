"""Every shipped signature is proven by its own lines; a new file or entry is tested without being named."""

from __future__ import annotations

import bisect
import itertools
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from analytics.signatures import catalogue as catalogues
from analytics.signatures.catalogue import Catalogue, Signature, Why, facts_of, from_mapping, read, shipped
from analytics.signatures.dialect import compiled
from analytics.signatures.patterns import Patterns
from analytics.signatures.signature import RERUNS
from models.records.errors import ConfigError
from models.records.event import Outcome
from models.records.evidence import Line
from models.records.outputs import Category

SHIPPED = shipped()
CATALOGUE = Catalogue(SHIPPED)
PLATFORMS = ("github", "gitlab", "jenkins", "circleci")
FACT = re2.compile(r"^(github|gitlab|jenkins|circleci) (outcome|reason|step|exit_code) .+$")


def _hits(signature: Signature, line: str) -> bool:
    """Whether `signature` alone explains `line`, said as a fact or standing in a log."""
    alone = Catalogue([signature])
    facts = (line,) if FACT.match(line) else ()
    told = [alone.match(platform, facts, None if facts else line) for platform in signature.platforms or PLATFORMS]
    assert len({match is None for match in told}) == 1
    return told[0] is not None


def _lines(kind: str) -> list[Any]:
    return [
        pytest.param(signature, line, id=f"{signature.name}-{i}")
        for signature in SHIPPED
        for i, line in enumerate(getattr(signature, kind))
    ]


def test_there_are_enough_signatures_and_patterns_and_no_name_twice() -> None:
    names = [signature.name for signature in SHIPPED]
    assert len(names) >= 60
    assert len(set(names)) == len(names)
    assert sum(len(signature.text) + len(signature.facts) for signature in SHIPPED) >= 200


def test_no_line_is_the_example_of_two_signatures() -> None:
    lines = [line for signature in SHIPPED for line in signature.matches]
    assert sorted(line for line in set(lines) if lines.count(line) > 1) == []


@pytest.mark.parametrize("category", list(Category))
def test_every_category_explains_something(category: Category) -> None:
    assert any(signature.category is category for signature in SHIPPED)


def test_what_must_never_run_again_is_no_test_and_what_passes_by_itself_is_no_fault_of_the_commit() -> None:
    of_the_commit = {Category.TEST, Category.BUILD, Category.POLICY, Category.CONFIGURATION, Category.AUTHENTICATION}
    assert not [s.name for s in SHIPPED if s.category is Category.TEST and s.hard_stop]
    assert not [s.name for s in SHIPPED if s.category in of_the_commit and s.transient]
    assert all(s.action in RERUNS for s in SHIPPED if s.transient and s.text)


def test_both_engines_find_the_same_in_every_line_that_the_catalogue_holds() -> None:
    """Hyperscan 5.4 loses matches of some patterns in the company of others; none of ours may be among them."""
    lines = [line for s in SHIPPED for example in (*s.matches, *s.confusers) for line in example.split("\n")]
    patterns = [pattern for s in SHIPPED for pattern in (*s.text, *s.near, *s.unless)]
    text = "\n".join(lines).encode()
    starts = [0, *itertools.accumulate(len(line.encode()) + 1 for line in lines)]
    passed = {(bisect.bisect_right(starts, end - 1) - 1, n) for end, n in Patterns(patterns).ends(text)}
    singles = [compiled(pattern).single for pattern in patterns]
    alone = {(i, n) for i, line in enumerate(lines) for n, single in enumerate(singles) if single.search(line.encode())}
    assert passed == alone


@pytest.mark.parametrize("signature", SHIPPED, ids=lambda s: s.name)
def test_a_signature_has_lines_of_both_kinds_and_words_for_people(signature: Signature) -> None:
    assert signature.matches
    assert signature.confusers
    assert signature.cause.endswith(".")
    assert signature.fix.endswith(".")
    assert 0 < signature.priority < 100


@pytest.mark.parametrize(("signature", "line"), _lines("matches"))
def test_a_line_that_must_match_matches_and_wins(signature: Signature, line: str) -> None:
    assert _hits(signature, line)
    facts = (line,) if FACT.match(line) else ()
    platform = facts[0].split()[0] if facts else (signature.platforms or PLATFORMS)[0]
    match = CATALOGUE.match(platform, facts, None if facts else f"before\n{line}\nafter")
    assert match is not None
    assert match.signature.name == signature.name
    assert match.line in line.split("\n")


@pytest.mark.parametrize(("signature", "line"), _lines("confusers"))
def test_a_confuser_does_not_match(signature: Signature, line: str) -> None:
    assert not _hits(signature, line)


@pytest.mark.parametrize("signature", SHIPPED, ids=lambda s: s.name)
def test_every_pattern_of_facts_is_proven_by_a_line_or_is_an_alternative(signature: Signature) -> None:
    facts = [line for line in signature.matches if FACT.match(line)]
    assert bool(facts) == bool(signature.facts)
    assert len(facts) < len(signature.matches) or not signature.text


def _made(own_name: str, **given: Any) -> Signature:
    entry = {"category": "network", "cause": "c", "fix": "f", "matches": ["m"], "confusers": ["n"], **given}
    return from_mapping(f"test: {own_name}", own_name, entry)


def _winner(*signatures: Signature, text: str = "boom", facts: tuple[str, ...] = ()) -> str | None:
    match = Catalogue(signatures).match("github", facts, text)
    return match.signature.name if match else None


def test_a_hard_stop_outranks_whatever_has_a_higher_priority() -> None:
    soft = _made("soft", text=["boom"], transient=True, priority=99)
    hard = _made("hard", text=["boom"], hard_stop=True, priority=1)
    assert _winner(soft, hard) == "hard"


def test_the_higher_priority_wins_then_the_earlier_name() -> None:
    low, high = _made("a", text=["boom"], priority=10), _made("b", text=["boom"], priority=20)
    assert _winner(low, high) == "b"
    assert _winner(low, _made("aa", text=["boom"], priority=10)) == "a"


def test_a_signature_of_another_platform_explains_nothing() -> None:
    assert _winner(_made("a", text=["boom"], platforms=["gitlab"])) is None
    assert _winner(_made("a", text=["boom"], platforms=["github"])) == "a"


def test_the_last_matching_line_is_shown_with_its_captures() -> None:
    match = Catalogue([_made("a", text=[r"error (?P<code>\d+)(?P<more> .*)?"])]).match(
        "github", (), "x error 1\nerror 2 of two\nend"
    )
    assert match is not None
    assert match.line == "error 2 of two"
    assert match.captures == (("code", "2"), ("more", " of two"))
    match = Catalogue([_made("a", text=["x", "late"])]).match("github", (), "x x\nlate\nno")
    assert match is not None
    assert match.line == "late"


def test_a_fact_is_matched_whole_and_a_text_anywhere() -> None:
    fact = _made("a", facts=["github step Build"])
    assert _winner(fact, text="", facts=("github step Build",)) == "a"
    assert _winner(fact, text="", facts=("github step Build and test",)) is None
    assert _winner(_made("a", text=["^boom"]), text="first\nboom") == "a"


def test_what_a_log_says_cannot_pass_for_a_fact() -> None:
    signature = next(s for s in SHIPPED if s.name == "gitlab_runner_interrupted")
    line = signature.matches[0]
    assert CATALOGUE.match("gitlab", (), f"x\n{line}\n") is None
    forged = facts_of(platform="gitlab", outcome="failed", reason=None, step=f"x\n{line}", exit_code=None)
    assert all("\n" not in fact for fact in forged)
    assert CATALOGUE.match("gitlab", forged, None) is None
    for separator in ("\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028"):
        forged = facts_of(platform="gitlab", outcome="failed", reason=f"x{separator}{line}", step=None, exit_code=None)
        assert CATALOGUE.match("gitlab", forged, None) is None


def test_a_text_pattern_does_not_read_facts() -> None:
    assert _winner(_made("a", text=["runner"]), text="", facts=("github reason runner",)) is None


def test_facts_stand_in_a_fixed_order_and_what_is_not_known_is_none() -> None:
    facts = facts_of(platform="jenkins", outcome=Outcome.FAILED, reason="r", step="Run  tests", exit_code=137)
    assert facts == (
        "jenkins outcome failed",
        "jenkins reason r",
        "jenkins step Run tests",
        "jenkins exit_code 137",
    )
    assert facts_of(platform="github", outcome="failed", reason=None, step=None, exit_code=None) == (
        "github outcome failed",
    )


def test_a_match_is_the_same_however_often_it_is_asked_for() -> None:
    facts = ("github step Set up job",)
    assert (
        CATALOGUE.match("github", facts, None)
        == CATALOGUE.match("github", facts, "")
        == CATALOGUE.match("github", facts, "nothing that is known")
    )


def test_an_empty_catalogue_explains_nothing() -> None:
    assert Catalogue([]).match("github", ("github outcome failed",), "boom") is None


def test_of_signatures_alike_the_one_whose_line_stands_later_wins() -> None:
    early, late = _made("b", text=["early"]), _made("c", text=["late"])
    assert _winner(early, late, text="early\nlate") == "c"
    assert _winner(early, late, text="late\nearly") == "b"
    assert _winner(_made("a", facts=["github reason x"]), early, text="early", facts=("github reason x",)) == "b"


def test_lines_keep_their_numbers_and_gaps_count() -> None:
    signature = _made("a", text=["^Killed$"], near=["exit code 137"], within=5)
    catalogue = Catalogue([signature])
    match = catalogue.match("github", (), [(10, "Killed"), (15, "exit code 137")])
    assert match is not None
    assert (match.number, match.line) == (10, "Killed")
    assert catalogue.match("github", (), [(10, "Killed"), (16, "exit code 137")]) is None
    assert catalogue.match("github", (), [(15, "exit code 137"), (20, "Killed")]) is not None
    lines = [Line(7, "Killed", new=True), Line(9, "exit code 137", new=False)]
    assert catalogue.match("github", (), lines) is not None


def test_all_that_must_be_near_must_and_nothing_that_must_not() -> None:
    signature = _made("a", text=["boom"], near=["one", "two"], unless=["never"], within=2)
    assert _winner(signature, text="one\nboom\ntwo") == "a"
    assert _winner(signature, text="one\nboom\n\n\ntwo") is None
    assert _winner(signature, text="one\nboom two never") is None
    assert _winner(signature, text="one\nboom two\n\n\nnever") == "a"


def test_the_last_line_that_fulfils_the_conditions_is_shown() -> None:
    signature = _made("a", text=["boom.*"], unless=["calm"], within=1)
    match = Catalogue([signature]).match("github", (), "boom 1\n\n\nboom 2\ncalm")
    assert match is not None
    assert (match.number, match.line) == (1, "boom 1")


def test_a_line_far_from_the_end_proves_nothing_where_that_is_asked_for() -> None:
    signature = _made("a", text=["boom"], from_end=3)
    assert _winner(signature, text="boom\n1\n2\n3") == "a"
    assert _winner(signature, text="boom\n1\n2\n3\n4") is None
    assert Catalogue([signature]).match("github", (), [(1, "boom"), (90, "end")]) is None


def test_a_signature_is_valid_from_its_first_day_to_its_last() -> None:
    catalogue = Catalogue([_made("a", text=["boom"], valid_from="2026-01-01", valid_until="2026-01-31")])
    days = [date(2025, 12, 31), date(2026, 1, 1), date(2026, 1, 31), date(2026, 2, 1), None]
    assert [catalogue.match("github", (), "boom", on=day) is not None for day in days] == [
        *(False, True, True, False),
        True,
    ]


def test_a_date_is_written_in_toml_and_survives_json() -> None:
    text = (
        "[a]\ncategory = 'test'\ncause = 'c'\nfix = 'f'\ntext = ['x']\nmatches = ['x']\nconfusers = ['y']\n"
        "valid_until = 2026-12-31\naction = 'open_issue'\n"
    )
    (signature,) = read("own.toml", text)
    assert signature.valid_until == date(2026, 12, 31)
    entry = msgspec.json.decode(msgspec.json.encode(signature))
    assert from_mapping("t", entry.pop("name"), entry) == signature


def test_who_lost_is_told_with_the_line_and_the_reason() -> None:
    told = Catalogue(
        [
            _made("hard", text=["boom"], hard_stop=True, priority=10),
            _made("soft", text=["boom"], priority=90),
            _made("low", text=["boom"], hard_stop=True, priority=5),
            _made("early", text=["early"], hard_stop=True, priority=10),
            _made("elsewhere", text=["boom"], platforms=["gitlab"]),
            _made("old", text=["boom"], valid_until="2020-01-01"),
            _made("lonely", text=["early"], near=["nowhere"]),
            _made("silent", text=["nothing"]),
        ]
    ).explain("github", (), "early\nboom", on=date(2026, 1, 1))
    assert told.winner is not None
    assert (told.winner.signature.name, told.winner.number) == ("hard", 2)
    assert {loser.match.signature.name: (loser.match.number, loser.why) for loser in told.losers} == {
        "soft": (2, Why.HARD_STOP),
        "low": (2, Why.PRIORITY),
        "early": (1, Why.EARLIER),
        "elsewhere": (2, Why.PLATFORM),
        "old": (2, Why.EXPIRED),
        "lonely": (1, Why.CONDITION),
    }


def test_where_nothing_wins_it_is_told_what_nearly_did() -> None:
    told = Catalogue([_made("a", text=["boom"], unless=["boom"])]).explain("github", (), "boom")
    assert told.winner is None
    assert [(loser.match.signature.name, loser.why) for loser in told.losers] == [("a", Why.CONDITION)]


FOUND = Catalogue(
    [
        _made("a", text=["boom", "bang+"]),
        _made("b", text=["^kill"], near=["exit"], unless=["calm"], within=2),
    ]
)
PIECES = ("boom", "bang bangg", "kill", "exit", "calm", "", "quiet", "é exit boom")


@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_every_line_that_a_pattern_matches_is_found_and_of_the_others_only_what_something_depends_on(
    pieces: list[str],
) -> None:
    block = "\n".join(pieces).encode()
    starts = [0, *itertools.accumulate(len(piece.encode()) + 1 for piece in pieces)]
    proof = [piece.startswith("kill") for piece in pieces]
    kept = [
        starts[i]
        for i, piece in enumerate(pieces)
        if "boom" in piece
        or "bang" in piece
        or proof[i]
        or (("exit" in piece or "calm" in piece) and any(proof[max(i - 2, 0) : i + 3]))
    ]
    assert FOUND.find(block) == kept


def test_a_line_is_found_once_however_often_it_matches_and_however_long_it_is() -> None:
    block = b"\n".join([b"quiet " * 10, b"boom " * 200_000, b"quiet"])
    assert FOUND.find(block) == [61]
    assert FOUND.find(b"") == FOUND.find(b"\n\n") == []


def test_a_log_of_nothing_but_conditions_is_matched_in_linear_time() -> None:
    assert FOUND.match("github", (), "kill\n" * 50_000) is None


def test_a_long_hostile_text_is_matched_in_linear_time() -> None:
    match = CATALOGUE.match("jenkins", (), "a" * 1_000_000 + "\n" + "registry" + " " * 16_000)
    assert match is None


BAD_FILES = {
    "not TOML": ("[a", r"bad\.toml: "),
    "no table": ("a = 5", r"bad\.toml: a: "),
    "a missing key": ("[a]\ncategory = 'network'", r"bad\.toml: a: .*`cause`"),
    "an unknown key": ("[a]\ncolour = 'red'", r"bad\.toml: a: .*`colour`"),
    "an unknown category": ("[a]\ncategory = 'magic'", r"bad\.toml: a: .*magic.*`\$\.category`"),
    "a wrong type": ("[a]\npriority = 'high'", r"bad\.toml: a: .*`\$\.priority`"),
    "an unknown platform": ("[a]\nplatforms = ['travis']", r"bad\.toml: a: .*`\$\.platforms"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_refused_by_file_entry_and_key(case: str) -> None:
    text, message = BAD_FILES[case]
    with pytest.raises(ConfigError, match=message):
        read("bad.toml", text)


BAD_ENTRIES: dict[str, tuple[dict[str, Any], str]] = {
    "both transient and hard stop": ({"text": ["x"], "transient": True, "hard_stop": True}, "not both"),
    "no pattern": ({}, "at least one pattern"),
    "a name of its own": ({"text": ["x"], "name": "b"}, "'name'"),
    "a rerun of what is not transient": ({"text": ["x"], "action": "rerun_job"}, "only what is transient"),
    "an action that nobody knows": ({"text": ["x"], "action": "reboot"}, "reboot"),
    "conditions without a line": ({"facts": ["x"], "near": ["y"]}, "there is none"),
    "no lines at all": ({"text": ["x"], "near": ["y"], "within": 0}, "count 1 to"),
    "an end before its beginning": (
        {"text": ["x"], "valid_from": "2026-02-01", "valid_until": "2026-01-01"},
        "before valid_from",
    ),
    "nested quantifiers": ({"text": ["(a+)+b"]}, "pattern .*inside another"),
    "a huge repetition": ({"text": ["a{900}"]}, "pattern .*counted repetitions"),
    "a pattern too long": ({"facts": ["x" * 1001]}, "pattern .*longer"),
    "no RE2": ({"text": ["("]}, "pattern .*missing"),
    "a backreference": ({"unless": [r"(a)\1"], "text": ["x"]}, "pattern .*invalid escape"),
    "what matches everything": ({"near": ["a*"], "text": ["x"]}, "pattern .*every line"),
}


@pytest.mark.parametrize("case", BAD_ENTRIES)
def test_an_entry_that_contradicts_itself_is_refused(case: str) -> None:
    entry, message = BAD_ENTRIES[case]
    with pytest.raises(ConfigError, match=f"^test: a: .*{message}"):
        _made("a", **entry)


def test_what_only_hyperscan_does_not_take_is_refused_with_the_signature() -> None:
    catalogue = Catalogue([_made("a", text=["x"]), _made("b", text=[r"x\by"])])
    with pytest.raises(ConfigError, match=r"signature b: pattern .*Hyperscan"):
        catalogue.check()


def test_two_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="signature a: stands twice"):
        Catalogue([_made("a", text=["x"]), _made("a", text=["y"])])


def test_every_file_beside_the_catalogue_is_shipped() -> None:
    folder = Path(catalogues.__file__).parent
    named = {s.name for path in folder.glob("*.toml") for s in read(path.name, path.read_text("utf-8"))}
    assert named == {s.name for s in SHIPPED}
