"""Every shipped signature is proven by its own lines; a new file or entry is tested without being named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import re2

from analytics.signatures import catalogue as catalogues
from analytics.signatures.catalogue import Catalogue, Signature, facts_of, from_mapping, read, shipped
from models.records.errors import ConfigError
from models.records.event import Outcome

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


def test_about_thirty_are_shipped_and_no_name_twice() -> None:
    names = [signature.name for signature in SHIPPED]
    assert len(names) >= 30
    assert len(set(names)) == len(names)


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
    assert (match.signature.name, match.line) == (signature.name, line)


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
}


@pytest.mark.parametrize("case", BAD_ENTRIES)
def test_an_entry_that_contradicts_itself_is_refused(case: str) -> None:
    entry, message = BAD_ENTRIES[case]
    with pytest.raises(ConfigError, match=f"^test: a: .*{message}"):
        _made("a", **entry)


def test_two_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="signature a: stands twice"):
        Catalogue([_made("a", text=["x"]), _made("a", text=["y"])])


def test_every_file_beside_the_catalogue_is_shipped() -> None:
    folder = Path(catalogues.__file__).parent
    named = {s.name for path in folder.glob("*.toml") for s in read(path.name, path.read_text("utf-8"))}
    assert named == {s.name for s in SHIPPED}
