"""Quarantines: jobs, or single tests of them, whose failures are known to say nothing for a while.

One begins when the entry comes that says that it was carried out, and ends by itself, when its time is over in stream
time or when its job has passed many times in a row, or by the entry that says that a person ended it. So every replay
has the same. While it lasts, a failure of the job counts as one of a job that may fail, and what is found about the
job is said but nobody is told. Of a test, failures count so whose log names that test as what failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from analytics.desk import MOST_REMEMBERED, Desk
from analytics.memory import Generations
from models.records.outputs import Reason

PASSES: Final = 20
"""So many passes in a row end it: a job that fails one time in ten passes so often by chance one time in eight."""
_HOUR_MS: Final = 3_600_000
_KIND: Final = "quarantine"


class Quarantine(msgspec.Struct, array_like=True):
    """One that lasts. Snapshots hold it as an array."""

    case_id: str
    job_key: str
    test: str | None
    due_second: int
    passes: int = 0  # in a row


class Quarantines:
    """The quarantines of one shard, at most one for a job."""

    def __init__(self, desk: Desk, over: Callable[[Quarantine, Reason, int], None]) -> None:
        """Begin with none; `over` is told of each that ends."""
        self._desk: Final = desk
        self._over: Final = over
        self.by_job: dict[str, Quarantine] = {}
        self._tests: Final[Generations[str]] = Generations(MOST_REMEMBERED)  # failure id -> the test that its log names

    def begin(self, case_id: str, job_key: str, test: str | None, at_ms: int, hours: int) -> None:
        """Put a job into quarantine."""
        if job_key not in self.by_job:
            due = self._desk.timers.at(max(at_ms + hours * _HOUR_MS, self._desk.stream_ms), _KIND, job_key)
            self.by_job[job_key] = Quarantine(case_id, job_key, test, due)

    def of(self, case_id: str) -> Quarantine | None:
        """The one that this case brought about."""
        return next((it for it in self.by_job.values() if it.case_id == case_id), None)

    def holds(self, job_key: str, failure_id: str | None = None) -> bool:
        """Whether a job is set aside; with `failure_id`, whether this failure of it says nothing."""
        it = self.by_job.get(job_key)
        if it is None:
            return False
        return failure_id is None or it.test is None or it.test == self._tests.get(failure_id)

    def passed(self, job_key: str, position: int) -> None:
        """Count a pass."""
        it = self.by_job[job_key]
        it.passes += 1
        if it.passes >= PASSES:
            self._end(it, Reason.QUARANTINE_PASSED, position)

    def failed(self, job_key: str) -> None:
        """Begin counting anew."""
        it = self.by_job.get(job_key)
        if it is not None:
            it.passes = 0

    def look(self, job_key: str, second: int, position: int) -> None:
        """End what is over."""
        it = self.by_job.get(job_key)
        if it is not None and it.due_second == second:
            self._end(it, Reason.QUARANTINE_EXPIRED, position)

    def release(self, case_id: str, why: Reason, position: int) -> None:
        """End the one that this case brought about, if it lasts."""
        it = self.of(case_id)
        if it is not None:
            self._end(it, why, position)

    def _end(self, it: Quarantine, why: Reason, position: int) -> None:
        self._over(it, why, position)
        del self.by_job[it.job_key]

    def names(self, failure_id: str, captures: Iterable[tuple[str, str]]) -> None:
        """Note which test the log of a failure names."""
        test = next((value for name, value in captures if name in {"test", "test2"}), None)
        if test:
            self._tests.put(failure_id, test)

    def test_of(self, events: Iterable[str]) -> str | None:
        """The one test that the logs of all these failures name, as far as they name any."""
        tests = {test for test in map(self._tests.get, events) if test is not None}
        return tests.pop() if len(tests) == 1 else None

    def turn(self) -> None:
        """Forget the older half of the tests."""
        self._tests.turn()

    def set_timers(self) -> None:
        """Make due again what ends."""
        for job_key, it in self.by_job.items():
            self._desk.timers.at(it.due_second * 1000, _KIND, job_key)

    def state(self) -> list[Any]:
        """All of it as plain data."""
        return [list(self.by_job.values()), self._tests.state()]

    def load(self, state: list[Any]) -> None:
        """Take what `state` gave."""
        lasting, tests = state
        self.by_job = {it.job_key: it for it in msgspec.convert(lasting, list[Quarantine])}
        self._tests.load(tests)
