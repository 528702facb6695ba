"""Every action: its own examples, its data, and what the platforms can in truth."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

import analytics.actions
from analytics.actions.action import FAILURE, GIVEN_UP, Action, Reach, found
from analytics.detectors import detector
from analytics.signatures.signature import Action as Named
from connectors.platforms import PLATFORMS
from models.records.calls import Notify, Quarantine, from_row, to_json
from models.records.event import PlatformName

ACTIONS = list(found().values())
SIGNATURES_ONLY = {"none"}
each = pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.name)


def test_every_file_is_an_action() -> None:
    files = {path.stem for path in Path(analytics.actions.__file__).parent.glob("*.py")}
    assert files == {*found(), "__init__", "action", "examples"}


@each
def test_its_data_is_whole(action: Action) -> None:
    assert type(action).__doc__
    assert action.platforms <= set(PLATFORMS)
    assert action.platforms
    assert action.reach in Reach
    assert action.cooldown > timedelta()
    assert all(count is None or count >= 1 for count in (action.most_per_run, action.most_per_day))
    assert action.undone_by
    assert action.verified_by
    detectors = {cls.__name__ for cls in detector.found()}
    assert set(action.heals) <= detectors | {FAILURE, GIVEN_UP}
    assert action.heals


@each
def test_it_fires_on_its_examples_with_the_calls_that_it_names(action: Action) -> None:
    assert action.FIRES
    for case, names in action.FIRES:
        assert action.fits(case)
        assert tuple(call.name for call in action.calls(case)) == names


@each
def test_it_is_silent_on_its_examples(action: Action) -> None:
    assert action.SILENT
    assert not any(action.fits(case) for case in action.SILENT)


@each
def test_its_calls_are_about_its_case_and_come_to_the_same_each_time(action: Action) -> None:
    for case, _ in action.FIRES:
        calls = action.calls(case)
        assert calls == action.calls(case)
        for call in calls:
            assert (call.instance, call.repository, call.pipeline_id) == case[1:4]
            assert from_row(msgspec.json.decode(to_json(call))) == call
        targets = [(call.name, call.target) for call in calls]
        assert len(set(targets)) == len(targets), "the ledger would take two of them for one"


@each
def test_a_platform_that_is_named_can_do_it(action: Action) -> None:
    for case, _ in action.FIRES:
        assert case.platform in action.platforms
        for call in action.calls(case):
            if not isinstance(call, Notify | Quarantine):
                talk = PLATFORMS[case.platform].ask(call)
                assert talk is not None
                talk.close()


@each
@pytest.mark.parametrize("platform", sorted(PLATFORMS))
def test_a_platform_is_named_if_and_only_if_it_can_do_it(action: Action, platform: PlatformName) -> None:
    case = action.FIRES[0][0]._replace(platform=platform)
    able = [
        isinstance(call, Notify | Quarantine) or PLATFORMS[platform].ask(call) is not None
        for call in action.calls(case)
        if call.name not in {"rerun_failed", "rerun_job"}  # these are for what the platform reruns after
    ]
    if platform in action.platforms:
        assert all(able)
    elif able:
        assert not all(able)


def test_the_words_of_signatures_are_actions() -> None:
    assert {word.value for word in Named} - SIGNATURES_ONLY <= set(found())


def test_an_outage_is_waited_out_and_nothing_is_put_into_quarantine_unasked() -> None:
    assert [action.name for action in ACTIONS if action.waits] == ["delayed_rerun"]
    assert [action.name for action in ACTIONS if action.suggest_only] == ["quarantine"]
