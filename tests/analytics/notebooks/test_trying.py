"""Every number that is shipped can be tried, and every value that is offered is one that its detector can be given."""

from __future__ import annotations

import pytest

from analytics.detectors.detector import found
from analytics.notebooks.trying import FLEET, Parameter, parameters, rulebook
from analytics.rulebook import compose

PARAMETERS = parameters()


def test_every_detector_and_the_fleet_have_parameters() -> None:
    assert {parameter.of for parameter in PARAMETERS.values()} == {FLEET, *(cls.__name__ for cls in found())}
    assert "StuckJob.patience (minutes)" in PARAMETERS
    assert not any("enabled" in name for name in PARAMETERS)


@pytest.mark.parametrize("parameter", PARAMETERS.values(), ids=PARAMETERS)
def test_the_default_is_among_its_steps_and_changes_nothing(parameter: Parameter) -> None:
    assert parameter.default in parameter.steps
    assert parameter.steps == sorted(set(parameter.steps))
    tried = rulebook(parameter, parameter.default)
    assert (tried.detectors, tried.fleet) == (compose().detectors, compose().fleet)


@pytest.mark.parametrize("parameter", [p for p in PARAMETERS.values() if p.of != FLEET], ids=str)
def test_every_step_is_a_rulebook_of_its_own(parameter: Parameter) -> None:
    made = [rulebook(parameter, value) for value in parameter.steps]
    assert len({book.detectors for book in made}) == len(parameter.steps)
