"""What waits for an outage to end, in memory: incidents, crowds, probes and what came of them, in stream time.

The twin of connectors/postgres_holds.py, for analytics/acting.py: tests/contracts/test_ledgers.py holds both to the
same.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Final, NamedTuple

from analytics.guards import Limits, crowd_over_seconds, crowded
from models.records.event import uuid5_text
from models.records.ledger import Crowd, HoldRules, ahead, goes_on
from models.records.outputs import ActEnd, ActOutcome, DecisionRow, IncidentRow

_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS
_LONGEST_MS: Final = 4 * _HOUR_MS
_MOST_PROBES: Final = 100
"""Of those that were tried, so many of the newest."""
_MOST_AFTER: Final = 1000
"""Of what is run again after the end."""
_WATCHED_MS: Final = 2 * _HOUR_MS
"""For so long a hold that is over may begin again."""


class Belongs(NamedTuple):
    """The incident that a case belongs to."""

    incident_id: str
    over: bool  # its hold: probes have passed
    crowd: bool = False  # nobody but us has noticed


class Tended(NamedTuple):
    """The incidents that let go of what waited, and those of which one that waits is to be tried."""

    released: list[str]
    probes: list[str]


class Asked(NamedTuple):
    """An act in an incident, as far as its hold cares."""

    act_id: str
    at_ms: float
    probe: bool


@dataclass(slots=True)
class _Hold:
    signature: str
    crowd: bool
    began_ms: float
    next_probe_ms: float
    ended_ms: float | None = None  # None: its reruns wait
    hopeful: bool = False  # of late more of its probes have passed than failed


_Moment = tuple[float, str, str]
"""When a case came, which one, and in which repository."""


class Holds:
    """Which reruns wait, and for what."""

    def __init__(self, limits: Limits, rules: HoldRules) -> None:
        """Begin with no incident."""
        self._limits: Final = limits
        self._rules: Final = rules
        self._incidents: dict[str, IncidentRow] = {}
        self._holds: dict[str, _Hold] = {}
        self._asked: dict[str, list[Asked]] = defaultdict(list)
        self._came: dict[str, bool | None] = {}  # whether each act passed; None: it says nothing
        self._queued: dict[str, list[_Moment]] = defaultdict(list)  # by signature, in order
        self._signature_of: dict[str, tuple[str, _Moment]] = {}

    def incident(self, row: IncidentRow) -> None:
        """Note how an incident stands."""
        if row.state == "closed":
            self._incidents.pop(row.incident_id, None)
        else:
            self._incidents[row.incident_id] = row

    def queued(self, row: DecisionRow, at_ms: float) -> None:
        """Count a case that came at `at_ms`; by its new signature where it had another."""
        known = self._signature_of.pop(row.case_id, None)
        if known is not None:
            self._queued[known[0]].remove(known[1])
        if row.signature is not None:
            moment = (at_ms, row.case_id, row.repository)
            insort(self._queued[row.signature], moment)
            self._signature_of[row.case_id] = row.signature, moment

    def belongs(self, row: DecisionRow, now_ms: float, *, probe: bool) -> Belongs | None:
        """The incident of a case: one in which reruns wait before one that is over; a crowd where there is none."""
        if row.signature is None:
            return None
        found = min(self._known(row, now_ms), key=lambda one: one.over, default=None)
        if found is not None or probe:
            return found
        if crowded(self._crowd(row.signature, now_ms), self._limits):
            return Belongs(uuid5_text("crowd", row.signature, str(now_ms)), over=False, crowd=True)
        return None

    def _known(self, row: DecisionRow, now_ms: float) -> Iterator[Belongs]:
        there = {"instance": row.instance, "platform": row.platform}
        for incident in self._incidents.values():
            where = there.get(incident.dimension, incident.value)
            if incident.signature == row.signature and where == incident.value:
                hold = self._holds.get(incident.incident_id)
                yield Belongs(incident.incident_id, hold is not None and hold.ended_ms is not None)
        since_ms = now_ms - crowd_over_seconds(self._limits) * 1000
        for incident_id, hold in self._holds.items():
            if hold.crowd and hold.signature == row.signature and (hold.ended_ms is None or hold.ended_ms > since_ms):
                yield Belongs(incident_id, over=hold.ended_ms is not None, crowd=True)

    def _crowd(self, signature: str, now_ms: float) -> Crowd:
        moments, window_ms = self._queued[signature], self._limits.crowd_seconds * 1000
        ended = [h.ended_ms for h in self._holds.values() if h.signature == signature and h.ended_ms is not None]
        after = bisect_right(moments, (max([now_ms - window_ms, *ended]), "~"))
        recent = {repository for _, _, repository in moments[after:]}
        day, window = (bisect_right(moments, (now_ms - back, "~")) for back in (_DAY_MS, window_ms))
        return Crowd(len(recent), (window - day) * window_ms / (_DAY_MS - window_ms))

    def begin(self, incident: Belongs, signature: str, now_ms: float) -> None:
        """Note that the reruns of an incident wait, if nobody has."""
        next_probe_ms = now_ms + self._rules.probe_seconds * 1000
        self._holds.setdefault(incident.incident_id, _Hold(signature, incident.crowd, now_ms, next_probe_ms))

    def asked(self, incident_id: str, act: Asked) -> None:
        """Note that something was run again in an incident."""
        self._asked[incident_id].append(act)

    def came_of(self, row: ActOutcome) -> None:
        """Note what came of an act; what neither passed nor failed as before says nothing."""
        says = row.outcome in (ActEnd.PASSED, ActEnd.FAILED_SAME)
        self._came[row.act_id] = row.outcome == ActEnd.PASSED if says else None

    def nothing_of(self, act_id: str) -> None:
        """Note that nothing will come of an act."""
        self._came[act_id] = None

    def tend(self, now_ms: float) -> Tended:
        """End holds that are over, begin those anew that are not, and say of which one is to be tried."""
        tended = Tended([], [])
        for incident_id, hold in self._holds.items():
            if hold.ended_ms is None or hold.ended_ms > now_ms - _WATCHED_MS:
                self._judge(incident_id, hold, now_ms, tended)
            if hold.ended_ms is None and self._due_ms(hold) <= now_ms:
                hold.next_probe_ms = now_ms + self._rules.probe_seconds * 1000
                tended.probes.append(incident_id)
        return tended

    def not_tried(self, incident_id: str, at_ms: float) -> None:
        """Note that a probe came to nothing before anything was tried: the next may be chosen at once."""
        hold = self._holds[incident_id]
        hold.next_probe_ms = min(hold.next_probe_ms, at_ms)

    def _due_ms(self, hold: _Hold) -> float:
        return hold.next_probe_ms - hold.hopeful * self._rules.sooner_seconds * 1000

    def _judge(self, incident_id: str, hold: _Hold, now_ms: float, tended: Tended) -> None:
        going_on = hold.began_ms > now_ms - _LONGEST_MS if hold.crowd else incident_id in self._incidents
        outcomes = self._outcomes(incident_id, hold)
        if hold.ended_ms is None:
            passed = ahead(one for one in outcomes if one is not None)
            hold.hopeful = passed > 0
            if not going_on or passed >= self._rules.passes:
                hold.ended_ms = now_ms
                tended.released.append(incident_id)
        elif going_on and goes_on(outcomes, self._rules) and not (hold.crowd and self._crowd_held(hold.signature)):
            hold.began_ms, hold.ended_ms = now_ms, None
            hold.next_probe_ms = now_ms + self._rules.probe_seconds * 1000

    def _crowd_held(self, signature: str) -> bool:
        return any(one.crowd and one.signature == signature and one.ended_ms is None for one in self._holds.values())

    def _outcomes(self, incident_id: str, hold: _Hold) -> list[bool | None]:
        """Whether its probes passed, the last asked for first; once it is over, all that is run again.

        Of these None is not known yet.
        """
        came, since = self._came, hold.began_ms if hold.ended_ms is None else hold.ended_ms
        late = takewhile(lambda act: act.at_ms >= since, reversed(self._asked[incident_id]))
        if hold.ended_ms is None:
            probes = (came.get(act.act_id) for act in late if act.probe)
            return list(islice((passed for passed in probes if passed is not None), _MOST_PROBES))
        telling = (act for act in late if act.act_id not in came or came[act.act_id] is not None)
        return [came.get(act.act_id) for act in islice(telling, _MOST_AFTER)]

    def next_ms(self) -> float:
        """When something is due that nobody has to say."""
        held = [hold for hold in self._holds.values() if hold.ended_ms is None]
        return min(map(self._due_ms, held), default=float("inf"))
