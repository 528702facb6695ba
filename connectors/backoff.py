"""How long to wait before something is tried again."""

from __future__ import annotations


def pause(tried: int, drawn: float, *, first: float, longest: float, factor: float = 2.0) -> float:
    """Seconds to wait after the `tried`-th attempt (1 is the first): anything up to `first`, then up to `factor` times
    that, and so on, never more than `longest`. `drawn`, from 0 to 1, says which of it.

    Full jitter: of all that failed together, no two come again together.
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    return drawn * min(longest, first * factor ** min(tried - 1, 64))
