"""Jobs that wait for a runner, by the labels they ask for, and what is found because none is let in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from analytics.desk import Desk
from analytics.detectors.detector import History, Seen
from analytics.panes import MINUTE_MS
from analytics.rows import SEPARATOR, split_job_run
from models.records.event import Outcome

_MOST_SHOWN: Final = 64
_KIND: Final = "queue"

Start: TypeAlias = tuple[int, str, str]
"""When, which event, which job run."""


@dataclass(slots=True)
class Queue:
    """The jobs that wait, the last that was let in, and the second of stream time at which it is looked at."""

    due_second: int
    waiting: dict[str, Start] = field(default_factory=dict)
    last: Start | None = None
    raised: bool = False

    def history(self, since_ms: int) -> History:
        """What detectors are shown: the longest waiting of those since then, and the last that was let in."""
        waiting = sorted(start for start in self.waiting.values() if start[0] > since_ms)[:_MOST_SHOWN]
        shown = [_seen(start, Outcome.QUEUED) for start in waiting]
        if self.last is not None:
            shown.append(_seen(self.last, Outcome.RUNNING))
        return History(sorted(shown))


class Queues:
    """The queues of one shard in which somebody waits."""

    def __init__(self, desk: Desk) -> None:
        """Begin with none."""
        self._desk: Final = desk
        self._queues: dict[str, Queue] = {}

    def joined(self, key: str, job_run: str, at: int, event: str) -> None:
        """Let a job wait."""
        if not self._desk.by_queue:
            return
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = Queue(0)
        first = not queue.waiting
        queue.waiting[job_run] = (at, event, job_run)
        if first:
            self._look_at(key, queue, self._desk.stream_ms + 1)

    def let_in(self, key: str, job_run: str, at: int, event: str, position: int) -> None:
        """A job of these labels has begun, whether it was seen to wait or not."""
        queue = self._queues.get(key)
        if queue is None:
            return
        queue.last = max(queue.last or (0, "", ""), (at, event, job_run))
        self._gone(key, queue, job_run, position)

    def left(self, key: str, job_run: str, position: int) -> None:
        """A job waits no more, though it did not begin."""
        queue = self._queues.get(key)
        if queue is not None:
            self._gone(key, queue, job_run, position)

    def _gone(self, key: str, queue: Queue, job_run: str, position: int) -> None:
        queue.waiting.pop(job_run, None)
        if queue.raised:
            self._judge(key, queue, self._desk.stream_ms, position)

    def look(self, key: str, second: int, position: int) -> None:
        """Judge a queue in which somebody may have waited too long, or forget one that stayed empty."""
        queue = self._queues.get(key)
        if queue is None or queue.due_second != second:
            return
        now = second * 1000
        if not queue.waiting:
            del self._queues[key]
        elif self._desk.delivers(key.split(SEPARATOR, 1)[0], now):
            self._judge(key, queue, now, position)
        else:
            self._look_at(key, queue, now + MINUTE_MS)

    def _judge(self, key: str, queue: Queue, now: int, position: int) -> None:
        desk = self._desk
        where, later, raised = desk.where(position, now), now + desk.absent_ms, False
        for detector, within_ms in desk.by_queue:
            history = queue.history(now - within_ms)
            somebody = any(seen.outcome is Outcome.QUEUED for seen in history)
            due = desk.asking.ask(detector, key, where, detector.due, history, None) if somebody else None
            answer = desk.asking.judge(detector, key, history, where) if due is not None and due <= now else None
            raised = raised or answer is not None
            desk.answer(detector, key, answer, history, where)
            if due is not None and due > now:
                later = min(later, due)
        queue.raised = raised
        self._look_at(key, queue, later)

    def _look_at(self, key: str, queue: Queue, at_ms: int) -> None:
        queue.due_second = self._desk.timers.at(at_ms, _KIND, key)

    def look_anew(self) -> None:
        """Let new rules say when each queue is to be looked at."""
        for queue in self._queues.values():
            queue.due_second = self._desk.stream_ms // 1000 + 1

    def set_timers(self) -> None:
        """Make due again what the queues say is due."""
        for key, queue in self._queues.items():
            self._desk.timers.at(queue.due_second * 1000, _KIND, key)

    def state(self) -> list[Any]:
        """All queues as plain data."""
        return [[key, q.due_second, list(q.waiting.values()), q.last, q.raised] for key, q in self._queues.items()]

    def load(self, state: list[Any]) -> None:
        """Take what `state` gave."""
        for key, due, waiting, last, raised in state:
            starts = {job_run: (at, event, job_run) for at, event, job_run in waiting}
            self._queues[key] = Queue(due, starts, None if last is None else (last[0], last[1], last[2]), raised)


def _seen(start: Start, outcome: Outcome) -> Seen:
    at, event, job_run = start
    _, _, pipeline_id, _, attempt, _ = split_job_run(job_run)
    return Seen(at, event, outcome, None, pipeline_id, attempt)
