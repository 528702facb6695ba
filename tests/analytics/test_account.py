"""What explains a failure, what else matched and why it lost, and how sure that is."""

from __future__ import annotations

from typing import Any

import pytest

from analytics.account import SEEN, account, confidence
from analytics.proof import prove
from analytics.signatures.catalogue import Catalogue, Why, read
from models.records.evidence import Evidence, Line, Reading
from models.records.outputs import Category, Diagnosis

SIGNATURES = read(
    "own.toml",
    """
[reset]
category = "network"
cause = "c"
fix = "f"
priority = 60
text = ["reset by (?P<who>peer|host)"]
facts = ["github exit_code 56"]
matches = []
confusers = []

[wont_compile]
category = "build"
cause = "c"
fix = "f"
text = ["error: expected"]
matches = []
confusers = []

[wont_link]
category = "build"
cause = "c"
fix = "f"
priority = 40
text = ["undefined reference"]
near = ["^ld: "]
matches = []
confusers = []

[something]
category = "build"
cause = "c"
fix = "f"
priority = 10
text = ["failed"]
matches = []
confusers = []
""",
)
CATALOGUE = Catalogue(SIGNATURES)
BY_NAME = {signature.name: signature for signature in SIGNATURES}
RESET, COMPILE, LINK, FAILED = "reset by peer", "a.c:3: error: expected ;", "undefined reference to f", "make failed"


def evidence(*lines: tuple[str, bool], **given: Any) -> Evidence:
    """What a log showed: lines, and whether each is new."""
    kept = tuple(Line(number, text, new) for number, (text, new) in enumerate(lines, 1))
    known = {"event_id": "", "instance": "", "repository": "", "pipeline_id": "", "job_id": "", "attempt": 1}
    return Evidence(**known, reading=Reading.READ, lines=kept, **given)  # type: ignore[arg-type] # texts and a number


def told(*lines: tuple[str, bool], **given: Any) -> list[tuple[str, str]]:
    """Who lost and why."""
    found = account(CATALOGUE, "github", (), evidence(*lines, **given))
    return [(other.match.signature.name, other.why) for other in found.others]


def test_what_lost_is_told_with_the_reason_the_strongest_first() -> None:
    assert told((RESET, True), (COMPILE, True), (LINK, True)) == [
        ("wont_compile", Why.PRIORITY),
        ("wont_link", Why.CONDITION),
    ]


def test_nothing_else_matched_and_nothing_at_all() -> None:
    assert told((RESET, True)) == []
    found = account(CATALOGUE, "github", (), evidence(("all is well", True)))
    assert (found.proof.cause.diagnosis, found.others, found.confidence) == (Diagnosis.NO_PATTERN, (), None)


def test_a_stronger_signature_whose_line_passed_too_is_told_last() -> None:
    found = account(CATALOGUE, "github", (), evidence((RESET, False), (COMPILE, True), (LINK, True), compared=True))
    assert found.proof.cause.signature == "wont_compile"
    assert found.proof.discarded == "reset"
    assert [(other.match.signature.name, other.why) for other in found.others] == [
        ("wont_link", Why.CONDITION),
        ("reset", SEEN),
    ]


def test_where_all_that_matched_passed_too_nothing_explains_the_failure() -> None:
    found = account(CATALOGUE, "github", (), evidence((RESET, False), (COMPILE, False), ("new", True), compared=True))
    assert (found.proof.cause.signature, found.proof.seen_passing, found.confidence) == (None, True, None)
    assert [(other.match.signature.name, other.why) for other in found.others] == [
        ("reset", SEEN),
        ("wont_compile", SEEN),
    ]


@pytest.mark.parametrize(
    "lines", [[(RESET, True)], [(RESET, False), (COMPILE, True)], [(RESET, False)], [("nothing", True)]]
)
@pytest.mark.parametrize("compared", [True, False])
def test_the_proof_is_the_one_that_the_shard_makes(lines: list[tuple[str, bool]], compared: bool) -> None:
    said = evidence(*lines, compared=compared)
    assert account(CATALOGUE, "github", (), said).proof == prove(CATALOGUE, "github", (), said)


def sure(*lines: tuple[str, bool], facts: tuple[str, ...] = (), **given: Any) -> float:
    found = account(CATALOGUE, "github", facts, evidence(*lines, **given)).confidence
    assert found is not None
    return found


def test_a_line_that_is_new_is_surer_than_one_that_nothing_was_there_to_compare_with() -> None:
    assert sure((RESET, True), compared=True) > sure((RESET, True))


def test_what_the_platform_says_is_as_sure_as_a_new_line() -> None:
    assert sure(facts=("github exit_code 56",)) == sure((RESET, True), compared=True)


def test_another_category_that_would_explain_it_too_is_a_doubt() -> None:
    alone = sure((RESET, True))
    assert sure((RESET, True), (COMPILE, True)) < alone
    assert sure((RESET, True), (LINK, True)) == alone, "its condition is not fulfilled"
    assert sure((COMPILE, True), ("ld: ", True), (LINK, True)) == alone, "it is of the same category"
    assert sure((RESET, True), (FAILED, True)) == alone, "it names no cause"
    assert sure((RESET, True), (COMPILE, False), compared=True) < sure((RESET, True), compared=True)


def test_that_something_failed_says_little_new_or_not() -> None:
    assert sure((FAILED, True)) == sure((FAILED, True), compared=True) < 0.5


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("proven", [True, False])
@pytest.mark.parametrize("rivals", [set(), {Category.TEST}, set(Category)])
def test_confidence_is_a_chance(name: str, proven: bool, rivals: set[Category]) -> None:
    assert 0 < confidence(BY_NAME[name], rivals, proven=proven) < 1
