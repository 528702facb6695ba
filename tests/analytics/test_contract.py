"""The contract that is asked of detectors in files of their own is one that ours keep."""

from __future__ import annotations

import pytest

from analytics.contract import problems
from analytics.detectors.detector import Rule, found


@pytest.mark.parametrize("cls", found())
def test_every_detector_of_ours_does_what_its_examples_say(cls: type[Rule]) -> None:
    assert problems(cls) == []


@pytest.mark.parametrize("cls", found())
def test_an_example_of_the_other_kind_is_told(cls: type[Rule], monkeypatch: pytest.MonkeyPatch) -> None:
    fires, silent = cls.FIRES, cls.SILENT
    monkeypatch.setattr(cls, "FIRES", silent)
    monkeypatch.setattr(cls, "SILENT", fires)
    told = problems(cls)
    assert [line.partition(" must")[0] for line in told] == [
        *(f"FIRES[{i}]" for i in range(len(silent))),
        *(f"SILENT[{i}]" for i in range(len(fires))),
    ]
