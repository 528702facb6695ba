from hypothesis import given
from hypothesis import strategies as st

from connectors.backoff import pause


@given(st.integers(1, 10_000), st.floats(0, 1), st.floats(0.01, 10), st.floats(0.01, 100))
def test_a_pause_is_never_longer_than_the_longest_and_jitter_takes_any_part_of_it(
    tried: int, drawn: float, first: float, longest: float
) -> None:
    seconds = pause(tried, drawn, first=first, longest=longest)
    assert 0 <= seconds <= longest
    assert pause(tried, 0.0, first=first, longest=longest) == 0
    assert (
        seconds
        <= pause(tried, 1.0, first=first, longest=longest)
        <= pause(tried + 1, 1.0, first=first, longest=longest)
    )


def test_it_doubles_up_to_the_longest() -> None:
    assert [pause(tried, 1.0, first=0.5, longest=3.0) for tried in range(1, 6)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert [pause(tried, 1.0, first=1.0, longest=99.0, factor=4.0) for tried in (1, 2, 3)] == [1.0, 4.0, 16.0]
