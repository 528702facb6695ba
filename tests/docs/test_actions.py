"""docs/actions.md: its table is what the code says, and so are the words around it."""

from __future__ import annotations

import tomllib
from pathlib import Path

from analytics.quarantines import PASSES
from analytics.rulebook import compose
from flows.action_page import with_table
from models.records.outputs import Reason

PAGE = (Path(__file__).parents[2] / "docs/actions.md").read_text("utf-8")


def test_the_table_is_what_the_code_says() -> None:
    assert with_table(PAGE) == PAGE, "python -m flows.action_page docs/actions.md"


def test_the_reasons_and_numbers_that_it_names_are_those_of_the_code() -> None:
    for reason in (Reason.FINDING_CLEARED, Reason.QUARANTINED, Reason.QUARANTINE_EXPIRED, Reason.QUARANTINE_PASSED):
        assert f"`{reason}`" in PAGE
    assert f"passed {PASSES} times in a row" in PAGE


def test_the_policy_that_it_shows_can_be_had() -> None:
    lines = PAGE.split("## What the policy says about them\n\n")[1].split("\n\nAn action goes by")[0].splitlines()
    written = tomllib.loads("\n".join(line.strip() for line in lines))
    policy = compose(policy=written["rulebook"]["policy"]).policy
    assert policy.allows("delayed_rerun")
    assert not policy.allows("quarantine")
