from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.records.duration import duration, duration_text


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (90, timedelta(seconds=90)),
        (0.5, timedelta(milliseconds=500)),
        ("90", timedelta(seconds=90)),
        ("1.5", timedelta(seconds=1.5)),
        ("90s", timedelta(seconds=90)),
        ("250ms", timedelta(milliseconds=250)),
        ("30m", timedelta(minutes=30)),
        ("1h30m", timedelta(minutes=90)),
        (" 14d ", timedelta(days=14)),
        (timedelta(hours=1), timedelta(hours=1)),
    ],
)
def test_a_duration_is_read_as_people_write_it(written: object, meant: timedelta) -> None:
    assert duration(written) == meant


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        " ",
        "s",
        "30 m",
        "30x",
        "m30",
        "-5",
        "1h30",
        "1..5s",
        "1e9d",
        "nan",
        "²s",
        True,
        None,
        [30],
        1e300,
        "9" * 400,
    ],
)
def test_what_is_no_duration_is_refused_without_repeating_it(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"^expected a duration: seconds as a number") as caught:
        duration(wrong)
    assert len(str(caught.value)) < 120


@given(st.timedeltas(min_value=timedelta(), max_value=timedelta(days=400)))
def test_what_is_shown_is_read_back_as_the_same(value: timedelta) -> None:
    assert duration(duration_text(value)) == value


def test_a_duration_is_shown_in_few_letters() -> None:
    assert [duration_text(timedelta(seconds=s)) for s in (0, 90, 259_200, 0.25)] == ["0s", "1m30s", "3d", "250ms"]


def test_a_negative_duration_cannot_be_shown() -> None:
    with pytest.raises(ValueError, match="not negative"):
        duration_text(timedelta(seconds=-1))
