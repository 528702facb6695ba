"""What goes wrong at the APIs: instead of an answer, before what was asked is done or after it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks.world.web import Answer

HANG_SECONDS: Final = 60.0
_METADATA: Final = "http://169.254.169.254/latest/meta-data/iam/security-credentials/"
_HTML: Final = {"content-type": "text/html"}


@dataclass(frozen=True, slots=True)
class Fault:
    """What is answered, and whether what was asked is done all the same."""

    answer: Callable[[], Answer]
    done: bool


FAULTS: Final[Mapping[str, Fault]] = {
    "500_before": Fault(lambda: Answer(500, b"oops"), done=False),
    "502_after": Fault(lambda: Answer(502, b"<html>Bad gateway</html>", _HTML), done=True),
    "503": Fault(lambda: Answer(503, b"", {"retry-after": "1"}), done=False),
    "429": Fault(lambda: Answer(429, b"Retry later\n", {"retry-after": "1"}), done=False),
    "timeout_before": Fault(lambda: Answer(body=None, after=HANG_SECONDS), done=False),
    "timeout_after": Fault(lambda: Answer(body=None, after=HANG_SECONDS), done=True),
    "hang_up_before": Fault(lambda: Answer(body=None), done=False),
    "hang_up_after": Fault(lambda: Answer(body=None), done=True),
    "garbage_before": Fault(lambda: Answer(200, b"<html>Sign in</html>", _HTML), done=False),
    "garbage_after": Fault(lambda: Answer(200, b'{"id": 1', {"content-type": "application/json"}), done=True),
    "redirect": Fault(lambda: Answer(307, b"", {"location": _METADATA}), done=False),
    "401": Fault(lambda: Answer(401, b'{"message":"Bad credentials"}'), done=False),
}
"""By name. What times out does so for whoever waits less than a minute."""


class Chance:
    """Draws faults: a `share` of all requests has one of `kinds`."""

    def __init__(self, share: float, kinds: tuple[str, ...], *, seed: int) -> None:
        self._rng = random.Random(f"faults {seed}")
        self._share = share
        self._kinds = kinds or tuple(FAULTS)

    def draw(self) -> tuple[str, Fault] | None:
        """The fault of the next request, by its name, if it has one."""
        if self._rng.random() >= self._share:
            return None
        name = self._rng.choice(self._kinds)
        return name, FAULTS[name]
